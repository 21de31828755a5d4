"""The method card: what the edit knows is on it, and what nobody said stays visible."""

from __future__ import annotations

import re

import pytest

import medit_teach as mt
from medit_teach.study import method_card as cards
from tests.conftest import ROOT

PAGE = (ROOT / "book" / "method-card.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"(?<![\w.-])\d+(?:\.\d+)?(?:e[+-]\d+)?(?![\w.]|-\w)")


def between(name):
    return re.search(rf"<!-- {name}.*? -->\n(.*?)<!-- end of {name} -->", PAGE, re.S)[1].strip()


@pytest.fixture(scope="module")
def edit():
    model, tok = mt.load("tiny-gptj")
    e = mt.edit(model, tok, mt.facts(model=model, n=1, seed=11), "rome", steps=2)
    e.undo()
    return e


def test_an_empty_card_shows_every_open_question(edit):
    text = cards.method_card(edit)
    assert text.count("**not stated**") == len(cards.ASKED) + 1  # and the scores
    for question in cards.ASKED.values():
        assert question in text
    assert edit.before in text and edit.after in text and "192 x 768, rank at most 1" in text
    fact = edit.facts[0]
    assert f"| {fact.text} | {fact.target_true} | {fact.target_new} |" in text


def test_answers_stand_where_they_were_asked(edit):
    text = cards.method_card(edit, purpose="To test.", contact="nobody", model_name="mine")
    assert f"*{cards.ASKED['purpose']}* To test." in text
    assert f"*{cards.ASKED['contact']}* nobody" in text and "**Model**: mine" in text
    assert text.count("**not stated**") == len(cards.ASKED) - 1


def test_an_answer_to_no_question_is_refused(edit):
    with pytest.raises(mt.MeditError, match="has no field 'reason'"):
        cards.method_card(edit, reason="none")


def test_an_edit_from_disk_has_a_card_too(edit, tmp_path):
    loaded = mt.Edit.load(edit.save(tmp_path))
    text = cards.method_card(loaded)
    assert "**Model**: not stated" in text and "`not stated` after" in text
    assert cards.method_card(edit).split("## The facts")[1] == text.split("## The facts")[1]


def test_scores_with_intervals_before_and_after(edit):
    model, tok = mt.load("tiny-gptj")
    scores = mt.score(model, tok, edit.facts, resamples=10)
    text = cards.method_card(edit, scores, scores)
    value, low, high, n = scores.values["NA"]
    cell = f"{value:.1f} ({low:.1f} to {high:.1f}), {n} facts"
    assert f"| NA | {cell} | {cell} |" in text and scores.protocol in text
    assert "before" not in cards.method_card(edit, scores).split("What it did")[1].split("|---")[0]


def test_the_page_asks_what_the_card_asks():
    assert between("questions") == "\n".join(f"- {q}" for q in cards.ASKED.values())


def test_the_example_on_the_page_is_what_the_command_prints():
    said, made = between("card"), cards.example().strip()
    hashes = re.compile(r"`[0-9a-f]{32}` after")  # last bits of an edit depend on the processor
    said, made = hashes.sub("`hash` after", said), hashes.sub("`hash` after", made)
    assert NUMBER.sub("#", said) == NUMBER.sub("#", made)
    for a, b in zip(NUMBER.findall(said), NUMBER.findall(made), strict=True):
        assert float(a) == pytest.approx(float(b), rel=0.05, abs=1.0), (a, b)
