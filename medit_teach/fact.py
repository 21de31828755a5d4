"""The fact record, and where its subject's last token lies in a text."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from . import forms
from .errors import FactError, ModelError
from .forms import FILLER, NEEDED, PROMPTS
from .texts import as_texts, described, ended, in_order, is_text, mark, places, settled


@dataclass(frozen=True)
class Fact:
    """One (subject, relation, object) to write, with the prompts that measure it.

    prompt holds "{}" where the subject goes and ends just before the object; a prompt in which
    the subject is spelled out once, as a word of its own, is accepted too. target_new is the object
    to write, target_true the object the model has now (needed by the metrics). The other fields are
    those of CounterFact (ROME paper, app. D): paraphrases ask the same, neighborhood prompts ask
    for other subjects whose object is target_true, attributes for subjects whose object is
    target_new, generation prompts start a text about the subject; one text counts as a list of one.
    neighborhood_true: the object of each neighborhood prompt (None: not known), where it is not
    target_true (in zsRE; empty elsewhere).
    join: what stands between a prompt and its object. None: what texts.joint finds, one space in
    most texts, and spaces at the prompt's end do not count. Given, "" for instance: this, and the
    prompt's end stays as it is.
    """

    prompt: str
    subject: str
    target_new: str
    target_true: str | None = None
    paraphrases: tuple = ()
    neighborhood: tuple = ()
    attributes: tuple = ()
    generation: tuple = ()
    case_id: int | str | None = None
    relation: int | str | None = None
    neighborhood_true: tuple = ()
    join: str | None = None

    def __post_init__(self):
        for field in ("case_id", "relation"):
            object.__setattr__(self, field, mark(getattr(self, field), f"fact: {field}"))
        name = f"fact {self.case_id}" if self.case_id is not None else "fact"
        for field in NEEDED:
            value = getattr(self, field)
            if not isinstance(value, str) or not value.strip():
                raise FactError(
                    f"{name}: {field} is empty or not text ({described(value)}); fill it in"
                )
        for field in (*NEEDED, "target_true"):
            value = getattr(self, field)
            if value is not None:
                is_text(value, f"{name}: {field}", FactError)
                if field != "prompt":
                    object.__setattr__(self, field, value.strip())
        if self.target_true == "":
            raise FactError(f"{name}: target_true is empty; fill it in or leave it out")
        if self.target_true is not None and FILLER.fullmatch(self.target_true):
            raise FactError(
                f"{name}: target_true is {self.target_true!r}, which stands for no object; "
                "leave it out"
            )
        if self.join is not None:
            is_text(self.join, f"{name}: join", FactError)
        for field in (*PROMPTS, "neighborhood_true"):
            value = getattr(self, field)
            value = () if value is None else value
            none = field == "neighborhood_true"
            texts = tuple(as_texts(value, f"{name}: {field}", FactError, none=none))
            if not all(text is None or text.strip() for text in texts):
                raise FactError(f"{name}: {field} holds an empty text; leave it out")
            object.__setattr__(self, field, texts)
        if len(self.neighborhood_true) not in (0, len(self.neighborhood)):
            raise FactError(
                f"{name}: {len(self.neighborhood)} neighborhood prompts and "
                f"{len(self.neighborhood_true)} answers to them; give one each, or none"
            )
        prompt = ended(self.prompt) if self.join is None else self.prompt
        if "{}" not in prompt:
            prompt = self._with_mark(prompt, name)
        if prompt.count("{}") > 1:
            raise FactError(f"{name}: the prompt {prompt!r} has two subjects; write {{}} only once")
        object.__setattr__(self, "prompt", prompt)

    def _with_mark(self, prompt, name):
        """The prompt with {} in the one place where the subject is spelled out."""
        found = places(self.subject, prompt)
        if len(found) == 1:
            return prompt[: found[0]] + "{}" + prompt[found[0] + len(self.subject) :]
        if found:
            what = f"stands {len(found)} times in {prompt!r}; write {{}} where the edited one goes"
        elif self.subject in prompt:
            what = f"stands only inside another word of {prompt!r}; write {{}} where it goes"
        else:
            what = f"is not in the prompt {prompt!r}; write {{}} where it goes"
        raise FactError(f"{name}: the subject {self.subject!r} {what}")

    @property
    def text(self):
        """The prompt with its subject."""
        return self.prompt.replace("{}", self.subject)

    @property
    def span(self):
        """(start, end) of the subject in `text`, in characters."""
        start = self.prompt.index("{}")
        return start, start + len(self.subject)

    @property
    def neighbors(self):
        """(prompt, the object that is true of it or None) for each neighborhood prompt."""
        own = self.neighborhood_true or (self.target_true,) * len(self.neighborhood)
        return list(zip(self.neighborhood, own, strict=True))

    def to_record(self):
        """The same fact in CounterFact's schema (dict), with neighborhood_true and join where it
        has any."""
        d = asdict(self)
        true = None if self.target_true is None else {"str": self.target_true}
        own = {"neighborhood_true": list(self.neighborhood_true)} if self.neighborhood_true else {}
        own |= {} if self.join is None else {"join": self.join}
        return {
            "case_id": self.case_id,
            "requested_rewrite": {
                "prompt": self.prompt,
                "relation_id": self.relation,
                "subject": self.subject,
                "target_new": {"str": self.target_new},
                "target_true": true,
            },
            "paraphrase_prompts": list(d["paraphrases"]),
            "neighborhood_prompts": list(d["neighborhood"]),
            "attribute_prompts": list(d["attributes"]),
            "generation_prompts": list(d["generation"]),
            **own,
        }

    @classmethod
    def from_record(cls, record, where="record"):
        """From any of the forms that medit_teach.forms reads, or this class's own field names.

        where: what to call the record in error messages. FactError names the record and the field
        that is missing (with those that were expected and found) or is not text.
        """
        if not isinstance(record, Mapping):
            raise FactError(
                f"{where}: expected an object with fields, found {type(record).__name__}"
            )
        try:
            return cls(**forms.fields(record, where))
        except RecursionError:
            raise FactError(f"{where}: its lists are nested too deeply") from None
        except FactError as error:  # Fact knows the case, not the file
            told = str(error)
            told = told if told.startswith(where) else f"{where}: {re.sub('^fact: ', '', told)}"
            raise FactError(told) from None


def as_records(facts):
    """A record or Fact as it is, or a list of them, of whatever kind they were given in."""
    if isinstance(facts, Fact):
        return [facts]
    if isinstance(facts, Mapping):
        return facts
    if isinstance(facts, (str, bytes, Path)):
        raise FactError(
            f"expected facts, found {str(facts)[:80]!r}; read a file or a named collection with "
            "medit_teach.facts(...)"
        )
    if hasattr(facts, "to_dicts"):  # a table of polars
        return facts.to_dicts()
    if hasattr(facts, "columns") and hasattr(facts, "to_dict"):  # a table of pandas
        return facts.to_dict("records")
    return list(in_order(facts, "facts", FactError))


def as_facts(facts):
    """A list of Fact from a Fact, a record (dict), or an iterable of either; FactError, which says
    what was found, for anything else, and if there is none."""
    each = forms.one_each(as_records(facts))
    facts = [f if isinstance(f, Fact) else Fact.from_record(f, name) for name, f in each]
    if not facts:
        raise FactError("no facts were given")
    return facts


def without_edited_neighbors(facts, edited):
    """`facts`, each without the neighbours whose own fact of its relation is among `edited`."""
    subjects, found = {}, []
    for fact in edited:
        subjects.setdefault(fact.relation, set()).add(fact.subject)
    for fact in facts:
        taken = subjects.get(fact.relation, ())
        left = [i for i, prompt in enumerate(fact.neighborhood)
                if not any(s in prompt and places(s, prompt) for s in taken)]  # fmt: skip
        fields = {"neighborhood": [fact.neighborhood[i] for i in left]}
        if fact.neighborhood_true:
            fields["neighborhood_true"] = [fact.neighborhood_true[i] for i in left]
        found.append(replace(fact, **fields))
    return found


# ------------------------------------------------------------------ text to tokens


def encode(tok, text):
    """Token ids and character offsets of one text: (list of int, list of (start, end)).

    Special tokens that the tokenizer puts in front (a BOS) stay, with offset (0, 0), unless the
    text spells them itself, as a chat's does; one that it puts at the end is dropped, for prompts
    are to be continued. ModelError for a tokenizer without offsets.
    """
    if not getattr(tok, "is_fast", False):
        raise ModelError(
            f"tokenizer {type(tok).__name__} gives no character offsets; load the fast version "
            "(AutoTokenizer.from_pretrained(..., use_fast=True))"
        )
    out = tok(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    ids, offsets = list(out["input_ids"]), list(out["offset_mapping"])
    special = out["special_tokens_mask"]
    while ids and special[len(ids) - 1] and not offsets[-1][1]:
        ids.pop(), offsets.pop()
    front = next((i for i, (_, end) in enumerate(offsets) if end), 0)
    if front and ids[:front] == ids[front : 2 * front]:
        ids, offsets = ids[front:], offsets[front:]
    return ids, offsets


def in_context(tok, context, text):
    """The context in front of the text, but behind a BOS that the text itself begins with."""
    if context and text[:1] in ("<", "["):
        ids, offsets = encode(tok, "a")
        front = tok.decode([i for i, (_, end) in zip(ids, offsets, strict=True) if not end])
        if front and text.startswith(front):
            return front + context + text[len(front) :]
    return context + text


def last_token(offsets, start, end):
    """Index of the last token that covers any of the characters start..end-1.

    Where the subject's last piece is merged with what follows ("{}s are"), it is the merged
    token; where one character is spread over several tokens, the last of them.
    """
    hits = [i for i, (a, b) in enumerate(offsets) if a < end and b > start and b > a]
    if not hits:
        raise FactError(f"no token covers the characters {start} to {end}; is the subject empty?")
    return hits[-1]


def subject_last(tok, fact, prefix=""):
    """Token ids of prefix + prompt, and the position of the subject's last token in them."""
    ids, offsets = encode(tok, in_context(tok, prefix, fact.text))
    start, end = fact.span
    return ids, last_token(offsets, len(prefix) + start, len(prefix) + end)


def with_target(tok, text, target, join=None):
    """Token ids of the text and the target behind it, and how many of them come before the target.

    join: what stands between them (None: what texts.joint finds). Encoded in one piece, so that no
    token is made that the model would not see in running text; where nothing stands between, the
    text is encoded as it is when the model is asked, and the target's tokens follow.
    """
    text, join = settled(text, join, tok)
    target = target.strip()
    if join:
        ids, offsets = encode(tok, text + join + target)
        first = next((i for i, (_, end) in enumerate(offsets) if end > len(text)), len(ids))
    else:
        asked, tail = encode(tok, text)[0], encode(tok, "\n" + target)
        first = len(asked)
        ids = asked + [i for i, (_, end) in zip(*tail, strict=True) if end > 1]
    if first == len(ids):
        raise FactError(f"the target {target!r} has no token after {text!r}")
    return ids, first


def fact_tokens(tok, fact, context=""):
    """with_target of a fact: of its prompt, in a context, and its target_new."""
    return with_target(tok, in_context(tok, context, fact.text), fact.target_new, fact.join)


def pad(rows, tok, device=None):
    """Rows of token ids as one right-padded batch: {"input_ids", "attention_mask"}, (n, longest).

    Right padding whatever the tokenizer prefers: positions then count from the start.
    """
    fill = tok.pad_token_id if tok.pad_token_id is not None else 0
    longest = max(map(len, rows))
    ids = torch.tensor([row + [fill] * (longest - len(row)) for row in rows], device=device)
    mask = torch.tensor(
        [[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device
    )
    return {"input_ids": ids, "attention_mask": mask}
