"""The baselines against independent oracles: autograd, loops by hand, cosines by hand; and undo."""

import json
import math
import re
from random import Random

import pytest
import torch

import medit_teach as mt
from medit_teach import metrics, models
from medit_teach.errors import HyperError, MeditError, ModelError
from medit_teach.hooks import watch
from medit_teach.methods import grace, in_context, mend, train_mend

from .helpers import Untouched, tiny_model, tiny_tokenizer

FACTS = [
    mt.Fact("The king of {} is", "Rome", "old", "new", ["It is said: Rome is"], ["Oslo"]),
    mt.Fact("The town of {} is", "Oslo", "far away", "near", ["Oslo lies"], ["The town Bonn is"]),
    mt.Fact("{} lies by the river of", "Bonn", "Paris", "Rome", ["Bonn has"], ["Rome lies by"]),
]
OTHERS = [
    mt.Fact("{} plays the", "Anna", "violin", "drum", ["On stage Anna has the"], ["Otto plays"]),
    mt.Fact("{} speaks", "Danielle", "German", "French", ["Danielle talks in"], ["Otto speaks"]),
    mt.Fact("The mother tongue of {} is", "Otto", "Welsh", "Greek", ["Otto writes"], ["Anna has"]),
]


@pytest.fixture(scope="module", params=["gpt2", "gptj"])
def case(request):
    tok = tiny_tokenizer()
    return tiny_model(request.param, tok, layers=3, d=16), tok


def matrices(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def nll_by_hand(model, tok, text, target):
    ids = tok(f"{text} {target}")["input_ids"]
    start = len(tok(text)["input_ids"])
    log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return -sum(log_p[i - 1, ids[i]] for i in range(start, len(ids))) / (len(ids) - start)


# ------------------------------------------------------------------ all of them


@pytest.mark.parametrize("name", ["FT", "FT-L", "FT-W", "prompt", "ike", "grace", "mend"])
def test_after_undo_weights_answers_and_hooks_are_those_of_before(case, editor, name):
    """Every method changes what is said, and its undo gives all of it back to the bit."""
    model, tok = case
    method, fields = {
        "FT": ("ft", dict(layers=[1], steps=5, lr=0.01)),
        "FT-L": ("ft", dict(layers=[1], steps=5, lr=0.01, eps=0.005)),
        "FT-W": ("ft", dict(layers=[1], steps=5, lr=0.01, weight_decay=0.1)),
        "ike": ("ike", dict(examples=OTHERS, shots=1)),
        "grace": ("grace", dict(layers=[1], steps=10)),
        "mend": ("mend", dict(editor=str(editor))),
    }.get(name, (name, {}))
    texts, new = [f.text for f in FACTS], [f.target_new for f in FACTS]

    def look():
        said = torch.cat(metrics.target_logprobs(model, tok, texts, new)[0])
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        return said, hooks, metrics.generate(model, tok, texts, n_tokens=6)

    said, hooks, written = look()
    before = matrices(model)
    with mt.edit(model, tok, FACTS, method, **fields):
        assert not torch.equal(look()[0], said)
        assert same(model, before) == (name in ("prompt", "ike", "grace"))
    now = look()
    assert torch.equal(now[0], said) and now[1:] == (hooks, written)
    assert same(model, before) and mt.edits_of(model) == []


# ------------------------------------------------------------------ fine-tuning with decay


@pytest.mark.parametrize("anchor", ["old", "zero"])
def test_ftw_steps_along_the_gradient_of_loss_plus_decay(case, anchor, monkeypatch):
    """At every step Adam gets d/dW (loss + w/2 ||W - A||^2), by autograd from the loss by hand."""
    model, tok = case
    view, w, seen = models.View(model), 0.3, []

    class Recording(torch.optim.Adam):
        def step(self):
            (W,) = self.param_groups[0]["params"]
            seen.append((W.detach().clone(), W.grad.clone()))
            super().step()

    monkeypatch.setattr(torch.optim, "Adam", Recording)
    W0 = view.parameter(1).detach().clone()
    fields = dict(layers=[1], steps=3, lr=0.02, contexts=("",), weight_decay=w, anchor=anchor)
    mt.edit(model, tok, FACTS, "ft", **fields).undo()
    assert len(seen) >= 2
    for W, found in seen:
        p = view.parameter(1)
        with torch.no_grad():
            p.copy_(W)
        loss = sum(nll_by_hand(model, tok, f.text, f.target_new) for f in FACTS) / len(FACTS)
        A = W0 if anchor == "old" else torch.zeros_like(W0)
        (expected,) = torch.autograd.grad(loss + w / 2 * ((p - A) ** 2).sum(), p)
        with torch.no_grad():
            p.copy_(W0)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_decay_towards_the_old_weights_keeps_the_change_small(case):
    model, tok = case
    norms = []
    for w in (0.0, 1.0, 30.0):
        fields = dict(layers=[1], lr=0.01, steps=15, weight_decay=w)
        with mt.edit(model, tok, FACTS, "ft", **fields) as e:
            norms.append(float(e.delta(1).norm()))
    assert norms[0] > norms[1] > norms[2]
    with pytest.raises(HyperError, match="anchor"):
        mt.edit(model, tok, FACTS, "ft", layers=[1], anchor="new")
    with pytest.raises(HyperError, match="weight_decay"):
        mt.edit(model, tok, FACTS, "ft", layers=[1], weight_decay=-1.0)


# ------------------------------------------------------------------ the fact in the prompt


def words(text):
    return re.findall(r"\b\w\w+\b", text.lower())


def cosine_by_hand(sentences, question):
    """Cosines of TF-IDF vectors, with dicts and loops."""
    n, docs = len(sentences), [words(s) for s in sentences]
    idf = {w: 1 + math.log((1 + n) / (1 + sum(w in d for d in docs))) for d in docs for w in d}

    def vector(text):
        v = {w: words(text).count(w) * idf[w] for w in words(text) if w in idf}
        size = math.sqrt(sum(x * x for x in v.values())) or 1.0
        return {w: x / size for w, x in v.items()}

    q = vector(question)
    return [sum(q.get(w, 0) * x for w, x in vector(s).items()) for s in sentences]


def test_retrieval_is_the_brute_force_cosine():
    facts = mt.facts("world", n=40, seed=3)
    memory = in_context.Memory(facts)
    for f in facts[:8]:
        for question in (f.text, *f.paraphrases):
            by_hand = cosine_by_hand(memory.sentences, question)
            assert memory.similarity([question])[0] == pytest.approx(by_hand, abs=1e-9)
            best = sorted(range(40), key=lambda i: (-round(by_hand[i], 9), i))
            wanted = [i for i in best[:3] if by_hand[i] > 0]
            assert memory.find(question, k=3) == wanted
            assert memory.find(question, 3, 0.5) == [i for i in wanted if by_hand[i] >= 0.5]


def test_prompt_edit_is_the_statement_in_front_of_every_question(case):
    model, tok = case
    before = matrices(model)
    memory = in_context.Memory(FACTS)
    by_hand = in_context.in_front(FACTS, lambda fact, q: memory.recall(q, 1, 0.2))
    expected = mt.score(model, tok, by_hand)
    plain = mt.score(model, tok, FACTS)
    top = metrics.top_tokens(model, tok, [f.text for f in by_hand], k=3)
    with Untouched(model), mt.edit(model, tok, FACTS, "prompt", at_least=0.2) as e:
        found = mt.score(model, tok, FACTS)
        assert found.to_dict() == expected.to_dict() != plain.to_dict()
        assert metrics.top_tokens(model, tok, [f.text for f in FACTS], k=3) == top
        assert e.asked("zzz qqq") == "zzz qqq"
        assert e.asked(FACTS[0].text) == "The king of Rome is old. The king of Rome is"
    assert same(model, before) and mt.edits_of(model) == []
    assert mt.score(model, tok, FACTS).to_dict() == plain.to_dict()


def test_the_search_sees_the_question_and_never_the_target(case, monkeypatch):
    model, tok = case
    asked = []
    real = in_context.PromptEdit.asked
    monkeypatch.setattr(
        in_context.PromptEdit, "asked", lambda self, q: asked.append(q) or real(self, q)
    )
    with mt.edit(model, tok, FACTS, "prompt"):
        mt.score(model, tok, FACTS)
    allowed = {q for f in FACTS for q in (f.text, *f.paraphrases, *f.neighborhood)}
    assert asked and set(asked) <= allowed


def test_generated_text_leaves_out_what_stood_in_front(case):
    model, tok = case
    prompt = FACTS[0].text
    front = in_context.statement(FACTS[0])
    (whole,) = metrics.generate(model, tok, [f"{front} {prompt}"], n_tokens=8)
    with mt.edit(model, tok, FACTS[:1], "prompt"):
        (found,) = metrics.generate(model, tok, [prompt], n_tokens=8)
    assert found.startswith(prompt) and len(found) > len(prompt)
    assert whole == f"{front} {found}"


def test_ike_prompt_contains_what_it_says():
    e = in_context.PromptEdit(
        "IKE", {"k": 1, "at_least": 0.0, "shots": 3, "examples": [vars(f) for f in OTHERS]}, FACTS
    )
    text = e.asked("Otto and Anna: what is the town of Oslo")
    assert text.endswith("The town of Oslo is far away. Otto and Anna: what is the town of Oslo")
    like = cosine_by_hand(
        [in_context.statement(f) for f in OTHERS], "The town of Oslo is far away."
    )
    order = [i for i in sorted(range(3), key=lambda i: -like[i]) if like[i] > 0]
    shown = [in_context.demonstration(OTHERS[i], in_context.KINDS[n]) for n, i in enumerate(order)]
    assert order and text.startswith(" ".join(reversed(shown)))
    assert in_context.demonstration(OTHERS[0], "copy") == (
        "Anna plays the violin. Anna plays the violin."
    )
    assert in_context.demonstration(OTHERS[0], "update") == (
        "Anna plays the violin. On stage Anna has the violin."
    )
    assert in_context.demonstration(OTHERS[0], "retain") == (
        "Anna plays the violin. Otto plays drum."
    )
    assert [in_context.KINDS.count(k) for k in ("copy", "update", "retain")] == [1, 3, 4]
    assert e.asked("zzz") == "zzz"


def test_prompt_edits_are_saved_loaded_and_stacked(case, tmp_path):
    model, tok = case
    with mt.edit(model, tok, FACTS, "ike", examples=OTHERS, shots=1) as e:
        expected = mt.score(model, tok, FACTS).to_dict()
        e.save(tmp_path / "e")
    again = mt.Edit.load(tmp_path / "e")
    assert type(again) is in_context.PromptEdit and again.facts == FACTS
    with again.apply(model):
        assert mt.score(model, tok, FACTS).to_dict() == expected
        with mt.edit(model, tok, OTHERS[:1], "ft", layers=[1], steps=2):
            assert len(mt.edits_of(model)) == 2
        with mt.edit(model, tok, OTHERS[:1], "prompt"):
            assert again.asked("Anna plays the") in [
                text.removeprefix("Anna plays the violin. ")
                for text in metrics._asked(model, ["Anna plays the"])
            ] or metrics._asked(model, ["Anna plays the"])[0].endswith("Anna plays the")
    assert mt.edits_of(model) == []


def test_bad_prompt_settings_are_refused(case):
    model, tok = case
    for fields, match in (
        (dict(method="ike"), "examples"),
        (dict(method="ike", examples=OTHERS, shots=0), "shots"),
        (dict(method="ike", examples=FACTS), "to be edited"),
        (dict(method="prompt", k=0), "k must"),
        (dict(method="prompt", at_least=1.5), "cosine"),
        (dict(method="prompt", layers=[1]), "no layer"),
        (dict(method="prompt", shots=1), "shots"),
    ):
        with Untouched(model), pytest.raises(HyperError, match=match):
            mt.edit(model, tok, FACTS, **fields)


# ------------------------------------------------------------------ GRACE


def test_codebook_adds_expands_and_splits():
    """Keys on a line, first radius 0.1 ||k||: by hand."""
    # 12.5 is 2.5 away from 10, further than the radius 1 and its own 1.25 together: an entry
    book = grace.Codebook.build(torch.tensor([[10.0], [20.0], [12.5]]), ["a", "b", "a"], 0.1)
    assert book.owners.tolist() == [0, 1, 2]
    assert book.radii.tolist() == pytest.approx([1.0, 2.0, 1.25])
    book = grace.Codebook.build(torch.tensor([[10.0], [11.5], [12.5]]), ["a", "a", "a"], 0.1)
    assert book.owners.tolist() == [0] and book.radii.tolist() == [2.5]  # 12.5 - 10
    book = grace.Codebook.build(torch.tensor([[10.0], [11.0]]), ["a", "b"], 0.1)
    assert book.owners.tolist() == [0, 1]
    assert book.radii.tolist() == pytest.approx([0.5, 0.5], abs=1e-4)
    assert book.radii[0] < 0.5
    with pytest.raises(MeditError, match="same key"):
        grace.Codebook.build(torch.tensor([[3.0], [3.0]]), ["a", "b"], 0.1)


def test_codebook_answers_within_its_radius_and_else_passes_bits_through():
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(5, 8, generator=generator), torch.randn(5, 4, generator=generator)
    book = grace.Codebook(keys, torch.linspace(0.5, 3.0, 5), torch.arange(5), values)
    k = torch.randn(3, 7, 8, generator=generator)
    k[0, 0], k[2, 3] = keys[1] + 0.01, keys[4]
    v = torch.randn(3, 7, 4, generator=generator)
    out, inside = book(k, v), 0
    for i in range(3):
        for j in range(7):
            d = [float((k[i, j] - key).pow(2).sum().sqrt()) for key in keys]
            n = d.index(min(d))
            if d[n] <= float(book.radii[n]):
                inside += 1
                assert torch.equal(out[i, j], values[n])
            else:
                assert torch.equal(out[i, j], v[i, j])
    assert 2 <= inside < 21


def logp_new(model, tok):
    texts, new = [f.text for f in FACTS], [f.target_new for f in FACTS]
    return [float(x.mean()) for x in metrics.target_logprobs(model, tok, texts, new)[0]]


@pytest.mark.parametrize("at", ["end", "subject"])
def test_grace_changes_only_what_lies_within_reach(case, at):
    """Every activation outside the radius keeps its bits; inside it is the value; undo is exact."""
    model, tok = case
    view, before = models.View(model), matrices(model)
    texts = [f"{f.text} {f.target_new}" for f in FACTS + OTHERS]
    rows = [tok(text, return_tensors="pt") for text in texts]

    def look():
        out = []
        for row in rows:
            with torch.no_grad(), watch({"down": view.down(1)}) as seen:
                logits = model(**row).logits
            out.append((seen["down"].input.clone(), seen["down"].output.clone(), logits))
        return out

    plain = look()
    plain_new = dict(zip([f.text for f in FACTS], logp_new(model, tok), strict=True))
    with Untouched(model):
        e = mt.edit(model, tok, FACTS, "grace", layers=[1], radius=0.05, at=at, lr=0.3, steps=60)
        try:
            inside = 0
            for (k, v, logits), (k_, v_, logits_) in zip(plain, look(), strict=True):
                assert torch.equal(k, k_)  # what comes before the codebook
                near, within = e.codebook.nearest(k)
                assert torch.equal(v_[~within], v[~within])
                assert torch.equal(v_[within], e.codebook.values[near[within]])
                if not within.any():
                    assert torch.equal(logits, logits_)
                inside += int(within.sum())
            assert inside >= len(FACTS)
            for f, new in zip(FACTS, logp_new(model, tok), strict=True):
                assert new > plain_new[f.text], f.text
        finally:
            e.undo()
        assert all(
            torch.equal(x, y)
            for a, b in zip(plain, look(), strict=True)
            for x, y in zip(a, b, strict=True)
        )
    assert same(model, before) and mt.edits_of(model) == []


def test_grace_is_saved_loaded_and_checked(case, tmp_path):
    model, tok = case
    fields = dict(layers=[1], radius=0.05, lr=0.3, steps=40)
    with mt.edit(model, tok, FACTS, "grace", **fields) as e:
        expected = mt.score(model, tok, FACTS).to_dict()
        assert "3 entries" in repr(e)
        e.save(tmp_path / "e")
        with pytest.raises(MeditError, match="applied already"):
            e.apply()
    again = mt.Edit.load(tmp_path / "e")
    with again.apply(model):
        assert mt.score(model, tok, FACTS).to_dict() == expected
    other = tiny_model("gpt2", tok, layers=3, d=32)
    with Untouched(other), pytest.raises(MeditError, match="layer of"):
        again.apply(other)
    assert mt.edit(model, tok, FACTS[:1], "grace", steps=1).undo().hyper["layers"] == (2,)
    for bad, match in (
        (dict(layers=[0, 1]), "one layer"),
        (dict(radius=0.0), "radius"),
        (dict(at="start"), "at must"),
    ):
        with Untouched(model), pytest.raises(HyperError, match=match):
            mt.edit(model, tok, FACTS, "grace", **{"layers": [1], **bad})
    with Untouched(model), pytest.raises(ModelError, match="out of range"):
        mt.edit(model, tok, FACTS, "grace", layers=[7])


# ------------------------------------------------------------------ MEND


@pytest.fixture
def editor(case, tmp_path):
    """The file of an editor that was never trained, but is not the identity either."""
    model, _ = case
    d_out, d_in = models.View(model).weight(0).shape
    e = mend.Editor((0, 2), d_in, d_out, rank=5, alpha=1e-2)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in [*e.named_parameters(), *e.named_buffers()]:
            if "log" not in name:
                p.add_(0.2 * torch.randn(p.shape, generator=generator))
    e.std.abs_()
    e.save(tmp_path / "editor.safetensors")
    return tmp_path / "editor.safetensors"


def test_the_rank_one_gradient_equals_autograds(case):
    """sum_t delta_t u_t^T of each fact is autograd's gradient of that fact's loss, by hand."""
    model, tok = case
    view = models.View(model)
    with Untouched(model):
        found, mask = mend.pairs(view, tok, FACTS, (0, 1, 2))
    assert not mask.all()  # facts of several lengths: there is padding
    for e, fact in enumerate(FACTS):
        weights = [view.parameter(layer) for layer in range(3)]
        loss = nll_by_hand(model, tok, fact.text, fact.target_new)
        expected = torch.autograd.grad(loss, weights)
        for layer in range(3):
            u, delta = (x[e] for x in found[layer])
            g = (delta.T @ u).T if view.architecture.transposed else delta.T @ u
            torch.testing.assert_close(g, expected[layer], rtol=1e-4, atol=1e-7)
            assert not delta[~mask[e]].any()


def test_the_editor_by_hand_and_its_start_as_identity():
    e = mend.Editor((1, 4), 3, 2, rank=2, alpha=0.5)
    u, delta = torch.randn(6, 3), torch.randn(6, 2)
    for layer in (1, 4):
        torch.testing.assert_close(e(layer, u, delta)[0], u)
        torch.testing.assert_close(e(layer, u, delta)[1], 0.5 * delta)
    with torch.no_grad():
        for p in e.parameters():
            p.add_(0.3 * torch.randn_like(p))
    e.mean.normal_(), e.std.uniform_(0.5, 2)
    found = e(4, u, delta)
    for t in range(6):
        z = (torch.cat([u[t], delta[t]]) - e.mean[1]) / e.std[1]
        h = z + torch.relu(e.s1[1] * (e.U1 @ (e.V1 @ z) + e.b1) + e.o1[1])
        g = h + e.s2[1] * (e.U2 @ (e.V2 @ h) + e.b2) + e.o2[1]
        torch.testing.assert_close(found[0][t], g[:3])
        torch.testing.assert_close(found[1][t], e.log_alpha[1].exp() * g[3:])


def test_a_mend_edit_is_its_formula_and_is_undone_to_the_bit(case, editor, tmp_path):
    model, tok = case
    view, before = models.View(model), matrices(model)
    g, _ = mend.Editor.load(editor)
    found, mask = mend.pairs(view, tok, FACTS, (0, 2))
    with Untouched(model), mt.edit(model, tok, FACTS, "mend", editor=str(editor)) as e:
        assert e.hyper["layers"] == (0, 2)
        for layer in (0, 2):
            expected = 0
            for u, delta in zip(*(x[mask] for x in found[layer]), strict=True):
                u, delta = g(layer, u, delta)
                expected = expected - torch.outer(delta, u)
            torch.testing.assert_close(e.delta(layer).float(), expected, rtol=1e-4, atol=1e-6)
        after = matrices(model)
        e.save(tmp_path / "e")
    assert same(model, before) and not same(model, after)
    with mt.Edit.load(tmp_path / "e").apply(model):
        assert same(model, after)
    assert same(model, before)


def test_single_edits_in_training_are_the_edits_that_are_made(case, editor):
    """step_loss, which edits side by side, against edits made one after another."""
    model, tok = case
    view, (g, _) = models.View(model), mend.Editor.load(editor)
    _, edit, local = train_mend.step_loss(view, tok, g, FACTS, OTHERS, Random(4), 0.1)
    rng, nlls, kls, tokens = Random(4), [], [], []
    for f in FACTS:
        said = [f.text, rng.choice(f.paraphrases)]
        other = rng.choice(OTHERS)
        kept = [(rng.choice(f.neighborhood), f.target_true), (other.text, other.target_true)]
        rows = [tok(f"{q} {a}", return_tensors="pt")["input_ids"][:, :-1] for q, a in kept]
        with torch.no_grad():
            before = [model(row).logits[0].log_softmax(-1) for row in rows]
        with mt.edit(model, tok, [f], "mend", editor=str(editor)), torch.no_grad():
            nlls += [float(nll_by_hand(model, tok, q, f.target_new)) for q in said]
            for row, p in zip(rows, before, strict=True):
                q = model(row).logits[0].log_softmax(-1)
                kls.append(float((p.exp() * (p - q)).sum()))
                tokens.append(len(p))
    assert edit == pytest.approx(sum(nlls) / len(nlls), rel=1e-4)
    assert local == pytest.approx(sum(kls) / sum(tokens), rel=1e-3, abs=1e-6)


def test_training_lowers_the_loss_and_goes_on_after_a_kill(case, tmp_path, monkeypatch):
    model, tok = case
    monkeypatch.setattr(train_mend, "training_facts", lambda model: FACTS + OTHERS)
    monkeypatch.setattr(train_mend, "Random", lambda key: _Draws(key))
    fields = dict(layers=[0, 2], steps=50, batch=3, rank=4, alpha=1e-3, show=lambda line: None)
    before = matrices(model)
    whole = train_mend.train(model, tok, tmp_path / "a.safetensors", **fields)
    assert same(model, before)

    def kill(line):
        if line.startswith("step 25"):  # after the step, before what it reached is stored
            return
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_mend.train(model, tok, tmp_path / "b.safetensors", **{**fields, "show": kill})
    assert (tmp_path / "b.progress").is_file() and not (tmp_path / "b.safetensors").exists()
    with pytest.raises(MeditError, match="other settings"):
        train_mend.train(model, tok, tmp_path / "b.safetensors", **{**fields, "batch": 2})
    lines = []
    train_mend.train(model, tok, tmp_path / "b.safetensors", **{**fields, "show": lines.append})
    assert lines[0] == "going on after step 25" and not (tmp_path / "b.progress").exists()
    again, about = mend.Editor.load(tmp_path / "b.safetensors")
    for name, p in whole.state_dict().items():
        assert torch.equal(p, again.state_dict()[name]), name
    assert json.loads(about["training"])["steps"] == 50
    view, start = models.View(model), mend.Editor([0, 2], again.d_in, again.d_out, 4, 1e-3)
    start.mean, start.std = again.mean, again.std
    first, last = (
        train_mend.step_loss(view, tok, e, FACTS + OTHERS, FACTS, Random(0), 0.1)[0].item()
        for e in (start, again)
    )
    assert last < first


class _Draws(Random):
    """Draws at most as many as there are."""

    def sample(self, facts, n):
        return super().sample(facts, min(n, len(facts)))


def test_without_a_fitting_editor_mend_says_how_to_get_one(case, editor, tmp_path):
    model, tok = case
    with Untouched(model):
        with pytest.raises(HyperError, match="train_mend"):
            mt.edit(model, tok, FACTS, "mend")
        with pytest.raises(MeditError, match="no trained MEND editor"):
            mt.edit(model, tok, FACTS, "mend", editor=str(tmp_path / "nothing"))
        with pytest.raises(HyperError, match=r"layers \[0, 2\]"):
            mt.edit(model, tok, FACTS, "mend", editor=str(editor), layers=[1])
    wide = tiny_model("gpt2", tok, layers=3, d=32)
    with Untouched(wide), pytest.raises(ModelError, match="matrices of"):
        mt.edit(wide, tok, FACTS, "mend", editor=str(editor))


def test_the_editor_that_ships_belongs_to_its_model_and_edits_facts_it_never_saw():
    model, tok = mt.load("tiny-gptj")
    _, about = mend.Editor.load(mend.shipped(model))
    assert about["weights"] == models.fingerprint(model)
    assert int(about["cpu_seconds"]) < 15 * 60
    assert mend.shipped(model).stat().st_size < 3_000_000
    held_out = mt.facts("world", n=train_mend.HELD_OUT, seed=0)
    trained_on = {f.subject for f in train_mend.training_facts(model)}
    assert trained_on.isdisjoint(f.subject for f in held_out)
    assert {f.subject for f in held_out} | trained_on == {f.subject for f in mt.facts("world")}
    before = matrices(model)
    assert min(train_mend.evaluate(model, tok, mend.shipped(model), held_out[:8]).tolist()) > 80
    assert same(model, before)
