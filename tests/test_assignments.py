"""The assignments: solutions earn all, stubs nothing, each wrong solution loses what it should."""

from __future__ import annotations

import contextlib
import importlib.util
import io

import pytest

from medit_teach.book import check
from medit_teach.classroom.assignment import generate
from medit_teach.classroom.grade import mark
from medit_teach.classroom.hidden import Here
from medit_teach.classroom.notebook import HIDDEN, find, forbidden, kind_of, read, text_of
from tests.conftest import ROOT

FOLDERS = sorted(p.parent for p in (ROOT / "assignments").glob("*/master.ipynb"))
NAMES = [folder.name for folder in FOLDERS]
STUB = "# YOUR CODE HERE\n    raise NotImplementedError()"


@pytest.fixture(scope="module", params=FOLDERS, ids=NAMES)
def master(request):
    return find(request.param / "master.ipynb")


@pytest.fixture(scope="module")
def space(master):
    """What the locked cells define; copied before an answer is run in it."""
    names = {"__name__": "student"}
    with contextlib.redirect_stdout(io.StringIO()):
        for source in master.given().values():
            exec(source, names)
    return names


@pytest.fixture(scope="module")
def exercises(master):
    return {e.name: e for e in master.exercises()}


def marks(space, source, exercises, seed=0):
    """The marks of an answer, its functions called in this process."""
    names = dict(space)
    exec(source, names)
    return mark(Here(names), exercises, seed)


def wrong_solutions(master):
    spec = importlib.util.spec_from_file_location("mutants", master.path.parent / "mutants.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MUTANTS


def test_there_are_six():
    assert [name[0] for name in NAMES] == list("123456")


@pytest.mark.parametrize("seed", [0, 1, 2026])
def test_the_solution_earns_all_points(master, space, exercises, seed):
    for name, source in master.solutions().items():
        (found,) = marks(space, source, [exercises[name]], seed)
        lost = [(p["area"], p["told"]) for p in found["parts"] if p["told"]]
        assert not lost, (name, lost)


def test_the_untouched_notebook_earns_nothing(master, space, exercises):
    made = master.version("student")
    for cell in made["cells"]:
        about = cell["metadata"].get("nbgrader")
        if about and kind_of(about) == "answer":
            (found,) = marks(space, text_of(cell), [exercises[about["grade_id"]]])
            assert found["points"] == 0, about["grade_id"]


def test_each_wrong_solution_loses_what_it_should(master, space, exercises):
    solutions = master.solutions()
    mutants = wrong_solutions(master)
    assert set(mutants) == set(exercises) == set(solutions)
    for name, rows in mutants.items():
        assert len(rows) >= 8, f"{name} has only {len(rows)} wrong solutions"
        for title, old, new, areas in rows:
            assert old in solutions[name], (name, title, "is not in the solution any more")
            source = solutions[name].replace(old, new) if old else new
            (found,) = marks(space, source, [exercises[name]])
            lost = {part["area"] for part in found["parts"] if part["told"]}
            assert lost == set(areas), (name, title, lost)
            assert found["points"] == found["of"] - sum(
                p["of"] for p in found["parts"] if p["area"] in areas
            )


def test_the_public_checks_pass_solutions_and_wait_for_answers(master, space, capsys):
    for grade_id, cell in master.cells("tests"):
        name = grade_id.removeprefix("test_")
        public = HIDDEN.sub("", text_of(cell)).strip()
        names = dict(space)
        exec(master.solutions()[name], names)
        capsys.readouterr()
        exec(public, names)
        assert capsys.readouterr().out.startswith("runs: "), (name, public)
        exec(f"def {name}(*args):\n    raise NotImplementedError()", names)
        exec(public, names)
        assert capsys.readouterr().out.strip() == "no answer yet", name


def test_the_public_checks_see_some_of_what_is_wrong(master, space, capsys):
    for grade_id, cell in master.cells("tests"):
        name = grade_id.removeprefix("test_")
        public, seen = HIDDEN.sub("", text_of(cell)).strip(), 0
        rows = wrong_solutions(master)[name]
        for _, old, new, _ in rows:
            names, solution = dict(space), master.solutions()[name]
            exec(solution.replace(old, new) if old else new, names)
            check.passed.clear()
            exec(public, names)
            seen += check.passed.get(f"a{master.name[0]}_{name}") is not True
            capsys.readouterr()
        assert 2 <= seen, (name, f"the public check sees {seen} of {len(rows)}")


def test_points_and_cells_are_in_order(master):
    ids = [grade_id for grade_id, _ in master.cells()]
    assert len(ids) == len(set(ids))
    assert {i for i, _ in master.cells("tests")} == {f"test_{x}" for x in master.solutions()}
    for grade_id, cell in master.cells():
        about = cell["metadata"]["nbgrader"]
        assert about["schema_version"] == 3, grade_id
        assert about["locked"] is (kind_of(about) in ("given", "tests")), grade_id
        assert ("points" in about) is about["grade"], grade_id
    assert master.by_hand()


def test_one_command_makes_three_notebooks(master, tmp_path):
    made = generate(master.path, tmp_path, seed=7)
    student, solution, grader = (
        "\n".join(map(text_of, read(made[kind])["cells"])) for kind in made
    )
    for word in ("SOLUTION", "HIDDEN", "Rubric", "@hidden", "medit_teach.classroom"):
        assert word not in student, word
    assert STUB in student and "YOUR ANSWER HERE" in student
    assert "HIDDEN" not in solution and "SOLUTION" not in solution and "Rubric" in solution
    assert "@hidden" in grader and "Rubric" not in grader and "BEGIN SOLUTION" not in grader
    for text in (student, solution, grader):
        assert "SEED = 7" in text and "SEED = 0" not in text
    for name, source in master.solutions().items():
        assert source.strip().split("\n", 1)[1] not in student, name
    again = find(made["grader"])
    assert again.seed == 7 and again.name == master.name
    assert [e.name for e in again.exercises()] == list(master.solutions())


def test_solutions_keep_the_rules(master):
    for name, source in {**master.solutions(), **master.given()}.items():
        assert forbidden(source) == [], name


def test_masters_are_not_in_the_package():
    import tomllib

    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert found["packages"]["find"]["include"] == ["medit_teach*"]
    assert not list((ROOT / "medit_teach").rglob("master.ipynb"))


def test_nbgrader_makes_the_same_student_notebook(master, tmp_path):
    """Where nbgrader is installed, its own preprocessors agree with ours."""
    pytest.importorskip("nbgrader")
    import nbformat
    from nbgrader.preprocessors import ClearHiddenTests, ClearSolutions

    notebook = nbformat.read(master.path, as_version=4)
    for step in (ClearSolutions, ClearHiddenTests):
        notebook, _ = step().preprocess(notebook, {})
    for theirs, ours in zip(notebook.cells, master.version("student")["cells"], strict=True):
        assert theirs.source.strip() == text_of(ours).strip()
