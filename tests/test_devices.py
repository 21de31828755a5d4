"""A model over several devices: every tensor lies where its layer is, the numbers are the same."""

import pytest
import torch

import medit_teach as mt
from medit_teach import hyper, metrics, values
from medit_teach.models import ARCHITECTURES, View
from medit_teach.study import locate

from .devices import Devices, device_map, device_of, spread
from .helpers import Untouched, tiny_model, tiny_tokenizer
from .test_families import FACTS, QUICK, TEXTS

GPUS = ["cuda:0", "cuda:1", "cuda:2"]
EDITS = [
    ("rome", dict(layers=[1])),
    ("memit", dict(layers=[0, 1], lam=0.1)),
    ("emmet", dict(layers=[0, 1], ridge=0.1)),
    ("alphaedit", dict(layers=[1], energy=0.2, L2=1e-3)),
]


def work(model, tok):
    """Whatever a reader does with a model, as plain numbers on the host."""
    C0 = mt.second_moment(model, tok, TEXTS, [0, 1], tokens=1500)
    found = [C0.C0[layer].cpu() for layer in (0, 1)]
    for method, fields in EDITS:
        with mt.edit(model, tok, FACTS, method, statistics=C0, **fields, **QUICK) as e:
            found += [e.delta(layer).cpu() for layer in e.layers]
            found += [View(model).weight(layer).detach().cpu().clone() for layer in e.layers]
            scores = mt.score(model, tok, FACTS, resamples=1)
            found += [torch.tensor(list(map(float, scores.per_fact["EM"])))]
            found += [torch.tensor(metrics.perplexity(model, tok, TEXTS[:3]))]
            found += [t for t, _ in metrics.top_tokens(model, tok, [FACTS[0].text])[0]]
    trace = locate.trace(model, tok, FACTS[0], "state", samples=2, noise=2.0)
    found += [torch.as_tensor(trace.effect), metrics.generate(model, tok, ["Rome is"], 4)]
    return found


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_the_same_numbers_over_three_devices(kind):
    tok = tiny_tokenizer()
    model = tiny_model(kind, tok, d=16)
    alone = work(model, tok)
    places = device_map(model, ARCHITECTURES[kind], GPUS)
    with Untouched(model), spread(model, places):
        view = View(model)
        assert [device_of(view.parameter(layer)) for layer in range(3)] == GPUS
        over_three = work(model, tok)
        assert [device_of(view.parameter(layer)) for layer in range(3)] == GPUS
    assert len(alone) == len(over_three)
    for a, b in zip(alone, over_three, strict=True):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(a.abs().max()))
        else:
            assert a == b


@pytest.mark.parametrize("kind", ["gptj", "gpt2"])
def test_the_same_numbers_on_a_device_without_float64(kind, tmp_path):
    """All that is computed in float64 (keys, C0, the solve) lies on the host."""
    tok = tiny_tokenizer()
    model = tiny_model(kind, tok, d=16)
    alone = work(model, tok)
    places = dict.fromkeys(device_map(model, ARCHITECTURES[kind], ["mps:0"]), "mps:0")
    with Untouched(model), spread(model, places):
        there = work(model, tok)
        for _ in range(2):  # collected, then found in the cache
            C0 = mt.second_moment(model, tok, TEXTS, [0, 1], tokens=1500, cache=tmp_path)
            assert [device_of(C0.C0[layer]) for layer in (0, 1)] == ["cpu", "cpu"]
        with mt.edit(model, tok, FACTS, "memit", layers=[0, 1], statistics=C0, **QUICK) as e:
            assert device_of(e.keys[1]) == device_of(e.values[0].target) == "cpu"
            assert device_of(View(model).parameter(1)) == "mps:0"
        for method in ("ft", "grace"):
            with mt.edit(model, tok, FACTS[0], method, layers=[1], steps=3, lr=0.01):
                metrics.top_tokens(model, tok, [FACTS[0].text])
        targets = values.Targets(model, tok, tmp_path / "targets")
        h = hyper.hyper("memit", model, layers=[1], **QUICK)
        found = targets(FACTS, h)
        again = values.Targets(model, tok, tmp_path / "targets")(FACTS, h)
        assert device_of(found) == "cpu" and torch.equal(found, again)
    for a, b in zip(alone, there, strict=True):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(a.abs().max()))
        else:
            assert a == b


def test_statistics_and_edits_lie_where_their_layer_is(tmp_path):
    tok = tiny_tokenizer()
    model = tiny_model("gptj", tok, d=16)
    with spread(model, device_map(model, ARCHITECTURES["gptj"], GPUS)):
        for _ in range(2):  # collected, then found in the cache
            C0 = mt.second_moment(model, tok, TEXTS, [0, 1], tokens=1500, cache=tmp_path)
            assert [device_of(C0.C0[layer]) for layer in (0, 1)] == GPUS[:2]
        with mt.edit(model, tok, FACTS, "memit", layers=[0, 1], statistics=C0, **QUICK) as e:
            assert [device_of(e.keys[layer]) for layer in (0, 1)] == GPUS[:2]
        one = mt.second_moment(
            model, tok, TEXTS, [0, 1], tokens=1500, cache=tmp_path, one_at_a_time=True
        )
        with mt.edit(model, tok, FACTS, "memit", layers=[0, 1], statistics=one, **QUICK) as e:
            assert [device_of(e.keys[layer]) for layer in (0, 1)] == ["cpu", "cpu"]


def test_what_the_pretended_devices_refuse():
    with Devices():
        a, b = torch.ones(2, device="cuda:0"), torch.ones(2, device="cuda:1")
        for mix in (lambda: a + b, lambda: a + torch.ones(2), lambda: torch.cat([a, b])):
            with pytest.raises(RuntimeError, match="tensors on"):
                mix()
        with pytest.raises(RuntimeError, match="tensors on cuda:0 and cuda:1"):
            a[torch.zeros(2, dtype=torch.long, device="cuda:1")]
        with pytest.raises(TypeError, match="numpy"):
            a.numpy()
        for make in (
            lambda: torch.ones(2, device="mps").double(),
            lambda: torch.ones(2, dtype=torch.float64).to("mps:0"),
        ):
            with pytest.raises(TypeError, match="float64"):
                make()
        assert (a + b.to("cuda:0")).device == torch.device("cuda:0")
        assert (a[torch.tensor([0])] * torch.tensor(2.0)).to(b).device == torch.device("cuda:1")
        assert b.copy_(a) is b and b.device == torch.device("cuda:1") and b.cpu().numpy().sum() == 2
