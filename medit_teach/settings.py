"""Settings and arguments: what each may be is said once, beside it, and tested before any work.

    @dataclass(frozen=True)
    class Method:
        steps: int = setting(20, above=0)            # its type is the annotation's
        def __post_init__(self):
            check(self)                              # "steps must be a whole number, not 2.5"

    n = whole("n", n, low=1)                         # the same for one argument of a function

A number may be Python's, NumPy's, or a tensor of one entry; it comes back as Python's own. True
and False are not numbers here, nor is a text that spells one.
"""

import math
import os
from collections.abc import Iterable
from dataclasses import field, fields
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import torch

from .errors import HyperError, MeditError

MOST_SEED = 2**63 - 1  # that torch's and NumPy's generators both take


def setting(default, **declared):
    """A field of a dataclass with this default. declared: as of `number` (low, above, high, below,
    what, words), `choices`, or `made`, a function that tests a value and returns what is kept."""
    return field(default=default, metadata={"medit_teach": declared})


def check(made, error=HyperError):
    """Test every field of the dataclass instance `made` against what is declared beside it.

    A field whose declaration a subclass leaves out (another default) keeps the former one. Fields
    of other types than int, float and str, without `made`, are left alone.
    """
    hints = get_type_hints(type(made))
    for f in fields(made):
        declared = _declared(type(made), f.name)
        kinds = set(get_args(hints[f.name])) or {hints[f.name]}
        value = getattr(made, f.name)
        if "made" in declared:
            value = declared["made"](value)
        elif kinds & {int, float}:
            value = number(
                f.name, value, whole=float not in kinds, none=type(None) in kinds, error=error,
                **declared,
            )  # fmt: skip
        elif str in kinds and not (value is None and type(None) in kinds):
            value = one_of(f.name, value, error=error, **declared)
        object.__setattr__(made, f.name, value)


def _declared(cls, name):
    """What was declared beside the field, in the class or the nearest one above it."""
    for kind in cls.__mro__:
        f = kind.__dict__.get("__dataclass_fields__", {}).get(name)
        if f is not None and "medit_teach" in f.metadata:
            return f.metadata["medit_teach"]
    return {}


def number(name, value, whole=False, low=None, above=None, high=None, below=None, what=None,
           none=False, words=(), error=HyperError):  # fmt: skip
    """`value` as a finite Python number; else `error`, which says what `name` must be.

    whole: an integer. low, high: the least and the largest; above, below: bounds that it must not
    reach. what: the name of the range in the message. none, words: None, or these texts, will do.
    """
    if (value is None and none) or (isinstance(value, str) and value in words):
        return value
    found = value
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)) and value.ndim == 0:
        found = value.item()
    if isinstance(found, bool) or not isinstance(found, Integral if whole else Real):
        kind = what or ("a whole number" if whole else "a number")
        kinds = [kind, *map(repr, words), *(["None"] if none else [])]
        kinds = " or ".join([", ".join(kinds[:-1]), kinds[-1]] if len(kinds) > 1 else kinds)
        raise error(f"{name} must be {kinds}, not {shown(value)}")
    for broken, text in (
        (above is not None and not found > above, "positive" if above == 0 else f"above {above}"),
        (low is not None and not found >= low, f"at least {low}"),
        (high is not None and not found <= high, f"at most {high}"),
        (below is not None and not found < below, f"below {below}"),
    ):
        if broken:
            raise error(f"{name} must be {what or text}, not {shown(value)}")
    try:
        size = float(found)
    except OverflowError:  # more than a float can hold
        size = math.inf
    if not math.isfinite(size):
        raise error(f"{name} must be finite, not {shown(value)}")
    plain = isinstance(found, (int, float)) and (whole or abs(size) < 2**63)
    return found if plain else size


def whole(name, value, low=None, high=None, none=False, error=HyperError):
    """`number` that is an integer."""
    return number(name, value, True, low=low, high=high, none=none, error=error)


def truth(name, value, error=HyperError):
    """True or False, from a bool, NumPy's or a tensor's too; else `error`."""
    found = value.item() if getattr(value, "shape", None) == () else value
    if not isinstance(found, bool):
        raise error(f"{name} must be True or False, not {shown(value)}")
    return found


def place(name, value, error=HyperError):
    """The Path of a file or folder, from text or a path."""
    if not isinstance(value, (str, os.PathLike)) or not str(value) or "\0" in str(value):
        raise error(f"{name} must be a path, not {shown(value)}")
    return Path(value)


def one_of(name, value, choices=None, error=HyperError):
    """`value` as text (a path too), and one of `choices`, if there are any; else `error`."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        kind = f"one of {', '.join(choices)}" if choices else "a text"
        raise error(f"{name} must be {kind}, not {shown(value)}")
    if choices and text not in choices:
        raise error(
            f"{name} must be one of {', '.join(choices)}, not {text!r}{meant(text, choices)}"
        )
    return text


def several(name, value, what="a list", error=HyperError):
    """`value` as a tuple: of a list, a tuple, a range, a generator ...; `error` for one text, for
    bytes, for a mapping and for what cannot be gone through."""
    if isinstance(value, (str, bytes, dict)) or not isinstance(value, Iterable):
        raise error(f"{name} must be {what}, not {shown(value)}")
    if isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim == 0:
        raise error(f"{name} must be {what}, not {shown(value)}")
    return tuple(value)


def layer_numbers(value, error=HyperError):
    """Layers, one or several, as an ascending tuple of integers, each once.

    Whether the model has them is seen by View.block; this refuses what is not the number of a
    layer: texts, fractions, True, nested lists.
    """
    one = isinstance(value, (str, bytes, dict)) or not isinstance(value, Iterable)
    one = one or getattr(value, "ndim", 1) == 0  # an array or a tensor with one number
    each = [number("layers", x, True, what="whole numbers like 3 or [2, 3]", error=error)
            for x in ([value] if one else value)]  # fmt: skip
    return tuple(sorted(set(each)))


def meant(name, known):
    """' (did you mean ...?)' for the name in `known` that is closest to `name`, or nothing."""
    close = get_close_matches(str(name), [str(x) for x in known], 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def shown(value, most=60):
    """A value as an error message has it: in one line, and short."""
    try:
        text = " ".join(repr(value).split())
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def tensor(name, value, *shape, finite=True, error=MeditError):
    """`value` as a real float64 tensor of this shape, `finite` or not; else `error`.

    It may be a tensor, an array, or lists of numbers. None in `shape` is any size above 0.
    """
    want = f"({', '.join('n' if m is None else str(m) for m in shape)})"
    found = value
    if not isinstance(value, torch.Tensor):
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):  # ragged, or of odd things
            array = np.asarray(None)
        if array.dtype.kind not in "biuf":
            raise error(f"{name} must be a tensor of real numbers {want}, not {shown(value)}")
        found = torch.tensor(array)
    if found.is_complex() or found.is_meta or found.layout != torch.strided:
        raise error(f"{name} must hold real numbers, it is {found.dtype} on {found.device}")
    fits = len(found.shape) == len(shape) and all(
        n > 0 if m is None else n == m for n, m in zip(found.shape, shape, strict=True)
    )
    if not fits:
        raise error(f"{name} must have the shape {want}, not {tuple(found.shape)}")
    found = found.to(torch.float64)
    if finite and not torch.isfinite(found).all():
        raise error(f"{name} contains NaN or infinite numbers")
    return found


def dtype_of(name, value, error=HyperError):
    """A real floating-point dtype, given as such or by its name ("float32"); else `error`."""
    found = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise error(f"{name} must be a floating-point dtype such as float32, not {shown(value)}")
    return found
