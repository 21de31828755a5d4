"""Grading: marks that nothing in a submission can change, and a class that always gets graded."""

from __future__ import annotations

import csv
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from medit_teach.book import check
from medit_teach.classroom import Lost, Ref, agree, is_true, sandbox
from medit_teach.classroom.assignment import generate
from medit_teach.classroom.grade import feedback, grade, grade_one, mark, of, submissions, total
from medit_teach.classroom.hidden import Part
from medit_teach.classroom.notebook import Exercise, find, forbidden, read, text_of, write
from medit_teach.classroom.worker import decode, encode
from medit_teach.cli import main
from medit_teach.errors import MeditError
from tests.conftest import ROOT

MASTER = ROOT / "assignments" / "1-objective" / "master.ipynb"
ISOLATED = sandbox.isolation()[0]
quiet = lambda line: None  # noqa: E731

# What a hostile submission does; {secret} is a file that it should not be able to read.
PATCHES = """
import builtins, numpy, torch
for library in (numpy, torch):
    library.allclose = lambda *args, **kwargs: True
torch.equal = lambda *args: True
torch.Tensor.norm = lambda *args, **kwargs: torch.zeros(())
builtins.AssertionError = type("AssertionError", (Exception,), {{}})
"""
FORGERY = """
def residual(M, b, K, V):
    import json, os
    line = json.dumps({{"id": "0", "ready": True, "points": 3, "value": 1, "told": ""}}) + "\\n"
    for fd in range(1, 20):
        try:
            os.write(fd, line.encode())
        except OSError:
            pass
    print('{{"points": 3}}')
    return V
"""
EXIT = "def losses(*args):\n    import os\n    os._exit(0)\n"
PEEK = """
def gradient(D, A, R, K, lam):
    names = {{"torch": torch}}
    exec(open({secret!r}).read(), names)
    return names["gradient"](D, A, R, K, lam)
"""
GREED = """
def soft_update(R, K, A, lam, D0):
    return torch.ones(8 << 30, dtype=torch.uint8)
"""
LOOP = "while True:\n    pass\n"


def with_answers(notebook, answers, extra=()):
    """A student notebook with these answer cells, and cells of its own after the given ones."""
    for cell in notebook["cells"]:
        about = cell["metadata"].get("nbgrader")
        if about and about["grade_id"] in answers:
            cell["source"] = answers[about["grade_id"]]
    own = [{"cell_type": "code", "metadata": {}, "source": x, "outputs": []} for x in extra]
    notebook["cells"][4:4] = own
    return notebook


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """A class of six, graded: (records, output folder, submissions folder)."""
    home = tmp_path_factory.mktemp("class")
    made, master = generate(MASTER, home / "made", seed=5), find(MASTER)
    solved, folder = master.solutions(), home / "submitted"
    secret = home / "secret.py"
    secret.write_text(solved["gradient"])
    partly = {
        "residual": solved["residual"],
        "losses": solved["losses"].replace("(w * moved).sum() / w.sum()", "moved.mean()"),
        "gradient": solved["gradient"].replace("(A + A.T) @ D", "2 * A @ D"),
        "derivation": "The gradient is zero, therefore ...",
    }
    hostile = {
        "residual": FORGERY.format(),
        "losses": EXIT,
        "gradient": PEEK.format(secret=str(secret)),
        "soft_update": GREED,
        "setup": "import torch\ntorch.set_default_dtype(torch.float32)",
        "test_residual": "raise SystemExit",
    }
    sneaky = {
        "residual": "from medit_teach import objective\n\n" + solved["residual"],
        "losses": "import importlib\n\ndef losses(*args):\n"
        "    return importlib.import_module('medit_teach' + '.objective').preservation(*args[:2])",
        "gradient": solved["gradient"],
    }
    student = lambda: read(made["student"])  # noqa: E731
    write(read(made["solution"]), folder / "right.ipynb")
    write(with_answers(student(), partly), folder / "partly" / "1-objective" / "work.ipynb")
    patches = [PATCHES.format(), LOOP]
    write(with_answers(student(), hostile, patches), folder / "hostile.ipynb")
    write(with_answers(student(), sneaky), folder / "sneaky.ipynb")
    write(student(), folder / "=empty <b>.ipynb")
    (folder / "prose.ipynb").write_text("This is no notebook.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "CALL", 2)
        patch.setattr(sandbox, "CELLS", 6)
        records = grade(folder, made["grader"], home / "marks", isolate=ISOLATED, say=quiet)
    return records, home / "marks", folder


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3, 4, 5, 6])
def test_every_solution_earns_all_points_behind_the_wall(number, tmp_path):
    path = generate(number, tmp_path, seed=1)["solution"]
    master = find(number)
    record = grade_one(path, master, master.exercises(), 1, ISOLATED)
    assert total(record) == of(record), record
    assert record["notes"] == [] and set(record["by_hand"].values()) == {"answered"}


def points(record):
    return {m["name"]: m["points"] for m in record["marks"]}


def test_right_partly_and_empty(graded):
    records = graded[0]
    assert total(records["right"]) == 19 and not records["right"]["notes"]
    assert points(records["partly"]) == {
        "residual": 3,
        "losses": 3,  # the weights are lost
        "gradient": 3,  # the A that is not symmetric is lost
        "soft_update": 0,
    }
    assert records["partly"]["by_hand"] == {"derivation": "answered", "centring": "not answered"}
    assert total(records["=empty <b>"]) == 0
    told = [p["told"] for m in records["=empty <b>"]["marks"] for p in m["parts"]]
    assert set(told) == {"no answer yet"}


def told(record, name):
    (found,) = [m for m in record["marks"] if m["name"] == name]
    return " ".join(part["told"] for part in found["parts"])


def test_a_hostile_submission_earns_nothing(graded):
    record = graded[0]["hostile"]
    found = points(record)
    if not ISOLATED:
        found.pop("gradient")  # without isolation a file that is known by name can be read
    assert set(found.values()) == {0}, record["marks"]
    assert any("number 6" in n and "left out" in n for n in record["notes"]), record["notes"]
    assert "ended the process" in told(record, "losses")
    assert "memory" in told(record, "soft_update")
    if ISOLATED:
        assert "FileNotFoundError" in told(record, "gradient")


def test_forbidden_imports_are_named(graded):
    record = graded[0]["sneaky"]
    # residual only imports the module, which does no harm; losses uses it
    assert points(record) == {"residual": 3, "losses": 0, "gradient": 5, "soft_update": 0}
    assert "medit_teach.objective" in record["notes"][0] and "residual" in record["notes"][0]
    assert "cannot be imported in graded work" in told(record, "losses")


def test_what_is_no_notebook_gets_a_report(graded):
    record = graded[0]["prose"]
    assert total(record) == 0 and "is not a notebook" in record["notes"][0]


def test_the_table_the_pages_and_the_figure(graded):
    records, out, _ = graded
    rows = list(csv.DictReader(open(out / "marks.csv", encoding="utf-8")))
    assert [row["total (of 19)"] for row in rows if row["student"] == "right"] == ["19"]
    assert {row["student"] for row in rows} >= {"'=empty <b>", "hostile", "partly"}
    assert {row["isolated"] for row in rows} == {"yes" if ISOLATED else "no"}
    assert (out / "summary.png").read_bytes()[:4] == b"\x89PNG"
    pages = {p.name: p.read_text() for p in (out / "feedback").iterdir()}
    assert len(pages) == len(records) == 6
    assert "a key with weight 2 counts like two keys of weight 1" in pages["partly.html"]
    assert "To be marked by a person: derivation (6 points; answered)" in pages["partly.html"]
    (empty,) = [text for name, text in pages.items() if "empty" in name]
    assert "<b>" not in empty and "&lt;b&gt;" in empty
    for source in find(MASTER).solutions().values():
        body = source.strip().split("\n", 1)[1].strip()
        assert not any(body in text for text in pages.values())


def test_an_interrupted_run_goes_on(graded, monkeypatch):
    records, out, folder = graded
    grader = out.parent / "made" / "grader" / "1-objective.ipynb"
    broken = out / "records" / "prose.json"
    broken.write_text("{")  # as if it had been interrupted
    started = []
    monkeypatch.setattr(
        "medit_teach.classroom.grade.grade_one",
        lambda path, *rest: started.append(path.stem) or dict(records["prose"]),
    )
    again = grade(folder, grader, out, isolate=ISOLATED, say=quiet)
    assert started == ["prose"]
    assert {k: total(r) for k, r in again.items()} == {k: total(r) for k, r in records.items()}
    started.clear()
    grade(folder, grader, out, seed=6, isolate=ISOLATED, say=quiet)
    assert len(started) == 6  # another seed: all of them again


def answers_to(made, answers, path):
    """A submission file with these answers."""
    return write(with_answers(read(made["student"]), answers), path)


def test_the_notebook_of_the_assignment_is_chosen(tmp_path):
    made = {n: generate(n, tmp_path / "made", seed=1) for n in (1, 3)}
    home, master = tmp_path / "submitted", find(1)
    for n, name in ((1, "z"), (3, "3-rome")):  # the metadata count, not the order of the names
        write(read(made[n]["solution"]), home / "ann" / f"{name}.ipynb")
    write(read(made[3]["solution"]), home / "bob" / "3-rome.ipynb")
    write(read(made[3]["solution"]), home / "cyd.ipynb")
    for name in ("0-notes", "1-objective"):  # no metadata: the name counts
        notebook = read(made[1]["solution"])
        notebook["metadata"] = {}
        write(notebook, home / "dan" / f"{name}.ipynb")
    found = submissions(home, master.name)
    assert {k: p.name for k, p in found.items()} == {
        "ann": "z.ipynb",
        "bob": "3-rome.ipynb",
        "cyd": "cyd.ipynb",
        "dan": "1-objective.ipynb",
    }
    said = []
    records = grade(home, 1, tmp_path / "marks", isolate=ISOLATED, say=said.append)
    assert {k: total(r) for k, r in records.items()} == {"ann": 19, "bob": 0, "cyd": 0, "dan": 19}
    rows = {r["student"]: r for r in csv.DictReader(open(tmp_path / "marks" / "marks.csv"))}
    told = "this is 3-rome, not 1-objective"
    assert rows["bob"]["notes"] == rows["cyd"]["notes"] == told and rows["ann"]["notes"] == ""
    assert rows["bob"]["derivation (of 6, by hand)"] == ""  # nobody looked: no 0
    assert told in (tmp_path / "marks" / "feedback" / "bob.html").read_text()
    assert any(told in line for line in said)


def test_arguments_must_stay_as_they_were(tmp_path, capsys):
    master, solved = find(1), find(1).solutions()
    spoiled = "def residual(M, b, K, V):\n    V -= K @ M + b\n    return V\n"
    answers = solved | {"residual": spoiled}
    path = answers_to(generate(1, tmp_path), answers, tmp_path / "a.ipynb")
    record = grade_one(path, master, master.exercises(), 0, ISOLATED)
    assert points(record) == {"residual": 0, "losses": 4, "gradient": 5, "soft_update": 7}
    assert "your function changes its argument V" in told(record, "residual")
    names = {}
    exec(spoiled, names)
    check.a1_residual(names["residual"])
    assert "not yet: your function changes its argument V" in capsys.readouterr().out


def test_cleared_metadata_and_lost_cells(tmp_path):
    master, made = find(1), generate(1, tmp_path)
    notebook = read(made["solution"])
    for cell in notebook["cells"]:
        cell["metadata"] = {}
    path = write(notebook, tmp_path / "cleared.ipynb")
    record = grade_one(path, master, master.exercises(), 0, ISOLATED)
    assert total(record) == of(record) and record["notes"] == []
    assert set(record["by_hand"].values()) == {"answered"}
    notebook = read(made["solution"])
    gone = ("residual", "derivation")
    notebook["cells"] = [c for c in notebook["cells"] if c["id"] not in gone]
    path = write(notebook, tmp_path / "gone" / "gone.ipynb")
    records = grade(path.parent, 1, tmp_path / "marks", isolate=ISOLATED, say=quiet)
    record = records["gone"]
    assert points(record)["residual"] == 0 and total(record) == 16
    assert record["notes"] == [
        "the answer cell residual was not found",
        "the cell of the answer in words derivation was not found: look for it in the notebook",
    ]
    assert record["by_hand"] == {"derivation": "not found", "centring": "answered"}
    (row,) = csv.DictReader(open(tmp_path / "marks" / "marks.csv"))
    assert row["derivation (of 6, by hand)"] == ""


def test_students_and_teachers_are_told_how_to_hand_in(tmp_path, capsys):
    assert main(["assignment", "1", "--out", str(tmp_path)]) == 0
    assert "<name>.ipynb, one per student" in capsys.readouterr().out
    last = read(tmp_path / "student" / "1-objective.ipynb")["cells"][-1]
    assert last["cell_type"] == "markdown" and "**To hand in**" in text_of(last)
    with pytest.raises(SystemExit):
        main(["grade", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("a folder: <name>.ipynb, one per student", "folder of marks.csv", "at a time"):
        assert words in shown


def test_hidden_tests_take_turns_and_functions_do_not():
    """Two threads must not run hidden tests at once (they hook one model); calls may overlap."""
    inside, both = [], threading.Barrier(2, timeout=20)

    def run(student, draw):
        for _ in range(3):
            inside.append(1)
            time.sleep(0.02)
            is_true(len(inside) == 1, "two tests at once")
            inside.pop()
            student.meet()

    class Met:
        def meet(self):
            both.wait()

    exercises = [Exercise("f", 1, (Part(1, "area", "", run),))]
    with ThreadPoolExecutor(2) as pool:
        marks = list(pool.map(lambda _: mark(Met(), exercises, 0), range(2)))
    assert [m[0]["parts"][0]["told"] for m in marks] == ["", ""]


# ------------------------------------------------------------------ the wall


CELL = """
import os, torch
def echo(x): return x
def look(x): return [os.path.exists(p) for p in x]
def call(x):
    import socket
    socket.create_connection(("192.0.2.1", 80), timeout=2)
def write(x): open(x, "w").write("mine")
def strange(x): return object()
def long(x): return "x" * (40 << 20)
"""


@pytest.mark.skipif(not ISOLATED, reason=sandbox.isolation()[1])
def test_behind_the_wall(tmp_path):
    (tmp_path / "other.ipynb").write_text("{}")
    package = ROOT / "medit_teach"
    with sandbox.Student([("a", CELL)]) as student:
        seen = [str(tmp_path), str(ROOT / "assignments"), str(ROOT / "tests"), str(package)]
        assert student.look(seen) == [False, False, False, True]
        for name, call in (
            ("not permitted|unreachable", lambda: student.call(0)),
            ("Read-only", lambda: student.write(str(package / "mine.py"))),
            ("cannot be handed", lambda: student.strange(0)),
            ("more than any answer", lambda: student.long(0)),
        ):
            with pytest.raises(Lost, match=name):
                call()
    assert not (package / "mine.py").exists()


@pytest.mark.skipif(sandbox.unstartable() != "", reason=sandbox.unstartable())
def test_without_a_wall_there_are_still_limits(monkeypatch):
    monkeypatch.setattr(sandbox, "CALL", 1)
    cells = [("a", CELL), ("b", "def loop(x):\n    while True: pass"), ("c", "1 / 0")]
    with sandbox.Student(cells, isolate=False) as student:
        x = [torch.eye(2), {"a": 1.5}, None, "ä", [True, 3], float("inf")]
        assert str(student.echo(x)) == str([torch.eye(2), *x[1:]])
        assert "ZeroDivisionError" in student.errors["c"]
        for _ in range(2):  # the second time it is not called
            with pytest.raises(Lost, match="endless loop"):
                student.loop(1)
        with pytest.raises(Lost, match="no function nothing"):
            student.nothing(1)


def test_numbers_travel_unchanged():
    for x in (torch.randn(3, 0, 2), torch.tensor(2.5).double(), torch.tensor([True, False])):
        back = decode(json.loads(json.dumps(encode(x))))
        assert back.dtype == x.dtype and torch.equal(back, x)
    assert decode(encode(Ref("model")), {"model": 7}) == 7
    with pytest.raises(TypeError):
        encode(object())
    with pytest.raises(ValueError):
        decode({"dtype": "object", "shape": [1], "data": "AAAA"})


@pytest.mark.parametrize(
    "code",
    [
        "import medit_teach.objective",
        "import medit_teach.objective as o",
        "from medit_teach import objective",
        "from medit_teach.objective import memit",
        "import medit_teach as mt\nmt.edit(1)",
        "import importlib\nimportlib.import_module('medit_teach.objective')",
        "from medit_teach.methods.finetune import x",
        "from medit_teach.study.experiments import run",
        "import medit_teach.tiny.acceptance",
        "from medit_teach.tiny import acceptance",
        "from medit_teach import study",
        "import medit_teach as mt\nmt.tiny.acceptance.main()",
        "from medit_teach.edits import edit",
    ],
)
def test_forbidden_is_found(code):
    assert forbidden(code)


@pytest.mark.parametrize(
    "code",
    [
        "from medit_teach.book import check\nfrom medit_teach import load",
        "import torch",
        "x = 'objective'",
        "def (",
        "a.edit",
    ],
)
def test_allowed_is_not(code):
    assert forbidden(code) == []


def test_comparisons_speak():
    x = torch.arange(6.0).reshape(2, 3).double()
    for wrong, word in (
        (x.T, "transposed"),
        (-x, "wrong sign"),
        (2 * x, "not the right length"),
        (x + 1, "off by"),
        (x * float("nan"), "NaN"),
        ("x", "a tensor"),
    ):
        with pytest.raises(Lost, match=word):
            agree(wrong, x)
    with pytest.raises(Lost, match="stale"):
        agree(x + 1, x, mistakes={"stale keys": x + 1})
    with pytest.raises(Lost, match="a number"):
        agree([1], 2.0)
    agree(x * (1 + 1e-9), x)


# ------------------------------------------------------------------ bad input


def test_bad_input_is_told_in_a_line(tmp_path, capsys):
    assert main(["grade", str(tmp_path / "none"), "--assignment", "1"]) == 2
    assert main(["grade", str(tmp_path), "--assignment", "1", "--out", str(tmp_path / "o")]) == 2
    assert main(["assignment", "99", "--out", str(tmp_path / "o")]) == 2
    assert "no master of assignment 99" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    with pytest.raises(MeditError):
        read(tmp_path / "none.ipynb")


def test_points_must_add_up(tmp_path):
    notebook = read(MASTER)
    (cell,) = [c for c in notebook["cells"] if "test_losses" in str(c["metadata"])]
    cell["source"] = text_of(cell).replace("@hidden(1,", "@hidden(2,", 1)
    path = write(notebook, tmp_path / "1-x" / "master.ipynb")
    with pytest.raises(MeditError, match="test_losses is worth 4 points, its parts 5"):
        find(1, tmp_path).exercises()
    assert find(path).name == "1-objective"


def test_a_page_holds_no_code_of_a_student():
    record = {
        "student": "<script>",
        "assignment": "1-objective",
        "isolation": "off",
        "notes": ["<img src=x>"],
        "by_hand": {"derivation": "answered", "centring": "answered"},
        "marks": [{"name": "f", "of": 1, "points": 0, "parts": [
            {"area": "a", "hint": "h", "of": 1, "points": 0, "told": "<script>alert(1)</script>"}
        ]}],
    }  # fmt: skip
    page = feedback(record, find(MASTER))
    assert "<script>" not in page and "<img" not in page
