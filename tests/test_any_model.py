"""Every notebook runs on models that do not ship with the package: random GPT-2 and GPT-J of two
layers, with the true tokenizer, true facts, and text from a file. Outcomes are not looked at."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import warnings

import pytest
import torch

import medit_teach as mt
from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))


@pytest.fixture(scope="module")
def setting(reference, tmp_path_factory):
    """Model folders, facts and text, as the environment variables name them."""
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        GPT2TokenizerFast,
        GPTJConfig,
        GPTJForCausalLM,
    )

    root = tmp_path_factory.mktemp("any")
    tok = GPT2TokenizerFast.from_pretrained(reference("data/gpt2-tokenizer"))
    torch.manual_seed(0)
    size = dict(vocab_size=len(tok), n_positions=256, n_embd=32, n_layer=2, n_head=2)
    models = {
        "gpt2": GPT2LMHeadModel(GPT2Config(**size)),
        "gptj": GPTJForCausalLM(GPTJConfig(rotary_dim=8, **size)),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
        tok.save_pretrained(root / name)
    flat = json.loads(reference("data/counterfact-edit.json").read_text())
    few = list(itertools.islice({r["subject"]: r for r in flat}.values(), 300))
    (root / "facts.json").write_text(json.dumps(few))
    text = reference("data/wikitext-2-valid.txt").read_text(encoding="utf-8").splitlines()
    long = [line.strip() for line in text if len(line) > 200]
    (root / "text.txt").write_text("\n".join(long[:400]), encoding="utf-8")
    return root


@pytest.mark.parametrize("kind", ["gpt2", "gptj"])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_on_another_model(path, kind, setting, monkeypatch):
    source = [
        "".join(cell["source"])
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    if not any(re.search(r"mt\.load\((dtype=dtype)?\)", text) for text in source):
        pytest.skip("this chapter loads no model")
    monkeypatch.setenv("MEDIT_MODEL", str(setting / kind))
    monkeypatch.setenv("MEDIT_FACTS", str(setting / "facts.json"))
    monkeypatch.setenv("MEDIT_TEXT", str(setting / "text.txt"))
    monkeypatch.setenv("MEDIT_CACHE", str(setting / "cache"))
    monkeypatch.chdir(path.parent)
    assert not mt.is_embedded(mt.load()[0])
    default = torch.get_default_dtype()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="no preset for this")
            namespace = {"__name__": "__main__"}
            for text in source:
                exec(compile(text, path.name, "exec"), namespace)
    finally:
        torch.set_default_dtype(default)
