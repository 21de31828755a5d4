"""The page on models, data and precision: its tables are the code's, its blocks run."""

from __future__ import annotations

import json
import re
import warnings
from types import SimpleNamespace

import pytest
import torch

import medit_teach as mt
from measure import precision as tool
from medit_teach import cli, datasets, hyper, models, statistics
from medit_teach.edits import C0_PER_DIMENSION, C0_TOKENS
from medit_teach.study import selftest
from tests.conftest import ROOT

from .helpers import Untouched, tiny_tokenizer
from .test_declaring import DECLARED

PAGE = (ROOT / "book" / "real-models.md").read_text(encoding="utf-8")
RECORD = json.loads((ROOT / "medit_teach/book/records/precision.json").read_text(encoding="utf-8"))
TEXTS = [f"{a} was here on {b}" for a in ("Anna", "Otto", "Rome") for b in range(150)]


def test_families_and_sources_are_those_of_the_code():
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| `([\w.]+)`[^|]*\|$", PAGE, re.M))
    assert rows == {kind: arch.down for kind, arch in models.ARCHITECTURES.items()}
    transposed = re.findall(r"^\| `(\w+)` \|.*stored transposed", PAGE, re.M)
    assert transposed == [k for k, arch in models.ARCHITECTURES.items() if arch.transposed]
    for name in (datasets.COUNTERFACT, *datasets.ZSRE, *sum(datasets.TEXTS.values(), ())):
        assert f"`{name}`" in PAGE
    for test in re.findall(r"`(test_\w+\.py)`", PAGE):
        assert (ROOT / "tests" / test).is_file()


def test_presets_and_guesses_are_those_of_the_code():
    vocabulary = {"Llama-2-7B": 32000, "Llama-3-8B": 128256, "SmolLM2-135M": 49152}
    sizes = {
        "GPT-2 medium": hyper._MEDIUM, "GPT-2 large": hyper._LARGE, "GPT-2 XL": hyper._XL,
        "GPT-J-6B": hyper._J, "Llama-2-7B": hyper._LLAMA, "Llama-3-8B": hyper._LLAMA,
        "SmolLM2-135M": hyper._SMOL,
    }  # fmt: skip
    assert {size for size, _ in hyper.PRESETS} == set(sizes.values()) | {hyper._LLAMA3}
    for name, size in sizes.items():
        shown = re.search(rf"^\| {name} \| (.*) \|$", PAGE, re.M)[1].split(" | ")
        config = SimpleNamespace(**dict(zip(
            ("model_type", "num_hidden_layers", "hidden_size"), size, strict=True
        )), vocab_size=vocabulary.get(name, 50257))  # fmt: skip
        for method, said in zip(
            ("rome", "memit", "emmet", "alphaedit", "nullspace"), shown, strict=True
        ):
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                hyper.hyper(method, SimpleNamespace(config=config))
            word = {"preset": None, "as MEMIT": "as its MEMIT preset does", "guessed": "relative"}[
                said
            ]
            assert len(told) == bool(word) and all(word in str(x.message) for x in told), name


def test_numbers_of_tokens_agree():
    defaults = {d: max(C0_TOKENS, C0_PER_DIMENSION * d) for d in (6400, 16384)}
    assert f"GPT-2 XL {defaults[6400]:,}, GPT-J\n{defaults[16384]:,}" in PAGE
    assert f"{C0_TOKENS:,} tokens, or {C0_PER_DIMENSION} for each" in PAGE
    chapter = (ROOT / "book" / "18-real-models.ipynb").read_text(encoding="utf-8")
    assert re.findall(r"(?:per_dimension = |max\(20_000, )(\d+)", chapter) == ["3"]
    assert selftest.TOKENS == 20_000
    assert (
        "takes 3 tokens a dimension and the self-test below takes 2, both at\nleast 20,000" in PAGE
    )
    layers = len(hyper.PRESETS[hyper._J, "memit"]["layers"])
    rows = range(0, 16384, statistics.ROWS)  # of the products, from the diagonal on
    product = sum(2 * statistics.ROWS * (16384 - i) for i in rows)
    assert product == pytest.approx(16384**2, rel=0.05)
    work = [16384**2 * tokens * layers for tokens in (defaults[16384], 50_000)]
    assert f"{work[0]:.1e}" == "4.2e+14" and r"\approx 4.2 \cdot 10^{14}" in PAGE
    assert [round(x / 2.5e11 / 60) for x in work] == [28, 5]  # minutes
    assert f"first {statistics.LONGEST:,} tokens" in PAGE
    for name, rows in datasets.MIXED.items():
        assert re.search(rf"{rows:,} \w+\s\(?(?:{name})", PAGE.replace("(", "")), name


def test_commands_of_the_page_are_commands():
    blocks = "".join(re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S))
    gptj = re.search(r'^gptj="(.*)"$', blocks, re.M)[1]
    lines = re.findall(r"^medit-teach (.*)$", blocks.replace("$gptj", gptj), re.M)
    assert [line.split()[0] for line in lines] == ["stats", "edit", "selftest"]
    for line in lines[:2]:
        args = cli._parser().parse_args(line.split())
        assert (args.dtype, args.revision, args.one_at_a_time) == ("float16", "float16", True)


def test_another_family_is_declared_as_the_page_says(monkeypatch):
    from transformers import AutoConfig, AutoModelForCausalLM

    tok = tiny_tokenizer()
    config = AutoConfig.for_model(
        "phi", vocab_size=len(tok), hidden_size=32, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    fact = mt.Fact("{} is", "Rome", "old")
    with pytest.raises(mt.MeditError, match=r"'phi'.*Declare it"):
        mt.edit(model, tok, fact, "rome", layers=[1])
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    monkeypatch.setattr(models, "ARCHITECTURES", dict(models.ARCHITECTURES))
    assert blocks[0].count("\n") <= 7 and "phi" in blocks[0]
    names = {}
    exec(blocks[0], names)
    exec(blocks[1], names)  # families that do something behind the MLP: see test_declaring.py
    for kind in ("olmo2", "granite"):
        assert models.ARCHITECTURES[kind] == DECLARED[kind][0]
    C0 = mt.second_moment(model, tok, TEXTS, [1], tokens=2000)
    with Untouched(model):
        with mt.edit(model, tok, fact, "rome", layers=[1], statistics=C0, steps=5) as e:
            site, h = (e.hyper["site"], 1), e.hyper
            now = mt.keys.at_subject(model, tok, [fact], [site], h["contexts"], h["average"])[site]
            assert (now - e.values[0].target).norm() < 1e-4 * now.norm()


def test_the_table_of_errors_is_the_record():
    for kind, row in RECORD["types"].items():
        numbers = re.search(rf"^\| {kind} \|(.*)\|$", PAGE, re.M)[1].split("|")
        shown = [float(x) for x in numbers]
        errors = [row[k] for k in ("keys", "C0", "Delta", "stored")]
        assert shown[:4] == pytest.approx(errors, rel=0.05, abs=0)
        assert shown[4:] == pytest.approx([row["NS"], row["EM"]], abs=0.051)
        assert row["undone"] is True and row["ES"] == row["PS"] == 100.0
    assert set(RECORD["types"]) == set(tool.TYPES)


def test_the_errors_can_be_measured_again():
    """Of fewer facts and tokens, so of the same size only."""
    settings, rows = tool.measure(RECORD["model"], ["bfloat16"], tool.FACTS | {"n": 3}, 2000)
    assert settings["weights"] == RECORD["weights"]
    again, kept = rows["bfloat16"], RECORD["types"]["bfloat16"]
    for name in ("keys", "C0", "Delta", "stored"):
        assert kept[name] / 4 < again[name] < 4 * kept[name], name
    assert again["undone"]
