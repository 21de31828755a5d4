"""Settings and arguments: what is refused, in which words, and that the caller's word wins."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import medit_teach as mt
from medit_teach import hyper, metrics, settings
from medit_teach import objective as o
from medit_teach.book import widgets
from medit_teach.distribution import Step, apportion
from medit_teach.errors import HyperError, MeditError, SingularError
from medit_teach.study import budget, experiments, forensics, locate

from .helpers import Untouched, tiny_model, tiny_tokenizer
from .test_edit import FACTS, TEXTS

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def case():
    tok = tiny_tokenizer()
    model = tiny_model("gpt2", tok, layers=3, d=16)
    return model, tok, mt.second_moment(model, tok, TEXTS, [0, 1, 2])


# ------------------------------------------------------------------ settings

NOT_NUMBERS = ["3", "abc", b"3", [], [1.0], {}, True, np.bool_(True), 1j, object(), torch.ones(2),
               np.ones(1), NAN, INF, -INF, 10**400, -1.0, torch.tensor(NAN)]  # fmt: skip


def numeric():
    """(method, field, its type) of every number among all methods' settings."""
    for method, cls in hyper.METHODS.items():
        for f in fields(cls):
            if f.type in (int, float, float | None, float | str, float | str | None):
                yield method, f.name, f.type


@pytest.mark.parametrize("method, name, kind", [*numeric()])
def test_every_number_is_tested_before_any_work(method, name, kind):
    more = {"examples": FACTS} if method == "ike" else {}
    cls = hyper.METHODS[method]
    for bad in NOT_NUMBERS:
        with pytest.raises(HyperError, match=rf"^{name} must be ") as error:
            cls(**more, **{name: bad})
        assert "\n" not in str(error.value) and len(str(error.value)) < 200
    if kind in (int, float):
        with pytest.raises(HyperError, match=rf"^{name} must be .*, not None"):
            cls(**more, **{name: None})
    if kind is int:
        with pytest.raises(HyperError, match=r"a whole number, not 2\.5"):
            cls(**more, **{name: 2.5})


@pytest.mark.parametrize("given", [
    3, np.int64(3), np.int8(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.int8),
])  # fmt: skip
def test_a_number_of_numpy_or_torch_is_a_number(given):
    h = hyper.MEMIT(steps=given, layers=given)
    assert h.steps == 3 and type(h.steps) is int and h.layers == (3,)
    assert json.dumps(h.record())
    for real in (np.float32(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)):
        assert hyper.MEMIT(lr=real).lr == 0.5 and type(hyper.MEMIT(lr=real).lr) is float


@pytest.mark.parametrize("name, value, message", [
    ("contexts", "It rained. ", "contexts must be a list of texts"),
    ("contexts", [], 'must begin with ""'),
    ("contexts", ("It rained. ",), 'must begin with ""'),
    ("contexts", ("", 3), "a context must be a text, not 3"),
    ("contexts", ("", None), "a context must be a text, not None"),
    ("contexts", {"": 1}, "contexts must be a list of texts"),
    ("contexts", ("", "Therefore, {}"), "must not have a {}"),
    ("contexts", None, "contexts must be a list of texts"),
    ("layers", "1,2", "layers must be whole numbers"),
    ("layers", 1.5, "layers must be whole numbers"),
    ("layers", [[1]], "layers must be whole numbers"),
    ("layers", True, "layers must be whole numbers"),
    ("layers", {1: 2}, "layers must be whole numbers"),
    ("distribution", "spred", r"unknown distribution 'spred'.*did you mean 'spread'"),
    ("distribution", 3, "unknown distribution 3"),
    ("distribution", None, "unknown distribution None"),
    ("distribution", lambda: 0, "a distribution is a function of one Step"),
    ("distribution", lambda a, b: a, "a distribution is a function of one Step"),
    ("average", "halff", r"average must be one of .*did you mean 'half'"),
    ("average", None, "average must be one of"),
    ("start_average", "mean", "start_average must be one of"),
    ("site", "mlp", "site must be one of value, block"),
    ("site", ["block"], "site must be one of"),
    ("decay", 3, "decay must be one of"),
    ("kl_position", "start", "kl_position must be one of"),
    ("ridge", "most", "ridge must be a number or 'least'"),
    ("ridge_of_one", "most", "ridge_of_one must be a number, 'least' or None"),
    ("energy", 1.0, "energy must be below 1"),
    ("energy", 1, "energy must be below 1"),
    ("energy", -0.1, "energy must be at least 0"),
    ("threshold", 0, "threshold must be positive"),
    ("steps", 10**9, "steps must be at most 100000"),
])  # fmt: skip
def test_other_settings_are_tested_too(name, value, message):
    cls = next(c for c in hyper.METHODS.values() if name in [f.name for f in fields(c)])
    with pytest.raises(HyperError, match=message):
        cls(**{name: value})


def test_nullspace_has_no_weight_of_its_own():
    with pytest.raises(HyperError, match="L2 must be"):
        hyper.NullSpace(L2=1.0)


def test_an_unknown_setting_is_guessed(case):
    model = case[0]
    for wrong, right in (("clam", "clamp"), ("early_stopp", "early_stop"), ("kl", "kl_factor")):
        with pytest.raises(HyperError, match=f"no hyper-parameter '{wrong}'"):
            hyper.hyper("memit", model, **{wrong: 1})
        if wrong != "kl":
            with pytest.raises(HyperError, match=f"did you mean '{right}'"):
                hyper.hyper("memit", model, **{wrong: 1})
    with pytest.raises(HyperError, match=r"unknown method 'memitt'.*did you mean 'memit'"):
        hyper.hyper("memitt", model)
    for name in ("method", "model"):  # the names of hyper's own arguments
        with pytest.raises(HyperError, match=f"no hyper-parameter '{name}'"):
            hyper.hyper("memit", model, **{name: 1})
    with pytest.raises(HyperError, match="layers is empty"):
        hyper.hyper("memit", model, layers=[])


def test_a_class_of_ones_own_is_tested_by_its_annotations():
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Own(hyper.MEMIT):
        lam: float = 5.0
        weight: int = settings.setting(2, low=1, high=3)

    assert Own().lam == 5.0 and Own(weight=3).weight == 3
    with pytest.raises(HyperError, match="lam must be positive"):  # declared by MEMIT
        Own(lam=0)
    with pytest.raises(HyperError, match="weight must be at most 3"):
        Own(weight=4)


def test_the_result_of_a_distribution_of_ones_own_is_tested(case):
    model, tok, C0 = case
    own = dict(layers=[1], statistics=C0, steps=2, contexts=("",))
    for rule, message in (
        (lambda step: 3, "gave 3"), (lambda step: None, "gave None"),
        (lambda step: step.missing[:2], r"gave shape \(2, 3\)"),
        (lambda step: step.missing * NAN, "NaN"),
        (lambda step: step.missing.to(torch.cfloat), "must give a tensor"),
    ):  # fmt: skip
        with Untouched(model), pytest.raises(HyperError, match=message):
            mt.edit(model, tok, FACTS, "memit", distribution=rule, **own)
    step = Step(*torch.randn(3, 4, 2, dtype=torch.float64), 0, 1)
    assert torch.equal(apportion(lambda s: s.missing.float(), step), step.missing.float().double())

    class Half:
        def __call__(self, step):
            return step.missing / 2

    with mt.edit(model, tok, FACTS, "memit", distribution=Half(), **own) as e:
        assert e.hyper["distribution"] == "Half" and json.dumps(e.hyper)


# ------------------------------------------------------------------ the caller's word


def embedded(**preset):
    """What hyper() looks at of a model with a preset of its own."""
    config = SimpleNamespace(model_type="gptj", num_hidden_layers=4, hidden_size=64)
    config.medit_teach = {"preset": preset}
    return SimpleNamespace(config=config)


def test_a_given_threshold_takes_back_the_presets_energy():
    model = embedded(all={"layers": [1]}, alphaedit={"energy": 0.01, "L2": 1.0})
    preset = hyper.hyper("alphaedit", model)
    assert preset.energy == 0.01 and preset.record()["threshold"] is None
    given = hyper.hyper("alphaedit", model, threshold=0.5)
    assert (given.threshold, given.energy) == (0.5, None) and given.record()["threshold"] == 0.5
    assert hyper.hyper("alphaedit", model, energy=0.2).energy == 0.2
    none = hyper.hyper("alphaedit", model, energy=None)
    assert (none.threshold, none.energy) == (0.02, None)
    assert hyper.hyper("alphaedit", model, threshold=None).energy == 0.01
    again = hyper.hyper(given, model, energy=0.3)  # the later word
    assert again.energy == 0.3 and again.record()["threshold"] is None
    for both in (dict(threshold=0.5, energy=0.2), dict(threshold=0.02, energy=0.2)):
        with pytest.raises(HyperError, match="threshold or energy, not both"):
            hyper.hyper("alphaedit", model, **both)
    with pytest.raises(HyperError, match="give a threshold or an energy"):
        hyper.hyper("alphaedit", model, threshold=None, energy=None)
    with pytest.raises(HyperError, match="not both"):
        hyper.AlphaEdit(threshold=0.5, energy=0.2)


def test_the_threshold_that_is_given_is_the_one_that_edits():
    model, tok = mt.load("tiny-gptj")
    fact = mt.facts("world", n=1)
    C0 = mt.statistics_for(model, tok, [1])
    p = {}
    for name, said in (("energy", {}), ("one", {"threshold": 0.01}), ("two", {"threshold": 1e-4})):
        with mt.edit(model, tok, fact, "alphaedit", [1], C0, steps=2, contexts=("",), **said) as e:
            p[name] = e.diagnostics[1]["dimensions"]
            assert e.hyper["threshold"] == said.get("threshold")
            assert e.hyper["energy"] == (None if said else 0.01)
    values = torch.linalg.eigvalsh(C0[1])
    assert p["one"] == int((values < 0.01).sum()) and p["two"] == int((values < 1e-4).sum())
    assert len(set(p.values())) == 3


def test_a_given_ridge_holds_for_one_fact_too():
    xl = SimpleNamespace(model_type="gpt2", num_hidden_layers=48, hidden_size=1600)
    model = SimpleNamespace(config=xl)
    assert hyper.hyper("emmet", model).ridge_of_one == 0.0
    given = hyper.hyper("emmet", model, ridge=5.0)
    assert given.ridge == 5.0 and given.ridge_of_one is None
    both = hyper.hyper("emmet", model, ridge=5.0, ridge_of_one=1.0)
    assert (both.ridge, both.ridge_of_one) == (5.0, 1.0)
    assert hyper.hyper("emmet", model, ridge_of_one=None).ridge_of_one is None


def test_averages_follow_the_average_unless_they_are_given():
    model = embedded(all={"layers": [1]})
    h = hyper.hyper("memit", model, average="bare")
    assert h.start_average == h.now_average == "bare"
    h = hyper.hyper(hyper.hyper("memit", model), model, average="uniform")
    assert h.start_average == h.now_average == "uniform"
    h = hyper.hyper(hyper.MEMIT.original(layers=[1]), model, average="uniform")
    assert h.start_average == h.now_average == "bare"
    h = hyper.hyper(hyper.MEMIT.original(layers=[1]), model, start_average=None)
    assert (h.start_average, h.now_average) == ("half", "bare")


def test_a_records_key_does_not_depend_on_what_does_not_count():
    """The key of a sweep's cell is made of all fields, so that records that are kept stay valid."""
    h = hyper.AlphaEdit(energy=0.01, layers=[1])
    assert h.plain()["threshold"] == 0.02 and h.record()["threshold"] is None
    assert list(h.plain()) == list(h.record()) == [f.name for f in fields(h)]


# ------------------------------------------------------------------ other entry points


def test_layers_are_one_thing_everywhere(case):
    model, tok, _ = case
    for good in (1, np.int64(1), [np.int64(1)], (1, 1), {1}, torch.tensor([1]), np.array(1)):
        assert list(mt.second_moment(model, tok, TEXTS, good).C0) == [1]
        assert hyper.hyper("memit", model, layers=good).layers == (1,)
        assert list(locate.triggers(model, tok, TEXTS, good, 40).strength) == [1]
    for bad in ("1", 1.5, [True], None, [[1]], {1: 1}):
        for call in (
            lambda: mt.second_moment(model, tok, TEXTS, bad),  # noqa: B023
            lambda: mt.statistics_for(model, tok, bad, TEXTS),  # noqa: B023
            lambda: locate.triggers(model, tok, TEXTS, bad),  # noqa: B023
        ):
            with pytest.raises(MeditError, match="layers must be whole numbers"):
                call()
    with pytest.raises(MeditError, match="no layer was given"):
        mt.second_moment(model, tok, TEXTS, [])


BAD = [
    (lambda m, t, C: mt.score(m, t, FACTS, batch_size=0), "batch_size must be at least 1"),
    (lambda m, t, C: mt.score(m, t, FACTS, batch_size="8"), "batch_size must be a whole number"),
    (lambda m, t, C: mt.score(m, t, FACTS, level=2), "level must be below 1"),
    (lambda m, t, C: mt.score(m, t, FACTS, level=0), "level must be positive"),
    (lambda m, t, C: mt.score(m, t, FACTS, resamples=0), "number of draws must be at least 1"),
    (lambda m, t, C: mt.score(m, t, FACTS, seed=-1), "seed must be at least 0"),
    (lambda m, t, C: metrics.bootstrap([]), "at least one number"),
    (lambda m, t, C: metrics.bootstrap([NAN]), "at least one number"),
    (lambda m, t, C: metrics.bootstrap("abc"), "values must be numbers"),
    (lambda m, t, C: metrics.bootstrap([[1.0]]), "must be a list of numbers"),
    (lambda m, t, C: metrics.bootstrap([1.0], n=10**9), "at most 1000000"),
    (lambda m, t, C: metrics.perplexity(m, t, TEXTS[:1], batch_size=0), "batch_size must be"),
    (lambda m, t, C: locate.trace(m, t, FACTS[0], answer="x", noise=-1), "noise must be at least"),
    (lambda m, t, C: locate.trace(m, t, FACTS[0], answer="x", samples=0), "samples must be"),
    (lambda m, t, C: locate.trace(m, t, FACTS[0], answer="x", noise=NAN), "noise must be"),
    (lambda m, t, C: locate.trace(m, t, FACTS[0], answer="x", sigma=INF), "sigma must be finite"),
    (lambda m, t, C: locate.trace(m, t, FACTS[0], answer="x", batch_size=0), "batch_size must be"),
    (lambda m, t, C: locate.triggers(m, t, TEXTS, [1], tokens=0), "tokens must be at least 1"),
    (lambda m, t, C: locate.triggers(m, t, TEXTS, [1], n=-1), "n must be at least 1"),
    (lambda m, t, C: locate.promoted(m, 1, n=0), "n must be at least 1"),
    (lambda m, t, C: locate.promoted(m, 1, n=10**6), "n must be at most"),
    (lambda m, t, C: mt.second_moment(m, t, TEXTS, [1], tokens=0), "tokens must be at least 1"),
    (lambda m, t, C: mt.second_moment(m, t, TEXTS, [1], batch_tokens=0), "batch_tokens must be"),
    (lambda m, t, C: mt.second_moment(m, t, TEXTS, [1], dtype="int8"), "floating-point dtype"),
    (lambda m, t, C: forensics.auc([1.0], []), "negative must hold at least one"),
    (lambda m, t, C: forensics.auc([1.0], [0.0], level=1.5), "level must be below 1"),
    (lambda m, t, C: forensics.split(torch.eye(3), 1.5), "n must be a whole number"),
    (lambda m, t, C: forensics.shares(torch.eye(3), torch.ones(2, 1), C.soft(1), 1), "K must have"),
    (lambda m, t, C: forensics.suspicion(torch.eye(3), torch.ones(2, 1)), "K must have the shape"),
    (lambda m, t, C: budget.memory("gpt2-xl", chunk=0), "chunk must be at least 1"),
    (lambda m, t, C: budget.memory("gpt2-xl", n=2.5), "n must be a whole number"),
    (lambda m, t, C: budget.memory("gpt2-xl", lengths=3), "lengths must be Lengths"),
    (lambda m, t, C: budget.Lengths(rows=0), "rows must be at least 1"),
    (lambda m, t, C: budget.skeleton(3), "a shape is a name"),
    (lambda m, t, C: budget.skeleton({"n_layer": 2}), "no model has the shape"),
    (lambda m, t, C: budget.skeleton("gpt2-xl", dtype=torch.int8), "floating-point dtype"),
    (lambda m, t, C: budget.plan("gpt2-xl", room="8GB"), "room must be a number or None"),
    (lambda m, t, C: budget.free("nonsense"), "no device 'nonsense'"),
    (lambda m, t, C: widgets.slider(lambda v: 0, "x", []), "0 figures for 0 values"),
    (lambda m, t, C: widgets.slider(lambda v: 0, "x", [1]), "a frame is a matplotlib Figure"),
    (lambda m, t, C: widgets.slider(lambda v: 0, "x", 3), "values must be a list"),
    (lambda m, t, C: widgets.explorer("x", {}, None), "an explorer needs controls"),
    (lambda m, t, C: widgets.explorer("x", {"a": []}, None), "at least one value"),
    (lambda m, t, C: widgets.explorer("x", {"a": [1]}, None, {"a": 2}), "not among the values"),
    (lambda m, t, C: widgets.explorer("x", {"a": [1]}, None, {"b": 1}), "not among the values"),
]  # fmt: skip


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_arguments_are_one_line_before_any_work(case, call, message):
    model = case[0]
    with Untouched(model), pytest.raises(MeditError, match=message) as error:
        call(*case)
    assert "\n" not in str(error.value)


def test_a_sweep_tests_its_numbers(case):
    for bad in ({"sizes": [2.5]}, {"seeds": ["a"]}, {"scored": True}, {"tokens": -1}):
        with pytest.raises(MeditError):
            experiments.Sweep("s", [{"method": "memit"}], **bad)


# ------------------------------------------------------------------ the objective


def problem(d_out, d_in, E, seed, scale=1.0, condition=1.0):
    """R, K and a C0 of this condition number, all times a scale."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)  # noqa: E731
    Q = torch.linalg.qr(draw(d_in, d_in)).Q
    values = torch.logspace(0, -math.log10(condition), d_in, dtype=torch.float64)
    return scale * draw(d_out, E), scale * draw(d_in, E), scale**2 * (Q * values) @ Q.T


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8, 1e12, 1e16])
@pytest.mark.parametrize("scale", [1e-60, 1e-8, 1.0, 1e8, 1e60])
def test_the_solver_is_exact_or_refuses(scale, condition):
    """Over sizes, scales and conditions: each update fulfils its own equation, or there is none."""
    solved = 0
    for seed, (d_out, d_in, E) in enumerate([(1, 1, 1), (3, 1, 1), (5, 8, 1), (4, 20, 7),
                                             (2, 12, 12), (6, 9, 14)]):  # fmt: skip
        R, K, C0 = problem(d_out, d_in, E, seed, scale, condition)
        for name in ("emmet", "memit", "rome"):
            if name == "rome" and E > 1:
                continue
            lam = 0.5
            weight = (lam,) if name == "memit" else ()
            try:
                found = getattr(o, name)(R, K, C0, *weight)
            except SingularError:
                continue
            solved += 1
            Delta, worst = found.delta, found.condition_gram * found.condition_C0
            tolerance = min(1e-2, 1e3 * d_in * worst * torch.finfo(torch.float64).eps)
            if name == "memit":  # the normal equations
                left, right = Delta @ (lam * C0 + K @ K.T), R @ K.T
                size = Delta.norm() * (lam * C0.norm() + K.norm() ** 2)
            else:
                left, right, size = Delta @ K, R, R.norm() + Delta.norm() * K.norm()
            assert float((left - right).norm() / size) <= tolerance, (name, d_in, E)
    assert solved or condition >= 1e16


def test_the_solver_refuses_what_is_no_problem():
    R, K, C0 = problem(4, 6, 3, 0)
    for bad in (R * NAN, R[:, :2], R[0], R.to(torch.cfloat), "x", None, R / 0, R[:0]):
        with pytest.raises(MeditError):
            o.memit(bad, K, C0, 1.0)
    for bad in (K * NAN, K[:5], K[:, :0], K.to(torch.cfloat), "x", None, [[1], [2, 3]]):
        with pytest.raises(MeditError):
            o.memit(R, bad, C0, 1.0)
    for bad in (C0 * NAN, C0[:5], -C0, 0 * C0, C0 / 0, "x", None, C0[0]):
        for call in (lambda C: o.memit(R, K, C, 1.0), lambda C: o.nullspace(R, K, C, 0.5)):
            with pytest.raises(MeditError):
                call(bad)
    for bad in (NAN, INF, -1.0, 0.0, "1", None, True, [1.0], 1j):
        with pytest.raises(MeditError, match="lam must be"):
            o.memit(R, K, C0, bad)
    for bad in (NAN, INF, -1.0, "1", None, True):
        with pytest.raises(MeditError, match="ridge"):
            o.emmet(R, K, C0, bad)
    with pytest.raises(MeditError, match="nothing would be preserved"):
        o.nullspace(R, K, C0, threshold=1e3)
    with pytest.raises(MeditError, match="give factor"):
        o.solve(R, K, C0)


def test_a_condition_that_is_no_number_is_refused(monkeypatch):
    R, K, C0 = problem(4, 6, 3, 0)
    soft = o.factor(C0)
    monkeypatch.setattr(o, "_condition", lambda L, rounds=60: NAN)
    for call in (lambda: o.factor(C0), lambda: o.emmet(R, K, soft), lambda: o.memit(R, K, soft, 1)):
        with pytest.raises(SingularError):
            call()


def test_losses_are_not_broadcast():
    R, K, C0 = problem(4, 6, 3, 0)
    Delta, W, b = torch.zeros(4, 6).double(), torch.ones(4, 6).double(), torch.ones(4).double()
    assert o.memorization(Delta, R, K) == (R**2).sum() and o.preservation(Delta, C0) == 0
    assert o.memorization(Delta, R[:, 0], K[:, 0]) == (R[:, 0] ** 2).sum()
    for call in (
        lambda: o.memorization(Delta, R[:1], K), lambda: o.memorization(Delta, R[:, :1], K),
        lambda: o.memorization(Delta, R, K[:5]), lambda: o.preservation(Delta, C0[:, :1]),
        lambda: o.preservation(Delta[0], C0), lambda: o.residual(W, b, K, R[:1]),
        lambda: o.residual(W, b[:1], K, R), lambda: o.residual(W, None, K, R[:, :1]),
        lambda: o.objective(Delta, R, K.numpy(), C0, 1.0),
    ):  # fmt: skip
        with pytest.raises(MeditError):
            call()


def test_arrays_and_lists_are_tensors_to_the_solver():
    R, K, C0 = problem(4, 6, 3, 0)
    right = o.emmet(R, K, C0).delta
    assert torch.equal(o.emmet(R.numpy(), K.tolist(), C0.numpy()).delta, right)


def test_an_update_divided_by_an_orthogonal_key_is_refused():
    R, K, C0 = problem(4, 6, 2, 0)
    k, u = K[:, 0], torch.linalg.solve(C0, K[:, 0])
    other = K[:, 1] - (K[:, 1] @ u) / (u @ u) * u
    with pytest.raises(SingularError, match="orthogonal"):
        o.rome(R[:, 0], k, C0, divide_by=other)
    with pytest.raises(MeditError):
        o.rome(R[:, 0], k, C0, divide_by=other[:3])
