"""A tiny tokenizer and tiny random models for tests that need no reference data."""

import copy

import torch

TEXT = [
    "Anna Marlow was born in the city of Paris and lives in Rome with her brother Otto.",
    "The Eiffel Tower stands in Paris; the Colosseum stands in Rome, the capital of Italy.",
    "Danielle Darrieux speaks French, and her mother tongue is English or German.",
    "Otto works for New York Times and plays the violin. It is said that the sky is blue.",
]


def tiny_tokenizer(padding_side="right"):
    """A byte-level BPE like GPT-2's, trained on a few sentences; any text can be encoded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXT, trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=end, bos_token=end, pad_token=end, padding_side=padding_side
    )


def pieces_tokenizer(form):
    """A BPE as SentencePiece's are turned into fast tokenizers: words begin with U+2581, characters
    that it lacks are spelled as bytes, a BOS comes first. form: "normalizer", as Llama-2's file has
    it, or "metaspace", as newer files do."""
    import json

    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    trained.train_from_iterator(TEXT, trainer)
    bpe = json.loads(trained.to_str())["model"]
    words = [*bpe["vocab"], *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {word: i for i, word in enumerate(words)}
    merges = [tuple(pair) for pair in bpe["merges"]]
    tok = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if form == "metaspace":
        tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        mark = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        tok.normalizer = normalizers.Sequence(mark)
    tok.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    unk, bos, eos = special
    return PreTrainedTokenizerFast(
        tokenizer_object=tok, unk_token=unk, bos_token=bos, eos_token=eos
    )


def tiny_model(kind, tok, layers=3, d=32, seed=0, tied=None):
    """A random model of a family ("gpt2", "gptj", "gpt_neox", "opt", "llama", "mistral", "qwen2"),
    with dropout where it has one, in evaluation mode. tied: the head is the embedding (None: as it
    is usual in the family).

    All weights are drawn wide, biases and norms too, so that its predictions are far from uniform
    and no part can be left out unnoticed.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    ids = dict(vocab_size=len(tok), bos_token_id=tok.eos_token_id, eos_token_id=tok.eos_token_id)
    gpt = dict(n_positions=64, n_embd=d, n_layer=layers, n_head=4)
    gpt |= dict(attn_pdrop=0.1, embd_pdrop=0.1, resid_pdrop=0.1)
    later = dict(max_position_embeddings=64, hidden_size=d, num_hidden_layers=layers)
    later |= dict(num_attention_heads=4, intermediate_size=3 * d, tie_word_embeddings=False)
    own = {
        "gpt2": gpt,
        "gptj": gpt | dict(rotary_dim=4, tie_word_embeddings=False),
        "gpt_neox": later | dict(hidden_dropout=0.1, attention_dropout=0.1),
        "opt": later | dict(ffn_dim=3 * d, word_embed_proj_dim=d, dropout=0.1),
        "llama": later | dict(num_key_value_heads=2),
        "mistral": later | dict(num_key_value_heads=2, sliding_window=4),
        "qwen2": later | dict(num_key_value_heads=2),
    }[kind]
    own |= {} if tied is None else {"tie_word_embeddings": tied}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **ids, **own))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim == 1:
                p.copy_(0.2 * noise + ("norm" in name or "ln" in name) * name.endswith("weight"))
            else:
                p.copy_(noise / (2 if "wte" in name or "embed" in name else d**0.5))
    return model.eval()


class Untouched:
    """with Untouched(model): fails if weights, modes, requires_grad or hooks are changed inside.

    Inside, one submodule trains and one parameter is frozen, so that a blanket reset is seen.
    """

    def __init__(self, model):
        self.model = model

    def _state(self):
        modules = list(self.model.modules())
        return (
            [m.training for m in modules],
            [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules],
            [(p.requires_grad, p.grad is None) for p in self.model.parameters()],
        )

    def __enter__(self):
        list(self.model.modules())[-1].training = True
        next(self.model.parameters()).requires_grad_(False)
        self.state, self.weights = self._state(), copy.deepcopy(self.model.state_dict())

    def __exit__(self, kind, *_):
        if kind is None:
            assert self._state() == self.state
            after = self.model.state_dict()
            assert after.keys() == self.weights.keys()
            assert all(torch.equal(after[k], w) for k, w in self.weights.items())
        list(self.model.modules())[-1].training = False
        next(self.model.parameters()).requires_grad_(True)


def solution_blocks(name):
    """The python blocks of a page of published solutions, e.g. "09-emmet", as source texts."""
    import re

    from .conftest import ROOT

    text = (ROOT / "book" / "solutions" / f"{name}.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def verdict(capsys, function, *args):
    """(True, False or None for no answer; what was printed) of an exercise's check."""
    from medit_teach.book import check

    check.passed.clear()
    capsys.readouterr()
    assert function(*args) is None
    return check.passed.get(function.__name__), capsys.readouterr().out.strip()


def solutions(name, **known):
    """Everything that the blocks of a page of solutions define, given the names they import."""
    found = dict(known)
    for block in solution_blocks(name):
        exec(block, found)
    return found


def solution_tests(right, pairs):
    """Two tests for a page of solutions: they pass their checks, and no answer is not a wrong one.

    right: what `solutions` found; pairs: (check, name of the solution).
    """
    import pytest

    each = pytest.mark.parametrize(
        ("function", "name"), pairs, ids=lambda x: getattr(x, "__name__", x)
    )

    @each
    def passes(function, name, capsys):
        ok, text = verdict(capsys, function, right[name])
        assert ok is True and text.startswith("right: "), text

    @each
    def nothing(function, name, capsys):
        answers = [None, ...]
        if isinstance(right[name], dict):
            answers.append(dict.fromkeys(right[name]))
        elif callable(right[name]):
            answers.append(lambda *args: ...)
        for answer in answers:
            assert verdict(capsys, function, answer) == (None, "no answer yet")

    return passes, nothing


def wrong_answers_test(wrong):
    """A test that each wrong answer fails, and is named. wrong: {check: {message: answer}}, the
    message being part of what the check prints, or a pattern of it."""
    import re

    import pytest

    @pytest.mark.parametrize(
        ("function", "message"),
        [(function, message) for function, answers in wrong.items() for message in answers],
        ids=lambda x: getattr(x, "__name__", x),
    )
    def named(function, message, capsys):
        ok, text = verdict(capsys, function, wrong[function][message])
        assert ok is False and text.startswith("not yet: "), text
        assert message in text or re.search(message, text), text

    return named
