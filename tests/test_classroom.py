"""A real class: attacks that must come to nothing, and honest work that must not be lost."""

from __future__ import annotations

import csv
import decimal
import fractions
import json
import os
import stat
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch

from medit_teach.book import check
from medit_teach.classroom import Lost, agree, sandbox, worker
from medit_teach.classroom.assignment import generate
from medit_teach.classroom.grade import (
    cells_of,
    grade,
    grade_one,
    of,
    shown,
    submissions,
    total,
    unpacked,
)
from medit_teach.classroom.hidden import number
from medit_teach.classroom.notebook import HIDDEN, find, forbidden, read, write
from medit_teach.cli import main
from medit_teach.errors import MeditError

ISOLATED, WHY = sandbox.isolation()
STARTS = not sandbox.unstartable()  # also without a wall
WALLS = [
    pytest.param(True, marks=pytest.mark.skipif(not ISOLATED, reason=WHY), id="walled"),
    pytest.param(False, marks=pytest.mark.skipif(not STARTS, reason="root"), id="unwalled"),
]
quiet = lambda line: None  # noqa: E731


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return generate(1, tmp_path_factory.mktemp("made"), seed=3)


def answered(made, changes, extra=(), path=None):
    """The solution of assignment 1 with other answers, and cells of the student's own in front."""
    notebook = read(made["solution"])
    for cell in notebook["cells"]:
        about = cell["metadata"].get("nbgrader", {})
        if about.get("grade_id") in changes:
            cell["source"] = changes[about["grade_id"]]
    own = [{"cell_type": "code", "metadata": {}, "source": x, "outputs": []} for x in extra]
    notebook["cells"][4:4] = own
    return write(notebook, path) if path else notebook


def graded(made, changes, tmp_path, extra=(), isolate=ISOLATED):
    """The record of such a submission."""
    master = find(1)
    path = answered(made, changes, extra, tmp_path / "x.ipynb")
    return grade_one(path, master, master.exercises(), 3, isolate)


def earned(record):
    return {m["name"]: m["points"] for m in record["marks"]}


# ------------------------------------------------------------------ 1: every kind of number


NUMBERS = [
    np.float64(2), np.float32(2), np.float16(2), np.longdouble(2), np.int64(2), np.int8(2),
    np.uint64(2), np.complex128(2), fractions.Fraction(2), decimal.Decimal(2), 2, 2.0, 2 + 0j,
    torch.tensor(2), torch.tensor([2.0]), torch.tensor(2.0, dtype=torch.bfloat16),
    torch.tensor(2.0, dtype=torch.float16), torch.nn.Parameter(torch.tensor(2.0)),
    torch.tensor(2 + 0j), np.array(2.0), np.array([2], dtype="int16"), np.ma.array([2.0]),
]  # fmt: skip


@pytest.mark.parametrize("x", NUMBERS, ids=lambda x: f"{type(x).__module__}.{type(x).__name__}")
def test_every_kind_of_number_arrives(x):
    back = worker.decode(json.loads(json.dumps(worker.encode(x))))
    assert number(back) == 2
    agree(back if not isinstance(back, torch.Tensor) else back.reshape(()), 2.0)


@pytest.mark.parametrize("x", [True, np.bool_(True), torch.tensor(True)])
def test_a_truth_value_is_a_number_too(x):
    back = worker.decode(worker.encode(x))
    assert number(back) == 1
    agree(back, 1.0)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_every_kind_of_array_arrives():
    want = torch.arange(6.0).reshape(2, 3).double()
    array = want.numpy()
    kinds = [array.astype(k) for k in ("f2", "f4", "f8", ">f8", "g", "i1", "i2", "u4", "c16", "O")]
    kinds += [array.T.copy().T, np.asmatrix(array), np.ma.array(array), memoryview(array)]
    kinds += [want.to(k) for k in (torch.bfloat16, torch.half, torch.int16, torch.complex128)]
    kinds += [want.to_sparse(), want.T.contiguous().T, torch.nn.Parameter(want), want.expand(2, 3)]
    kinds += [torch.complex(want, want * 0).conj()]
    for x in kinds:
        agree(worker.decode(json.loads(json.dumps(worker.encode(x)))), want)
    nested = {np.str_("a"): (np.float32(1), [np.int64(2)]), np.int64(3): range(2)}
    assert worker.decode(worker.encode(nested)) == {"a": [1.0, [2]], 3: [0, 1]}


@pytest.mark.parametrize("x", [1j, torch.tensor([1j]), np.array([1j]), object(), {1.5: 2}, {1}])
def test_what_is_no_number_is_refused(x):
    with pytest.raises(TypeError):
        worker.encode(x)


def test_numpy_answers_earn_what_the_notebook_says(made, tmp_path, capsys):
    numpy_losses = (
        "import numpy as np\n\ndef losses(D, K0, w, R, K):\n"
        "    D, K0, w, R, K = (x.numpy() for x in (D, K0, w, R, K))\n"
        "    return (w @ ((K0 @ D) ** 2).sum(1)) / w.sum(), ((R - K @ D) ** 2).sum()\n"
    )
    numpy_residual = "def residual(M, b, K, V):\n    return (V - (K @ M + b)).numpy()\n"
    record = graded(made, {"losses": numpy_losses, "residual": numpy_residual}, tmp_path)
    assert total(record) == of(record), record
    names = {}
    exec(numpy_losses + numpy_residual, names)
    check.a1_losses(names["losses"])
    check.a1_residual(names["residual"])
    assert "not yet" not in capsys.readouterr().out


# ------------------------------------------------------------------ 2: the wall and the limits


ATTACKS = """
import ctypes, json, os, signal, socket, subprocess, sys, threading, time

def me(x):
    return os.getuid()

def settings(x):
    found = []
    for name in ("kernel/hostname", "kernel/domainname", "vm/drop_caches", "kernel/core_pattern"):
        path = "/proc/sys/" + name
        try:
            same = open(path).read() if "drop" not in name else ""
            fd = os.open(path, os.O_WRONLY)  # and nothing but its own value would be written back
            found.append(name)
            os.close(fd)
        except OSError as error:
            pass
    for path in ("/proc/sysrq-trigger", "/proc/1/oom_score_adj", "/sys/power/state"):
        if os.access(path, os.W_OK):
            found.append(path)
    return found

def rename(x):
    ctypes.CDLL(None).sethostname(b"other", 5)
    return os.uname().nodename

def mounts(x):
    libc, done = ctypes.CDLL(None, use_errno=True), []
    for flag in (0x10000000, 0x20000, 0x40000000):
        done.append(libc.unshare(flag))
    done.append(libc.mount(b"none", b"/desk", b"tmpfs", 0, None))
    done.append(libc.mount(b"none", b"/proc", None, 32 | 4096, None))
    return done

def device(x):
    found = []
    for name in ("null", "zero", "urandom"):
        try:
            os.chmod("/dev/" + name, 0o600)
            found.append(name)
        except OSError:
            pass
    return found

def shared(x):
    libc = ctypes.CDLL(None, use_errno=True)
    return [libc.shmget(0, 1 << 20, 0o1600), libc.memfd_create(b"x", 0)]

def net(x):
    for kind in (socket.AF_INET, socket.AF_UNIX):
        try:
            socket.socket(kind)
            return "socket"
        except OSError:
            pass
    return ""

def shoot(x):
    hit = []
    for pid in (os.getppid(), os.getpid() - 1, -1):
        try:
            os.kill(pid, signal.SIGTERM if pid != -1 else 0)
            hit.append(pid)
        except OSError:
            pass
    return hit

def bomb(x):
    while True:
        try:
            if os.fork() == 0:
                time.sleep(60)
        except OSError:
            pass

def threads(x):
    while True:
        try:
            threading.Thread(target=time.sleep, args=(60,)).start()
        except RuntimeError:
            time.sleep(0.1)

def burn(x):
    loop = [sys.executable, "-c", "while True: pass"]
    for _ in range(3):
        threading.Thread(target=subprocess.run, args=(loop,)).start()
    while True:
        time.sleep(0.05)

def orphan(x):
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                pass
        os._exit(0)
    while True:
        time.sleep(0.05)

def memory(x):
    for _ in range(4):
        if os.fork() == 0:
            block = bytearray(b"x") * (150 << 20)
            time.sleep(60)
    time.sleep(60)

def sleep(x):
    time.sleep(600)

def heartbeat(x):
    while True:
        for fd in range(3, 30):
            try:
                os.write(fd, b'{"id": "no"}\\n')
            except OSError:
                pass

def drip(x):
    while True:
        for fd in range(3, 30):
            try:
                os.write(fd, b" ")
            except OSError:
                pass
        time.sleep(0.05)

def deep(x):
    for fd in range(3, 30):
        try:
            os.write(fd, b"[" * 60000 + b"\\n")
        except OSError:
            pass
    return 1

def loud(x):
    raise ValueError("\\x1b]0;mine\\x07\\x1b[2J" + "<b>" * 100000 + "\\ud800")

def big(x):
    try:
        with open("big", "wb") as file:
            for _ in range(40):
                file.write(b"x" * (1 << 20))
    except OSError:
        return "refused"
    return "written"
"""


@pytest.fixture(scope="module", params=WALLS)
def attacker(request):
    with sandbox.Student([("attacks", ATTACKS)], request.param) as student:
        yield student


def test_no_attack_reaches_the_system(attacker):
    host = os.uname().nodename
    assert attacker.me(0) != 0 or os.geteuid() != 0  # in an ordinary user's wall, 0 is that user
    assert attacker.settings(0) == []
    assert attacker.rename(0) != "other" and os.uname().nodename == host
    assert set(attacker.mounts(0)) == {-1}
    assert attacker.device(0) == []
    assert attacker.shared(0) == [-1, -1]
    assert attacker.net(0) == ""
    assert attacker.shoot(0) == []
    assert attacker.big(0) == "refused"


def end_of(name, isolate, monkeypatch, **limits):
    """(what is told, seconds on the clock, processor seconds) of one call of an attack."""
    with sandbox.Student([("attacks", ATTACKS)], isolate) as student:
        assert student.me(0) is not None  # it is up
        for key, value in limits.items():
            monkeypatch.setattr(sandbox, key, value + (student.clock if key == "CLOCK" else 0))
        begun, told = time.monotonic(), ""
        try:
            getattr(student, name)(0)
        except Lost as problem:
            told = str(problem)
        root = student.process.pid if student.process else 0
        took = time.monotonic() - begun
    assert not root or not sandbox._tree(root)
    return told, took, student.seconds


@pytest.mark.parametrize("isolate", WALLS)
@pytest.mark.parametrize(
    ("name", "limits", "words"),
    [
        ("bomb", {"THREADS": 24}, "too many processes|memory"),
        ("threads", {"IDLE": 2}, "too many processes|does nothing"),
        ("burn", {"CALL": 1, "PATIENCE": 60}, "did not end in time"),
        ("orphan", {"CALL": 1, "PATIENCE": 60}, "did not end in time"),
        ("memory", {"MEMORY": 1 << 30}, "memory"),
        ("sleep", {"IDLE": 1}, "does nothing"),
        ("heartbeat", {"CALL": 1}, "did not end in time"),
        ("drip", {"CALL": 0.4, "IDLE": 60}, "did not end in time"),
    ],
)
def test_limits_hold_for_all_that_it_starts(name, limits, words, isolate, monkeypatch):
    told, _, _ = end_of(name, isolate, monkeypatch, **limits)
    assert any(word in told for word in words.split("|")), told


@pytest.mark.parametrize("isolate", WALLS[:1])
def test_a_submission_and_a_run_have_one_deadline(isolate, monkeypatch):
    told, took, _ = end_of("drip", isolate, monkeypatch, CLOCK=2, IDLE=60)
    assert "used up its time" in told and took < 20
    with sandbox.Student([("a", "def f(x): return x")], isolate, time.monotonic()) as student:
        with pytest.raises(Lost, match="time of the whole run is over"):
            student.f(1)


BUSY = """
import time
def work(x):
    end = time.process_time() + x
    while time.process_time() < end:
        pass
    return 1
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells who waits")
def test_on_a_busy_machine_honest_work_has_its_time(monkeypatch):
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(6)]
    try:
        with sandbox.Student([("busy", BUSY)], ISOLATED) as student:
            student.work(0.0)
            monkeypatch.setattr(sandbox, "CALL", 2)
            monkeypatch.setattr(sandbox, "PATIENCE", 1.2)
            monkeypatch.setattr(sandbox, "CLOCK", student.clock + 4)
            assert student.work(1.5) == 1
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def test_what_a_student_sends_is_only_text(attacker):
    assert attacker.deep(0) == 1
    with pytest.raises(Lost) as problem:
        attacker.loud(0)
    told = shown(problem.value)
    assert len(told) <= 300 and told.isprintable()
    told.encode()


def test_a_page_of_notes_stays_small(made, tmp_path):
    extra = [f"raise ValueError('\\x1b[2J' + 'x' * 1000000 + '{i}')" for i in range(60)]
    record = graded(made, {}, tmp_path, extra)
    assert total(record) == of(record)
    assert len(record["notes"]) <= 21 and "more" in record["notes"][-1]
    assert all(len(note) <= 300 and note.isprintable() for note in record["notes"])


@pytest.mark.skipif(not ISOLATED, reason=WHY)
def test_without_a_wall_grading_refuses_unless_told(made, tmp_path, monkeypatch):
    answered(made, {}, path=tmp_path / "in" / "ann.ipynb")
    monkeypatch.setattr(
        "medit_teach.classroom.grade.isolation", lambda: (False, "isolation was off")
    )
    with pytest.raises(MeditError, match="--no-isolation"):
        grade(tmp_path / "in", 1, tmp_path / "out", say=quiet)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not ISOLATED, reason=WHY)
def test_a_wall_with_a_hole_is_no_wall(monkeypatch):
    whole = sandbox._script
    monkeypatch.setattr(
        sandbox, "_script", lambda root: whole(root).replace("-t proc -o ro,", "-t proc -o rw,")
    )
    monkeypatch.setattr(sandbox, "_other_user", lambda: "")
    sandbox.isolation.cache_clear()
    try:
        able, told = sandbox.isolation()
        # an ordinary user's worker may not write the system's settings by its user alone
        assert os.geteuid() != 0 or (not able and "hole" in told)
    finally:
        sandbox.isolation.cache_clear()


def test_the_filter_is_for_both_machines():
    for audit, clone, numbers in worker.SYSTEMS.values():
        barred = [int(x) for x in numbers.split()]
        assert len(barred) == len(set(barred)) == len(worker.CALLS)
        program = worker._filter(audit, clone, barred)
        assert len(program) % 8 == 0 and len(program) // 8 == 10 + 2 * len(barred) + 3


# ------------------------------------------------------------------ 4: nothing but plain files


def test_links_and_pipes_earn_nothing_and_hang_nothing(made, tmp_path):
    home = tmp_path / "submitted"
    answered(made, {}, path=home / "ann.ipynb")
    other = answered(made, {}, path=home / "bob" / "1-objective.ipynb")
    (home / "file-link.ipynb").symlink_to(made["solution"])
    (home / "folder-link").symlink_to(made["solution"].parent)
    os.link(made["solution"], home / "hard-link.ipynb")
    (home / "inside").mkdir()
    (home / "inside" / "1-objective.ipynb").symlink_to(other)
    (home / "inside" / "deeper").symlink_to(other.parent)
    os.mkfifo(home / "pipe.ipynb")
    (home / "pipe-inside").mkdir()
    os.mkfifo(home / "pipe-inside" / "1-objective.ipynb")
    (home / "device.ipynb").symlink_to("/dev/zero")
    (home / "name.ipynb").mkdir()
    records = grade(home, 1, tmp_path / "out", isolate=ISOLATED, say=quiet)
    points = {k: total(r) for k, r in records.items()}
    honest = {"ann": points.pop("ann"), "bob": points.pop("bob")}
    assert set(honest.values()) == {19} and set(points.values()) == {0}
    assert len(points) == 8
    told = {k: r["notes"][0] for k, r in records.items() if r["notes"]}
    assert "is a link" in told["file-link"] and "is a link" in told["folder-link"]
    assert "is a hard link" in told["hard-link"]
    assert "is a pipe" in told["pipe"] and "no notebook" in told["inside"]


def test_one_file_of_two_students_is_told(made, tmp_path):
    ann = answered(made, {}, path=tmp_path / "in" / "ann.ipynb")
    os.link(ann, tmp_path / "in" / "bob.ipynb")
    records = grade(tmp_path / "in", 1, tmp_path / "out", isolate=ISOLATED, say=quiet)
    assert records["ann"]["notes"] == ["one file on the disk with that of bob"]
    assert records["bob"]["notes"] == ["one file on the disk with that of ann"]


def test_the_size_is_looked_at_first(tmp_path):
    path = tmp_path / "huge.ipynb"
    with open(path, "wb") as file:
        file.truncate(300 << 20)  # a sparse file: its size is there, its bytes are not
    with pytest.raises(MeditError, match="larger than"):
        read(path)


def test_masters_may_be_links(tmp_path):
    (tmp_path / "1-objective").mkdir()
    (tmp_path / "1-objective" / "master.ipynb").symlink_to(find(1).path)
    assert find(1, tmp_path).exercises()


# ------------------------------------------------------------------ 6: right work that vanishes


def with_bytes(path, change):
    path.write_bytes(change(path.read_bytes()))
    return path


def as_format_3(path):
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["input"] = cell.pop("source")
            cell["language"] = "python"
    sheet = {"cells": notebook["cells"], "metadata": {}}
    path.write_text(
        json.dumps({"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [sheet]})
    )


def test_right_work_does_not_vanish(made, tmp_path):
    home, solved = tmp_path / "submitted", read(made["solution"])
    student = read(made["student"])
    at = lambda *names: home.joinpath(*names)  # noqa: E731
    write(solved, at("ann.ipynb"))
    at("ann.pdf").write_bytes(b"%PDF-1.4")
    at("ann.txt").write_text("my notebook")
    write(student, at("bea", "1-objective.ipynb"))  # the untouched copy beside the answered one
    write(solved, at("bea", "1-objective-Copy1.ipynb"))
    write(solved, at("cem", "b", "1-objective.ipynb"))
    write(student, at("cem", "a", "1-objective.ipynb"))
    for name, code in (("dan", "utf-8-sig"), ("eve", "utf-16"), ("fay", "utf-32")):
        write(solved, at(f"{name}.ipynb"))
        with_bytes(at(f"{name}.ipynb"), lambda x, code=code: x.decode().encode(code))
    write(solved, at("gus.ipynb"))
    as_format_3(at("gus.ipynb"))
    write(solved, at("hal.ipynb"))
    large = json.loads(at("hal.ipynb").read_text())
    large["cells"][2]["outputs"] = [{"output_type": "stream", "text": "x" * (26 << 20)}]
    at("hal.ipynb").write_text(json.dumps(large))
    write(solved, at("exampleida_LATE_12345_678901_1-objective-1.ipynb"))  # as Canvas names them
    write(solved, at("Jo Example_4711_assignsubmission_file_", "1-objective.ipynb"))  # as Moodle
    write(student, at("kim.ipynb"))
    write(solved, at("kim-1.ipynb"))
    write(solved, at("team-1.ipynb"))
    write(solved, at("team-2.ipynb"))
    write(solved, at("liz.ipynb", "work.ipynb"))
    at("empty").mkdir()
    at("mac.pdf").write_bytes(b"%PDF-1.4")
    for name in ("README.md", "readme", "Thumbs.db", ".DS_Store", "marks.csv", "list.xlsx"):
        at(name).write_text("")
    write(solved, at("__MACOSX", "ann.ipynb"))
    write(student, at("bea", "__MACOSX", "1-objective.ipynb"))
    at("bea", "._1-objective.ipynb").write_bytes(b"\0\5\26\7")
    records = grade(home, 1, tmp_path / "out", isolate=ISOLATED, say=quiet)
    points = {k: total(r) for k, r in records.items()}
    assert points.pop("empty") == points.pop("mac") == 0
    assert "no notebook" in records["empty"]["notes"][0]
    assert set(points) == {
        "ann", "bea", "cem", "dan", "eve", "fay", "gus", "hal", "exampleida (12345)",
        "Jo Example (4711)", "kim", "team-1", "team-2", "liz.ipynb",
    }  # fmt: skip
    assert set(points.values()) == {19}, points
    assert any("format 3" in note for note in records["gus"]["notes"])
    rows = list(csv.DictReader(open(tmp_path / "out" / "marks.csv", encoding="utf-8")))
    assert {row["student"] for row in rows} == set(records)


def test_what_cannot_be_read_is_told(tmp_path):
    path = tmp_path / "a.ipynb"
    for data, words in (
        ({"metadata": {}, "nbformat": 3, "nbformat_minor": 0, "worksheets": []}, "format 3"),
        ({"cells": [], "metadata": {}, "nbformat": 5}, "format 5"),
        ([], "not a notebook"),
        ({"cells": [{"cell_type": "code", "source": ["x = 1\n" * 500000]}], "nbformat": 4}, "code"),
    ):
        path.write_text(json.dumps(data))
        with pytest.raises(MeditError, match=words):
            read(path)
    path.write_text("[" * 9_000_000)  # too deep, too large to be read here
    with pytest.raises(MeditError, match="too large"):
        read(path)


def test_of_two_answered_copies_the_newer_counts(made, tmp_path):
    wrong = {"residual": "def residual(M, b, K, V):\n    return V"}
    old = answered(made, wrong, path=tmp_path / "ann" / "1-objective-Copy1.ipynb")
    new = answered(made, {}, path=tmp_path / "ann" / "1-objective.ipynb")
    os.utime(old, (1, 1))
    assert submissions(tmp_path, "1-objective", find(1))["ann"] == new
    os.utime(new, (0, 0))
    assert submissions(tmp_path, "1-objective", find(1))["ann"] == old


def test_names_of_any_kind_are_graded(made, tmp_path):
    home = tmp_path / "in"
    for name in ("Zoë Ünal", "a\x1b[2Jb", "-1", "=1+1", "x" * 200):
        answered(made, {}, path=home / f"{name}.ipynb")
    broken = os.fsencode(home) + b"/\xff\xfe.ipynb"
    with open(broken, "wb") as file:
        file.write((home / "-1.ipynb").read_bytes())
    said = []
    records = grade(home, 1, tmp_path / "out", isolate=ISOLATED, say=said.append)
    assert len(records) == 6 and {total(r) for r in records.values()} == {19}
    assert all(line.isprintable() for line in said)
    text = (tmp_path / "out" / "marks.csv").read_text(encoding="utf-8")
    assert "\x1b" not in text and "'=1+1" in text
    assert len(list((tmp_path / "out" / "feedback").iterdir())) == 6


# ------------------------------------------------------------------ 7, 11: as Jupyter runs it


JUPYTER = '''%matplotlib inline
files = !ls
%time import math
!pip install something
print?
def helper(M, K, b):
    """As medit_teach.objective and medit_teach.edit do it."""
    n = (len(K)
         % 1000)
    return K @ M + b
display(helper)
get_ipython().run_line_magic("load_ext", "autoreload")
'''


def test_what_runs_in_jupyter_runs(made, tmp_path):
    timed = "%%time\ndef losses(D, K0, w, R, K):\n" + (
        '    """Not medit_teach.objective.preservation."""\n'
        "    moved = ((K0 @ D) ** 2).sum(1)\n"
        "    return (w * moved).sum() / w.sum(), ((R - K @ D) ** 2).sum()\n"
    )
    changes = {
        "residual": "helper?\ndef residual(M, b, K, V):\n    return V - helper(M, K, b)\n",
        "losses": timed,
    }
    waits = "import asyncio\nawait asyncio.sleep(0)\nfrom __future__ import annotations\n"
    record = graded(made, changes, tmp_path, [JUPYTER, "  x = 1\n  y = 2", waits])
    assert total(record) == of(record) and record["notes"] == [], record


def test_an_import_alone_does_no_harm_and_use_is_told(made, tmp_path, capsys):
    solved = find(1).solutions()
    changes = {
        "residual": "from medit_teach import edit, Statistics\n" + solved["residual"],
        "losses": "import medit_teach.objective as o\n" + solved["losses"],
        "gradient": "from medit_teach.objective import preservation\n\n\n"
        "def gradient(D, A, R, K, lam):\n    preservation(D, A)\n    return D\n",
    }
    record = graded(made, changes, tmp_path)
    assert earned(record) == {"residual": 3, "losses": 4, "gradient": 0, "soft_update": 7}
    told = " ".join(p["told"] for m in record["marks"] for p in m["parts"])
    assert "medit_teach.objective cannot be imported in graded work" in told
    names = {"torch": torch}
    for source in changes.values():
        exec(source, names)
    check.a1_residual(names["residual"])
    check.a1_losses(names["losses"])
    assert "not yet" not in capsys.readouterr().out
    check.a1_gradient(names["gradient"])
    said = capsys.readouterr().out
    assert "not yet: your function uses medit_teach.objective" in said


EXPERIMENT = """
import medit_teach as mt
from medit_teach import methods as baselines, edit, metrics
from medit_teach.hyper import hyper
from medit_teach.distribution import spread

class MyRule(spread):
    pass

def helper(M, K, b):
    return K @ M + b

h = hyper("memit", None, layers=[1])
with mt.edit(None, None, [], method=h) as e:
    print(e.nothing)

def later(x):
    return x
"""


def test_an_experiment_with_the_library_loses_no_helper(made, tmp_path):
    changes = {"residual": "def residual(M, b, K, V):\n    return later(V - helper(M, K, b))\n"}
    record = graded(made, changes, tmp_path, [EXPERIMENT])
    assert total(record) == of(record) and record["notes"] == [], record


def test_a_second_untouched_cell_does_not_undo_the_answer(made, tmp_path):
    master, notebook = find(1), read(made["solution"])
    stub = next(c for c in read(made["student"])["cells"] if c["id"] == "residual")
    notebook["cells"].append(stub)
    path = write(notebook, tmp_path / "x.ipynb")
    record = grade_one(path, master, master.exercises(), 3, ISOLATED)
    assert total(record) == of(record), record


def test_a_docstring_may_name_the_library():
    assert forbidden('def f():\n    """Like medit_teach.objective."""') == []
    assert forbidden("print('see medit_teach.edit')") == []
    assert forbidden("import_module('medit_teach.edit')") == ["medit_teach.edit"]


# ------------------------------------------------------------------ 8: marks by hand


def test_marks_by_hand_survive(made, tmp_path):
    home, out = tmp_path / "in", tmp_path / "out"
    answered(made, {}, path=home / "ann.ipynb")
    answered(made, {"residual": "def residual(*x): return 0"}, path=home / "bob.ipynb")
    run = lambda: grade(home, 1, out, isolate=ISOLATED, say=said.append)  # noqa: E731
    rows = lambda: {  # noqa: E731
        r["student"]: r for r in csv.DictReader(open(out / "marks.csv", encoding="utf-8"))
    }
    said = []
    run()
    assert rows()["ann"]["derivation (of 6, by hand)"] == ""
    assert rows()["ann"]["sum (of 29, with words)"] == ""
    assert (out / "overrides.csv").read_text().startswith("student,question,points,comment")

    table = rows()  # a teacher types marks into the table, and Excel saves it in its own way
    table["ann"]["derivation (of 6, by hand)"] = "5,5"
    table["bob"]["residual (of 3)"] = "2"
    with open(out / "marks.csv", "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(table["ann"]), delimiter=";")
        writer.writeheader()
        writer.writerows(table.values())
    for _ in range(2):  # and the next run, and the one after
        run()
        assert rows()["ann"]["derivation (of 6, by hand)"] == "5.5"
        assert rows()["bob"]["residual (of 3)"] == "2"
        assert rows()["bob"]["total (of 19)"] == "18"
    with open(out / "overrides.csv", "a", newline="", encoding="utf-8") as file:
        rest = [["ann", "centring", "4", "clear, <b>well</b> done"], ["cyd", "centring", "4", ""]]
        csv.writer(file).writerows([*rest, ["ann", "centrng", "1", ""], ["ann", "centring", "x"]])
    run()
    assert rows()["ann"]["sum (of 29, with words)"] == "28.5"
    page = (out / "feedback" / "ann.html").read_text()
    assert "centring: 4 of 4" in page and "&lt;b&gt;well" in page and "derivation: 5.5 of 6" in page
    assert "18 of 19 points" in (out / "feedback" / "bob.html").read_text()
    for words in ("no student 'cyd'", "no question 'centrng'", "line 7: 'x' is no number"):
        assert any(words in line for line in said), said


# ------------------------------------------------------------------ 5: no memory from call to call


COUNTER = "n = 0\ndef alarm(*args):\n    global n\n    n += 1\n    return float(n)\n"
FILE = (
    "import os\ndef alarm(*args):\n    n = os.path.getsize('n') if os.path.exists('n') else 0\n"
    "    open('n', 'a').write('x')\n    return float(n)\n"
)
PARITY = COUNTER.replace("float(n)", "float(n % 2)")
SEEN = (
    "seen = {}\ndef alarm(W, W_new, K, V, K0):\n"
    "    key = float(W.sum())\n    seen[key] = seen.get(key, 0) + 1\n    return float(seen[key])\n"
)


@pytest.mark.parametrize(
    "source", [COUNTER, PARITY, FILE, SEEN, "def alarm(*args): return id(args)"]
)
def test_an_alarm_that_counts_its_calls_earns_nothing(source):
    (exercise,) = [e for e in find(6).exercises() if e.name == "alarm"]
    from medit_teach.classroom.grade import mark

    with sandbox.Student([("a", source)], ISOLATED) as student:
        (found,) = mark(student, [exercise], 0)
    assert found["points"] == 0, found


# ------------------------------------------------------------------ 10: linear time


def test_blank_lines_cost_no_time(made):
    notebook = read(made["solution"])
    notebook["cells"] = [c for c in notebook["cells"] if c["id"] != "residual"]
    for text in ("\n" * 500_000, " " * 500_000, " \n" * 250_000, "x" * 500_000, "x =" * 100_000):
        notebook["cells"][4]["source"] = text
        begun = time.process_time()
        cells_of(notebook, find(1))
        HIDDEN.sub("", text)
        shown(text)
        assert time.process_time() - begun < 2, text[:3]


# ------------------------------------------------------------------ a class


def test_everybody_on_the_roster_has_a_line(made, tmp_path):
    home, out = tmp_path / "in", tmp_path / "out"
    answered(made, {}, path=home / "Ann Example_4711_assignsubmission_file_" / "a.ipynb")
    answered(made, {}, path=home / "unalzoe_815_99_1-objective-1.ipynb")
    answered(made, {}, path=home / "stranger.ipynb")
    path = tmp_path / "roster.csv"
    path.write_text(
        "Student;ID;SIS Login ID;Section\n    Points Possible;;;\nExample, Ann;1;ann;A\n"
        "Ünal, Zoë;815;zoe;A\nMissing, Mo;3;mo;B\n",
        encoding="utf-8-sig",
    )
    records = grade(home, 1, out, isolate=ISOLATED, say=quiet, roster=path)
    found = {k: (total(r), r["notes"]) for k, r in records.items()}
    assert found == {
        "Example, Ann": (19, []),
        "Ünal, Zoë": (19, []),
        "Missing, Mo": (0, ["nothing was handed in"]),
        "stranger": (19, ["not on the roster"]),
    }
    grade(home, 1, out, isolate=ISOLATED, say=quiet, roster=path)
    canvas = list(csv.reader(open(out / "canvas.csv", encoding="utf-8-sig")))
    assert canvas[0] == ["Student", "ID", "SIS Login ID", "Section", "1-objective"]
    assert canvas[1][0].strip() == "Points Possible" and canvas[1][-1] == "29"
    assert ["Ünal, Zoë", "815", "zoe", "A"] in [row[:4] for row in canvas]
    assert (out / "moodle.csv").read_bytes()[:3] == b"\xef\xbb\xbf"


def test_a_zip_file_of_a_class(made, tmp_path):
    right = made["solution"].read_bytes()
    with zipfile.ZipFile(tmp_path / "class.zip", "w") as packed:
        packed.writestr("exampleann_1_2_1-objective.ipynb", right)
        packed.writestr("Bo_3_assignsubmission_file_/1-objective.ipynb", right)
        packed.writestr("../../outside.ipynb", right)
        packed.writestr("/root.ipynb", right)
        link = zipfile.ZipInfo("linked.ipynb")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, str(made["solution"]))
    folder = unpacked(tmp_path / "class.zip", tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"class.zip", "out"}
    assert set(submissions(folder)) == {"exampleann (1)", "Bo (3)", "outside", "root"}
    records = grade(tmp_path / "class.zip", 1, tmp_path / "o", isolate=ISOLATED, say=quiet)
    assert [total(r) for r in records.values()] == [19] * 4
    (tmp_path / "bad.zip").write_bytes((tmp_path / "class.zip").read_bytes()[:-400] + b"PK\5\6")
    with pytest.raises(MeditError):
        grade(tmp_path / "bad.zip", 1, tmp_path / "o", isolate=ISOLATED, say=quiet)


def test_a_run_that_is_over_goes_on_later(made, tmp_path):
    answered(made, {}, path=tmp_path / "in" / "ann.ipynb")
    first = grade(tmp_path / "in", 1, tmp_path / "out", isolate=ISOLATED, say=quiet, minutes=1e-9)
    assert "time of the run was over" in first["ann"]["notes"][0]
    again = grade(tmp_path / "in", 1, tmp_path / "out", isolate=ISOLATED, say=quiet)
    assert total(again["ann"]) == 19


# ------------------------------------------------------------------ verify


@pytest.mark.skipif(not (ISOLATED or STARTS), reason=WHY)
@pytest.mark.parametrize("number", [1, 2])
def test_verify_runs_what_the_grader_runs(number, tmp_path, capsys):
    made = generate(number, tmp_path, seed=3)
    assert main(["verify", str(made["solution"])]) == 0
    said = capsys.readouterr().out
    assert said.count(": runs: ") == 4 and "note" not in said
    assert main(["verify", str(made["student"])]) == 1
    said = capsys.readouterr().out
    assert said.count("no answer yet") == 4 and "in words" in said


@pytest.mark.skipif(not (ISOLATED or STARTS), reason=WHY)
def test_verify_tells_what_only_works_by_chance(made, tmp_path, capsys):
    changes = {
        "residual": "def residual(M, b, K, V):\n    return V - helper(M, K, b)\n",  # deleted cell
        "losses": "def losses(*args):\n    from medit_teach.objective import preservation\n"
        "    return preservation(*args[:2]), 0\n",
        "gradient": "while True: pass",
    }
    path = answered(made, changes, path=tmp_path / "x.ipynb")
    assert main(["verify", str(path)]) == 1
    said = capsys.readouterr().out
    assert "name 'helper' is not defined" in said and "cannot be imported" in said
    assert "cell gradient" in said and "left out" in said and "soft_update: runs" in said
    assert main(["verify", str(tmp_path / "none.ipynb")]) == 2
