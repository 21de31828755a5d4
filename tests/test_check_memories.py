"""The checks of the exercises on the cells of a layer: published solutions pass, wrong ones do
not. And what the chapter takes from `locate`, against plain loops."""

from __future__ import annotations

import json

import pytest
import torch

from medit_teach.book import check
from medit_teach.errors import FactError, ModelError
from medit_teach.models import View
from medit_teach.study import locate
from tests.conftest import ROOT

from .helpers import solution_blocks, tiny_model, tiny_tokenizer, verdict

CHECKS = {
    "vocabulary": check.memories_words,
    "rebuild": check.memories_rebuild,
    "tie": check.memories_tie,
    "agreement": check.memories_agreement,
}


@pytest.fixture(scope="module")
def right():
    found = {"torch": torch}
    for block in solution_blocks("02-memories")[:4]:
        exec(block, found)
    return found


@pytest.mark.parametrize("name", CHECKS)
def test_the_published_solution_passes(name, right, capsys):
    ok, text = verdict(capsys, CHECKS[name], right[name])
    assert ok is True, text


@pytest.mark.parametrize("name", CHECKS)
def test_no_answer_is_not_a_wrong_answer(name, capsys):
    for nothing in (None, ..., lambda *args: ...):
        assert verdict(capsys, CHECKS[name], nothing) == (None, "no answer yet")


def test_words_says_which_of_the_four_is_wrong(right, capsys):
    def with_part(part, make):
        def function(W_in, b_in, W, b, f, x, i):
            parts = list(right["vocabulary"](W_in, b_in, W, b, f, x, i))
            parts[part] = make(W_in, b_in, W, b, f, x, i)
            return parts

        return function

    wrong = {
        "Geva's key has 5 numbers": with_part(0, lambda *a: a[2][:, 0].repeat(2)[:9]),
        "does not look at the input": with_part(0, lambda *a: a[0][0]),
        "has the wrong length": with_part(0, lambda *a: 2 * a[0][a[6]]),
        "does not move along it": with_part(1, lambda *a: a[2][:, 0]),
        "the layer's key: W times it": with_part(2, lambda *a: a[0] @ a[5] + a[1]),
        "something constant is missing": with_part(3, lambda *a: a[2] @ a[4](a[0] @ a[5] + a[1])),
        "the layer's value is what": with_part(3, lambda *a: a[3]),
        "is a vector, yours is a float": with_part(3, lambda *a: 1.0),
    }
    for message, answer in wrong.items():
        ok, text = verdict(capsys, check.memories_words, answer)
        assert ok is False and message in text, (message, text)
    ok, text = verdict(capsys, check.memories_words, lambda *a: (1, 2))
    assert ok is False and "four vectors" in text
    assert verdict(capsys, check.memories_words, lambda *a: (..., ..., ..., ...))[0] is None


def test_rebuild_says_what_is_wrong(right, capsys):
    def by_coefficient(k, W, b, n):
        return (W * k)[:, k.abs().argsort(descending=True)[:n]].sum(1) + b

    wrong = {
        "rank them as vectors": by_coefficient,
        "puts out more than that": lambda k, W, b, n: right["rebuild"](k, W, b, n) - b,
        "with no cell": lambda k, W, b, n: right["rebuild"](k, W, b, max(1, n)),
        "do not get the layer's output": lambda k, W, b, n: b,
    }
    for message, answer in wrong.items():
        ok, text = verdict(capsys, check.memories_rebuild, answer)
        assert ok is False and message in text, (message, text)


def test_tie_and_agreement_say_what_is_wrong(right, capsys):
    def no_constants(h, w, A_t, A_u, c_t, c_u, s):
        return right["tie"](h, w, A_t, A_u, 0.0, 0.0, s)

    assert "the constants" in verdict(capsys, check.memories_tie, no_constants)[1]
    assert "still differ" in verdict(capsys, check.memories_tie, lambda *a: 1.0)[1]
    top = lambda scores, after, n: right["agreement"](scores, after, 1)  # noqa: E731
    assert "for n = 2" in verdict(capsys, check.memories_agreement, top)[1]
    count = lambda scores, after, n: 8 * right["agreement"](scores, after, n)  # noqa: E731
    assert "a number of cells" in verdict(capsys, check.memories_agreement, count)[1]


def test_silence_runs_the_model(capsys):
    tok = tiny_tokenizer()
    model = tiny_model("gptj", tok)
    from medit_teach.fact import Fact
    from medit_teach.metrics import top_tokens

    prompt = "It is said that {} was born in"
    says = top_tokens(model, tok, [prompt.format("Anna Marlow")], 1)[0][0][0]
    fact = Fact(prompt, "Anna Marlow", "Rome", says.strip() or "Paris")
    arguments = model, tok, fact
    run = lambda cells: verdict(capsys, check.memories_silence, cells, *arguments)  # noqa: E731
    assert run(None) == (None, "no answer yet") and run([]) == (None, "no answer yet")
    assert "at most" in run([(0, i) for i in range(100)])[1]
    assert "there is no cell" in run([(99, 0)])[1]
    assert "pairs" in run([1, 2])[1]
    assert run([(0, 0)])[0] in (True, False)


# ------------------------------------------------------------------ locate: cells


@pytest.fixture(scope="module", params=["gpt2", "gptj"])
def model(request):
    return tiny_model(request.param, tiny_tokenizer())


TEXTS = ["Anna Marlow was born in Paris", "The river is long and Anna is not", "Anna Marlow"]


def test_triggers_against_a_loop(model):
    tok, view = tiny_tokenizer(), View(model)
    found = locate.triggers(model, tok, TEXTS, [1], tokens=1000, n=4, batch_size=2)
    rows, known = [], set()
    for text in TEXTS:
        ids = tok(text)["input_ids"]
        kept = {}
        handle = view.down(1).register_forward_pre_hook(
            lambda m, a, kept=kept: kept.update(k=a[0][0])
        )
        with torch.no_grad():
            model(torch.tensor([ids]))
        handle.remove()
        for t in range(len(ids) - 1):
            if tuple(ids[: t + 1]) not in known:
                known.add(tuple(ids[: t + 1]))
                rows.append((kept["k"][t], tok.decode(ids[: t + 1]), ids[t + 1]))
    assert len(found.before) == len(rows)
    K = torch.stack([k for k, _, _ in rows])
    for cell in (0, 3, K.shape[1] - 1):
        order = K[:, cell].argsort(descending=True)[:4].tolist()
        for (k, before, after), i in zip(found.of(1, cell), order, strict=True):
            assert k == pytest.approx(float(K[i, cell]), abs=1e-5)
            assert (before, after) == rows[i][1:]


def test_triggers_read_no_more_than_asked(model):
    tok = tiny_tokenizer()
    assert len(locate.triggers(model, tok, TEXTS, [0], tokens=3).before) == 3
    with pytest.raises(FactError, match="two tokens"):
        locate.triggers(model, tok, [], [0])


def test_unembedding_is_the_way_out(model):
    view = View(model)
    A, c = locate.unembedding(model)
    h = 3 * torch.randn(4, A.shape[1], generator=torch.Generator().manual_seed(0)) + 1
    with torch.no_grad():
        expected = view.logits(h)
    torch.testing.assert_close(h @ A.T / locate.spread(model, h)[:, None] + c, expected)
    best = locate.promoted(model, 1, 3, A, cells=5)
    scores = A @ view.weight(1).detach()
    assert torch.equal(best, scores.argsort(dim=0, descending=True)[:3])
    assert torch.equal(best, locate.promoted(model, 1, 3))


def test_unembedding_wants_a_layer_norm(model, monkeypatch):
    monkeypatch.setattr(model.transformer, "ln_f", torch.nn.Identity())
    with pytest.raises(ModelError, match="neither LayerNorm nor RMSNorm"):
        locate.unembedding(model)


def test_the_published_way_to_silence_the_answer(capsys):
    """The last solution, in the namespace of the chapter up to its exercises."""
    path = ROOT / "book" / "02-memories.ipynb"
    if not path.exists():
        pytest.skip("the chapter is not there")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    wanted = ("import torch", "model, tok = mt.load()", "parts = {", "A, c = locate")
    namespace = {}
    for text in code:
        if text.startswith(wanted):
            exec(text, namespace)
    exec(solution_blocks("02-memories")[4], namespace)
    names = ("cells", "model", "tok", "fact")
    ok, text = verdict(capsys, check.memories_silence, *(namespace[n] for n in names))
    assert ok is True, text
