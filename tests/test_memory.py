"""Out of memory: smaller batches, the same numbers, the size that fits; or a clear end."""

import pytest
import torch

import medit_teach as mt
from medit_teach import hyper, keys, metrics, values
from medit_teach.memory import Room, ran_out

from .helpers import Untouched, tiny_model, tiny_tokenizer
from .test_families import QUICK, TEXTS

FACTS = [mt.Fact("The king of {} is", name, "old", "new")
         for name in ("Rome", "Oslo", "Bonn", "Paris", "Italy")]  # fmt: skip


@pytest.fixture
def case():
    tok = tiny_tokenizer()
    return tiny_model("gptj", tok, d=16), tok


class Small:
    """with Small(model, rows): the model runs out of memory for more rows at once."""

    def __init__(self, model, rows):
        self.model, self.rows = model, rows

    def __enter__(self):
        def hook(module, args, kwargs):
            ids = kwargs.get("input_ids", args[0] if args else None)
            if len(ids) > self.rows:
                raise torch.OutOfMemoryError(f"CUDA out of memory for {len(ids)} rows")

        self.handle = self.model.base_model.register_forward_pre_hook(hook, with_kwargs=True)

    def __exit__(self, *error):
        self.handle.remove()


def test_values_in_smaller_batches(case):
    model, tok = case
    h = hyper.hyper("memit", model, layers=[1], **QUICK)  # three rows a fact
    whole = values.optimise_values(model, tok, FACTS, 1, h)
    told = []
    with Untouched(model), Small(model, 7):
        with pytest.warns(UserWarning, match="out of memory with batch_size=32; batch_size=2 fits"):
            found = values.optimise_values(model, tok, FACTS, 1, h, progress=told.append)
    assert torch.allclose(found.target, whole.target, atol=1e-4) and told == [2, 2, 1]


def test_facts_with_as_long_a_rest_are_optimised_together(case, monkeypatch):
    model, tok = case
    h = hyper.hyper("memit", model, layers=[1], **QUICK)
    far = [mt.Fact("{} is a city in the old land of", f.subject, "old", "new") for f in FACTS]
    facts = [fact for pair in zip(far, FACTS, strict=True) for fact in pair]
    one = values.optimise_values(model, tok, facts, 1, h, batch_size=1)
    chunks, real = [], values._optimise
    monkeypatch.setattr(
        values, "_optimise", lambda *a: chunks.append([f.prompt for f in a[2]]) or real(*a)
    )
    found = values.optimise_values(model, tok, facts, 1, h, batch_size=5)
    assert chunks == [[FACTS[0].prompt] * 5, [far[0].prompt] * 5]
    assert torch.allclose(found.target, one.target, atol=1e-4)  # in the order of the facts
    assert torch.allclose(found.losses, one.losses, atol=1e-3, equal_nan=True)


def test_keys_in_smaller_batches(case):
    model, tok = case
    contexts = QUICK["contexts"]
    whole = keys.keys(model, tok, FACTS, 1, contexts)
    with Small(model, 2), pytest.warns(UserWarning, match="batch_size=2 fits"):
        found = keys.at_subject(model, tok, FACTS, [("key", 1)], contexts, batch_size=4)
    assert torch.allclose(found["key", 1], whole, atol=1e-5)


def test_scores_in_smaller_batches(case):
    model, tok = case
    whole = mt.score(model, tok, FACTS, resamples=1)
    with Small(model, 2), pytest.warns(UserWarning, match="batch_size=2 fits"):
        found = mt.score(model, tok, FACTS, resamples=1)
    assert abs(found.EM - whole.EM) < 1e-3


def test_statistics_in_smaller_batches(case):
    model, tok = case
    whole = mt.second_moment(model, tok, TEXTS, [0, 1], tokens=2000)
    with Small(model, 9), pytest.warns(UserWarning, match=r"batch_tokens=\d+ fits"):
        found = mt.second_moment(model, tok, TEXTS, [0, 1], tokens=2000)
    for layer in (0, 1):
        assert torch.allclose(found[layer], whole[layer], rtol=1e-6, atol=1e-9)


def test_nothing_fits(case):
    model, tok = case
    C0 = mt.second_moment(model, tok, TEXTS, [1], tokens=2000)
    with Untouched(model), Small(model, 0):
        with pytest.raises(mt.MeditError, match=r"out of memory even with batch_size=1; load"):
            mt.edit(model, tok, FACTS, "memit", layers=[1], statistics=C0, **QUICK)
        with pytest.raises(mt.MeditError, match=r"out of memory even with batch_tokens=\d+"):
            mt.second_moment(model, tok, TEXTS, [1], tokens=2000)
        with pytest.raises(mt.MeditError, match="batch_size=1"):
            metrics.perplexity(model, tok, TEXTS[0])
    assert mt.edits_of(model) == []


def test_what_counts_as_out_of_memory():
    with pytest.raises(RuntimeError) as host:
        torch.empty(10**15)  # the host's own error
    assert ran_out(host.value) and ran_out(MemoryError()) and ran_out(torch.OutOfMemoryError())
    assert not ran_out(RuntimeError("shapes do not match")) and not ran_out(ValueError("memory"))
    room = Room(8, "batch_size")
    with pytest.raises(ValueError, match="another"), room:
        raise ValueError("another")
    assert room.size == 8


def test_memory_that_runs_out_elsewhere_is_told_too(case, monkeypatch):
    """Where no batch can be halved: in the factor of C0, say."""
    model, tok = case
    C0 = mt.second_moment(model, tok, TEXTS, [1], tokens=2000)

    def full(self, layer):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(mt.Statistics, "soft", full)
    with Untouched(model), pytest.raises(mt.MeditError, match=r"out of memory; the model is as it"):
        mt.edit(model, tok, FACTS, "memit", layers=[1], statistics=C0, **QUICK)
