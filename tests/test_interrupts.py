"""Ctrl-C at every line of an edit, its undo and their helpers leaves no model in between.

Each way in which a model is changed is interrupted at each line that it runs in edits.py, in
guard.py and in the methods, by an exception raised there or by a real SIGINT. Two states may be
left: the edit is listed and comes off bit for bit, or the model is bit for bit what it was, with
nothing listed, no hook, and its modes as before.
"""

import copy
import os
import random
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch

import medit_teach as mt
from medit_teach import guard, models
from medit_teach.methods import mend

from .helpers import tiny_model, tiny_tokenizer

PACKAGE = Path(mt.__file__).parent
FILES = {guard.__file__, str(PACKAGE / "edits.py")}
FILES |= {str(p) for p in (PACKAGE / "methods").glob("*.py")}
EVERY_TIME = {  # functions of which each line counts each time it runs; of others, the first time
    "apply", "undo", "commit", "__enter__", "__exit__", "applied", "_open", "_attach", "_detach",
    "_keep", "_write", "_add", "_close", "_restore", "_undoable", "_check", "or_else", "afterwards",
    "remove", "changing", "edits_of", "forget_compiled",
}  # fmt: skip
FACT = mt.Fact("The king of {} is", "Rome", "old", "new")
OTHER = mt.Fact("{} lies by the river", "Bonn", "far", "near")
SOLVED = dict(layers=[0], contexts=("",), site="value")
METHODS = {
    "rome": SOLVED,
    "memit": SOLVED | dict(layers=[0, 1], lam=0.1),
    "emmet": SOLVED,
    "alphaedit": SOLVED | dict(threshold=None, energy=0.5, L2=0.1),
    "nullspace": SOLVED | dict(threshold=None, energy=0.5),
    "ft": dict(layers=[1], contexts=("",), steps=2),
    "grace": dict(layers=[1], steps=2),
    "prompt": {},
    "ike": dict(examples=[OTHER], shots=1),
    "mend": {},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(tmp_path_factory.mktemp("mend"))


class Lab:
    """A tiny model in modes that no blanket reset gives back, and what it was in the beginning."""

    def __init__(self, folder):
        self.tok = tiny_tokenizer()
        self.model = tiny_model("gpt2", self.tok, layers=2, d=8)
        self.C0 = mt.second_moment(self.model, self.tok, TEXTS, [0, 1])
        d_out, d_in = models.View(self.model).weight(0).shape
        self.editor = folder / "editor.safetensors"
        mend.Editor((0, 1), d_in, d_out, rank=2, alpha=1e-2).save(self.editor)
        self.targets, self.edits = torch.ones(d_out, 1), {}
        list(self.model.modules())[-1].training = True
        next(self.model.parameters()).requires_grad_(False)
        self.weights = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.modes = self.look()

    def look(self):
        modules = list(self.model.modules())
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]
        wanted = [p.requires_grad for p in self.model.parameters()]
        return [m.training for m in modules], hooks, wanted

    def edit(self, method, fact=FACT):
        fields = METHODS[method]
        if method == "mend":
            fields = dict(editor=str(self.editor))
        if fields.get("site"):
            fields = fields | dict(statistics=self.C0, targets=self.targets)
        return mt.edit(self.model, self.tok, fact, method, **fields)

    def made(self, method):
        """An edit that is not applied, made once."""
        if method not in self.edits:
            self.edits[method] = self.edit(method).undo()
        return copy.copy(self.edits[method])

    def dirty(self):
        """Why the model is in no allowed state, after everything listed was undone; "" if it is."""
        while stack := mt.edits_of(self.model):
            try:
                stack[-1].undo()
            except Exception as error:
                return f"a listed edit cannot be undone: {error}"
        found = []
        for name, value in self.model.state_dict().items():
            if not torch.equal(value, self.weights[name]):
                found.append(f"{name} is changed")
                with torch.no_grad():
                    value.copy_(self.weights[name])
        now = self.look()
        kinds = ("training mode", "hooks", "requires_grad")
        return ", ".join(
            found + [k for k, a, b in zip(kinds, now, self.modes, strict=True) if a != b]
        )


TEXTS = ["".join(random.Random(i).choices("abcdefgh ijk", k=40)) for i in range(30)]


class Lines:
    """with Lines(n, act) as lines: act() at the n-th line that is run in FILES."""

    def __init__(self, n=None, act=None):
        self.n, self.act, self.seen = n, act, []

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            self.seen.append((frame.f_code.co_name, frame.f_code.co_filename, frame.f_lineno))
            if len(self.seen) == self.n:
                self.act()
        return self

    def __enter__(self):
        self.former = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *error):
        sys.settrace(self.former)

    def worth(self):
        """Numbers of the lines to interrupt at."""
        known = set()
        for i, line in enumerate(self.seen):
            if line not in known or line[0] in EVERY_TIME:
                known.add(line)
                yield i + 1, line


def stop():
    raise KeyboardInterrupt


INTERRUPTS = {"raised": stop, "signal": partial(signal.raise_signal, signal.SIGINT)}


def apply_again(lab, method):
    return lab.made(method).apply


def undo(lab, method):
    return lab.made(method).apply().undo


def with_block(lab, method):
    e = lab.made(method)

    def run():
        with e:
            pass

    return run


def error_in_the_block(lab, method):
    """A later edit is left on, and an error ends the block: both come off."""
    e, later = lab.made(method), lab.made("prompt")

    def run():
        with e:
            later.apply()
            raise ZeroDivisionError

    return run


def fails_at_the_end(lab, method):
    """An edit that fails when all is written: the interrupt comes second, during the restore."""
    e = lab.made(method)

    def run():
        e._close = lambda: 1 / 0
        e.apply()

    return run


ACTIONS = (apply_again, undo, with_block, error_in_the_block, fails_at_the_end)


def interrupted(lab, method, prepare, act):
    """{line: what is wrong} where the interrupt at a line left a dirty model; number of lines."""
    run = prepare(lab, method)
    with Lines() as lines:
        try:
            run()
        except ZeroDivisionError:
            pass
    assert lab.dirty() == ""
    wrong, n = {}, 0
    for n, line in lines.worth():
        run = prepare(lab, method)
        with Lines(n, act):
            try:
                run()
            except (KeyboardInterrupt, ZeroDivisionError):
                pass
        if found := lab.dirty():
            wrong[line] = found
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler or act is stop
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return wrong, n


@pytest.mark.parametrize("how", INTERRUPTS)
@pytest.mark.parametrize("method", ["memit", "grace", "ike"])  # one of each kind of Edit
@pytest.mark.parametrize("prepare", ACTIONS, ids=lambda f: f.__name__)
def test_an_interrupt_at_any_line_of_apply_and_undo(lab, prepare, method, how):
    wrong, n = interrupted(lab, method, prepare, INTERRUPTS[how])
    assert not wrong and n > 10


@pytest.mark.parametrize(
    ("method", "how"),
    [(method, "raised") for method in METHODS] + [("memit", "signal"), ("grace", "signal")],
)
def test_an_interrupt_at_any_line_of_making_an_edit(lab, method, how):
    def prepare(lab, method):
        return partial(lab.edit, method)

    wrong, n = interrupted(lab, method, prepare, INTERRUPTS[how])
    assert not wrong and n > 60


@pytest.mark.parametrize("how", INTERRUPTS)
@pytest.mark.parametrize("method", ["memit", "ft", "mend"])
def test_a_second_interrupt_while_the_first_is_cleaned_up(lab, method, how, monkeypatch):
    """The first comes when all is written; the second at any line from there on."""
    real = mt.Edit._close

    def prepare(lab, method):
        def run():
            lines = sys.gettrace()

            def close(self):
                real(self)
                del lines.seen[:]  # the count begins here
                raise ZeroDivisionError

            monkeypatch.setattr(mt.Edit, "_close", close)
            try:
                lab.edit(method)
            finally:
                monkeypatch.undo()

        return run

    wrong, n = interrupted(lab, method, prepare, INTERRUPTS[how])
    assert not wrong and n > 5


def test_real_signals_at_random_moments(lab):
    """Ctrl-C from outside, 60 times, while edits are made, undone and saved memory is freed."""
    model, rng = lab.model.eval().requires_grad_(False), random.Random(0)
    modes, lab.modes = lab.modes, lab.look()
    try:
        began = time.perf_counter()
        lab.edit("memit").undo()
        lasts, stopped = time.perf_counter() - began, 0
        for i in range(60):
            made = lab.made("memit")
            kill = threading.Timer(
                rng.random() * (lasts, 0.003)[i % 2], os.kill, (os.getpid(), signal.SIGINT)
            )
            try:
                kill.start()
                while kill.is_alive():
                    with made if i % 2 else lab.edit("memit"):
                        pass
                kill.join()
            except KeyboardInterrupt:
                stopped += 1
            kill.join()
            assert lab.dirty() == ""
        assert stopped == 60
    finally:
        lab.modes = modes
        model.requires_grad_(True)
        next(model.parameters()).requires_grad_(False)
        list(model.modules())[-1].training = True
