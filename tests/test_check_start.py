"""Checks of chapter 0: they accept the published solutions and tell wrong answers what is wrong."""

from __future__ import annotations

import re
import sys

import pytest

import medit_teach as mt
from medit_teach.book.check import core, start
from medit_teach.edits import edits_of
from medit_teach.models import fingerprint
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def setting():
    """What the chapter has at its end, with the same facts."""
    model, tok = mt.load()
    facts = mt.facts("world", n=8, seed=SEED, model=model)
    edit = mt.edit(model, tok, facts[0], method="rome").undo()
    return {"mt": mt, "start": start, "model": model, "tok": tok, "facts": facts,
            "fact": facts[0], "edit": edit}  # fmt: skip


SEED = int(re.search(r"seed=(\d+)", (ROOT / "book" / "00-start.ipynb").read_text())[1])


def verdict(capsys, function, *args):
    core.passed.clear()
    assert function(*args) is None
    return core.passed.get(function.__name__), capsys.readouterr().out.strip()


def test_the_published_solutions_are_right(setting, capsys):
    page = (ROOT / "book" / "solutions" / "00-start.md").read_text()
    before = fingerprint(setting["model"])
    core.passed.clear()
    namespace = dict(setting)
    for code in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(code, namespace)
    assert core.passed == dict.fromkeys(("own_edit", "in_scope", "undo_both", "hole"), True), (
        capsys.readouterr().out
    )
    assert fingerprint(setting["model"]) == before


@pytest.mark.parametrize("function", [start.own_edit, start.in_scope, start.undo_both, start.hole])
@pytest.mark.parametrize("nothing", [None, ...])
def test_no_answer_is_not_a_wrong_answer(function, nothing, capsys):
    more = {"own_edit": 3, "in_scope": 2, "undo_both": 3, "hole": 3}[function.__name__]
    assert verdict(capsys, function, nothing, *[None] * more) == (None, "no answer yet")


def test_own_edit_says_what_is_wrong(setting, capsys):
    model, tok, facts = (setting[name] for name in ("model", "tok", "facts"))
    about = model, tok, facts[1]
    before = fingerprint(model)

    def written(fact, **how):
        return mt.edit(model, tok, fact, method="rome", **how)

    same = mt.Fact(facts[1].prompt, facts[1].subject, facts[1].target_true)
    wrong = {
        "your answer is a Fact": lambda: facts[1],
        "not applied": lambda: written(facts[1]).undo(),
        "alone": lambda: written(facts[2]),
        "said already": lambda: written(same),
        "after your edit the model says": lambda: written(facts[1], clamp=0.01),
    }
    for message, answer in wrong.items():
        ok, text = verdict(capsys, start.own_edit, answer(), *about)
        assert ok is False and message in text, (message, text)
        assert fingerprint(model) == before and not edits_of(model)


def test_in_scope_says_which_prompt_to_look_at(setting, capsys):
    about = setting["model"], setting["fact"]
    prompts = start.scope_questions(*about)
    assert len(prompts) == 5
    wrong = {
        "5 prompts, you judged 2": [True, False],
        "True or False": [True, False, "maybe", True, False],
        f"{prompts[0]!r}: follow": [False, False, False, True, False],
        f"{prompts[2]!r}: which": [True, False, True, True, False],
        f"{prompts[3]!r}: follow": [True, False, False, False, False],
    }
    for message, answer in wrong.items():
        ok, text = verdict(capsys, start.in_scope, answer, *about)
        assert ok is False and message in text, (message, text)


def test_undo_both_says_what_is_wrong_and_cleans_up(setting, capsys):
    about = setting["model"], setting["tok"], setting["facts"][1:3]
    before = fingerprint(setting["model"])

    def wrong_order(first, second):
        first.undo()
        second.undo()

    wrong = {
        "wants your function": 3,
        "stops with": lambda first: None,
        "the library refuses": wrong_order,
        "still applied: first": lambda first, second: second.undo(),
        "still applied: first, second": lambda first, second: None,
    }
    for message, answer in wrong.items():
        ok, text = verdict(capsys, start.undo_both, answer, *about)
        assert ok is False and message in text, (message, text)
        assert fingerprint(setting["model"]) == before
    unfinished = lambda first, second: ...  # noqa: E731
    assert verdict(capsys, start.undo_both, unfinished, *about) == (None, "no answer yet")


def test_hole_says_what_is_wrong(setting, capsys):
    model, tok, fact, edit = (setting[name] for name in ("model", "tok", "fact", "edit"))
    about = model, tok, edit
    wrong = {
        "yours is a int": 3,
        "even before the edit": "It rained all",
        "the edit reaches this prompt": fact.text,
    }
    for message, answer in wrong.items():
        ok, text = verdict(capsys, start.hole, answer, *about)
        assert ok is False and message in text, (message, text)
    with edit:
        assert "undo it first" in verdict(capsys, start.hole, fact.text, *about)[1]


def test_the_readmes_picture_is_of_this_edit():
    """The committed picture shows the words that the model says today, and the README shows it."""
    sys.path.insert(0, str(ROOT / "tools"))
    import picture

    assert SEED == picture.SEED
    words = lambda svg: re.findall(r">([^<>%]+)</text>", svg)  # noqa: E731
    stored = (ROOT / "book" / "_static" / "first-edit.svg").read_text()
    assert words(picture.draw(picture.measure())) == words(stored)
    assert "book/_static/first-edit.svg" in (ROOT / "README.md").read_text()
