"""Options of the command line: what each may be, told in one line before any work."""

import argparse
import os
from pathlib import Path

from .errors import MeditError
from .settings import MOST_SEED, layer_numbers, number


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as a MeditError; `medit_teach.cli.main` prints it.

    type="count", "seed", "layers", "new file" and "new folder" are those of this module.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name, read in TYPES.items():
            self.register("type", name, read)

    def error(self, message):
        raise MeditError(f"{message} ({self.prog} --help lists the options)")


def _checked(test):
    """An argparse type from a function that raises MeditError."""

    def read(text):
        try:
            return test(text)
        except (MeditError, OSError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _whole(text, **bounds):
    try:
        found = int(text)
    except ValueError:  # not a number, or more digits than int() takes
        raise MeditError(f"{text[:40]!r} is not a whole number") from None
    return number("it", found, True, **bounds)


def layers(text):
    """Comma-separated numbers of layers, as a list."""
    if not text.strip():
        raise MeditError("it names no layer; give a list like 1,2,3")
    try:
        return list(layer_numbers([_whole(x, low=0) for x in text.split(",")]))
    except MeditError as error:
        raise MeditError(f"{text[:40]!r} is not a list like 1,2,3: {error}") from None


def _place(text, folder):
    """`text`, if it can be the path of a new file, or of a folder that is there or can be made."""
    path, kind = Path(text), "folder" if folder else "file"
    if not text.strip() or "\0" in text:
        raise MeditError(f"{text!r} is no path of a {kind}")
    if path.exists() and path.is_dir() != folder:
        raise MeditError(f"{path} is a {'file' if folder else 'folder'}, not a {kind}")
    near = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if near.absolute() != path.absolute() and not near.is_dir():
        raise MeditError(f"{path} cannot be written: {near} is a file, not a folder")
    if not os.access(near, os.W_OK):
        raise MeditError(f"{path} cannot be written: no permission for {near}")
    return text


TYPES = {
    "count": _checked(lambda text: _whole(text, low=1, high=10**12)),
    "seed": _checked(lambda text: _whole(text, low=0, high=MOST_SEED)),
    "layers": _checked(layers),
    "new file": _checked(lambda text: _place(text, False)),
    "new folder": _checked(lambda text: _place(text, True)),
}
