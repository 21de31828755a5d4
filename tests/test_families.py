"""Every family of models that the library names, on random weights of the true architecture."""

import copy
import warnings

import pytest
import torch

import medit_teach as mt
from medit_teach import hyper, keys, models, statistics, values
from medit_teach.errors import ModelError
from medit_teach.fact import subject_last, with_target
from medit_teach.study import locate

from .helpers import TEXT, Untouched, pieces_tokenizer, tiny_model, tiny_tokenizer

FAMILIES = ["gpt_neox", "opt", "llama", "mistral", "qwen2"]  # test_edit.py has the other two
FACTS = [
    mt.Fact("The king of {} is", "Rome", "old", "new"),
    mt.Fact("It is said that {} lives in", "Anna Marlow", "Oslo", "Paris"),
]
QUICK = dict(steps=6, lr=0.5, clamp=4.0, contexts=("", "It is late. "))
TEXTS = [f"{a[i:]} {b[: 3 * i]}" for a in TEXT for b in TEXT for i in range(5, 25)]


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    """(model, tok, C0); Llama's and Mistral's tokenizers put a BOS in front of every text."""
    tok = tiny_tokenizer()
    if request.param in ("llama", "mistral"):
        from tokenizers import processors

        end = tok.eos_token
        tok._tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{end} $A", special_tokens=[(end, tok.eos_token_id)]
            ),
        ])  # fmt: skip
        assert tok("x")["input_ids"][0] == tok.eos_token_id
    model = tiny_model(request.param, tok, layers=3, d=16)
    return model, tok, mt.second_moment(model, tok, TEXTS, [0, 1, 2], tokens=4000)


def plain(model, tok, text, module):
    """Input and output of a module in a plain forward pass over one text, and the logits."""
    seen = []
    handle = module.register_forward_hook(lambda m, args, out: seen.append((args[0], out)))
    with torch.no_grad():
        logits = model(**tok(text, return_tensors="pt", return_token_type_ids=False)).logits
    handle.remove()
    (inward, outward), n = seen[0], logits.shape[1]
    return inward.reshape(n, -1), outward.reshape(n, -1), logits[0]


def position(tok, fact):
    return len(tok(fact.text[: fact.span[1]])["input_ids"]) - 1


def test_key_and_value_are_what_a_plain_forward_pass_shows(case):
    model, tok, _ = case
    view = models.View(model)
    for layer in range(view.n_layers):
        found = keys.at_subject(model, tok, FACTS, [("key", layer), ("value", layer)])
        for e, fact in enumerate(FACTS):
            key, value, _ = plain(model, tok, fact.text, view.down(layer))
            at = position(tok, fact)
            assert torch.allclose(found["key", layer][:, e], key[at].double(), atol=1e-5)
            assert torch.allclose(found["value", layer][:, e], value[at].double(), atol=1e-5)
            W, b = view.weight(layer).double(), view.bias(layer)
            out = W @ found["key", layer][:, e] + (0 if b is None else b.double())
            assert torch.allclose(out, found["value", layer][:, e], atol=1e-5)


def test_second_moment_against_one_text_at_a_time(case):
    model, tok, _ = case
    texts = ["Anna Marlow lives in Rome.", *TEXTS[:40]]
    found = statistics.second_moment(model, tok, texts, [1], tokens=10**6, batch_tokens=200)
    K = torch.cat([plain(model, tok, t, models.View(model).down(1))[0] for t in texts]).double()
    assert found.tokens == len(K)
    assert torch.allclose(found[1], K.T @ K / len(K), rtol=1e-4, atol=1e-6)


def test_an_edit_reaches_its_target_and_comes_off(case):
    model, tok, C0 = case
    view = models.View(model)
    with Untouched(model):
        with mt.edit(
            model, tok, FACTS, "emmet", layers=[1], statistics=C0, ridge=0.0, **QUICK
        ) as e:
            site, h = (e.hyper["site"], 1), e.hyper
            now = keys.at_subject(model, tok, FACTS, [site], h["contexts"], h["average"])[site]
            target = e.values[0].target
            assert float((now - target).norm() / target.norm()) < 1e-4
            scores = mt.score(model, tok, FACTS)
            assert 0 <= scores.ES <= 100
        with mt.edit(model, tok, FACTS, "memit", layers=[0, 1], statistics=C0, lam=0.1, **QUICK):
            assert len(mt.edits_of(model)) == 1
    assert view.n_layers == 3


def test_values_start_from_the_model_s_own_loss(case):
    """The first loss, from states and attention keys kept at the edited layer, is that of whole
    forward passes over each context."""
    model, tok, _ = case
    h = hyper.hyper("memit", model, layers=[1], **QUICK)
    found = values.optimise_values(model, tok, FACTS, 1, h)
    for e, fact in enumerate(FACTS):
        nll = []
        for context in h.contexts:
            text = context + fact.text
            ids = tok(f"{text} {fact.target_new}")["input_ids"]
            start = len(tok(text)["input_ids"])
            *_, logits = plain(model, tok, f"{text} {fact.target_new}", models.View(model).norm)
            log_p = logits.log_softmax(-1)[range(start - 1, len(ids) - 1), ids[start:]]
            nll.append(-float(log_p.mean()))
        assert abs(float(found.losses[e, 0, 0]) - sum(nll) / len(nll)) < 1e-4
        assert float(found.losses[e, 0, 1]) < 1e-6  # no change yet: no divergence
        assert found.losses[e, 3, 0] < found.losses[e, 0, 0]


def test_padding_side_and_kind_of_attention_do_not_matter(case):
    model, tok, _ = case
    other = copy.deepcopy(tok)
    other.padding_side = "left"
    both = [keys.keys(model, t, FACTS, 1, QUICK["contexts"]) for t in (tok, other)]
    assert torch.equal(*both)
    one_by_one = torch.cat([keys.keys(model, tok, f, 1, QUICK["contexts"]) for f in FACTS], 1)
    assert torch.allclose(both[0], one_by_one, atol=1e-5)


def test_what_contexts_begin_with_is_read_once_and_changes_nothing(case, monkeypatch):
    model, tok, _ = case
    wanted = [("key", 1), ("block", 0)]
    contexts = ("", "It was late and the rain fell. ")
    apart = keys.at_subject(model, tok, FACTS, wanted, contexts)
    monkeypatch.setattr(keys, "SHARED_BY", 2)
    shared, real = [], keys._shared
    monkeypatch.setattr(keys, "_shared", lambda *a: shared.append(real(*a)) or shared[-1])
    together = keys.at_subject(model, tok, FACTS, wanted, contexts)
    assert shared[1][0] >= 3 and len(shared[1][1]) == 2  # tokens; layers up to the one asked for
    for name in wanted:
        assert torch.allclose(apart[name], together[name], rtol=1e-4, atol=1e-5)


SPELLED = [  # subjects in bytes, at the front, of one character, with what follows glued to them
    mt.Fact("The king of {} is", "Rome", "old", "new"),
    mt.Fact("{} lives in", "Zo\u00eb \u00c7elik", "K\u00f6ln", "Paris"),
    mt.Fact("It is said that {}'s mother lives in", "\u6771\u4eac", "Rome", "\u00c9vry"),
    mt.Fact("{} is", "x", "New York Times", "sky"),
]


@pytest.mark.parametrize("form", ["normalizer", "metaspace"])
def test_tokenizers_of_sentencepiece_s_kind(form):
    """Positions and targets, against decoded pieces; then keys and an edit on a Llama."""
    tok = pieces_tokenizer(form)
    read = lambda ids: tok.decode(ids, skip_special_tokens=True)  # noqa: E731
    assert any("<0x" in word for word in tok.tokenize(SPELLED[1].text))
    for fact in SPELLED:
        for context in ("", "It was late. "):
            text = context + fact.text
            ids, at = subject_last(tok, fact, context)
            end = len(context) + fact.span[1]
            assert ids == tok(text)["input_ids"] and read(ids) == text
            assert read(ids[: at + 1]) == text[:end] and read(ids[:at]) != text[:end]
            for target in (fact.target_new, fact.target_true):
                ids, start = with_target(tok, text, target)
                assert ids[:start] == tok(text)["input_ids"] and read(ids) == f"{text} {target}"
                assert read(ids[start:]) == target
    model = tiny_model("llama", tok, layers=3, d=16)
    view = models.View(model)
    found = keys.at_subject(model, tok, SPELLED, [("key", 1)])["key", 1]
    for e, fact in enumerate(SPELLED):
        key, *_ = plain(model, tok, fact.text, view.down(1))
        at = subject_last(tok, fact)[1]
        assert torch.allclose(found[:, e], key[at].double(), atol=1e-5)
    C0 = mt.second_moment(model, tok, TEXTS, [1], tokens=2000)
    with Untouched(model):
        with mt.edit(
            model, tok, SPELLED, "emmet", layers=[1], statistics=C0, ridge=0.0, **QUICK
        ) as e:
            h, site = e.hyper, (e.hyper["site"], 1)
            now = keys.at_subject(model, tok, SPELLED, [site], h["contexts"], h["average"])[site]
            target = e.values[0].target
            assert float((now - target).norm() / target.norm()) < 1e-4
            assert set(mt.score(model, tok, SPELLED, resamples=1).per_fact["EA"]) <= {0.0, 100.0}
            texts = [fact.text for fact in SPELLED]
            for text, more in zip(texts, mt.metrics.generate(model, tok, texts, 3), strict=True):
                assert more.startswith(text)  # without the BOS


@pytest.mark.parametrize("kind", ["state", "mlp", "attention"])
def test_tracing_and_cells(case, kind):
    model, tok, _ = case
    found = locate.trace(model, tok, FACTS[1], kind, samples=2, noise=2.0)
    if kind == "state":  # the whole state of the last token in the last layer decides
        assert abs(found.effect[-1, -1] - found.clean) < 1e-5
    assert abs(found.corrupted - found.clean) > 1e-8
    cells = locate.triggers(model, tok, TEXT, [1], n=2)
    key, *_ = plain(model, tok, cells.of(1, 0)[0][1], models.View(model).down(1))
    assert abs(float(key[-1, 0]) - cells.of(1, 0)[0][0]) < 1e-4


def test_unembedding(case):
    model, _, _ = case
    view = models.View(model)
    A, c = locate.unembedding(model)
    h = 3 * torch.randn(4, A.shape[1], generator=torch.Generator().manual_seed(0)) + 1
    with torch.no_grad():
        expected = view.logits(h)
    torch.testing.assert_close(h @ A.T / locate.spread(model, h)[:, None] + c, expected)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_half_precision_weights(case, dtype, tolerance):
    """Solved in float64, stored in the model's type: the error of W is that of rounding it."""
    model, tok, _ = case
    model = copy.deepcopy(model).to(dtype)
    C0 = mt.second_moment(model, tok, TEXTS, [1], tokens=2000)
    view = models.View(model)
    before = view.weight(1).detach().clone()
    with mt.edit(model, tok, FACTS, "memit", layers=[1], statistics=C0, lam=0.01, **QUICK) as e:
        wanted = before.double() + e.delta(1)
        error = (view.weight(1).detach().double() - wanted).abs().max() / wanted.abs().max()
        assert 0 < float(error) < tolerance / 4  # half a unit in the last place
        site = ("block", 1)
        h = e.hyper
        now = keys.at_subject(model, tok, FACTS, [site], h["contexts"], h["average"])[site]
        goal, start = e.values[0].target, e.values[0].start
        assert (now - goal).norm() < 0.5 * (start - goal).norm()
    assert torch.equal(view.weight(1), before)


@pytest.mark.parametrize("kind", sorted(models.ARCHITECTURES))
@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_heads(kind, tied):
    """The head is the model's own; a tied embedding is no part of what an edit changes."""
    tok = tiny_tokenizer()
    model = tiny_model(kind, tok, layers=2, d=16, tied=tied)
    head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is table) == tied
    C0 = mt.second_moment(model, tok, TEXTS, [1], tokens=1000)
    with torch.no_grad():
        out = model(tok(FACTS[0].text, return_tensors="pt")["input_ids"])
        hidden = model.base_model(tok(FACTS[0].text, return_tensors="pt")["input_ids"])
        logits = model.get_output_embeddings()(hidden.last_hidden_state)
    assert torch.allclose(out.logits, logits, atol=1e-5)
    before = copy.deepcopy(model.state_dict())
    with Untouched(model):
        with mt.edit(
            model, tok, FACTS, "emmet", layers=[1], statistics=C0, ridge=0.0, **QUICK
        ) as e:
            after = model.state_dict()
            changed = [k for k in before if not torch.equal(before[k], after[k])]
            assert len(changed) == 1 and models.ARCHITECTURES[kind].down in changed[0]
            h, site = e.hyper, (e.hyper["site"], 1)
            now = keys.at_subject(model, tok, FACTS, [site], h["contexts"], h["average"])[site]
            target = e.values[0].target
            assert float((now - target).norm() / target.norm()) < 1e-4


def test_opt_that_normalises_afterwards_is_refused():
    from transformers import OPTConfig, OPTForCausalLM

    small = dict(hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2)
    config = OPTConfig(
        vocab_size=50, word_embed_proj_dim=16, do_layer_norm_before=False,
        max_position_embeddings=32, **small,
    )  # fmt: skip
    with pytest.raises(ModelError, match="normalises a block's output after the MLP"):
        models.View(OPTForCausalLM(config))


def test_a_wrong_declaration_names_the_part(case):
    model, _, _ = case
    wrong = models.Architecture("layers", "mlp", "attn", "mlp.down", "wte", "norm")
    with pytest.raises(ModelError, match="has no part 'layers', declared as blocks"):
        models.View(model, wrong)


@pytest.mark.parametrize("kind, n, width, method, expected", [
    ("gpt2", 24, 1024, "rome", dict(layers=(8,), clamp=3.0)),
    ("gpt2", 36, 1280, "rome", dict(layers=(12,), clamp=4.0)),
    ("llama", 32, 4096, "rome", dict(layers=(5,), weight_decay=1e-3)),
    ("llama", 32, 4096, "memit", dict(layers=(4, 5, 6, 7, 8), lam=15000.0)),
])  # fmt: skip
def test_presets(kind, n, width, method, expected):
    class Model:
        class config:
            model_type, num_hidden_layers, hidden_size = kind, n, width
            vocab_size = 50257 if kind == "gpt2" else 32000

    found = hyper.hyper(method, Model)
    assert {name: getattr(found, name) for name in expected} == expected


def test_a_method_without_a_preset_does_as_the_model_s_own_memit_does():
    class Model:
        class config:
            model_type, num_hidden_layers, hidden_size, vocab_size = "llama", 32, 4096, 32000

    message = (
        r"no preset for this llama model and alphaedit; editing \[4, 5, 6, 7, 8\], as its MEMIT"
    )
    with pytest.warns(UserWarning, match=message):
        found = hyper.hyper("alphaedit", Model)
    memit = hyper.hyper("memit", Model)
    for name in ("layers", *values.Targets.OPTIMISATION):
        assert getattr(found, name) == getattr(memit, name), name
    assert (found.clamp, found.weight_decay, found.steps, found.L2) == (4.0, 1e-3, 25, 10.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = hyper.hyper("alphaedit", Model, layers=[6], clamp=1.0)
    assert given.layers == (6,) and (given.clamp, given.steps) == (1.0, 25)
    with pytest.warns(UserWarning, match=r"and ft; editing \[5\], as its ROME"):
        ours = hyper.hyper("ft", Model)  # its steps and lr are not those of a search
    assert ours == hyper.METHODS["ft"](layers=(5,))


def test_llama_2_and_3_differ_in_their_presets():
    class Model:
        class config:
            model_type, num_hidden_layers, hidden_size, vocab_size = "llama", 32, 4096, 32000

    two = hyper.hyper("memit", Model)
    Model.config.vocab_size = 128256
    three = hyper.hyper("memit", Model)
    with pytest.warns(UserWarning, match="no preset for this llama model and emmet"):
        assert hyper.hyper("emmet", Model).ridge == "least"  # not Llama-2's 0.1
    assert (two.lr, two.clamp) == (0.5, 4.0) and (three.lr, three.clamp) == (0.1, 0.75)
    assert hyper.hyper("alphaedit", Model).threshold == 0.02


def of_shape(size, **fields):
    """A config with all that its model is known by, some of it changed."""
    from transformers import AutoConfig

    kind, n, width, *_ = size
    known = {k: v[0] for k, v in hyper.KNOWN[size][1].items()} | fields

    class Model:
        config = AutoConfig.for_model(kind, num_hidden_layers=n, hidden_size=width, **known)

    return Model


@pytest.mark.parametrize("size", sorted(hyper.KNOWN, key=str))
@pytest.mark.parametrize("added", [0, 1, 47, 256])
def test_a_model_is_known_also_with_added_tokens(size, added):
    model = of_shape(size)
    model.config.vocab_size += added
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = hyper.hyper("rome", model)
    wanted = hyper.ROME(**hyper.PRESETS[size, "rome"])
    assert found == wanted


@pytest.mark.parametrize("change", [
    ("llama", 64000, dict(num_key_value_heads=4, rope_theta=5e6)),  # Yi-6B
    ("llama", 32016, dict(rope_theta=1e6)),  # Code Llama
    ("llama", 128257, dict()),  # neither Llama-2 nor Llama-3
    ("llama", 55296, dict()),  # a Llama-2 with another vocabulary
    ("gpt2", 21128, dict()),
    ("gptj", 250000, dict()),
    ("gptj", 50400, dict(rotary_dim=32)),
])  # fmt: skip
def test_a_model_of_the_same_shape_is_not_taken_for_another(change):
    kind, vocabulary, fields = change
    size = {"llama": hyper._LLAMA, "gpt2": hyper._XL, "gptj": hyper._J}[kind]
    model = of_shape(size, vocab_size=vocabulary, **fields)
    message = (
        r"no preset for this \w+ model of \d+ layers \(of the shape of .*, but with .*\); edit"
    )
    for method in ("rome", "memit"):
        with pytest.warns(UserWarning, match=message):
            found = hyper.hyper(method, model)
        assert found.clamp == hyper.METHODS[method]().clamp
