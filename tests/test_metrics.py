"""Every score against a plain loop: one text at a time, the whole head, no batching."""

import json
import math
import pickle

import numpy as np
import pytest
import torch

from medit_teach.errors import FactError, MeditError, ModelError
from medit_teach.fact import Fact
from medit_teach.metrics import (
    _resampled,
    bootstrap,
    fluency,
    generate,
    ngram_entropy,
    perplexity,
    score,
    target_logprobs,
    top_tokens,
)

from .helpers import TEXT, Untouched, tiny_model, tiny_tokenizer

TARGETS = ["Rome", "Paris", "New York Times", "the city of Vancouver", "Köln", "a"]
FACTS = [
    Fact(
        "{} was born in",
        subject,
        new,
        true,
        paraphrases=(f"The birthplace of {subject} is", f"It is said that {subject} comes from"),
        neighborhood=("Otto was born in", "The mother of Danielle Darrieux lives in", "Who is"),
        generation=(f"{subject} works", f"The brother of {subject} is"),
        case_id=i,
    )
    for i, (subject, new, true) in enumerate(
        [
            ("Anna Marlow", "Rome", "Paris"),
            ("Otto", "New York Times", "Italy"),
            ("Danielle Darrieux", "Köln", "the city of Vancouver"),
            ("The Colosseum", "German", "English"),
            ("Zoë", "French", "New York"),
        ]
    )
]


@pytest.fixture(scope="module")
def tok():
    return tiny_tokenizer()


@pytest.fixture(scope="module", params=["gpt2", "gptj"])
def model(request, tok):
    return tiny_model(request.param, tok)


def slow(model, tok, prompt, target):
    """log P of each target token, and whether all are the likeliest: one full forward pass."""
    before = tok(prompt)["input_ids"]
    ids = tok(prompt + " " + target)["input_ids"]
    assert ids[: len(before)] == before
    with torch.no_grad():
        p = model(torch.tensor([ids])).logits[0].double().softmax(-1)
    at = range(len(before), len(ids))
    log_p = torch.stack([p[i - 1, ids[i]].log() for i in at])
    return log_p, all(int(p[i - 1].argmax()) == ids[i] for i in at)


def greedy(model, tok, prompt, n=1):
    """The text that the model goes on with; only used where it decodes cleanly."""
    ids = torch.tensor([tok(prompt)["input_ids"]])
    with torch.no_grad():
        for _ in range(n):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    return ids[0].tolist()


# ------------------------------------------------------------------ log-probabilities


def questions():
    prompts = [f.text for f in FACTS] + ["The sky is", "Anna", TEXT[0]]
    return zip(*[(p, t) for p in prompts for t in TARGETS], strict=True)


def test_target_logprobs_one_by_one(model, tok):
    prompts, targets = questions()
    with Untouched(model):
        log_p, said = target_logprobs(model, tok, prompts, targets)
    lengths = set()
    for p, s, prompt, target in zip(log_p, said, prompts, targets, strict=True):
        want, all_said = slow(model, tok, prompt, target)
        torch.testing.assert_close(p.double(), want, rtol=0, atol=2e-5)
        assert s is all_said
        lengths.add(len(want))
    assert {1, 2} < lengths  # targets of one token and of many


def test_said_is_true_only_when_all_tokens_are_likeliest(tok):
    model = tiny_model("gptj", tok)
    rome, york = (tok(" " + t)["input_ids"] for t in ("Rome", "New York Times"))
    assert len(rome) == 1 and len(york) > 1
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias.zero_()
        model.lm_head.bias[rome[0]] = 1.0
        model.lm_head.bias[york[0]] = 2.0  # the first token of "New York Times" is the likeliest
    assert (
        target_logprobs(model, tok, ["A is in"] * 2, ["Rome", "New York Times"])[1] == [False] * 2
    )
    with torch.no_grad():
        model.lm_head.bias[rome[0]] = 3.0
    assert target_logprobs(model, tok, ["A is in"] * 2, ["Rome", "New York Times"])[1] == [
        True,
        False,
    ]


def test_batch_size_and_padding_side_do_not_matter(model, tok):
    prompts, targets = questions()
    together, said = target_logprobs(model, tok, prompts, targets, batch_size=64)
    for other, size in ((tok, 1), (tok, 5), (tiny_tokenizer("left"), 7)):
        again, said_again = target_logprobs(model, other, prompts, targets, batch_size=size)
        for a, b in zip(together, again, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
        assert said == said_again


def test_a_training_model_is_measured_without_dropout(model, tok):
    def everything():
        return (score(model, tok, FACTS).values, perplexity(model, tok, TEXT),
                top_tokens(model, tok, TEXT), generate(model, tok, TEXT[:1], 3))  # fmt: skip

    want = everything()
    model.train()
    try:
        assert everything() == want
        assert all(m.training for m in model.modules())
    finally:
        model.eval()


def test_spaces_around_prompt_and_target_do_not_count(model, tok):
    a = target_logprobs(model, tok, ["The sky is ", "The sky is"], ["Rome", " Rome "])[0]
    assert torch.equal(a[0], a[1])


def test_bad_prompts(model, tok):
    with pytest.raises(FactError, match="no token that could predict"):
        target_logprobs(model, tok, [""], ["Rome"])
    with pytest.raises(FactError, match="the model takes 1 to 64"):
        target_logprobs(model, tok, [TEXT[0] * 9], ["Rome"])
    with pytest.raises(FactError, match="0 tokens"):
        top_tokens(model, tok, [" "])
    with pytest.raises(FactError, match="no facts"):
        score(model, tok, [])


def test_broken_weights_are_not_scored(tok):
    model = tiny_model("gpt2", tok)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        score(model, tok, FACTS)


def test_top_tokens(model, tok):
    prompts = ["The sky is", "Anna", TEXT[1]]
    with Untouched(model):
        found = top_tokens(model, tiny_tokenizer("left"), prompts, k=3)
    for row, prompt in zip(found, prompts, strict=True):
        with torch.no_grad():
            p = model(torch.tensor([tok(prompt)["input_ids"]])).logits[0, -1].softmax(-1)
        best = sorted(range(len(p)), key=lambda i: -p[i])[:3]
        assert [word for word, _ in row] == [tok.decode([i]) for i in best]
        assert [value for _, value in row] == pytest.approx([float(p[i]) for i in best], abs=1e-6)


# ------------------------------------------------------------------ scores


def naive_scores(model, tok, facts):
    """The evaluation code of the papers as a plain loop; percent, by name."""
    rows = []
    for f in facts:
        row = {}
        for letter, prompts in (("E", [f.text]), ("P", f.paraphrases), ("N", f.neighborhood)):
            success, margin, says = [], [], []
            for prompt in prompts:
                new, says_new = slow(model, tok, prompt, f.target_new)
                true, says_true = slow(model, tok, prompt, f.target_true)
                new, true = math.exp(new.mean()), math.exp(true.mean())
                if letter == "N":
                    new, true, says_new = true, new, says_true
                success.append(new > true)
                margin.append(new - true)
                says.append(says_new)
            row |= {f"{letter}S": success, f"{letter}M": margin, f"{letter}A": says}
        rows.append(row)
    out = {k: 100 * np.mean([np.mean(row[k]) for row in rows]) for k in rows[0]}
    parts = [out["ES"], out["PS"], out["NS"]]
    out["S"] = 0.0 if 0 in parts else 3 / sum(1 / x for x in parts)
    return out


@pytest.fixture(scope="module")
def telling(model, tok):
    """FACTS with some targets made true of the model, so that no accuracy is 0 or 100."""
    facts = []
    for i, f in enumerate(FACTS):
        fields = f.__dict__ | {}
        for prompt in (f.text, f.paraphrases[0], f.neighborhood[0]):
            word = tok.decode(greedy(model, tok, prompt)[-1:])
            if word.startswith(" ") and word.strip() and i % 2:
                fields["target_true" if prompt == f.neighborhood[0] else "target_new"] = word
        facts.append(Fact(**fields))
    return facts


def test_scores_against_a_loop(model, tok, telling):
    with Untouched(model):
        scores = score(model, tok, telling)
    want = naive_scores(model, tok, telling)
    assert set(scores.values) == set(want)
    for name, value in want.items():
        assert getattr(scores, name) == pytest.approx(value, abs=1e-4), name
        _, low, high, n = scores.values[name]
        assert low <= value + 1e-4 and value <= high + 1e-4 and n == len(telling)
    assert len({round(v, 3) for v in want.values()}) > 5  # not all alike
    for name, x in scores.per_fact.items():
        assert x.shape == (len(telling),) and x.mean() == pytest.approx(want[name], abs=1e-4)


def test_scores_know_who_wins(tok):
    """A model that always says Rome: every score is known without computing it."""
    model = tiny_model("gptj", tok)
    (rome,), (paris,) = (tok(" " + t)["input_ids"] for t in ("Rome", "Paris"))
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias.fill_(-30.0)
        model.lm_head.bias[rome], model.lm_head.bias[paris] = math.log(0.75), math.log(0.25)
    fact = Fact(
        "{} lives in", "Otto", "Rome", "Paris", ("Otto is in",), ("Anna is in", "Who is in")
    )
    s = score(model, tok, fact)
    assert (s.ES, s.PS, s.NS, s.S) == (100, 100, 0, 0)
    assert (s.EM, s.PM, s.NM) == pytest.approx((50, 50, -50), abs=1e-3)
    assert (s.EA, s.PA, s.NA) == (100, 100, 0)


def test_probability_is_the_mean_over_target_tokens(tok):
    """Uniform model: the mean gives 1/V for every target, however long; a sum would not."""
    model = tiny_model("gptj", tok)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias.zero_()
        model.lm_head.bias[tok(" Rome")["input_ids"][0]] = -1e-3  # the one-token target loses
    s = score(model, tok, Fact("{} is in", "Otto", "the city of Vancouver", "Rome"))
    assert s.ES == 100 and "mean log-probability" in s.protocol
    assert 0 < s.EM < 1e-3


def test_every_fact_counts_alike(model, tok):
    """A fact with many paraphrases weighs as much as one with few."""
    a, b = FACTS[0], FACTS[1]
    many = Fact(**a.__dict__ | {"paraphrases": a.paraphrases[:1] * 9})
    few = Fact(**b.__dict__ | {"paraphrases": b.paraphrases[:1]})
    s = score(model, tok, [many, few])
    alone = [score(model, tok, [f]).PM for f in (many, few)]
    assert s.PM == pytest.approx(sum(alone) / 2, abs=1e-8)
    assert abs(alone[0] - alone[1]) > 1e-4


def test_missing_parts_are_none_with_a_note(model, tok):
    bare = [Fact("{} is in", s, "Rome") for s in ("Otto", "Anna")]
    s = score(model, tok, bare)
    assert {k for k, v in s.values.items() if v[0] is not None} == {"EA"}
    assert s.values["ES"] == (None, None, None, 0)
    assert any("ES from 0 of 2 facts" in note for note in s.notes)
    no_neighbors = [Fact(**f.__dict__ | {"neighborhood": ()}) for f in FACTS]
    s = score(model, tok, no_neighbors)
    assert s.NS is None and s.S is None and s.PS is not None
    mixed = score(model, tok, [*FACTS, *bare])
    assert mixed.values["NS"][3] == len(FACTS) and mixed.values["EA"][3] == len(FACTS) + 2
    assert mixed.NS == pytest.approx(score(model, tok, FACTS).NS)
    assert np.isnan(mixed.per_fact["NS"][-2:]).all() and "ES from 5 of 7" in str(mixed)
    json.dumps(mixed.to_dict(), allow_nan=False)


def test_scores_as_text_and_dict(model, tok):
    a, b = score(model, tok, FACTS), score(model, tok, FACTS, batch_size=3)
    assert str(a) == str(b)
    for name in ("S", "ES", "PS", "NS", "EM", "PM", "NM", "EA", "PA", "NA"):
        assert f"\n{name} " in "\n" + str(a)
    assert f"{a.ES:.1f}" in str(a) and "teacher-" in str(a)
    assert json.loads(json.dumps(a.to_dict()))["values"]["ES"]["value"] == a.ES
    assert pickle.loads(pickle.dumps(a)).ES == a.ES
    with pytest.raises(AttributeError, match="no score 'XS'"):
        _ = a.XS


# ------------------------------------------------------------------ bootstrap


def test_bootstrap_covers():
    rng = np.random.default_rng(1)
    inside = 0
    for trial in range(200):
        mean, low, high = bootstrap(rng.normal(3.0, 2.0, size=50), n=300, seed=trial)
        assert low < mean < high
        inside += low <= 3.0 <= high
    assert 0.88 * 200 <= inside <= 0.99 * 200


def test_bootstrap_against_explicit_draws():
    values = np.random.default_rng(2).exponential(size=40)
    mean, low, high = bootstrap(values, n=20000, level=0.9)
    draws = np.random.default_rng(3).choice(values, (20000, 40)).mean(1)
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(tuple(np.quantile(draws, [0.05, 0.95])), abs=0.01)
    assert bootstrap(values, seed=5) == bootstrap(values, seed=5) != bootstrap(values, seed=6)
    assert bootstrap([4.0] * 3) == (4.0, 4.0, 4.0) == bootstrap([4.0, float("nan")])
    with pytest.raises(MeditError, match="at least one"):
        bootstrap([float("nan")])


def test_missing_entries_do_not_pull_the_interval():
    values = np.array([[4.0, 1.0], [4.0, np.nan], [np.nan, 1.0], [4.0, np.nan]])
    draws = _resampled(values, 500, seed=0)
    assert draws.shape == (500, 2)
    assert (draws[~np.isnan(draws[:, 0]), 0] == 4).all()
    nothing = np.isnan(draws[:, 1])  # a draw of the two NaN rows alone: 1 in 16
    assert 10 < nothing.sum() < 60 and (draws[~nothing, 1] == 1).all()


def test_the_interval_of_S_resamples_whole_facts(model, tok):
    """S of explicit draws of facts, all parts drawn together."""
    s = score(model, tok, FACTS, resamples=20000)
    parts = np.stack([s.per_fact[k] for k in ("ES", "PS", "NS")])
    drawn = parts[:, np.random.default_rng(0).integers(5, size=(20000, 5))].mean(-1)
    with np.errstate(divide="ignore"):
        want = np.quantile(3 / (1 / drawn).sum(0), [0.025, 0.975])
    assert s.values["S"][1:3] == pytest.approx(tuple(want), abs=3)


# ------------------------------------------------------------------ perplexity, fluency


def test_perplexity_is_exp_of_the_loss(model, tok):
    ids = [torch.tensor([tok(t)["input_ids"]]) for t in TEXT]
    with torch.no_grad():
        losses = [float(model(x, labels=x).loss) for x in ids]
    with Untouched(model):
        one = perplexity(model, tok, TEXT[0])
    assert one == pytest.approx(math.exp(losses[0]), rel=1e-5)
    counts = [x.shape[1] - 1 for x in ids]
    assert len(set(counts)) > 1
    want = math.exp(np.dot(losses, counts) / sum(counts))  # over tokens, not over texts
    assert perplexity(model, tok, TEXT, batch_size=3) == pytest.approx(want, rel=1e-5)


def test_perplexity_of_long_and_of_empty_texts(model, tok):
    ids = tok(" ".join(TEXT))["input_ids"]
    pieces = [torch.tensor([ids[i : i + 64]]) for i in range(0, len(ids), 64)]
    with torch.no_grad():
        losses = [float(model(x, labels=x).loss) * (x.shape[1] - 1) for x in pieces]
    want = math.exp(sum(losses) / sum(x.shape[1] - 1 for x in pieces))
    assert len(pieces) > 1 and perplexity(model, tok, " ".join(TEXT)) == pytest.approx(
        want, rel=1e-5
    )
    with pytest.raises(MeditError, match="two tokens"):
        perplexity(model, tok, ["", "a"])


def test_ngram_entropy_by_hand():
    # a b a b a: bigrams ab 2, ba 2 -> 1 bit; trigrams aba 2, bab 1 -> log2(3) - 2/3 bits
    want = (2 / 3 * 1 + 4 / 3 * (math.log2(3) - 2 / 3)) / 2
    assert ngram_entropy("a b a b a") == pytest.approx(want, abs=1e-12)
    assert ngram_entropy([7, 9, 7, 9, 7]) == pytest.approx(want, abs=1e-12)
    assert ngram_entropy("no no no no no no") == 0
    assert ngram_entropy("") == ngram_entropy("one") == 0
    # 8 different words: 7 bigrams, 6 trigrams, all once; the comma is one of them
    want = math.log2(7) / 3 + 2 * math.log2(6) / 3
    assert ngram_entropy("one two three four, five six seven") == pytest.approx(want, abs=1e-12)


def test_generate_is_greedy_by_default(model, tok):
    prompts = ["The sky is", "Anna Marlow was born in", "Otto"]
    with Untouched(model):
        texts = generate(model, tok, prompts, n_tokens=12)
    for text, prompt in zip(texts, prompts, strict=True):
        assert text == tok.decode(greedy(model, tok, prompt, 12))
    full = generate(model, tok, ["Otto"], n_tokens=1000)[0]
    assert full == tok.decode(greedy(model, tok, "Otto", 64 - len(tok("Otto")["input_ids"])))


def test_sampling_has_its_own_seed(model, tok):
    torch.manual_seed(11)
    want = torch.rand(3)
    torch.manual_seed(11)
    a, b = (generate(model, tok, ["Otto"], 20, top_k=5, seed=s) for s in (0, 1))
    assert torch.equal(torch.rand(3), want)  # the caller's random numbers are not used up
    assert a != b and a == generate(model, tok, ["Otto"], 20, top_k=5, seed=0)


def test_fluency(model, tok):
    with Untouched(model):
        value = fluency(model, tok, [*FACTS[:2], Fact("{} is", "Anna", "Rome")], n_tokens=15)
    means = []
    for f in FACTS[:2]:
        texts = [tok.decode(greedy(model, tok, p, 15)) for p in f.generation]
        means.append(np.mean([ngram_entropy(t) for t in texts]))
    assert value == pytest.approx(np.mean(means)) and value > 1
    with pytest.raises(FactError, match="generation"):
        fluency(model, tok, Fact("{} is", "Anna", "Rome"))
