"""The bill before an edit: parts against the tensors themselves, the peak against a profiler."""

import time

import pytest
import torch

import medit_teach as mt
from medit_teach.errors import HyperError, ModelError
from medit_teach.hyper import MEMIT, METHODS
from medit_teach.study import budget
from medit_teach.values import optimise_values

from .helpers import tiny_model, tiny_tokenizer
from .test_families import FACTS, TEXTS

H = MEMIT(layers=[0, 1], steps=2, early_stop=0.0, contexts=("", "It was a quiet morning. "))


def test_the_two_shapes_have_the_published_sizes():
    for name, parameters, d_in, presets in (
        ("gpt2-xl", 1_557_611_200, 6400, 5),
        ("gpt-j-6b", 6_050_882_784, 16384, 6),
    ):
        shape = budget.skeleton(name, torch.float16)
        assert sum(p.numel() for p in shape.parameters()) == parameters
        assert all(p.is_meta and p.dtype == torch.float16 for p in shape.parameters())
        found = budget.memory(name, "memit", torch.float16, chunk=1)
        assert found.weights == 2 * parameters
        assert found.undo == 2 * presets * d_in * d_in // 4
        assert found.C0 == presets * 8 * d_in**2


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "llama", "opt"])
def test_parts_against_the_tensors_of_an_edit(kind):
    tok = tiny_tokenizer()
    model = tiny_model(kind, tok, d=16)
    C0 = mt.second_moment(model, tok, TEXTS, [0, 1], tokens=4000)
    found = budget.memory(model, H, n=2, chunk=2)
    with mt.edit(model, tok, FACTS, H, statistics=C0) as e:
        assert found.weights == sum(p.nbytes for p in model.parameters())
        assert found.undo == sum(x.nbytes for x in e._saved.values())
        assert found.C0 == sum(C.nbytes for C in C0.C0.values())
        assert found.factors == sum(f.L.nbytes for f in C0._factors.values())


def peak(work):
    """Most bytes that work() holds at one time, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    held = most = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.mark.parametrize("kind", ["gpt2", "gptj"])
@pytest.mark.parametrize("subject", ["Rome", "Rome, and the town of Otto, and the sky of Paris"])
def test_the_search_for_targets_takes_what_was_said(kind, subject):
    tok = tiny_tokenizer()
    model = tiny_model(kind, tok, layers=8, d=64)
    facts = [mt.Fact("{} is", subject, "sky and the violin of Anna Marlow")] * 2
    lengths = budget.lengths(tok, facts, H)
    assert lengths.rows == 3 and lengths.after > 9
    found = budget.memory(model, H, chunk=2, lengths=lengths)
    search = lambda: optimise_values(model, tok, facts, 1, H, batch_size=2)  # noqa: E731
    search()
    assert 0.85 < max(found.states, found.graph + found.head) / peak(search) < 1.25


@pytest.mark.parametrize("method", ["memit", "alphaedit"])
def test_an_update_takes_what_was_said(method):
    tok, d = tiny_tokenizer(), 64
    h = METHODS[method](layers=[1], **({"threshold": 1.0} if method == "alphaedit" else {}))
    model = tiny_model("gptj", tok, d=d)
    found = budget.memory(model, h, n=8, one_at_a_time=True)
    generator = torch.Generator().manual_seed(0)
    X, K, R = (torch.randn(a, b, dtype=torch.float64, generator=generator)
               for a, b in ((4 * d, 8 * d), (4 * d, 8), (d, 8)))  # fmt: skip
    C0 = X @ X.T / (8 * d)

    def update():
        statistics = mt.Statistics({1: C0}, 0, "", "")
        solution = h.solve(R, K, h.preserve(statistics, 1))
        return torch.zeros(d, 4 * d).double() + solution.delta

    update()
    assert 0.8 < found.host / (C0.nbytes + peak(update)) < 1.25


def test_what_grows_with_the_chunk_and_what_lies_on_the_host():
    one, four = (budget.memory("gpt2-xl", "memit", chunk=n) for n in (1, 4))
    for part in ("states", "graph", "head"):
        assert getattr(four, part) == pytest.approx(4 * getattr(one, part), rel=1e-3)
    host = budget.memory("gpt2-xl", "memit", chunk=4, one_at_a_time=True)
    assert host.C0 * 5 == four.C0 and four.host == 0 < host.host
    assert host.peak == host.phases["v*"] == four.phases["v*"] - four.C0
    assert host.phases["update"] == host.weights + host.undo
    assert host.phases["C0"] == host.weights + host.C0 + host.reading
    update = four.weights + four.undo + four.C0 + four.factors + four.solve
    assert four.phases["update"] == update
    assert set(host.held("v*")) == {"weights", "search"} and "C0" in four.held("v*")
    assert "peak" in str(four) and f"{four.weights / 2**30:.2f} GiB" in str(four)
    half = budget.memory("gpt2-xl", "memit", torch.float16, chunk=4)
    assert 2 * half.weights == four.weights and half.C0 == four.C0


def test_every_method_and_the_embedded_model_have_a_bill():
    model, _ = mt.load("tiny-gptj")
    for method, kind in METHODS.items():
        if not kind.beside:
            found = budget.memory(model, method, chunk=1)
            assert found.peak > found.weights and (found.C0 > 0) == bool(kind.needs)
    with pytest.raises(HyperError, match="prompt changes no matrix"):
        budget.memory(model, "prompt")
    with pytest.raises(ModelError, match="unknown shape 'gpt5'; known are gpt2-xl"):
        budget.memory("gpt5")


@pytest.mark.parametrize(
    ("model", "dtype", "room", "chunk", "one_at_a_time", "fits"),
    [
        ("gpt2-xl", torch.float32, 15, 16, False, True),
        ("EleutherAI/gpt-j-6b", torch.float16, 15, 8, True, True),
        ("gpt-j-6b", torch.float16, 40, 32, False, True),
        ("gpt-j-6b", torch.float32, 15, 1, True, False),
    ],
)
def test_a_plan_is_the_largest_that_fits(model, dtype, room, chunk, one_at_a_time, fits):
    def bill(n, **how):
        return budget.memory(model, "memit", dtype, n, **how)

    room = room * budget.GIB
    found = budget.plan(model, "memit", dtype, room)
    assert (found.chunk, found.one_at_a_time, found.fits) == (chunk, one_at_a_time, fits)
    assert fits == (found.bill.peak + budget.SPARE <= room) != ("more than is free" in str(found))
    how = {"one_at_a_time": one_at_a_time, "batch_tokens": found.batch_tokens}
    assert found.bill == bill(chunk, **how)
    if fits:
        assert bill(2 * chunk, **how).peak + budget.SPARE > room
    if one_at_a_time:  # because not even one fact fits beside all C0
        assert bill(1).peak + budget.SPARE > room and found.batch_tokens < budget.BATCH


def test_a_plan_of_an_embedded_model_and_of_too_small_a_host():
    free = budget.free()
    assert free is None or free > 0
    embedded = budget.plan("tiny-gptj", "rome", most=8)
    assert embedded.chunk == 8 and embedded.fits and not embedded.one_at_a_time
    model, _ = mt.load("tiny-gptj")
    assert embedded.bill == budget.memory(model, "rome", chunk=8)  # layers of its own preset
    small = budget.plan("gpt-j-6b", "memit", torch.float16, 15 * budget.GIB, host=6 * budget.GIB)
    assert small.bill.host == 6 * budget.GIB and not small.fits


def test_minutes_are_the_sum_of_what_was_timed():
    rates = budget.Rates(chunk=10, start=1.0, step=0.5, keys=0.25, read=0.001, factor=2.0,
                         score=0.1, steps=20, layers=5)  # fmt: skip
    found = rates.minutes(95, tokens=60_000, scored=30)
    assert found["C0"] == pytest.approx(5.0)
    assert found["v*"] == pytest.approx(10 * (1 + 20 * 0.5) / 60)
    assert found["update"] == pytest.approx(5 * (2 + 11 * 0.25) / 60)
    assert found["scores"] == pytest.approx(3 / 60)


def test_measured_rates_foretell_the_search():
    model, tok = mt.load("tiny-gptj")
    facts, weights = mt.facts("world", n=12, seed=0), mt.models.fingerprint(model)
    texts = mt.datasets.texts_for(model)

    def ratio():
        rates = budget.measure(model, tok, facts[:4], texts, early_stop=0.0)
        h = mt.hyper.hyper("memit", model, early_stop=0.0)
        began = time.process_time()
        optimise_values(model, tok, facts, h.layers[-1], h, batch_size=4)
        return rates.minutes(12)["v*"] * 60 / (time.process_time() - began), rates

    tries = [ratio() for _ in range(2)]
    assert any(1 / 3 < found < 3 for found, _ in tries)
    rates = tries[0][1]
    assert rates.chunk == 4 and min(rates.read, rates.factor, rates.keys, rates.score) > 0
    assert mt.models.fingerprint(model) == weights


def test_spoken():
    told = [budget.spoken(m) for m in (0.2, 1.2, 12.4, 89, 240)]
    assert told == ["less than a minute", "about 1 minute", "about 12 minutes",
                    "about 89 minutes", "about 4 hours"]  # fmt: skip
