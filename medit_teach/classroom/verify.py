"""The command `medit-teach verify my.ipynb`: before handing in, a look at it as the grader has it.

The notebook's cells run from the top in a process like the grader's, with its limits and without
what graded work may not use; the public checks then call the functions there. The marks ask more.
"""

import argparse
import ast

from ..book import check
from ..book.check import core
from ..errors import MeditError
from .grade import cells_of, shown
from .hidden import Lost, Ref
from .notebook import Master, text_of
from .sandbox import Student, isolation, unstartable


def verify(path, say=print):
    """Say what the grader would see in the notebook; True if nothing is wrong or missing."""
    own = Master(path)
    tests = list(own.cells("tests"))
    if not tests:
        raise MeditError(f"{own.path.name} has no checks of an assignment left: start from a copy")
    walled = isolation()[0]
    if not walled and (reason := unstartable()):
        raise MeditError(reason)
    cells, notes = cells_of(own.notebook, own)
    well = True
    with Student(cells, walled) as student:
        for grade_id, cell in tests:
            name = grade_id.removeprefix("test_")
            core.passed.clear()
            for function, args in _checks(text_of(cell)):
                say(f"{name}: ", end="")
                getattr(check, function)(*[_argument(student, name, x) for x in args])
            well = well and core.passed != {} and all(core.passed.values())
        notes += student.notes
        notes += [f"cell {label} stops with {error}" for label, error in student.errors.items()]
    for grade_id, cell in own.cells("by hand"):
        if text_of(cell).strip() in ("", "YOUR ANSWER HERE"):
            notes.append(f"the answer in words {grade_id} is empty")
    for note in notes:
        say(f"note: {shown(note)}")
    say("the marks come from further tests, with other numbers and sizes, and from your words")
    return well and not notes


def _checks(text):
    """(name, arguments as syntax trees) of each check of an assignment that a cell calls."""
    try:
        calls = [x for x in ast.walk(ast.parse(text)) if isinstance(x, ast.Call)]
    except SyntaxError:
        return
    for call in calls:
        if isinstance(call.func, ast.Attribute) and hasattr(check.assignments, call.func.attr):
            if call.func.attr[:1] == "a" and call.func.attr[1:2].isdigit():
                yield call.func.attr, call.args


def _argument(student, name, tree):
    """The student's function, a reference to another name of the notebook, or a literal."""
    if not isinstance(tree, ast.Name):
        return ast.literal_eval(tree)
    if tree.id != name:
        return Ref(tree.id)

    def function(*args):
        try:
            return getattr(student, name)(*args)
        except Lost as problem:
            if str(problem) == "no answer yet":
                raise NotImplementedError from None
            raise core.Wrong(shown(problem)) from None

    return function


def main(argv):
    """medit-teach verify NOTEBOOK."""
    parser = argparse.ArgumentParser(prog="medit-teach verify", description=__doc__)
    parser.add_argument("notebook", help="your copy of an assignment")
    return 0 if verify(parser.parse_args(argv).notebook) else 1
