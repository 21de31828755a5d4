"""Fine-tuning of one matrix against autograd by hand, its box, and its undo."""

import copy

import pytest
import torch

import medit_teach as mt
from medit_teach import metrics, models
from medit_teach.errors import HyperError
from medit_teach.methods import finetune

from .helpers import Untouched, tiny_model, tiny_tokenizer

CONTEXTS = ("", "It is late. ")
FACTS = [
    mt.Fact("The king of {} is", "Rome", "old", "new"),
    mt.Fact("The town of {} is", "Oslo", "far away", "near"),
    mt.Fact("{} lies by the river of", "Bonn", "Paris"),
]


@pytest.fixture(scope="module", params=["gpt2", "gptj"])
def case(request):
    tok = tiny_tokenizer()
    return tiny_model(request.param, tok, layers=3, d=16), tok


def matrices(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def loss_by_hand(model, tok):
    """Mean over facts, contexts and target tokens of -log P(target token), one text at a time."""
    total = 0.0
    for fact in FACTS:
        for context in CONTEXTS:
            prompt = tok(context + fact.text)["input_ids"]
            ids = tok(f"{context}{fact.text} {fact.target_new}")["input_ids"]
            assert ids[: len(prompt)] == prompt
            log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            parts = [log_p[i - 1, ids[i]] for i in range(len(prompt), len(ids))]
            total = total - sum(parts) / len(parts)
    return total / (len(FACTS) * len(CONTEXTS))


@pytest.mark.parametrize("batch_size", [1, 4, 128])
def test_loss_and_gradient_equal_autograd_by_hand(case, batch_size):
    model, tok = case
    p = models.View(model).parameter(1)
    loss = loss_by_hand(model, tok)
    (expected,) = torch.autograd.grad(loss, p)
    rows = finetune._rows(tok, FACTS, CONTEXTS)
    found, gradient = finetune.loss_and_gradient(models.View(model), tok, rows, p, batch_size)
    assert found == pytest.approx(float(loss.detach()), rel=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)
    assert p.requires_grad and p.grad is None


@pytest.mark.parametrize("layers", [[0], [2]])
def test_one_step_is_adams_first_step(case, layers):
    """Adam's first step is -lr g / (|g| + 1e-8), and only that matrix changes."""
    model, tok = case
    view, lr, before = models.View(model), 1e-3, matrices(model)
    (g,) = torch.autograd.grad(loss_by_hand(model, tok), view.parameter(layers[0]))
    with mt.edit(model, tok, FACTS, "ft", layers=layers, steps=1, lr=lr, contexts=CONTEXTS) as e:
        change = view.parameter(layers[0]).detach() - before[name_of(model, layers[0])]
        clear = g.abs() > 1e-5  # elsewhere rounding decides
        torch.testing.assert_close(change[clear], (-lr * g.sign())[clear], rtol=1e-2, atol=1e-7)
        changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
        assert changed == {name_of(model, layers[0])}
        assert e.delta(layers[0]).shape == view.weight(layers[0]).shape
        assert "1 steps" in repr(e)


def name_of(model, layer):
    p = models.View(model).parameter(layer)
    return next(name for name, q in model.named_parameters() if q is p)


@pytest.mark.parametrize("eps", [1e-4, 3e-3, 0.05])
def test_ftl_never_leaves_its_box_and_reaches_its_wall(case, eps, monkeypatch):
    model, tok = case
    view = models.View(model)
    W0, far = view.parameter(1).detach().clone(), []
    real = finetune.right

    def looking(*args):  # called after every step
        far.append(float((view.parameter(1).detach() - W0).abs().max()))
        return [False, *real(*args)]

    monkeypatch.setattr(finetune, "right", looking)
    with mt.edit(model, tok, FACTS, "ft", layers=[1], steps=12, lr=0.02, eps=eps) as e:
        assert len(far) == 12
        assert max(far) <= eps + 1e-7 and max(far) > 0.99 * eps
        assert float(e.delta(1).abs().max()) <= eps + 1e-7


def test_training_stops_at_the_first_step_with_all_facts_right(case):
    model, tok = case
    fields = dict(layers=[1], lr=0.01, contexts=CONTEXTS)
    with mt.edit(model, tok, FACTS, "ft", steps=200, **fields) as e:
        report = e.diagnostics[1]
        n = report["steps"]
        assert report["all_right"] and 1 < n < 200 and len(report["losses"]) == n
        assert metrics.score(model, tok, FACTS[:2]).ES == 100
        assert metrics.score(model, tok, FACTS[2:]).EA == 100  # without target_true: it is said
    with mt.edit(model, tok, FACTS, "ft", steps=n - 1, **fields) as e:
        assert not e.diagnostics[1]["all_right"]
        assert not all(finetune.right(model, tok, FACTS))


def test_undo_and_apply_are_exact_to_the_bit_and_runs_repeat(case, tmp_path):
    model, tok = case
    before = matrices(model)
    fields = dict(layers=[1], lr=0.01, steps=15)
    e = mt.edit(model, tok, FACTS, "ft", **fields)
    after = matrices(model)
    e.undo()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    e.save(tmp_path / "e")
    with mt.Edit.load(tmp_path / "e").apply(model):
        assert all(torch.equal(v, after[k]) for k, v in model.state_dict().items())
    with mt.edit(model, tok, FACTS, "ft", **fields):
        assert all(torch.equal(v, after[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_an_interruption_leaves_everything_as_it_was(case, monkeypatch):
    model, tok = case
    real, calls = finetune.right, []

    def stop(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(finetune, "right", stop)
    with Untouched(model), pytest.raises(KeyboardInterrupt):
        mt.edit(model, tok, FACTS, "ft", layers=[1], lr=1e-4)
    assert len(calls) == 3 and mt.edits_of(model) == []


def test_modes_and_gradients_are_the_callers_own(case):
    model, tok = case
    with Untouched(model):
        with mt.edit(model, tok, FACTS, "ft", layers=[1], steps=2):
            pass


def test_half_precision_is_trained_in_float32(case):
    model, tok = copy.deepcopy(case[0]).bfloat16(), case[1]
    before = matrices(model)
    with mt.edit(model, tok, FACTS, "ft", layers=[1], lr=0.01, steps=8) as e:
        assert e.delta(1).abs().max() > 0
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_bad_settings_are_refused(case):
    model, tok = case
    with pytest.raises(HyperError, match="one layer"):
        mt.edit(model, tok, FACTS, "ft", layers=[0, 1])
    with pytest.raises(HyperError, match="eps"):
        mt.edit(model, tok, FACTS, "ft", layers=[0], eps=0.0)
