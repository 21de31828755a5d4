"""Causal tracing against explicit hooks on one sequence at a time, and against what must hold."""

import numpy as np
import pytest
import torch

from medit_teach.errors import FactError, HyperError
from medit_teach.fact import Fact
from medit_teach.metrics import top_tokens
from medit_teach.study.locate import (
    PLACES,
    by_place,
    subject_noise,
    subject_tokens,
    trace,
    trace_many,
)

from .helpers import Untouched, tiny_model, tiny_tokenizer

FACT = Fact("It is said that {} was born in", "Anna Marlow", "Rome", "Paris")


@pytest.fixture(scope="module")
def tok():
    return tiny_tokenizer()


@pytest.fixture(scope="module", params=["gpt2", "gptj"])
def model(request, tok):
    return tiny_model(request.param, tok)


def by_letters(tok, ids, start, end):
    """First token, and the one after the last, of the letters start..end-1 of an ASCII text."""
    ends = np.cumsum([len(tok.decode([i])) for i in ids])
    return int((ends <= start).sum()), int((ends < end).sum()) + 1


def explicit(model, tok, fact, kind, token, layers, noise, samples, seed):
    """P(answer) with `token` restored at `layers`: hooks by hand, one sequence at a time.

    layers None: the clean run. The tiny models keep everything under transformer.h.
    """
    text, b = fact.text, fact.text.index(fact.subject)
    ids = tok(text)["input_ids"]
    (answer, *_) = tok(" " + fact.target_true)["input_ids"]
    first, last = by_letters(tok, ids, b, b + len(fact.subject))
    table = model.transformer.wte.weight.detach()
    sigma = table[ids[first:last]].std()
    blur = torch.randn(
        samples, last - first, table.shape[1], generator=torch.Generator().manual_seed(seed)
    )
    modules = [
        {"state": block, "mlp": block.mlp, "attention": block.attn}[kind]
        for block in model.transformer.h
    ]
    kept = {}

    def untuple(output):
        return output[0] if isinstance(output, tuple) else output

    def keep(layer):
        def hook(module, args, output):
            kept[layer] = untuple(output).detach().clone()

        return hook

    def put_back(layer):
        def hook(module, args, output):
            untuple(output)[0, token] = kept[layer][0, token]

        return hook

    def run(handles):
        try:
            with torch.no_grad():
                return float(model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)[answer])
        finally:
            for handle in handles:
                handle.remove()

    clean = run([m.register_forward_hook(keep(i)) for i, m in enumerate(modules)])
    if layers is None:
        return clean
    values = []
    for s in range(samples):

        def corrupt(module, args, output, s=s):
            output = output.clone()
            output[0, first:last] += noise * sigma * blur[s]
            return output

        handles = [model.transformer.wte.register_forward_hook(corrupt)]
        handles += [modules[i].register_forward_hook(put_back(i)) for i in layers]
        values.append(run(handles))
    return float(np.mean(values))


@pytest.mark.parametrize(
    "kind, window, token, layer, near",
    [
        ("state", 1, 7, 1, [1]),
        ("state", 1, -1, 0, [0]),
        ("mlp", 1, -1, 2, [2]),
        ("attention", 1, -1, 1, [1]),
        ("mlp", 2, -1, 1, [0, 1]),
        ("mlp", 3, -1, 1, [0, 1, 2]),
        ("attention", 10, -1, 0, [0, 1, 2]),
        ("attention", 3, -1, 2, [1, 2]),
    ],
)
def test_one_cell_against_explicit_hooks(model, tok, kind, window, token, layer, near):
    with Untouched(model):
        found = trace(model, tok, FACT, kind, noise=2.0, samples=3, window=window, seed=4)
    for layers, value in (
        (None, found.clean),
        ([], found.corrupted),
        (near, found.effect[token, layer]),
    ):
        want = explicit(model, tok, FACT, kind, token, layers, 2.0, 3, 4)
        assert value == pytest.approx(want, rel=1e-4)
    cell = found.effect[token, layer]  # and these three are not all the same
    assert abs(found.corrupted / found.clean - 1) > 0.01 and abs(cell / found.corrupted - 1) > 0.002


def test_what_must_hold(model, tok):
    found = trace(model, tok, FACT, samples=4)
    ids = tok(FACT.text)["input_ids"]
    assert found.effect.shape == (len(ids), 3)
    assert found.tokens == tuple(tok.decode([i]) for i in ids)
    assert "".join(found.tokens[found.subject]).strip() == "Anna Marlow"
    assert found.answer == tok.decode(tok(" Paris")["input_ids"][:1])
    # the last token's state at the last layer is all that the head sees
    assert found.effect[-1, -1] == pytest.approx(found.clean, rel=1e-5)
    # no other token's is seen at all, and what comes before the subject was never disturbed
    np.testing.assert_allclose(found.effect[:-1, -1], found.corrupted, rtol=1e-5)
    before = found.effect[: found.subject.start]
    assert before.size and np.allclose(before, found.corrupted, rtol=1e-5)
    # elsewhere cells differ
    assert np.std(found.effect[found.subject.start :, 0]) > 0.01 * found.corrupted


@pytest.mark.parametrize("kind", ["state", "mlp", "attention"])
def test_without_noise_nothing_changes(model, tok, kind):
    found = trace(model, tok, FACT, kind, noise=0.0, samples=2, window=2)
    np.testing.assert_allclose(found.effect, found.clean, rtol=1e-5)
    assert found.corrupted == pytest.approx(found.clean, rel=1e-5)


def test_batches_seed_and_padding_side(model, tok):
    a = trace(model, tok, FACT, samples=3)
    for b in (
        trace(model, tok, FACT, samples=3, batch_size=1),
        trace(model, tok, FACT, samples=3, batch_size=7),
        trace(model, tiny_tokenizer("left"), FACT, samples=3),
        trace(model, tok, (FACT.prompt, FACT.subject, "Paris"), samples=3),
        trace(model, tok, Fact(FACT.prompt, FACT.subject, "Rome"), samples=3, answer=" Paris"),
    ):
        np.testing.assert_allclose(a.effect, b.effect, rtol=1e-4)
        assert a.answer == b.answer and a.subject == b.subject
    torch.manual_seed(3)
    assert np.array_equal(a.effect, trace(model, tok, FACT, samples=3).effect)  # no global seed
    assert not np.allclose(a.effect, trace(model, tok, FACT, samples=3, seed=1).effect, rtol=1e-3)


def test_answer_of_several_tokens(model, tok):
    ids = tok(" New York Times")["input_ids"]
    assert len(ids) > 1
    found = trace(model, tok, FACT, samples=1, answer="New York Times")
    with torch.no_grad():
        p = model(torch.tensor([tok(FACT.text)["input_ids"]])).logits[0, -1].softmax(-1)
    assert found.answer == tok.decode(ids[:1])
    assert found.clean == pytest.approx(float(p[ids[0]]), rel=1e-4)


def test_a_training_model_is_traced_without_dropout(model, tok):
    want = trace(model, tok, FACT, samples=2)
    model.train()  # the tiny models have dropout
    try:
        got = trace(model, tok, FACT, samples=2)
        assert all(m.training for m in model.modules())
    finally:
        model.eval()
    assert np.array_equal(want.effect, got.effect)


def test_subject_noise(model, tok):
    other = Fact("{} is in", "The Eiffel Tower", "Rome", "Paris")
    table = model.transformer.wte.weight.detach()
    ids = tok(FACT.text)["input_ids"]
    start = FACT.text.index("Anna")
    a, b = by_letters(tok, ids, start, start + len("Anna Marlow"))
    tower = tok("The Eiffel Tower")["input_ids"]
    want = np.std(table[ids[a:b] + tower].double().numpy(), ddof=1)
    assert subject_noise(model, tok, [FACT, other]) == pytest.approx(want, rel=1e-5)
    assert subject_noise(model, tok, FACT) != pytest.approx(want, rel=1e-3)
    shared = trace(model, tok, FACT, noise=1.5, samples=2, sigma=want)
    scaled = trace(model, tok, FACT, noise=1.5 * want, samples=2, sigma=1.0)
    np.testing.assert_allclose(shared.effect, scaled.effect, rtol=1e-5)


def test_subject_tokens(tok):
    for prompt, subject in [
        ('The "{}" show is', "New York"),
        ("({} is", "Otto"),
        ("{}s are", "Colosseum"),
        ("{} is in", "Zoë"),
        ("People say 日本{} is", "語"),
    ]:
        ids, where = subject_tokens(tok, Fact(prompt, subject, "a"))
        covered = tok.decode(ids[where])
        assert subject in covered and len(covered) <= len(subject) + 2, (prompt, covered)
        for cut in (slice(where.start + 1, where.stop), slice(where.start, where.stop - 1)):
            assert subject not in tok.decode(ids[cut])


@pytest.fixture(scope="module")
def knowing(tok):
    """A model that only says words, and facts of which it knows all but one."""
    model = tiny_model("gptj", tok, seed=2)
    words = [i for t, i in tok.get_vocab().items() if t[0] == "Ġ" and t[1:].isalpha()]
    words = [i for i in words if tok(tok.decode([i]))["input_ids"] == [i]]
    with torch.no_grad():
        model.lm_head.bias -= 100
        model.lm_head.bias[words] += 100
    subjects = ["Anna Marlow", "Otto", "The Eiffel Tower", "Q", "Danielle Darrieux"]
    prompts = ["{} was born in", "I say {} is in", "{} is", "The sky of {}", "The mother of {} is"]
    facts = [Fact(p, s, "a") for p, s in zip(prompts, subjects, strict=True)]
    said = [row[0][0].strip() for row in top_tokens(model, tok, [f.text for f in facts], k=1)]
    said[1] = "Rome" if said[1] != "Rome" else "Paris"  # not what it says
    facts = [Fact(f.prompt, f.subject, "a", s) for f, s in zip(facts, said, strict=True)]
    return model, [Fact("{} is", "Otto", "a"), *facts]


def test_trace_many(knowing, tok):
    model, facts = knowing
    with Untouched(model):
        found = trace_many(model, tok, facts, samples=2, noise=2.0)
    assert found["used"].tolist() == [1, 3, 4, 5]  # 0 has no target_true, 2 is wrong
    assert found["places"] == PLACES and found["effect"].shape == (6, 3)
    sigma = subject_noise(model, tok, facts)
    for row, clean, i in zip(found["per_fact"], found["clean"], found["used"], strict=True):
        one = trace(model, tok, facts[i], samples=2, noise=2.0, sigma=sigma)
        np.testing.assert_array_equal(row, by_place(one))
        assert clean == one.clean
    q = found["per_fact"][2]  # "The sky of Q": a subject of one token, at the end
    assert np.isnan(q[[0, 1, 3, 4]]).all() and np.array_equal(q[2], q[5])
    assert np.isfinite(found["effect"]).all()
    np.testing.assert_allclose(found["effect"], np.nanmean(found["per_fact"], 0))
    gain = found["per_fact"] - found["corrupted"].reshape(-1, 1, 1)
    np.testing.assert_allclose(found["indirect"], np.nanmean(gain, 0))


def test_places():
    class T:
        effect = np.arange(9.0)[:, None] * np.ones(2)
        tokens, subject = tuple("xabcdefgh"), slice(1, 5)

    np.testing.assert_array_equal(by_place(T)[:, 0], [1, 2.5, 4, 5, 6.5, 8])
    T.subject = slice(6, 8)  # the first token after the subject is the last one
    np.testing.assert_array_equal(by_place(T)[:, 0], [6, np.nan, 7, np.nan, np.nan, 8])


def test_bad_input(model, tok):
    with Untouched(model):
        with pytest.raises(HyperError, match="unknown kind 'mpl'"):
            trace(model, tok, FACT, "mpl")
        for bad in ({"samples": 0}, {"window": 0}, {"noise": -1.0}):
            with pytest.raises(HyperError, match="at least"):
                trace(model, tok, FACT, **bad)
        with pytest.raises(FactError, match="give the answer"):
            trace(model, tok, Fact("{} is in", "Otto", "Rome"))
        with pytest.raises(FactError, match="right about none of 1"):
            trace_many(model, tok, [Fact("{} is in", "Otto", "Rome", "Köln Vancouver")])
        with pytest.raises(FactError, match="right about none of 0"):
            trace_many(model, tok, [Fact("{} is in", "Otto", "Rome")])
