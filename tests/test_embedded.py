"""The models that ship with the package: loaded as float32, right about their world, editable."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import medit_teach as mt
from medit_teach import models
from medit_teach.hyper import hyper
from medit_teach.keys import at_subject
from medit_teach.tiny import acceptance, training

NAMES = models.embedded()


def test_the_default_is_there():
    assert models.DEFAULT in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_files(name):
    folder = models.EMBEDDED / name
    size = sum(p.stat().st_size for p in folder.iterdir())
    assert size < 12_000_000
    assert (folder / "README.md").read_text().startswith(f"# {name}")
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("name", NAMES)
def test_train_without_options_takes_the_settings_that_it_was_made_with(name):
    """Steps, batch, seed and preset. (tiny-gptj was lengthened while it ran: its card says so.)"""
    about = json.loads((models.EMBEDDED / name / "config.json").read_text())["medit_teach"]
    assert about["training"]["steps"] == training.VARIANTS[name]["steps"]
    assert about["training"]["batch"] == 32 and about["training"]["seed"] == 0
    assert about["preset"] == training.PRESETS[name] and about["name"] == name


def test_tiny_gptj_was_lengthened_while_it_ran_and_says_so():
    card = (models.EMBEDDED / "tiny-gptj" / "README.md").read_text()
    assert "lengthened to 4600 while it ran" in card and "not the same weights" in card


def test_the_clamps_of_rome_and_memit_reach_about_as_far():
    """Why tiny-gptj's two clamps differ, in the datasheet's words: a block's output is 4.5 times
    as long as its MLP's."""
    model, tok = mt.load("tiny-gptj")
    rome, memit = hyper("rome", model), hyper("memit", model)
    (layer,) = rome.layers
    assert layer == memit.layers[-1] and (rome.site, memit.site) == ("value", "block")
    facts = mt.facts(model=model, n=40, seed=5)
    found = at_subject(model, tok, facts, [("value", layer), ("block", layer)])
    value, block = (found[site, layer].norm(dim=0).mean() for site in ("value", "block"))
    assert 4.25 < block / value < 4.75
    assert 0.8 < rome.clamp * value / (memit.clamp * block) < 1.25


@pytest.mark.parametrize("name", NAMES)
def test_plain_transformers_loads_it_in_float32_and_it_knows_its_world(name):
    folder = models.EMBEDDED / name
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tok = AutoTokenizer.from_pretrained(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    right = 0
    facts = mt.facts(model=model, n=50, seed=3)
    for fact in facts:
        ids = tok(fact.text, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            best = int(model(**ids).logits[0, -1].argmax())
        right += best == tok(" " + fact.target_true)["input_ids"][0]
    assert right >= 48


@pytest.mark.parametrize("method", ["rome", "memit", "emmet", "alphaedit", "nullspace", "ft"])
@pytest.mark.parametrize("name", NAMES)
def test_each_method_by_its_preset(name, method):
    model, tok = mt.load(name)
    facts = mt.facts(model=model, n=6, seed=4)
    before = models.fingerprint(model)
    with mt.edit(model, tok, facts, method=method):
        scores = mt.score(model, tok, facts)
        assert models.fingerprint(model) != before
    assert models.fingerprint(model) == before
    if name not in acceptance.MODELS:  # the control: edits work less well, which is its point
        assert scores.ES >= 50
        return
    assert scores.ES == 100 and scores.PS >= (60 if method == "ft" else 90)
    assert scores.NS >= (50 if method == "ft" else 85)
