"""What callers give, checked once: texts, lists, whole numbers. And what a text is made of: words,
and the joint between a prompt and its object.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path

import torch

from .errors import FactError
from .settings import whole

# Letters of scripts that put no space between words: Thai, Lao, Tibetan, Burmese, Khmer, Chinese
# and Japanese (a character class of re)
UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3021-\u303c\u3041-\u312f"
    "\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
# What counts as a word where texts are compared by their words: two letters at least
WORD = rf"[{UNSPACED}]|[^\W{UNSPACED}]{{2,}}"
LARGEST = 2**63  # of numbers that are counts, seeds or ids
_unspaced = re.compile(f"[{UNSPACED}]").match


# ------------------------------------------------------------------ what callers give


def as_texts(texts, what="texts", error=FactError, none=False):
    """The texts, one by one (a generator: what is streamed stays so). One text counts as a list of
    one, a record with a field "text" as that text.

    what, error: what the texts are called, and the class of the error that names what is no text.
    none: None among them is let through.
    """
    if hasattr(texts, "columns") and hasattr(texts, "to_dict"):  # a table of pandas
        texts = {str(name): texts[name] for name in texts.columns}
    if isinstance(texts, Mapping):
        texts = _text_of(texts, what, error)
    if isinstance(texts, str):
        if (Path(texts).suffix or os.sep in texts) and os.path.exists(texts):
            raise error(
                f"{what} is {texts!r}, the name of a file or folder; give its texts: "
                "medit_teach.datasets.read_texts(...)"
            )
        texts = [texts]
    elif isinstance(texts, Path):
        raise error(f"{what} is a path; give its texts: medit_teach.datasets.read_texts(...)")
    return _checked(in_order(texts, what, error), what, error, none)


def _checked(texts, what, error, none):
    for i, text in enumerate(texts):
        if isinstance(text, Mapping):
            text = _text_of(text, f"{what}, number {i},", error)
        if not (none and text is None):
            is_text(text, f"{what}, number {i},", error)
        yield text


def _text_of(record, what, error):
    if "text" in record:
        return record["text"]
    hint = ""
    if "role" in record:
        hint = "; write a chat with tok.apply_chat_template(..., tokenize=False, " + (
            "add_generation_prompt=True)"
        )
    elif "input_ids" in record:
        hint = "; give the text itself (apply_chat_template(..., tokenize=False)), not its tokens"
    found = ", ".join(sorted(map(str, record))) or "nothing"
    raise error(f"{what} has no field 'text' (found: {found}){hint}")


def described(value):
    """A value for an error: its type and its first characters, on one line."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a number of more digits than Python writes
        text = "..."
    return f"{type(value).__name__} ({text[:40]})"


def is_text(text, what, error):
    """Nothing, or the error."""
    if not isinstance(text, str):
        raise error(f"{what} is not text: {described(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise error(f"{what} holds half a character (a lone surrogate): {text[:40]!a}") from None


def in_order(values, what, error):
    """The values, if they are several in an order; `error` for bytes, sets and single things."""
    unordered = isinstance(values, (bytes, bytearray, set, frozenset, Mapping))
    if unordered or not isinstance(values, Iterable):
        raise error(f"{what}: expected text or a list, found {type(values).__name__}")
    if getattr(values, "ndim", 1) != 1:
        raise error(f"{what}: expected a list, found an array of {values.ndim} dimensions")
    return values


def mark(value, what):
    """A case's or relation's id: text, a whole number, or None."""
    if isinstance(value, str):
        is_text(value, what, FactError)
    if value is None or isinstance(value, str):
        return value
    number = isinstance(value, Real) and not isinstance(value, bool) and value % 1 == 0
    if number and abs(value) < LARGEST:
        return int(value)  # a column of pandas with gaps holds 7.0
    raise FactError(f"{what}: expected text or a whole number, found {described(value)}")


def draws(seed, error=FactError):
    """A generator of random numbers on the CPU."""
    seed = whole("seed", seed, error=error)
    try:
        return torch.Generator().manual_seed(seed)
    except (RuntimeError, ValueError, OverflowError) as cause:
        raise error(f"seed must fit into 64 bits, not {seed}") from cause


# ------------------------------------------------------------------ words and joints


def places(name, text):
    """Where `name` stands in `text` as a word of its own (not "Roman" in "Romania"): starts.

    In scripts without spaces between words every place counts.
    """
    found, at = [], text.find(name)
    while at >= 0 and name:
        end = at + len(name)
        if not _inside(text[at - 1 : at], name[0]) and not _inside(name[-1], text[end : end + 1]):
            found.append(at)
            at = text.find(name, end)
        else:
            at = text.find(name, at + 1)
    return found


def _inside(before, after):
    """Whether two neighbouring characters belong to one word."""
    both = [c for c in (before, after) if c and not _unspaced(c)]
    return len(both) == 2 and all(c == "_" or unicodedata.category(c)[0] in "LMN" for c in both)


def ended(text):
    """`text` without the spaces at its end. Ends of lines stay: a chat's marks have them."""
    cut = text.rstrip()
    tail = text[len(cut) :]
    return cut + tail[: tail.rfind("\n") + 1]


def joint(text, tok=None):
    """What stands between `text` and an object that follows it: one space, or "" where the text
    ends a line or in one of the tokenizer's special tokens (chats), or is written without spaces.
    """
    if text[-1:].isspace() or (text[-1:] in (">", "]") and tok is not None
                               and text.endswith(tuple(tok.all_special_tokens))):  # fmt: skip
        return ""
    last = next((c for c in reversed(text) if c.isalnum() or _unspaced(c)), "")
    return "" if last and _unspaced(last) else " "


def joined(text, target, join=None):
    """The text with the target behind it, as running text."""
    text, join = settled(text, join)
    return text + join + target.strip()


def settled(text, join, tok=None):
    """The text as it stands in front of its object, and what stands between them."""
    if join is not None:
        return text, join
    text = ended(text)
    return text, joint(text, tok)
