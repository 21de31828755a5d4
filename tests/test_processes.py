"""Two processes give what one gives; one that is killed, or does not answer, ends the run with an
error, and what was finished is kept."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

import medit_teach as mt
from medit_teach import cli, metrics, processes, running, values
from medit_teach.processes import ALONE, joined
from medit_teach.study import experiments

from .conftest import ROOT
from .helpers import tiny_model, tiny_tokenizer
from .test_edit import TEXTS

LOST = "another process of this run has ended, or did not answer"
WORDS = ("old", "far away", "new", "late", "blue")
QUICK = ("--layers", "1", "--set", "steps=3", "lr=0.5", "lam=0.1")
SWEEP = """
name = "two"
model = "{model}"
sizes = [1, 2]
seeds = [0, 1]
scored = 2
tokens = 600
measures = ["scores", "update", "slowly:measure"]
facts = [{{source = "{facts}"}}]
methods = [{{method = "none"}},
    {{method = "memit", hyper = {{layers = [1], steps = 2, lam = 0.1}}}}]
"""
# A measure that is never done in the second process, where SLOWLY names a file for its number.
SLOWLY = """
import os, time

def measure(state):
    if os.environ.get("SLOWLY") and os.environ["RANK"] == "1" and state.edits:
        with open(os.environ["SLOWLY"], "w") as file:
            print(os.getpid(), file=file)
        time.sleep(600)
    return {"facts": float(len(state.facts))}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A model folder, 40 facts, a text and a sweep, as a user would have them."""
    root = tmp_path_factory.mktemp("processes")
    tok = tiny_tokenizer()
    tiny_model("gpt2", tok, layers=2, d=16).save_pretrained(root / "model")
    tok.save_pretrained(root / "model")
    records = []
    for i in range(40):
        prompt, subject = "The town of {} is", f"{'Bonn Oslo Rome Bari'.split()[i % 4]} {i}"
        fact = mt.Fact(
            prompt, subject, WORDS[i % 5], "near",
            paraphrases=(f"It is late. The town of {subject} is",),
            neighborhood=("The town of Paris is",),
        )  # fmt: skip
        records.append(fact.to_record())
    (root / "facts.json").write_text(json.dumps(records))
    (root / "text.txt").write_text("\n".join(" ".join(t.split()) for t in TEXTS))
    (root / "slowly.py").write_text(SLOWLY)
    sweep = SWEEP.format(model=root / "model", facts=root / "facts.json")
    (root / "two.toml").write_text(sweep)
    return root


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path, root):
    monkeypatch.setenv("MEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MEDIT_TEXT", str(root / "text.txt"))
    monkeypatch.setenv("PYTHONPATH", f"{root}{os.pathsep}{ROOT}")
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.delenv("MEDIT_TIMEOUT", raising=False)


class Together:
    """Forks of this process that know of each other as those that accelerate starts."""

    def __init__(self, folder, work, count=2):
        """work: called in each with its number; what it returns is the exit code (None: 0)."""
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.pids = []
        for i in range(count):
            if not (pid := os.fork()):
                self._child(i, count, port, work)
            self.pids.append(pid)

    def _child(self, i, count, port, work):
        code = 99
        try:
            for number, name in ((1, "out"), (2, "err")):
                file = os.open(self.folder / f"{name}{i}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
                os.dup2(file, number)
            sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))
            os.environ |= {
                "RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": str(count),
                "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }  # fmt: skip
            code = work(i) or 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def ended(self, *which, seconds=120):
        """The exit codes of these (default: all), which end within `seconds` or fail the test."""
        codes, until = {}, time.monotonic() + seconds
        which = which or range(len(self.pids))
        while len(codes) < len(which):
            for i in which:
                if i not in codes and (found := os.waitpid(self.pids[i], os.WNOHANG))[0]:
                    codes[i] = os.waitstatus_to_exitcode(found[1])
            if time.monotonic() > until:
                for i in set(which) - set(codes):
                    os.kill(self.pids[i], signal.SIGKILL)
                pytest.fail(f"after {seconds} s: {codes}\n{self.err(0)}\n{self.err(1)}")
            time.sleep(0.02)
        return [codes[i] for i in which]

    def out(self, i):
        return (self.folder / f"out{i}").read_text()

    def err(self, i):
        return (self.folder / f"err{i}").read_text()


def command(root, *args):
    """The arguments of the command line for `args` on the model, the facts and the text here."""
    more = {
        "stats": ("--text", root / "text.txt", "--layers", "0,1"),
        "edit": ("--facts", root / "facts.json", "--text", root / "text.txt", *QUICK),
        "score": ("--facts", root / "facts.json", "--text", root / "text.txt", *QUICK),
    }[args[0]]
    return [str(x) for x in (args[0], "--model", root / "model", *args[1:], *more)]


def as_one(capsys, monkeypatch, tmp_path, args):
    """What the command prints in one process, with a cache of its own."""
    with monkeypatch.context() as patch:
        patch.setenv("MEDIT_CACHE", str(tmp_path / "cache-of-one"))
        assert cli.main(args) == 0
    return capsys.readouterr().out


def as_two(tmp_path, args):
    """What it prints in two."""
    run = Together(tmp_path, lambda i: cli.main(args))
    assert run.ended() == [0, 0], run.err(0) + run.err(1)
    assert run.out(1) == ""
    return run.out(0)


def plain(rows):
    """Records in the order of their keys, without what another run changes."""
    rows = [{k: v for k, v in row.items() if k not in experiments.TIMES} for row in rows]
    return sorted(rows, key=lambda row: row["key"])


# ------------------------------------------------------------------ the same as one


def test_one_process_waits_for_nobody():
    x = torch.arange(3.0)
    with joined() as found:
        assert found is ALONE and found.main and found.device is None
    assert ALONE.share([1, 2, 3]) == [1, 2, 3] and ALONE.gathered("x") == ["x"]
    assert ALONE.total(x) is x and ALONE.wait() is None


def test_stats_of_two_are_those_of_one(root, tmp_path, capsys, monkeypatch):
    one = as_one(capsys, monkeypatch, tmp_path, command(root, "stats", "--out", tmp_path / "one"))
    two = as_two(tmp_path, command(root, "stats", "--out", tmp_path / "two"))
    assert two == one.replace("/one", "/two")
    one, two = (mt.Statistics.load(tmp_path / name) for name in ("one", "two"))
    assert (one.tokens, one.text, one.weights) == (two.tokens, two.text, two.weights)
    for layer in (0, 1):  # the same keys, added in another order
        assert torch.allclose(one[layer], two[layer], rtol=1e-12, atol=1e-14)
    assert not list(tmp_path.rglob("partial*"))


def test_an_edit_by_two_is_that_by_one(root, tmp_path, capsys, monkeypatch):
    args = ("--method", "memit", "--save")
    one = as_one(capsys, monkeypatch, tmp_path, command(root, "edit", *args, tmp_path / "one"))
    two = as_two(tmp_path, command(root, "edit", *args, tmp_path / "two"))
    assert "undone: all weights are as before" in two and two == one.replace("/one", "/two")
    one, two = (mt.Edit.load(tmp_path / name).delta(1) for name in ("one", "two"))
    assert one.norm() > 0 and (one - two).norm() < 1e-9 * one.norm()
    assert len(list(tmp_path.glob("cache/targets*/*"))) == 2  # 32 facts and 8


def test_scores_by_two_are_those_by_one(root, tmp_path, capsys, monkeypatch):
    args = command(root, "score", "--n", 40, "--method", "memit")
    one = as_one(capsys, monkeypatch, tmp_path, args)
    assert as_two(tmp_path, args) == one and one.count("\nES ") == 2

    model, tok = mt.load(str(root / "model"))
    facts = mt.facts(str(root / "facts.json"))
    asked = model, tok, [f.text for f in facts], [f.target_new for f in facts]

    def work(i):
        with joined() as both:
            seen = []
            real = metrics._logits
            metrics._logits = lambda *a: seen.append(len(a[2])) or real(*a)
            found = metrics.target_logprobs(*asked, batch_size=8, processes=both)
            torch.save((found, sum(seen)), tmp_path / f"found{i}")

    assert Together(tmp_path, work).ended() == [0, 0]
    log_p, said = metrics.target_logprobs(*asked, batch_size=8)
    rows = []
    for i in (0, 1):
        (theirs, too), n = torch.load(tmp_path / f"found{i}")
        assert too == said and all(map(torch.equal, theirs, log_p))  # bit for bit
        rows.append(n)
    assert rows == [24, 16]  # of 40


def test_a_sweep_by_two_has_the_records_of_one(root, tmp_path, monkeypatch):
    for name, work in (
        ("one", lambda args: cli.main(args) == 0),
        ("two", lambda args: as_two(tmp_path, args) == ""),
    ):
        monkeypatch.setenv("MEDIT_CACHE", str(tmp_path / f"cache-{name}"))
        args = ["sweep", str(root / "two.toml"), "--quiet", "--out", str(tmp_path / name)]
        assert cli.main(args) == 2  # a file's own code is run only if the caller says so
        assert work([*args, "--allow", "slowly:measure"])
    one, two = (experiments.read(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 8 and plain(one) == plain(two)


# ------------------------------------------------------------------ one is lost


def test_a_killed_process_ends_the_statistics_and_shares_are_kept(root, tmp_path, capsys):
    calls = tmp_path / "calls"

    def work(i, kill):
        real, seen = running.pad, []

        def pad(rows, *args):
            seen.append(rows)
            if kill and i == 1 and len(seen) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(rows, *args)

        running.pad = pad
        with joined() as both:
            model, tok = mt.load(str(root / "model"))
            C0 = mt.second_moment(
                model, tok, TEXTS, [0, 1], batch_tokens=100, cache=tmp_path / "c0", processes=both
            )
            C0.save(tmp_path / f"c0-{i}")
        calls.with_suffix(f".{i}").write_text(str(len(seen)))

    killed = Together(tmp_path, lambda i: work(i, kill=True))
    assert killed.ended(1) == [-signal.SIGKILL]
    assert killed.ended(0, seconds=20) == [99]
    assert LOST in killed.err(0) and "MeditError" in killed.err(0)
    kept = sorted(tmp_path.rglob("partial*"))
    assert [path.name.split("-")[1] for path in kept] == ["0", "1"]  # a file a layer
    assert Together(tmp_path, lambda i: work(i, kill=False)).ended() == [0, 0]
    first, second = (int(calls.with_suffix(f".{i}").read_text()) for i in (0, 1))
    assert first == 0 and second > 2 and not any(path.exists() for path in kept)
    model, tok = mt.load(str(root / "model"))
    whole = mt.second_moment(model, tok, TEXTS, [0, 1], batch_tokens=100)
    for i in (0, 1):  # both have the whole
        found = mt.Statistics.load(tmp_path / f"c0-{i}")
        assert torch.allclose(found[1], whole[1], rtol=1e-12, atol=1e-14)


def test_a_killed_process_ends_the_edit_and_targets_are_kept(root, tmp_path, capsys):
    args = command(root, "edit", "--method", "memit", "--save", tmp_path / "e")
    seen = tmp_path / "seen"

    def work(i, kill):
        real = values.optimise_values

        def optimise(model, tok, facts, *rest, **more):
            if kill and i == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            with open(seen, "a") as file:
                print(i, len(facts), file=file)
            return real(model, tok, facts, *rest, **more)

        values.optimise_values = optimise
        return cli.main(args)

    killed = Together(tmp_path, lambda i: work(i, kill=True))
    assert killed.ended() == [2, -signal.SIGKILL]
    err = killed.err(0)
    assert f"medit-teach (process 1 of 2): {LOST}" in err and "the same command again" in err
    assert Together(tmp_path, lambda i: work(i, kill=False)).ended() == [0, 0]
    assert seen.read_text() == "0 32\n0 8\n"  # what was finished was not done again
    assert mt.Edit.load(tmp_path / "e").layers.keys() == {1}


def test_a_process_that_does_not_answer_ends_the_run_in_time(root, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDIT_TIMEOUT", "0.04")  # minutes

    def work(i):
        with joined():
            if i == 1:
                time.sleep(600)
        return 0

    run = Together(tmp_path, work)
    try:
        assert run.ended(0, seconds=60) == [99]
        assert LOST in run.err(0) and "0.04 minutes" in run.err(0)
    finally:
        os.kill(run.pids[1], signal.SIGKILL)
        os.waitpid(run.pids[1], 0)


def test_processes_with_different_text_are_told(root, tmp_path):
    def work(i):
        return cli.main(command(root, "stats", "--out", tmp_path / "x", "--tokens", 500 + i))

    run = Together(tmp_path, work)
    assert run.ended() == [2, 2]
    assert "the processes have different weights or different text" in run.err(1)
    assert not (tmp_path / "x").exists()


def test_bad_timeouts_and_commands_for_one_process(root, tmp_path, monkeypatch):
    for text in ("soon", "-1", "0"):
        monkeypatch.setenv("MEDIT_TIMEOUT", text)
        with pytest.raises(mt.MeditError, match="is a number of minutes"):
            processes.minutes()
    monkeypatch.delenv("MEDIT_TIMEOUT")
    assert processes.minutes() == processes.MINUTES
    run = Together(tmp_path, lambda i: cli.main(["check-models"]))
    assert run.ended() == [2, 2] and "check-models runs in one process" in run.err(0)


# ------------------------------------------------------------------ as a user starts it


def launch(tmp_path, *command, **more):
    """accelerate launch ... -m medit_teach, as the book says it for two CPU processes."""
    args = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    args += ["--dynamo_backend", "no", "--main_process_port", "0", "-m", "medit_teach", *command]
    return subprocess.Popen(
        [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *args],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | more,
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_accelerate_launch_collects_statistics(root, tmp_path):
    run = launch(tmp_path, *command(root, "stats", "--out", tmp_path / "two"))
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    assert out.count("layer 1: C0 64 x 64 from") == 1 and "2 processes, gloo" in err
    model, tok = mt.load(str(root / "model"))
    texts = mt.datasets.read_texts(root / "text.txt")
    alone = mt.second_moment(model, tok, texts, [0, 1], tokens=50_000)
    found = mt.Statistics.load(tmp_path / "two")
    assert (found.tokens, found.text, found.weights) == (alone.tokens, alone.text, alone.weights)
    assert torch.allclose(found[1], alone[1], rtol=1e-12, atol=1e-14)


def test_accelerate_launch_survives_a_kill(root, tmp_path):
    sweep = ("sweep", str(root / "two.toml"), "--out", str(tmp_path / "two.jsonl"))
    sweep += ("--allow", "slowly:measure")
    first = launch(tmp_path, *sweep, SLOWLY=str(tmp_path / "pid"))
    until = time.monotonic() + 300
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    _, err = first.communicate(timeout=30)  # seconds
    assert first.returncode != 0 and "SIGKILL" in err
    path = tmp_path / "two.jsonl"
    kept = path.read_text() if path.exists() else ""
    again = launch(tmp_path, *sweep)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert "8 records" in out and out.count("8 records") == 1 and "2 processes, gloo" in err
    assert path.read_text().startswith(kept) and len(experiments.read(path)) == 8
