"""Master notebooks (nbgrader's cell metadata): the three versions made of them, and their tests.

A master holds solutions between `### BEGIN SOLUTION` and `### END SOLUTION`, hidden tests between
`### BEGIN HIDDEN TESTS` and `### END HIDDEN TESTS`, and in each graded cell's metadata the key
"nbgrader" (schema 3). The cell of exercise `name` has grade_id "name" and defines a function of
that name; its tests and points are in the cell "test_name". Cells that are graded and solutions
at once are marked by hand.
"""

import ast
import contextlib
import copy
import io
import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import MeditError
from ..kept import plain_name, write_text
from .hidden import collecting
from .sandbox import FORBIDDEN, PACKAGE
from .worker import notebook_names, run_cell

SOLUTION = re.compile(
    r"^([ \t]*)### BEGIN SOLUTION\n.*?^[ \t]*### END SOLUTION[ \t]*$", re.M | re.S
)
HIDDEN = re.compile(
    r"(?<!\n)\n*^### BEGIN HIDDEN TESTS\n(.*?)^### END HIDDEN TESTS[ \t]*$", re.M | re.S
)
MARKER = re.compile(r"^[ \t]*### (?:BEGIN|END) SOLUTION[ \t]*\n?", re.M)
STUB = {"code": "# YOUR CODE HERE\nraise NotImplementedError()", "markdown": "YOUR ANSWER HERE"}
LARGEST = 256 << 20  # bytes of a submission, its outputs included
DIRECT = 8 << 20  # bytes that are read without a process of their own
CODE = 2 << 20  # characters of code in a submission

# Reads a large notebook, whose outputs nobody needs, within bounds of memory and time.
SLIM = """
import json, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
except (ImportError, ValueError, OSError):
    pass
notebook = json.loads(sys.stdin.buffer.read())
sheets = notebook.get("worksheets") or [notebook]
for cell in (cell for sheet in sheets for cell in sheet["cells"]):
    cell.pop("outputs", None)
    cell.pop("attachments", None)
sys.stdout.write(json.dumps(notebook))
"""


@dataclass(frozen=True)
class Exercise:
    """A function to write: its name, its points, and the hidden parts that share them."""

    name: str
    points: float
    parts: tuple


class Master:
    """A master notebook, or the grader made of one. MeditError if it cannot be one."""

    def __init__(self, path):
        self.path = Path(path)
        self.notebook = read(self.path.resolve())
        own = self.notebook.get("metadata")
        own = own.get("medit_teach") if isinstance(own, dict) else None
        own = own if isinstance(own, dict) else {}
        name = own.get("assignment") or self.path.absolute().parent.name
        self.name = plain_name(name, f"{self.path.name}: the assignment")
        self.seed = own.get("seed", 0)

    def cells(self, kind=None):
        """(grade_id, cell) of the cells with nbgrader's metadata, of one kind if given."""
        for cell in self.notebook["cells"]:
            if (about := cell["metadata"].get("nbgrader")) and kind in (None, kind_of(about)):
                yield about["grade_id"], cell

    def version(self, kind, seed=None):
        """The "student", "solution" or "grader" notebook, as a dict.

        student: no solutions, no hidden tests. solution: no hidden tests, no markers. grader: no
        solutions.
        """
        seed = self.seed if seed is None else seed
        made = copy.deepcopy(self.notebook)
        made["metadata"]["medit_teach"] = {"assignment": self.name, "seed": seed}
        for cell in made["cells"]:
            text = reseed(text_of(cell), seed)
            if kind != "solution":
                text = SOLUTION.sub(lambda m, c=cell: _stub(c, m[1]), text)
            if kind != "grader":
                text = HIDDEN.sub("", text)
            cell["source"] = MARKER.sub("", text) if kind == "solution" else text
            if cell["cell_type"] == "code":
                cell["outputs"], cell["execution_count"] = [], None
        return made

    def exercises(self):
        """The exercises, their hidden parts ready to run.

        Runs the locked cells and the hidden blocks, which are the teacher's own code.
        """
        names, found = notebook_names("grader"), []
        with contextlib.redirect_stdout(io.StringIO()):
            for grade_id, cell in self.cells():
                about, text = cell["metadata"]["nbgrader"], reseed(text_of(cell), self.seed)
                if kind_of(about) == "given" and cell["cell_type"] == "code":
                    run_cell(grade_id, text, names)
                if kind_of(about) == "tests":
                    name = grade_id.removeprefix("test_")
                    with collecting() as parts:
                        for block in HIDDEN.findall(text):
                            exec(compile(block, grade_id, "exec"), names)
                    total = sum(part.points for part in parts)
                    if total != about["points"]:
                        raise MeditError(
                            f"{grade_id} is worth {about['points']} points, its parts {total}"
                        )
                    found.append(Exercise(name, about["points"], tuple(parts)))
        return found

    def by_hand(self):
        """{grade_id: points} of the answers in prose."""
        return {i: c["metadata"]["nbgrader"]["points"] for i, c in self.cells("by hand")}

    def solutions(self):
        """{name: source of the solved cell} of the exercises."""
        return {i: MARKER.sub("", text_of(c)) for i, c in self.cells("answer")}

    def given(self):
        """{grade_id: source} of the locked code cells that are no tests, in order."""
        found = self.cells("given")
        return {i: reseed(text_of(c), self.seed) for i, c in found if c["cell_type"] == "code"}


def kind_of(about):
    """What a cell with this nbgrader metadata is: answer, tests, by hand, or given."""
    if about.get("solution"):
        return "by hand" if about.get("grade") else "answer"
    return "tests" if about.get("grade") else "given"


def find(number, folder=None):
    """The master of assignment `number`, or of the notebook of that path. MeditError if none."""
    if Path(str(number)).suffix == ".ipynb":
        return Master(number)
    if not re.fullmatch(r"\w+", str(number)):
        raise MeditError(f"an assignment is a number or a master notebook, not {str(number)!r}")
    folder = folder or os.environ.get("MEDIT_ASSIGNMENTS") or PACKAGE.parent / "assignments"
    found = sorted(Path(folder).glob(f"{number}-*/master.ipynb"))
    if not found:
        raise MeditError(
            f"there is no master of assignment {number} in {folder}: masters come with the "
            "repository, not with the installed package; name their folder with --masters"
        )
    return Master(found[0])


def read(path):
    """A notebook as a dict, format 4. MeditError that says why it is none.

    Nothing but a plain file is opened. Format 3, of 2014, is read as 4; "orig_nbformat" in the
    metadata then says 3.
    """
    path = Path(path)
    data = plain_bytes(path)
    try:
        notebook = _slim(data, path.name) if len(data) > DIRECT else json.loads(data)
        if notebook.get("nbformat") == 3:
            notebook = _from_3(notebook, path.name)
        if notebook.get("nbformat") != 4:
            known = str(notebook.get("nbformat"))[:20]
            raise MeditError(f"{path.name} is a notebook of format {known}, not 4")
        if not isinstance(notebook.setdefault("metadata", {}), dict):
            notebook["metadata"] = {}
        size = 0
        for cell in notebook["cells"]:
            if cell["cell_type"] not in ("code", "markdown", "raw"):
                raise KeyError("cell_type")
            if not isinstance(cell.setdefault("metadata", {}), dict):
                raise TypeError("metadata")
            size += len(text_of(cell)) if cell["cell_type"] == "code" else 0
    except MeditError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MeditError(f"{path.name} is not a notebook ({type(error).__name__})") from None
    if size > CODE:
        raise MeditError(f"{path.name} holds more than {CODE >> 20} million letters of code")
    return notebook


def plain_bytes(path):
    """What a plain file holds; MeditError, and nothing opened, for a link, a pipe, a folder..."""
    kinds = ((stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"))
    try:
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            kind = next((name for test, name in kinds if test(mode)), "a device")
            raise MeditError(f"{path.name} is {kind}, not a file: nothing was opened")
        careful = [getattr(os, f"O_{x}", 0) for x in ("NOFOLLOW", "NONBLOCK", "CLOEXEC", "BINARY")]
        with open(os.open(path, os.O_RDONLY | sum(careful)), "rb") as file:
            if os.fstat(file.fileno()).st_size > LARGEST:
                raise MeditError(
                    f"{path.name} is larger than {LARGEST >> 20} MB: clear its outputs"
                )
            return file.read(LARGEST)
    except OSError as error:
        raise MeditError(f"{path.name} is not a notebook ({error.strerror})") from None


def _slim(data, name):
    """A large notebook without its outputs, read by a process with limits."""
    command = [sys.executable, "-I", "-c", SLIM]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=300)
    except subprocess.TimeoutExpired:
        raise MeditError(f"{name} cannot be read in five minutes") from None
    if done.returncode or len(done.stdout) > 4 * DIRECT:
        why = done.stderr.decode(errors="replace").strip().splitlines() or ["killed"]
        raise MeditError(f"{name} is too large to be read ({why[-1][:80]}): clear its outputs")
    return json.loads(done.stdout)


def _from_3(notebook, name):
    """A notebook of format 3 as one of format 4."""
    cells = [cell for sheet in notebook["worksheets"] for cell in sheet["cells"]]
    if not cells:
        raise MeditError(f"{name} is a notebook of format 3, and has no cells: save it again")
    for cell in cells:
        cell["source"] = cell.pop("input", cell.get("source", ""))
        if cell["cell_type"] == "heading":
            cell["cell_type"] = "markdown"
    own = notebook.get("metadata")
    own = own if isinstance(own, dict) else {}
    return {"nbformat": 4, "metadata": own | {"orig_nbformat": 3}, "cells": cells}


def write(notebook, path):
    """A notebook dict as a file; MeditError where it cannot be written."""
    for number, cell in enumerate(notebook["cells"]):
        cell["source"] = text_of(cell).splitlines(keepends=True)
        cell.setdefault("id", f"cell-{number}")
    notebook["nbformat_minor"] = max(5, notebook.get("nbformat_minor", 5))
    path = Path(path)
    write_text(path, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    return path


def text_of(cell):
    """The source of a cell as one text."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def reseed(text, seed):
    """`text` with its line `SEED = ...` changed."""
    return re.sub(r"^SEED = \d+", f"SEED = {seed}", text, flags=re.M)


def _stub(cell, indent):
    return "\n".join(indent + line for line in STUB[cell["cell_type"]].split("\n"))


def forbidden(code):
    """The modules of this package that `code` reaches for although graded work may not.

    Text counts only where it is imported: a docstring may name the library.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []  # the worker tells what is wrong with it
    home, found = {"medit_teach"}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            home |= {a.asname for a in node.names if a.name == "medit_teach" and a.asname}
            found += [a.name for a in node.names]
        elif (
            isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "medit_teach"
        ):
            found += [f"{node.module}.{a.name}" for a in node.names]
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__"):
            texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
            found += re.findall(r"medit_teach\.[\w.]+", " ".join(map(str, texts)))
    for node in ast.walk(tree):
        first, _, rest = _dotted(node).partition(".")
        found += [f"medit_teach.{rest}"] if first in home and rest else []
    names = [f"medit_teach.{name}" for name in FORBIDDEN]
    return sorted({n for n in names for f in found if f == n or f.startswith(f"{n}.")})


def _dotted(node):
    """ "a.b.c" of a chain of attributes that begins with a name; else ""."""
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return before and f"{before}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _name(node):
    """The last part of a dotted name."""
    return getattr(node, "attr", getattr(node, "id", ""))
