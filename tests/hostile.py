"""A seeded generator of inputs that nobody should give: wrong types, shapes, files and settings,
for the library's entry points and for the command line.

    lab = Lab(folder)
    for probe in probes(seed=0, n=500):
        problem = lab.try_(probe)          # None, or what is wrong with the outcome

An outcome is right if it is a result, or a MeditError of one line; on the command line, exit code 0
or one line on stderr with exit code 2. In either case the model is as it was, once what was applied
is undone, and no file that was there has changed. To add an entry point, write a function of
(rng, lab) that returns what is tried, as text, and a function without arguments that tries it.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import shutil
import warnings
from dataclasses import dataclass, fields
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import medit_teach as mt
from medit_teach import cli, hyper, metrics, objective
from medit_teach.models import fingerprint
from medit_teach.study import budget, experiments, forensics, locate

from .helpers import tiny_model, tiny_tokenizer
from .test_edit import FACTS, TEXTS

NAN, INF = float("nan"), float("inf")
QUICK = dict(steps=3, contexts=("", "It is late. "))
METHODS = {
    "rome": dict(layers=[1]),
    "memit": dict(layers=[0, 1], lam=1e-3),
    "emmet": dict(layers=[1]),
    "alphaedit": dict(layers=[1], energy=0.2),
    "nullspace": dict(layers=[1], energy=0.5),
    "ft": dict(layers=[1]),
    "grace": dict(layers=[1]),
    "prompt": {},
}
ENTRIES = {}  # name: function of (rng, lab)


def entry(function):
    ENTRIES[function.__name__] = function
    return function


# ------------------------------------------------------------------ values


def junk(rng):
    """A value that is seldom what is wanted."""
    made = rng.choice([
        lambda: None, lambda: True, lambda: -1, lambda: 0, lambda: 1, lambda: 2.5, lambda: NAN,
        lambda: INF, lambda: -INF, lambda: 1e308, lambda: 1e-300, lambda: 10**30, lambda: 1j,
        lambda: "", lambda: " ", lambda: "3", lambda: "abc", lambda: "{}", lambda: "a\nb",
        lambda: "\0", lambda: "é" * 300, lambda: b"3", lambda: [], lambda: [1], lambda: [[]],
        lambda: [None], lambda: ["a", 1], lambda: (), lambda: (2.5,), lambda: {}, lambda: {"a": 1},
        lambda: {1, 2}, lambda: range(3), lambda: object(), lambda: len, lambda: int,
        lambda: Path("nowhere"), lambda: Fraction(1, 2), lambda: Decimal(1), lambda: np.int64(1),
        lambda: np.float64(NAN), lambda: np.array([1.0, 2.0]), lambda: np.zeros((0, 3)),
        lambda: torch.tensor(1), lambda: torch.tensor(NAN), lambda: torch.zeros(2, 2),
        lambda: torch.zeros(3, dtype=torch.cfloat), lambda: torch.empty(0), lambda: iter([1]),
    ])  # fmt: skip
    return made()


def shown(value):
    return " ".join(repr(value).split())[:80]


def twist(rng, value):
    """`value` with one part of it, at any depth, replaced by junk, left out, or wrapped."""
    value = copy.deepcopy(value)
    if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
        place = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        kind = rng.random()
        if kind < 0.15:
            del value[place]
        else:
            value[place] = twist(rng, value[place]) if kind < 0.6 else plain_junk(rng)
        return value
    return rng.choice([plain_junk(rng), [value], {"x": value}, None])


def plain_junk(rng):
    """Junk that JSON can hold."""
    while True:
        value = junk(rng)
        try:
            json.dumps(value)
            return value
        except (TypeError, ValueError):
            pass


def bad_file(rng, lab, good):
    """The path of a file (or of something else) that is not what the file `good` is."""
    good, path = Path(good), lab.scratch(good.name)
    data = good.read_bytes()
    kinds = [
        ("missing", lambda: None),
        ("empty", lambda: path.write_bytes(b"")),
        ("a folder", lambda: path.mkdir()),
        ("bytes", lambda: path.write_bytes(bytes(rng.randrange(256) for _ in range(200)))),
        ("cut short", lambda: path.write_bytes(data[: rng.randrange(max(1, len(data)))])),
        ("a byte order mark", lambda: path.write_bytes(b"\xef\xbb\xbf" + data)),
        ("UTF-16", lambda: path.write_bytes(data.decode("utf-8", "replace").encode("utf-16"))),
        ("deep", lambda: path.write_text("[" * 100_000)),
        ("digits", lambda: path.write_text("1" * 10_000)),
        ("null", lambda: path.write_text(rng.choice(["null", "1", '"text"', "[]", "{}", "[1]"]))),
        ("nothing but NaN", lambda: path.write_text(rng.choice(["NaN", "[NaN]", "Infinity"]))),
        ("a notebook", lambda: path.write_text(json.dumps(NOTEBOOK))),
        ("TOML", lambda: path.write_text('name = "x"\nmethods = [{method = "memit"}]\n')),
        ("a circle of links", lambda: path.symlink_to(path)),
    ]
    if good.suffix == ".json":
        kinds += 12 * [
            ("twisted", lambda: path.write_text(json.dumps(twist(rng, json.loads(data)))))
        ]
    name, make = rng.choice(kinds)
    make()
    return f"{name} in place of {good.name}", path


NOTEBOOK = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


# ------------------------------------------------------------------ what is tried


@dataclass
class Probe:
    entry: str
    number: int
    seed: int

    def made(self, lab):
        """(what is tried, a function that tries it); the same whenever it is asked for."""
        return ENTRIES[self.entry](random.Random(f"{self.seed}/{self.number}"), lab)


def probes(seed, n, entries=None):
    """n probes; each entry point gets as many as its turn comes."""
    names = sorted(entries or ENTRIES)
    return [Probe(names[i % len(names)], i, seed) for i in range(n)]


class Lab:
    """A small model, and files that a user would have, in `folder`."""

    def __init__(self, folder):
        self.folder, self.tok = Path(folder), tiny_tokenizer()
        self.model = tiny_model("gpt2", self.tok, layers=3, d=16)
        self.facts = FACTS
        self.C0 = mt.second_moment(self.model, self.tok, TEXTS, [0, 1, 2])
        inputs = self.folder / "inputs"
        self.model.save_pretrained(inputs / "model")
        self.tok.save_pretrained(inputs / "model")
        self.record = FACTS[0].to_record()
        self.record["requested_rewrite"]["target_true"] = {"str": "near"}
        self.record["paraphrase_prompts"] = ["It is late. " + FACTS[0].text]
        self.record["neighborhood_prompts"] = ["The king of Bonn is"]
        self.flat = dict(prompt="The king of {} is", subject="Rome", target_new="old")
        (inputs / "facts.json").write_text(json.dumps([self.record, FACTS[2].to_record()]))
        (inputs / "flat.json").write_text(json.dumps([self.flat]))
        (inputs / "text.txt").write_text("\n".join(" ".join(t.split()) for t in TEXTS))
        sweep = dict(name="s", methods=[dict(method="memit", hyper=QUICK)], sizes=[1], scored=1)
        (inputs / "sweep.json").write_text(json.dumps(sweep))
        (inputs / "book.ipynb").write_text(json.dumps(NOTEBOOK))
        self.C0.save(inputs / "c0")
        with mt.edit(self.model, self.tok, FACTS, "memit", statistics=self.C0,
                     **METHODS["memit"], **QUICK) as e:  # fmt: skip
            e.save(inputs / "edit")
        self.inputs, self.n = inputs, 0
        self.state, self.files = self._state(), self._files()

    def scratch(self, name="x"):
        """A path that is not there, in a folder of its own."""
        self.n += 1
        folder = self.folder / "scratch" / str(self.n)
        folder.mkdir(parents=True)
        return folder / name

    def copied(self, name):
        """A copy of one of the inputs, to spoil."""
        target = self.scratch(name)
        shutil.copytree(self.inputs / name, target)
        return target

    def _state(self):
        modules = list(self.model.modules())
        return (
            fingerprint(self.model),
            [m.training for m in modules],
            [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules],
            [(p.requires_grad, p.grad is None) for p in self.model.parameters()],
            len(mt.edits_of(self.model)),
        )

    def _files(self):
        found = sorted(p for p in self.inputs.rglob("*") if p.is_file())
        return [(str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in found]

    def try_(self, probe):
        """None if the outcome of the probe is right, else what is wrong with it."""
        what, call = probe.made(self)
        problem, here = None, os.getcwd()
        os.chdir(self.scratch().parent)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = call()
            if isinstance(result, str) and result.startswith("WRONG"):
                problem = result
            while mt.edits_of(self.model):
                mt.edits_of(self.model)[-1].undo()
        except mt.MeditError as error:
            if "\n" in str(error) or not str(error).strip():
                problem = f"not one line: {error!r}"
        except Exception as error:
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        finally:
            os.chdir(here)
        if self._state() != self.state:
            problem = f"{problem or ''} THE MODEL IS NOT AS IT WAS"
            self._mend()
        if self._files() != self.files:
            problem, self.files = f"{problem or ''} AN INPUT FILE CHANGED", self._files()
        return problem and f"{what}: {problem}"

    def _mend(self):
        """As it was, so that one finding does not hide the next."""
        fresh = tiny_model("gpt2", self.tok, layers=3, d=16)
        self.model = fresh


# ------------------------------------------------------------------ edits


def edit_of(lab, method="rome", **given):
    call = {"facts": lab.facts, "method": method, "statistics": lab.C0}
    call |= METHODS.get(method, METHODS["rome"]) if isinstance(method, str) else {}
    quick = QUICK if method != "prompt" else {}
    return mt.edit(lab.model, lab.tok, **(call | quick | given))


@entry
def setting(rng, lab):
    method = rng.choice(list(METHODS))
    cls = hyper.METHODS[method]
    name, value = rng.choice([f.name for f in fields(cls)]), junk(rng)
    return f"edit({method!r}, {name}={shown(value)})", lambda: edit_of(lab, method, **{name: value})


@entry
def setting_beside(rng, lab):
    """Numbers that are numbers, but make no sense or no difference."""
    method = rng.choice(["rome", "memit", "emmet", "alphaedit", "nullspace", "ft", "grace"])
    numeric = [f.name for f in fields(hyper.METHODS[method]) if f.type not in (tuple, str, object)]
    name = rng.choice(numeric)
    value = rng.choice([-1, 0, 1, 1e-30, 1e30, -0.0, np.float32(0.5), np.int32(2), torch.tensor(2),
                        1e9, 0.999999, 1.0])  # fmt: skip
    return f"edit({method!r}, {name}={shown(value)})", lambda: edit_of(lab, method, **{name: value})


@entry
def edit_argument(rng, lab):
    name = rng.choice(["facts", "method", "layers", "statistics", "targets", "remember"])
    value = junk(rng)
    if name == "targets":
        shape = rng.choice([(16, 3), (5, 3), (3, 16), (16,), (1, 3), (16, 1), (0, 0), (16, 3, 1)])
        kind = rng.choice([torch.float32, torch.float16, torch.int64, torch.cfloat, torch.bool])
        value = torch.ones(shape).to(kind)
        value = rng.choice([value, value.numpy(), value.tolist(), value * NAN, junk(rng)])
    if name == "remember" and rng.random() < 0.5:
        value = rng.choice([mt.Edit.load(lab.inputs / "edit"), [lab.C0], lab.facts])
    if name == "statistics" and rng.random() < 0.5:
        value = rng.choice([lab.C0.C0, lab.inputs, str(lab.inputs / "facts.json"), "a/b/c", ""])
    return f"edit({name}={shown(value)})", lambda: edit_of(lab, **{name: value})


@entry
def layers(rng, lab):
    value = rng.choice([
        -1, 3, 99, "1", "1,2", [1, "2"], [1.5], [], [True], np.int64(1), [np.int64(1)], [[1]],
        np.array([0, 1]), torch.tensor([1]), (1, 1), {1}, {1: 2}, 10**30, None, range(2), range(9),
        NAN, [None], slice(1, 2),
    ])  # fmt: skip
    call = rng.choice([
        lambda: edit_of(lab, "memit", layers=value),
        lambda: edit_of(lab, "grace", layers=value),
        lambda: mt.second_moment(lab.model, lab.tok, TEXTS, value),
        lambda: mt.statistics_for(lab.model, lab.tok, value, TEXTS, 2000),
        lambda: locate.triggers(lab.model, lab.tok, TEXTS, value, 100),
        lambda: locate.promoted(lab.model, value),
        lambda: mt.Statistics.load(lab.inputs / "c0", value),
    ])  # fmt: skip
    return f"layers={shown(value)}", call


@entry
def fact(rng, lab):
    record = twist(rng, rng.choice([lab.record, lab.flat]))
    call = rng.choice([
        lambda: mt.Fact.from_record(record),
        lambda: edit_of(lab, facts=record),
        lambda: edit_of(lab, facts=[lab.record, record]),
        lambda: mt.score(lab.model, lab.tok, [record], resamples=2),
    ])  # fmt: skip
    return f"fact {shown(record)}", call


@entry
def fact_field(rng, lab):
    name, value = rng.choice([f.name for f in fields(mt.Fact)]), junk(rng)

    def call():
        made = mt.Fact(**(lab.flat | {name: value}))
        with edit_of(lab, facts=made):
            mt.score(lab.model, lab.tok, made, resamples=2)

    return f"Fact({name}={shown(value)})", call


@entry
def facts_file(rng, lab):
    what, path = bad_file(rng, lab, lab.inputs / rng.choice(["facts.json", "flat.json"]))
    strict = rng.choice([True, False, None])
    return f"facts({what}, strict={strict})", lambda: mt.facts(str(path), strict=strict)


@entry
def facts_argument(rng, lab):
    name = rng.choice(["source", "relation", "n", "seed", "distinct_subjects"])
    value = junk(rng)
    call = {"source": str(lab.inputs / "facts.json"), name: value}
    return f"facts({name}={shown(value)})", lambda: mt.facts(**call)


@entry
def saved_edit(rng, lab):
    folder = lab.copied("edit")
    about, tensors = folder / "edit.json", folder / "edit.safetensors"
    what = rng.choice(["json", "tensors", "one tensor", "bytes", "gone"])
    if what == "json":
        about.write_text(json.dumps(twist(rng, json.loads(about.read_text()))))
    elif what == "tensors":
        what, path = bad_file(rng, lab, tensors)
        tensors.unlink()
        if path.is_file():
            shutil.copy(path, tensors)
    elif what == "one tensor":
        found = load_file(tensors)
        name = rng.choice(sorted(found))
        bad = [x for x in (found[name] * NAN, found[name][:1].contiguous(), found[name].half(),
                           found[name].flatten(), torch.zeros(0)) if x is not None]  # fmt: skip
        found[name] = rng.choice(bad)
        if rng.random() < 0.3:
            del found[name]
        save_file(found, tensors)
    elif what == "bytes":
        path = rng.choice([about, tensors])
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    else:
        rng.choice([about, tensors]).unlink()
    return f"Edit.load(spoilt: {what})", lambda: mt.Edit.load(folder).apply(lab.model)


@entry
def edit_place(rng, lab):
    bad = rng.choice([lab.inputs / "facts.json", lab.inputs / "facts.json" / "x", "/proc/nope/x",
                      lab.scratch("n" * 300), "", "\0", None, 3, lab.inputs / "edit" / "edit.json",
                      junk(rng)])  # fmt: skip
    save = rng.random() < 0.5

    def call():
        saved = mt.Edit.load(lab.inputs / "edit")
        return saved.save(bad) if save else mt.Edit.load(bad)

    return f"Edit.{'save' if save else 'load'}({shown(bad)})", call


# ------------------------------------------------------------------ statistics and texts


@entry
def moment(rng, lab):
    name = rng.choice(["texts", "tokens", "batch_tokens", "dtype", "cache", "one_at_a_time"])
    value = junk(rng)
    if name == "texts" and rng.random() < 0.5:
        value = rng.choice(["one text " * 40, [{"text": "x"}] * 9, [b"x"], ["", ""], [TEXTS],
                            ["x" * 9000], iter(TEXTS), {"a": "b"}, [TEXTS[0], None]])  # fmt: skip
    call = {"texts": TEXTS, "layers": [1], name: value}
    if name == "cache":
        call["cache"] = value = rng.choice([lab.inputs / "facts.json", "/proc/nope", "\0", 3, []])
    return (
        f"second_moment({name}={shown(value)})",
        lambda: mt.second_moment(lab.model, lab.tok, **call),
    )


@entry
def statistics_folder(rng, lab):
    folder = lab.copied("c0")
    victim = rng.choice(sorted(folder.iterdir()))
    what, path = bad_file(rng, lab, victim)
    if rng.random() < 0.3 and victim.suffix == ".safetensors":
        what, tensors = "a C0 of another kind", load_file(victim)
        C = tensors["C0"]
        tensors["C0"] = rng.choice(
            [C * NAN, -C, C[:3, :3].contiguous(), C[0].clone(), C.half(), 0 * C]
        )
        save_file(tensors, victim)
    else:
        victim.unlink()
        if path.is_file():
            shutil.copy(path, victim)
    return f"edit(statistics={what})", lambda: edit_of(lab, "memit", statistics=folder)


# ------------------------------------------------------------------ scores and looking


@entry
def measured(rng, lab):
    made, model, tok = lab.facts[0], lab.model, lab.tok
    calls = {
        "score": (metrics.score, dict(facts=[lab.record], batch_size=2, resamples=2,
                                      seed=0, level=0.9)),
        "top_tokens": (metrics.top_tokens, dict(prompts=["Rome is"], k=2)),
        "generate": (metrics.generate, dict(prompts=["Rome is"], n_tokens=2, top_k=2, seed=0)),
        "perplexity": (metrics.perplexity, dict(texts=["Rome is old"], batch_size=2)),
        "fluency": (metrics.fluency, dict(facts=[mt.Fact(**lab.flat, generation=["Rome is"])],
                                          n_tokens=2, top_k=1, seed=0)),
        "trace": (locate.trace, dict(fact=("The king of {} is", "Rome", "old"), kind="state",
                                     noise=1.0, samples=2, window=1, seed=0, batch_size=8)),
        "trace_many": (locate.trace_many, dict(facts=[lab.record], samples=2, known_only=False)),
        "triggers": (locate.triggers, dict(texts=TEXTS, layers=[1], tokens=50, n=2, batch_size=4)),
        "answers": (forensics.answers, dict(subjects=["Rome"], prompts=["{} is"], batch_size=2)),
        "target_logprobs": (metrics.target_logprobs, dict(prompts=[made.text], targets=["old"])),
    }  # fmt: skip
    which = rng.choice(sorted(calls))
    function, given = calls[which]
    name = rng.choice(sorted(given))
    value = (
        twist(rng, given[name])
        if rng.random() < 0.3 and isinstance(given[name], list)
        else junk(rng)
    )
    given = given | {name: value}
    return f"{which}({name}={shown(value)})", lambda: function(model, tok, **given)


@entry
def counted(rng, lab):
    which, function, given = rng.choice([
        ("bootstrap", metrics.bootstrap, dict(values=[1.0, 2.0], n=5, seed=0, level=0.9)),
        ("auc", forensics.auc, dict(positive=[1.0], negative=[0.0], n=5, seed=0, level=0.9)),
        ("ngram_entropy", metrics.ngram_entropy, dict(text="a b c d")),
        ("split", forensics.split, dict(W=torch.eye(3), n=1)),
        ("spectrum", forensics.spectrum, dict(D=torch.eye(3), floor=0.0)),
        ("suspicion", forensics.suspicion, dict(W=torch.eye(3), K=torch.eye(3))),
        ("promoted", locate.promoted, dict(model=lab.model, layer=1, n=1, cells=8)),
    ])  # fmt: skip
    name, value = rng.choice(sorted(given)), junk(rng)
    if name == "model":
        name, value = "n", -1
    return f"{which}({name}={shown(value)})", lambda: function(**(given | {name: value}))


# ------------------------------------------------------------------ the solver


@entry
def solver(rng, lab):
    """Shapes, types and numbers of R, K, C0, kept and of the weights."""
    g = torch.Generator().manual_seed(rng.randrange(2**31))
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    R, K, X = draw(4, 3), draw(6, 3), draw(6, 30)
    given = dict(R=R, K=K, C0=X @ X.T / 30)

    def spoil(x):
        return rng.choice([
            x.float(), x.half(), x.to(torch.cfloat), x.long(), x.bool(), x.numpy(), x.tolist(), x.T,
            x[0], x[:, :0], x[:0], x * NAN, x / 0, 0 * x, x * 1e300, x * 1e-300, x[None], x[:2],
            torch.cat([x, x], 1), None, 1.0, "x",
        ])  # fmt: skip

    name = rng.choice(["R", "K", "C0", "kept", "weight", "threshold"])
    which = rng.choice(["memit", "emmet", "alphaedit", "nullspace", "rome", "solve"])
    if name in given:
        given[name] = value = spoil(given[name])
    elif name == "kept":
        given["kept"] = value = spoil(draw(6, 2))
    else:
        value = junk(rng)
    weight = value if name == "weight" else 1.0
    where = value if name == "threshold" else 3.0

    def call():
        R, K, C0, kept = (given.get(k) for k in ("R", "K", "C0", "kept"))
        if which == "rome":
            found = objective.rome(R[:, 0] if name != "R" else R, K[:, 0] if name != "K" else K, C0)
        elif which == "solve":
            found = objective.solve(R, K, objective.factor(C0), weight, kept)
        elif which in ("alphaedit", "nullspace"):
            more = (weight,) if which == "alphaedit" else ()
            found = getattr(objective, which)(R, K, C0, *more, threshold=where, kept=kept)
        else:
            found = getattr(objective, which)(R, K, C0, weight, kept)
        if not torch.isfinite(found.delta).all():
            return "WRONG: an update that is not finite"

    return f"{which}({name}={shown(value)})", call


# ------------------------------------------------------------------ budget, sweeps, loading


@entry
def cost(rng, lab):
    name = rng.choice(
        ["model", "method", "dtype", "chunk", "n", "lengths", "room", "most", "layers"]
    )
    value = junk(rng)
    call = {"model": "tiny-gptj", "method": "memit", name: value}
    function = budget.plan if name in ("room", "most") else budget.memory
    return f"{function.__name__}({name}={shown(value)})", lambda: function(**call)


@entry
def loading(rng, lab):
    name = rng.choice(["name", "dtype", "device", "device_map", "revision"])
    value = rng.choice([junk(rng), "nonsense", "cuda:99", "auto", str(lab.inputs / "facts.json")])
    if name == "name":
        folder = lab.copied("model")
        what, path = bad_file(rng, lab, folder / rng.choice(["config.json", "tokenizer.json"]))
        target = folder / path.name
        target.unlink()
        if path.is_file():
            shutil.copy(path, target)
        return f"load({what})", lambda: mt.load(folder)
    call = {"name": lab.inputs / "model", name: value}
    return f"load({name}={shown(value)})", lambda: mt.load(**call)


@entry
def sweep(rng, lab):
    asked = twist(rng, json.loads((lab.inputs / "sweep.json").read_text()))
    name = rng.choice(["measures", "seeds", "facts", "keep", "tokens", "texts", "model", "name"])
    asked = (
        (asked | {name: plain_junk(rng)})
        if isinstance(asked, dict) and rng.random() < 0.5
        else asked
    )
    path = lab.scratch("sweep.json")
    path.write_text(json.dumps(asked))

    def call():
        made = experiments.load_sweep(path)
        experiments.plan(made, lab.model, lab.tok)

    return f"sweep {shown(asked)}", call


# ------------------------------------------------------------------ the command line


def run(*argv):
    """Exit code and stderr; "WRONG ..." where the outcome is not one that a user should see."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main([str(x) for x in argv])
        except SystemExit as stop:
            code = stop.code
    said = err.getvalue()
    if code in (0, None):
        return ""
    if code not in (1, 2):
        return f"WRONG: exit code {code}"
    if code == 2 and (said.count("\n") != 1 or not said.startswith("medit-teach")):
        return f"WRONG: not one line: {said[:300]!r}"
    return f"WRONG: not foreseen: {said[:300]!r}" if "MEDIT_DEBUG" in said else said


@entry
def command(rng, lab):
    """edit, score and stats with one option spoilt."""
    which = rng.choice(["edit", "score", "stats"])
    i = lab.inputs
    given = {"--model": i / "model", "--layers": "1", "--text": i / "text.txt", "--tokens": "2000"}
    if which == "stats":
        given["--out"] = lab.scratch("c0")
    else:
        given |= {"--facts": i / "facts.json", "--n": "1", "--seed": "0", "--method": "rome"}
        given |= {"--set": "steps=3", "--c0": i / "c0"}
    if which == "edit":
        given["--save"] = lab.scratch("e")
    if which == "score":
        given["--edit"] = i / "edit"
    name = rng.choice(sorted(given))
    files = {"--facts": i / "facts.json", "--text": i / "text.txt"}
    if name in files and rng.random() < 0.7:
        _, given[name] = bad_file(rng, lab, files[name])
    elif name in ("--save", "--out"):
        given[name] = rng.choice([i / "facts.json", i / "facts.json" / "x", "/proc/nope/x", "",
                                  lab.scratch("n" * 300), " "])  # fmt: skip
    elif name == "--set":
        given[name] = rng.choice([
            "lr=abc", "steps=2.5", "lr", "=", "lr=", "=3", "nope=1", "lr=nan", "clamp=inf",
            "steps=-1", "steps=0", "layers=1", "layers=x", "contexts=abc", "site=mlp", "lam=1",
            "distribution=no", "average=None", "lr=1e999", "steps=9999999999", "method=x",
            "model=x",
            "steps=none", "early_stop=-1", "decay=none", "divide_by=3", "facts=1",
        ])  # fmt: skip
    else:
        given[name] = rng.choice([
            "", " ", "-3", "0", "1.5", "abc", "1,x", "nope", i / "facts.json", i / "text.txt", i,
            i / "book.ipynb", i / "sweep.json", "/proc/nope", "1" * 30, "é", "[1]", "a/b", "1,,2",
            lab.scratch("n" * 300),
        ])  # fmt: skip
    argv = [which, "--quiet"] + [f"{k}={v}" if k != "--set" else k for k, v in given.items()]
    if "--set" in given:
        argv.insert(argv.index("--set") + 1, given["--set"])
    return f"medit-teach {which} {name}={shown(given[name])}", lambda: run(*argv)


@entry
def other_command(rng, lab):
    """train, check-models, selftest, sweep, assignment, grade with what they cannot use."""
    i, out = lab.inputs, lab.scratch("out")
    file = rng.choice([i / "facts.json", i / "text.txt", i / "book.ipynb", i / "sweep.json", i,
                       "", "nope", "/proc/nope"])  # fmt: skip
    argv = rng.choice([
        ["train", file], ["train", "tiny-gptj", "--steps", "0"],
        ["train", "tiny-gptj", "--out", i / "facts.json"],
        ["train", "tiny-gptj", "--steps", "x"], ["train", "tiny-gptj", "--batch", "-1"],
        ["train", "tiny-gptj", "--steps", "1", "--device", "nonsense", "--out", out],
        ["train", "tiny-gptj", "--evaluate", "--out", file or "nope"],
        ["check-models", file], ["check-models", "--table", file], ["check-models", "--seed", "-1"],
        ["check-models", "tiny-gptj", "--out", i], ["check-models", i / "model", "--out", out],
        ["check-models", "--rows", "nope"], ["check-models", "tiny-gptj", "--device", "nonsense"],
        ["selftest", "--n", "0"], ["selftest", "--n", "-1"],
        ["selftest", "--facts", file or "nope"],
        ["selftest", "--tokens", "x"], ["selftest", "--out", i],
        ["selftest", "--real", file or "nope"],
        ["sweep", file], ["sweep", i / "sweep.json", "--scored", "0"],
        ["sweep", i / "sweep.json", "--seeds", "-1"], ["sweep", i / "sweep.json", "--out", i],
        ["sweep", bad_file(rng, lab, i / "sweep.json")[1]],
        ["assignment", file, "--out", out], ["assignment", "*", "--out", out],
        ["assignment", "/x", "--out", out], ["assignment", "1", "--out", i / "facts.json"],
        ["assignment", "1", "--seed", "-1", "--out", out],
        ["grade", file, "--assignment", "1", "--out", out],
        ["grade", i, "--assignment", file or "nope", "--out", out],
        ["grade", i, "--assignment", "1", "--jobs", "0"],
        ["grade", i, "--assignment", "1", "--out", i / "facts.json" / "x"],
        ["nope"], [], ["edit", "--nope"], ["edit", "--layers"], ["edit", "--prompt", "{}"],
    ])  # fmt: skip
    return f"medit-teach {' '.join(map(str, argv))}"[:160], lambda: run(*argv)
