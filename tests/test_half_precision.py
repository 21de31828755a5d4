"""Float16 that overflows is told, with what to do, wherever it shows first; nothing is changed."""

import pytest
import torch

import medit_teach as mt
from medit_teach import models
from medit_teach.errors import StatisticsError

from .helpers import Untouched, tiny_model, tiny_tokenizer
from .test_families import FACTS, QUICK, TEXTS


@pytest.fixture
def case():
    """A model in float16, whose C0 is known, and that then learned a value of 60,000."""
    tok = tiny_tokenizer()
    model = tiny_model("gptj", tok, d=16).to(torch.float16)
    C0 = mt.second_moment(model, tok, TEXTS, [1], tokens=2000)
    return model, tok, C0


def large(model, layer):
    """Biases of the MLP at `layer` so large that two of them are more than float16 holds."""
    with torch.no_grad():
        models.View(model).bias(layer).fill_(60_000.0)
        models.View(model).bias(layer - 1).fill_(60_000.0)


def trusted(model, C0):
    return mt.Statistics(C0.C0, C0.tokens, models.fingerprint(model), C0.text)


def test_in_the_search_for_the_value(case):
    model, tok, C0 = case
    large(model, 2)
    C0 = trusted(model, C0)
    with Untouched(model), pytest.raises(mt.MeditError, match=r"Rome is.*float16 overflowed .*bfl"):
        mt.edit(model, tok, FACTS, "memit", layers=[1], statistics=C0, **QUICK)
    assert mt.edits_of(model) == []


def test_in_the_same_model_bfloat16_does_not_overflow(case):
    model, tok, C0 = case
    large(model, 2)
    model = model.to(torch.bfloat16)
    C0 = mt.second_moment(model, tok, TEXTS, [1], tokens=2000)
    with mt.edit(model, tok, FACTS, "memit", layers=[1], statistics=C0, lam=0.1, **QUICK) as e:
        assert torch.isfinite(e.delta(1)).all()


def test_in_the_keys_of_c0(case):
    model, tok, _ = case
    with torch.no_grad():
        model.transformer.h[1].mlp.fc_in.bias.fill_(60_000.0)
        model.transformer.h[1].ln_1.weight.fill_(6_000.0)
    with Untouched(model), pytest.raises(StatisticsError, match=r"not finite: float16 overflowed"):
        mt.second_moment(model, tok, TEXTS, [1], tokens=2000)


def test_in_the_scores(case):
    model, tok, _ = case
    large(model, 2)
    with pytest.raises(mt.MeditError, match="NaN probabilities: float16 overflowed"):
        mt.score(model, tok, FACTS)


def test_in_the_edited_weights(case):
    model, tok, C0 = case
    T = torch.full((16, 2), 1e7, dtype=torch.float64)
    with Untouched(model):
        with pytest.raises(mt.MeditError, match=r"weights of layer 1 reach .*, which float16 cann"):
            mt.edit(model, tok, FACTS, "memit", layers=[1], statistics=C0, targets=T, lam=1e-6,
                    site="value", **QUICK)  # fmt: skip
    assert mt.edits_of(model) == []


def test_broken_weights_are_not_blamed_on_the_type(case):
    model, tok, _ = case
    with torch.no_grad():
        models.View(model).parameter(2)[0, 0] = float("nan")
    with pytest.raises(mt.MeditError, match=r"infinite weights \(transformer.h.2.mlp.fc_out"):
        mt.score(model, tok, FACTS)
