"""Families that a user declares: edited exactly, or refused with the reason. And what a model may
be wrapped in, or nested, or packed."""

import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import medit_teach as mt
from medit_teach import hyper, keys, metrics, models, values
from medit_teach.errors import FactError, HyperError, ModelError
from medit_teach.fact import subject_last, with_target
from medit_teach.running import LM, unwrapped
from medit_teach.study import forensics

from .helpers import Untouched, tiny_model, tiny_tokenizer
from .test_families import TEXTS

LLAMA = models.ARCHITECTURES["llama"]
NORMED = replace(LLAMA, after="post_feedforward_layernorm")
GPT = models.Architecture(
    "transformer.h", "mlp", "attn", "mlp.c_proj", "transformer.wte", "transformer.ln_f"
)
BLOOM = models.Architecture(
    "transformer.h", "mlp", "self_attention", "mlp.dense_4h_to_h", "transformer.word_embeddings",
    "transformer.ln_f",
)  # fmt: skip
MPT = models.Architecture(
    "transformer.blocks", "ffn", "attn", "ffn.down_proj", "transformer.wte", "transformer.norm_f"
)
SLIDING = dict(sliding_window=4)
DECLARED = {  # model_type: its architecture, and fields of its config that differ from the usual
    "qwen3": (LLAMA, {}),
    "gemma": (LLAMA, {}),
    "gemma2": (NORMED, SLIDING | dict(final_logit_softcapping=3.0)),
    "gemma3_text": (NORMED, SLIDING),
    "cohere": (LLAMA, dict(logit_scale=0.0625)),
    "cohere2": (LLAMA, SLIDING | dict(logit_scale=0.25)),
    "granite": (
        replace(LLAMA, after="residual_multiplier"),
        dict(logits_scaling=8.0, residual_multiplier=0.2, embedding_multiplier=3.0),
    ),
    "olmo": (LLAMA, {}),
    "olmo2": (NORMED, {}),
    "exaone4": (NORMED, SLIDING | dict(sliding_window_pattern=4)),
    "stablelm": (LLAMA, {}),
    "phi": (replace(LLAMA, down="mlp.fc2", norm="model.final_layernorm"), {}),
    "phi3": (LLAMA, {}),
    "falcon": (BLOOM, dict(new_decoder_architecture=False, multi_query=True, alibi=False)),
    "bloom": (BLOOM, {}),
    "gpt_neo": (
        GPT,
        dict(attention_types=[[["global", "local"], 2]], num_layers=4, num_heads=4, window_size=4),
    ),
    "gpt_bigcode": (GPT, {}),
    "mpt": (MPT, dict(d_model=32, n_heads=4, n_layers=4, max_seq_len=64, expansion_ratio=3)),
}
SCALED = ["gemma2", "cohere", "cohere2", "granite"]  # that change what the head gives
AFTER = [kind for kind, (architecture, _) in DECLARED.items() if architecture.after]
FACT = mt.Fact("It is said that {} lives in", "Anna Marlow", "Oslo", "Rome")
SEARCH = dict(steps=15, clamp=8.0, weight_decay=0.0, kl_factor=0.0, early_stop=0.0)


@pytest.fixture(scope="module")
def tok():
    return tiny_tokenizer()


def random(model, seed=0):
    """The model with wide random weights, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim == 1:
                p.add_(0.2 * noise)
            else:
                p.copy_(noise / (2 if "emb" in name or "wte" in name else p.shape[-1] ** 0.5))
    return model.eval()


def declared(kind, tok, monkeypatch, undeclared=False, **more):
    """A random model of 4 layers, with its family declared."""
    from transformers import AutoConfig, AutoModelForCausalLM

    architecture, fields = DECLARED[kind]
    size = dict(num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    size |= dict(hidden_size=32, intermediate_size=96, max_position_embeddings=64)
    size = {} if kind == "mpt" else size
    if kind in ("gpt_neo", "falcon"):
        size.pop("head_dim")
    if kind == "gpt_neo":
        size = {k: v for k, v in size.items() if k in ("hidden_size", "max_position_embeddings")}
    ids = dict(vocab_size=len(tok), bos_token_id=0, eos_token_id=0, pad_token_id=0)
    config = AutoConfig.for_model(kind, **(size | ids | fields | more))
    if not undeclared:
        monkeypatch.setitem(models.ARCHITECTURES, kind, architecture)
    return random(AutoModelForCausalLM.from_config(config))


def own_logits(model, tok, text):
    with torch.no_grad():
        return model(**tok(text, return_tensors="pt", return_token_type_ids=False)).logits[0]


@pytest.mark.parametrize("kind", sorted(DECLARED))
def test_probabilities_are_the_model_s_own(kind, tok, monkeypatch):
    """Nothing is declared here: scores need no architecture."""
    model = declared(kind, tok, monkeypatch, undeclared=True)
    text = "Otto works for New York Times"
    logits = own_logits(model, tok, text)
    ids = torch.tensor(tok(text)["input_ids"])
    log_p = logits[:-1].double().log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    assert metrics.perplexity(model, tok, text) == pytest.approx(float((-log_p.mean()).exp()))
    ((word, p),) = metrics.top_tokens(model, tok, [text], k=1)[0]
    assert (word, p) == (
        tok.decode([logits[-1].argmax()]),
        pytest.approx(float(logits[-1].softmax(-1).max()), rel=1e-5),
    )
    (found,), _ = metrics.target_logprobs(model, tok, ["Otto works for"], ["New York Times"])
    assert found.double().sum() == pytest.approx(float(log_p[-len(found) :].sum()), rel=1e-4)
    said = metrics.generate(model, tok, [text], n_tokens=3)[0]
    by_hand = ids.tolist()
    for _ in range(3):
        with torch.no_grad():
            by_hand.append(int(model(torch.tensor([by_hand])).logits[0, -1].argmax()))
    assert said == tok.decode(by_hand)


class Odd(torch.nn.Module):
    """Stands for a model with code of its own, whose forward goes another way."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config, self.device = model, model.config, model.device
        self.get_input_embeddings = model.get_input_embeddings
        self.get_output_embeddings = model.get_output_embeddings

    @property
    def base_model(self):
        return self.inner.base_model

    def forward(self, input_ids, attention_mask=None, **kwargs):
        out = self.inner(input_ids=input_ids, attention_mask=attention_mask)
        out.logits = 2 * out.logits
        return out


def test_a_model_of_which_nothing_is_known_is_asked_itself(tok):
    plain = tiny_model("llama", tok)
    model = Odd(plain)
    text = "Otto works for New York Times"
    (found,) = metrics.top_tokens(model, tok, [text], k=3)
    p = (2 * own_logits(plain, tok, text)[-1]).softmax(-1)
    assert [x for _, x in found] == pytest.approx(p.topk(3).values.tolist(), rel=1e-5)
    assert metrics.generate(model, tok, [text], 3) == metrics.generate(plain, tok, [text], 3)
    with pytest.raises(ModelError, match="can be scored, but not edited"):
        LM(model).head(torch.zeros(1, 32))


@pytest.mark.parametrize("kind", sorted(DECLARED))
def test_what_the_search_promises_is_what_the_model_says(kind, tok, monkeypatch):
    """With the target written exactly at the subject's token, in each context."""
    model = declared(kind, tok, monkeypatch)
    contexts = ("", "It is late. ")
    h = hyper.ROME(layers=(1,), contexts=contexts, **SEARCH)
    found = values.optimise_values(model, tok, [FACT], 1, h)
    down, said = models.View(model).down(1), []
    for context in contexts:
        pair = with_target(tok, context + FACT.text, FACT.target_new)
        at = subject_last(tok, FACT, context)[1]

        def write(module, args, out, at=at):
            out = out.clone()
            out[:, at] += found.delta[:, 0].float()
            return out

        handle = down.register_forward_hook(write)
        said.append(-float(metrics._logprobs(model, tok, [pair], 1)[0][0].double().mean()))
        handle.remove()
    first, promised = found.losses[0, 0, 0], found.losses[0, -1, 0]
    assert np.mean(said) == pytest.approx(float(promised), rel=1e-3) and promised < first - 1e-3


@pytest.mark.parametrize("kind", sorted(DECLARED))
def test_an_edit_stands_where_it_should(kind, tok, monkeypatch):
    model = declared(kind, tok, monkeypatch)
    C0 = mt.second_moment(model, tok, TEXTS, [1, 2], tokens=1500)
    kinds = [("rome", dict(layers=[1])), ("emmet", dict(layers=[1], ridge=0.0, site="value"))]
    if kind not in AFTER or kind == "granite":
        kinds += [("emmet", dict(layers=[1], ridge=0.0)), ("memit", dict(layers=[1, 2], lam=1e-3))]
    for method, more in kinds:
        with Untouched(model):
            with mt.edit(
                model, tok, FACT, method, statistics=C0, contexts=("",), **more, **SEARCH
            ) as e:
                site = (e.hyper["site"], e.hyper["layers"][-1])
                now = keys.at_subject(model, tok, [FACT], [site])[site]
                target, start = e.values[0].target, e.values[0].start
                near = 1e-4 if len(e.layers) == 1 else 0.1
                assert (now - target).norm() < near * (target - start).norm(), (method, more)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [*sorted(DECLARED), *sorted(models.ARCHITECTURES)])
def test_no_false_alarm(kind, dtype, tok, monkeypatch):
    """In each precision, and with dropout on."""
    if kind in DECLARED:
        model = declared(kind, tok, monkeypatch)
    else:
        model = tiny_model(kind, tok)
    models.View(model.to(dtype).train())
    assert model.training


@pytest.mark.parametrize("kind", AFTER)
def test_a_step_after_the_mlp_that_is_not_declared_is_refused(kind, tok, monkeypatch):
    model = declared(kind, tok, monkeypatch)
    monkeypatch.setitem(models.ARCHITECTURES, kind, LLAMA)
    for _ in range(2):
        with pytest.raises(ModelError, match="does not add what down gives as it is"):
            models.View(model)
    wrong = replace(LLAMA, after="input_layernorm" if kind != "granite" else "hidden_size")
    with pytest.raises(ModelError, match=r"as after= says|has no .*declared as after"):
        models.View(model, wrong)


def test_a_norm_after_the_mlp_needs_targets_of_its_own(tok, monkeypatch):
    model = declared("olmo2", tok, monkeypatch)
    C0 = mt.second_moment(model, tok, TEXTS, [1, 2], tokens=1500)
    with Untouched(model), pytest.raises(ModelError, match='edit one layer with site="value"'):
        mt.edit(model, tok, FACT, "memit", layers=[1, 2], statistics=C0)
    with Untouched(model), pytest.raises(ModelError, match='edit one layer with site="value"'):
        targets = torch.zeros(32, 1, dtype=torch.float64)
        mt.edit(model, tok, FACT, "memit", layers=[1], statistics=C0, targets=targets)


class Twice(torch.nn.Module):
    """A block after which something else is done."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, *args, **kwargs):
        out = self.block(*args, **kwargs)
        return (2 * out[0], *out[1:]) if isinstance(out, tuple) else 2 * out


def test_declarations_that_do_not_hold(tok):
    model = tiny_model("llama", tok)
    with pytest.raises(ModelError, match="are not the logits of this llama model"):
        models.View(model, replace(LLAMA, norm="model.layers.0.input_layernorm"))
    with pytest.raises(ModelError, match=r"not every token goes through|does not give W k \+ b"):
        models.View(model, replace(LLAMA, transposed=True))
    with pytest.raises(ModelError, match="does not add what down gives as it is"):
        models.View(model, replace(LLAMA, down="self_attn.q_proj"))
    model.model.layers[2].mlp.down_proj = model.model.layers[1].mlp.down_proj
    with pytest.raises(ModelError, match="layers share one matrix"):
        models.View(model)
    between = tiny_model("llama", tok)
    between.model.layers[1] = Twice(between.model.layers[1])
    parts = dict(mlp="block.mlp", attention="block.self_attn", down="block.mlp.down_proj")
    with pytest.raises(ModelError):
        models.View(between, replace(LLAMA, **parts))


def test_what_was_found_out_is_kept_until_the_model_is_built_otherwise(tok, monkeypatch):
    model = tiny_model("llama", tok)
    models.View(model)
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    models.View(model)
    models.View(copy.deepcopy(model))
    assert not calls
    old = model.model.layers[1].mlp.down_proj
    adapted = model.model.layers[1].mlp.down_proj = torch.nn.Sequential(old)
    with pytest.raises(ModelError, match="layer 1 is a Sequential without a plain matrix"):
        models.View(model)
    assert adapted[0] is old


# ------------------------------------------------------------------ wrapped, nested, packed


class Adapted(torch.nn.Module):
    """Stands for a PEFT model."""

    def __init__(self, model, prompts=False):
        super().__init__()
        self.base_model = model
        self.active_peft_config = type("Config", (), {"is_prompt_learning": prompts})

    def get_base_model(self):
        return self.base_model


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: torch.compile(model, backend="eager"),
        torch.nn.DataParallel,
        Adapted,
        lambda model: torch.nn.DataParallel(Adapted(torch.compile(model, backend="eager"))),
    ],
)
def test_wrapped_models_are_used_through(wrap, tok):
    plain = tiny_model("gptj", tok)
    model = wrap(plain)
    assert unwrapped(model) is plain and models.fingerprint(model) == models.fingerprint(plain)
    C0 = mt.second_moment(model, tok, TEXTS, [1], tokens=1500)
    before = mt.score(plain, tok, FACT, resamples=1).per_fact
    with Untouched(plain):
        with mt.edit(model, tok, FACT, "rome", layers=[1], statistics=C0, **SEARCH) as e:
            assert mt.score(model, tok, FACT, resamples=1).EM == (
                mt.score(plain, tok, FACT, resamples=1).EM
            )
            assert mt.score(plain, tok, FACT, resamples=1).per_fact["EM"] != before["EM"]
            mt.study.locate.trace(model, tok, FACT, samples=1)
            metrics.generate(model, tok, ["Rome is"], 2)
        assert e.apply(model).applied
        e.undo()


def test_what_a_wrapper_adds_to_each_text_is_not_left_out(tok):
    model = Adapted(tiny_model("gptj", tok), prompts=True)
    with pytest.raises(ModelError, match="puts learned prompts in front"):
        mt.score(model, tok, FACT)


def nested(tok):
    from transformers import AutoModelForCausalLM, Gemma3Config

    text = dict(vocab_size=len(tok), hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    text |= dict(num_attention_heads=2, num_key_value_heads=1, head_dim=16, sliding_window=8)
    text |= dict(max_position_embeddings=40)
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1)
    vision |= dict(num_attention_heads=2, image_size=28, patch_size=14)
    config = Gemma3Config(text_config=text, vision_config=vision)
    return random(AutoModelForCausalLM.from_config(config))


def test_a_nested_model(tok, monkeypatch):
    """Gemma 3 from 4B on: settings of the text part lie in config.text_config."""
    model = nested(tok)
    assert LM(model).window == 40
    with pytest.raises(FactError, match="the model takes 1 to 40"):
        metrics.top_tokens(model, tok, ["Rome " * 50])
    at = "model.language_model."
    architecture = models.Architecture(
        blocks=at + "layers", mlp="mlp", attention="self_attn", down="mlp.down_proj",
        embedding=at + "embed_tokens", norm=at + "norm", after="post_feedforward_layernorm",
    )  # fmt: skip
    monkeypatch.setitem(models.ARCHITECTURES, "gemma3", architecture)
    C0 = mt.second_moment(model, tok, TEXTS, [0], tokens=1500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guessed = hyper.hyper("memit", model)
    assert guessed.layers == (0,)
    with Untouched(model):
        with mt.edit(model, tok, FACT, "rome", layers=[0], statistics=C0) as e:
            site = ("value", 0)
            h = e.hyper
            now = keys.at_subject(model, tok, [FACT], [site], h["contexts"], h["average"])[site]
            target = e.values[0].target
            assert (now - target).norm() < 1e-4 * target.norm()


def test_packed_and_adapted_matrices_are_refused(tok):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packed = torch.ao.quantization.quantize_dynamic(
            tiny_model("gptj", tok), {torch.nn.Linear}, dtype=torch.qint8
        )
    with pytest.raises(ModelError, match="without a plain matrix of weights"):
        mt.edit(packed, tok, FACT, "rome", layers=[1])
    model = tiny_model("llama", tok)
    down = model.model.layers[1].mlp.down_proj

    class Lora(torch.nn.Linear):  # adds a product to what its matrix gives
        def forward(self, x):
            return super().forward(x) + x[..., :1]

    model.model.layers[1].mlp.down_proj = Lora(down.in_features, down.out_features, bias=False)
    with pytest.raises(ModelError, match=r"down of layer 1 does not give W k \+ b"):
        models.View(model)
    down.weight = torch.nn.Parameter(down.weight.to(torch.float8_e4m3fn), requires_grad=False)
    model.model.layers[1].mlp.down_proj = down
    with pytest.raises(ModelError, match="without a plain matrix of weights"):
        models.View(model)


# ------------------------------------------------------------------ layers, windows


@pytest.mark.parametrize(
    "layers",
    [1, [1], (1, 1), {1}, range(1, 2), np.int64(1), np.array([1, 1]), torch.tensor([1]),
     torch.tensor(1), [np.int32(1)], [torch.tensor(1)]],
)  # fmt: skip
def test_layers_in_any_form(layers, tok):
    assert hyper.MEMIT(layers=layers).layers == (1,)
    assert all(type(x) is int for x in hyper.MEMIT(layers=layers).layers)
    model = tiny_model("gptj", tok, d=16)
    assert list(mt.second_moment(model, tok, TEXTS, layers, tokens=500).C0) == [1]
    assert list(mt.study.locate.triggers(model, tok, TEXTS, layers, tokens=50).strength) == [1]


@pytest.mark.parametrize(
    "layers", [True, [True, 2], np.bool_(True), "1", ["1"], 1.0, [1.5], None, [None], {1: 2}, b"1"]
)
def test_layers_of_a_wrong_kind(layers, tok):
    with pytest.raises(HyperError, match="layers must be whole numbers like 3"):
        hyper.MEMIT(layers=layers)
    model = tiny_model("gptj", tok, d=16)
    for use in (
        lambda: models.View(model).block(layers),
        lambda: mt.second_moment(model, tok, TEXTS, layers, tokens=500),
        lambda: mt.study.locate.triggers(model, tok, TEXTS, layers, tokens=50),
        lambda: keys.keys(model, tok, FACT, layers),
    ):
        with pytest.raises(mt.MeditError, match="layers must be whole numbers like 3"):
            use()


def test_layers_that_there_are_not(tok):
    model = tiny_model("gptj", tok, d=16)
    for layers in (-1, [3], [0, 99]):
        for use in (
            lambda layers=layers: mt.second_moment(model, tok, TEXTS, layers, tokens=500),
            lambda layers=layers: mt.statistics_for(model, tok, layers, TEXTS),
            lambda layers=layers: mt.study.locate.triggers(model, tok, TEXTS, layers, tokens=50),
            lambda layers=layers: mt.edit(model, tok, FACT, "memit", layers=layers),
        ):
            with pytest.raises(ModelError, match="is out of range: the model has 0 to 2"):
                use()
    with pytest.raises(mt.MeditError, match="no layer was given"):
        mt.second_moment(model, tok, TEXTS, [], tokens=500)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])  # positions in a table, or rotary
def test_texts_longer_than_the_window(kind, tok):
    model = tiny_model(kind, tok)
    C0 = mt.second_moment(model, tok, TEXTS, [1], tokens=1500)
    long = "word " * 70
    prompt, target = mt.Fact(long + "{} is", "Rome", "old", "new"), mt.Fact("{} is", "Rome", long)
    how = dict(layers=[1], statistics=C0, steps=2)
    for use in (
        lambda: mt.score(model, tok, prompt),
        lambda: metrics.top_tokens(model, tok, [long]),
        lambda: metrics.generate(model, tok, [long], 3),
        lambda: mt.edit(model, tok, prompt, "rome", **how),
        lambda: mt.edit(model, tok, target, "rome", contexts=("",), **how),
        lambda: mt.edit(model, tok, FACT, "rome", contexts=("", long), **how),
        lambda: mt.edit(model, tok, FACT, "ft", layers=[1], contexts=("", long)),
        lambda: keys.keys(model, tok, prompt, 1),
        lambda: mt.study.locate.trace(model, tok, prompt),
        lambda: forensics.answers(model, tok, ["Rome"], [long + " {}"]),
    ):
        with Untouched(model), pytest.raises(FactError, match=r"'.*'\.\.\. has \d+ tokens; the"):
            use()
    assert metrics.perplexity(model, tok, long) > 1  # cut into pieces
    added = tiny_tokenizer()
    added.add_tokens(["<new>"])
    for use in (
        lambda: metrics.top_tokens(model, added, ["Rome <new> is"]),
        lambda: mt.edit(model, added, mt.Fact("{} <new> is", "<new>", "old"), "rome", **how),
    ):
        with pytest.raises(FactError, match=r"has the token '<new>' .*resize_token_embeddings"):
            use()


def test_no_call_of_ours_is_deprecated(tok):
    """In transformers, torch or numpy; the model runs with and without a cache, and generates."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        warnings.simplefilter("error", FutureWarning)
        model = tiny_model("gptj", tok)
        facts = [
            replace(FACT, subject=f"Anna {name}") for name in "ABCDEFGHI"
        ]  # a shared beginning
        C0 = mt.second_moment(model, tok, TEXTS, [1], tokens=1500)
        with mt.edit(model, tok, facts, "memit", layers=[1], statistics=C0, steps=2):
            mt.score(model, tok, facts, resamples=1)
            metrics.generate(model, tok, ["Rome is"], 3)


@pytest.mark.parametrize("kind", ["gemma", "cohere", "granite"])
def test_an_unembedding_is_the_model_s_or_none(kind, tok, monkeypatch):
    with pytest.raises(ModelError, match=r"not A h / spread|neither LayerNorm nor RMSNorm"):
        mt.study.locate.unembedding(declared(kind, tok, monkeypatch))
    for dtype in (torch.float32, torch.bfloat16):
        mt.study.locate.unembedding(declared("qwen3", tok, monkeypatch).to(dtype))
