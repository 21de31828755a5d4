"""Files that are kept: written whole, with the hash of their content, and read only as written.

Three forms, none of which can hold code:

    save, load               tensors and words about them (safetensors; the hash is in the header)
    seal, opened             a record (JSON; the hash is its field "blake2b")
    save_state, load_state   where a training stands (torch.save of numbers, words and tensors)

Reading tells four cases apart. A file whose content is not what was written is Damaged: it may be
set aside (renamed, never deleted) and computed anew. Memory that runs out, and a disk that cannot
be read, say nothing about the file: those errors are passed on and the file stays. Files of earlier
versions carry no hash; they are read where the caller says that its own checks are enough (`old`).
"""

import hashlib
import io
import json
import os
import sys
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .errors import MeditError
from .memory import ran_out

CHECK = "blake2b"  # the name of the hash, in a header and in a record
KIND = "blake2b:"  # what a hash begins with, so that it is known under a damaged name
CHANGED = "its content is not what was written"


class Damaged(MeditError):
    """A kept file whose content is not what was written; the message says what is wrong with it."""


class Unwritable(MeditError):
    """A place that cannot be written, and why."""


def digest(content):
    """Hash (hex) of nested dicts (in any order), lists, numbers, strings, None and tensors."""
    whole = hashlib.blake2b(digest_size=16)

    def add(x):
        if isinstance(x, torch.Tensor):
            whole.update(f"{x.dtype} {tuple(x.shape)} ".encode())
            bits = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            whole.update(bits.numpy())
        elif isinstance(x, Mapping):
            whole.update(f"{len(x)} pairs ".encode())
            for name, value in sorted(x.items(), key=lambda pair: json.dumps(pair[0])):
                add(name)
                add(value)
        elif isinstance(x, list | tuple):
            whole.update(f"{len(x)} entries ".encode())
            for value in x:
                add(value)
        else:
            whole.update(f"{json.dumps(x, default=str)} ".encode())

    add(content)
    return KIND + whole.hexdigest()


def _checked(check, content, about, old):
    """Damaged unless `check` is the hash of `content`; old: there may be none."""
    lost = any(isinstance(x, str) and x.startswith(KIND) for x in about.values())
    if check is None and (lost or not old):
        raise Damaged(CHANGED if lost else "it carries no hash of its content")
    if check is not None and check != digest(content):
        raise Damaged(CHANGED)


# ------------------------------------------------------------------ writing


def write_whole(path, write):
    """Atomically: a reader sees the old file or the new one, never half of one. write: called with
    the path of a draft. OSError where the disk refuses."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = hashlib.blake2b(path.name.encode("utf-8", "replace"), digest_size=4).hexdigest()
    draft = path.with_name(
        f".{mark}.{os.getpid()}.{get_ident()}"
    )  # short: a long name may be just allowed
    try:
        write(str(draft))
        os.replace(draft, path)
    except SafetensorError as error:  # how its writer tells of a full disk
        raise OSError(reason(error)) from error
    finally:
        try:
            draft.unlink(missing_ok=True)
        except OSError:  # the first error says more
            pass


@contextmanager
def named(path):
    """Inside, a disk that refuses to take the file or folder `path` is Unwritable: one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise Unwritable(
            f"cannot write {path}: {reason(error)}; make room there, or name another place"
        ) from error


def write_text(path, text):
    """The file `path`, which the user named, with this text; Unwritable in one line."""
    with named(path):
        write_whole(path, lambda draft: Path(draft).write_text(text, encoding="utf-8"))


def ready(path):
    """Unwritable unless a file can be written as `path`: asked before the work, not after it."""
    path = Path(path)
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        there = os.path.lexists(path)
        with open(path, "ab"):
            pass
        if not there:
            path.unlink()


def warn_unwritten(place, error):
    """Say that a cache could not be written: that costs time at the next call, and nothing else."""
    error = error.__cause__ if isinstance(error, Unwritable) else error
    warn(f"cannot write {place}: {reason(error)}; the result is right, the next call makes it anew")


def warn(text):
    """A warning at the line outside this package from which it was called."""
    frame, level = sys._getframe(1), 2
    package = __name__.partition(".")[0]
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


def reason(error):
    """Why, in one line: the system's own words, or the first line of an error."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def plain_name(name, what):
    """`name` if it can name a file in a folder that the user chose; MeditError if it is a path."""
    fine = (
        isinstance(name, str) and name.strip(". ") and len(name.encode("utf-8", "replace")) <= 200
    )
    if not fine or any(c in "/\\:" or not c.isprintable() for c in name):
        raise MeditError(
            f"{what}: {str(name)[:60]!r} cannot name a file; take letters, digits, spaces, '-', "
            "'_' and '.', at most 200, and no path"
        )
    return name


def rename(path, ending):
    """Give the file the name PATH.ending, or PATH.ending-2, ...: one that is free. The new name."""
    path, number = Path(path), 1
    name = f"{path.name}.{ending}"
    while os.path.lexists(path.with_name(name)):
        number += 1
        name = f"{path.name}.{ending}-{number}"
    os.rename(path, path.with_name(name))
    return name


def set_aside(path, error):
    """Rename a damaged file to PATH.damaged, with a warning that says what is wrong with it."""
    try:
        told = f"it is now {rename(path, 'damaged')}, and what it held is made anew"
    except OSError as refused:
        told = f"what it held is made anew (it could not be renamed: {reason(refused)})"
    warn(f"{path} is damaged: {reason(error)}; {told}")


# ------------------------------------------------------------------ tensors


def save(path, tensors, about):
    """Write {name: tensor} and the strings `about` to `path`, as it is: through `write_whole`."""
    tensors = {name: x.detach().contiguous() for name, x in tensors.items()}
    save_file(tensors, str(path), metadata=about | {CHECK: digest([tensors, about])})


def header(path):
    """({name: shape}, the strings about them) of a file of `save`, its numbers unread."""
    with _opened(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        about = dict(file.metadata() or {})
    about.pop(CHECK, None)
    return shapes, about


def load(path, old=False):
    """({name: tensor on the host}, the strings about them) as `save` wrote them, else Damaged.

    old: a file without a hash is taken as well.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        about = dict(file.metadata() or {})
    _checked(about.pop(CHECK, None), [tensors, about], about, old)
    return tensors, about


@contextmanager
def _opened(path):
    with open(path, "rb"):  # what the system says of it: safe_open calls all of it "not found"
        pass
    try:
        with safe_open(str(path), "pt") as file:
            yield file
    except (SafetensorError, UnicodeDecodeError) as error:
        raise Damaged(f"it is no safetensors file, or cut short ({reason(error)})") from error


# ------------------------------------------------------------------ records


def seal(record):
    """The record (a dict that JSON can hold) with the hash of its content."""
    return record | {CHECK: digest(json.loads(json.dumps(record)))}


def opened(text):
    """The record in a JSON text or bytes; Damaged unless it is a dict and, where it was sealed (as
    those of earlier versions were not), what was sealed."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"it is not JSON ({reason(error)})") from error
    if not isinstance(record, dict):
        raise Damaged("it is no record")
    _checked(record.pop(CHECK, None), record, record, old=True)
    return record


# ------------------------------------------------------------------ where a training stands


def save_state(path, state):
    """Atomically: a dict of numbers, words, lists, dicts and tensors, with its hash."""
    held = io.BytesIO()  # torch's own writer tells of a full disk in a RuntimeError
    torch.save(state | {CHECK: digest(state)}, held)
    write_whole(path, lambda draft: Path(draft).write_bytes(held.getbuffer()))


def load_state(path, names):
    """What `save_state` wrote, on the host; Damaged unless it is that, with these names in it.

    Only numbers, words and tensors are read: a file that would run code is Damaged, unread.
    """
    with open(path, "rb") as file:
        content = io.BytesIO(file.read())
    try:
        state = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # what it says depends on where the damage is
        if ran_out(error):
            raise
        raise Damaged(f"it holds no state of a training ({reason(error)})") from error
    if not isinstance(state, dict) or not {CHECK, *names} <= set(state):
        raise Damaged("it holds no state of a training")
    _checked(state.pop(CHECK), state, {}, old=False)
    return state
