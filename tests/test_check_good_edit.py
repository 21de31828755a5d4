"""The checks of chapter 4: right answers pass, wrong ones are told why, and hold no solution."""

from __future__ import annotations

import re

import numpy as np
import pytest

from medit_teach.book import check
from medit_teach.book.check import good_edit

from .conftest import ROOT

BLOCKS = re.findall(
    r"```python\n(.*?)```", (ROOT / "book/solutions/04-good-edit.md").read_text(), re.S
)
WORDS = "a b c d e f g h".split()


@pytest.fixture(scope="module")
def solution():
    """What the solutions page's code defines."""
    found = {}
    for block in BLOCKS:
        exec(block, found)
    return found


def said(capsys, function, *args):
    check.passed.clear()
    assert function(*args) is None
    return check.passed.get(function.__name__), capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (good_edit.scope, "labels"),
        (good_edit.needed_locality, "ns"),
        (good_edit.gamed, "cheat"),
        (good_edit.gamed_fluency, "text"),
        (good_edit.interval, "interval"),
        (good_edit.facts_needed, "number_of_facts"),
    ],
)
def test_solutions_pass_and_nothing_is_no_answer(capsys, solution, function, name):
    passed, text = said(capsys, function, solution[name])
    assert passed and text.startswith("right: "), text
    for nothing in (None, ...):
        assert said(capsys, function, nothing) == (None, "no answer yet")


def test_an_untouched_answer_is_no_answer(capsys):
    assert said(capsys, good_edit.scope, [None] * 8)[0] is None
    assert said(capsys, good_edit.gamed, lambda *_: ...)[0] is None
    assert said(capsys, good_edit.interval, lambda *_: ...)[0] is None


def test_scope_names_the_question_but_not_the_label(capsys, solution):
    for number, right in enumerate(solution["labels"]):
        for label in {"in", "out", "follows"} - {right}:
            labels = list(solution["labels"])
            labels[number] = label
            passed, text = said(capsys, good_edit.scope, labels)
            assert passed is False and f"question {number + 1}" in text
            assert f"'{right}'" not in text
    assert "8 questions" in said(capsys, good_edit.scope, ["in"])[1]
    assert "none of" in said(capsys, good_edit.scope, ["yes"] * 8)[1]


@pytest.mark.parametrize("seed", range(5))
def test_scope_case_follows_from_its_world(seed):
    world, (relation, subject, new), asked = good_edit.scope_case(seed)
    assert world.facts[relation, subject] != new
    after = world.changed((relation, subject, new))
    moved = [world.follow(p, s) != world.follow(p, s, after) for p, s, _ in asked]
    edited = [p == (relation,) and s == subject for p, s, _ in asked]
    assert sum(edited) == 2 and sum(moved) == 4
    listed = {(c.path, c.subject) for c in world.consequences((relation, subject, new))}
    for (path, who, _), m, e in zip(asked, moved, edited, strict=True):
        assert ((path, who) in listed) == (m and not e)


@pytest.mark.parametrize(
    ("function", "answer", "says"),
    [
        (good_edit.needed_locality, 90.0, "mean is 96.4"),
        (good_edit.needed_locality, 120, "percentage"),
        (good_edit.gamed, 3, "your function"),
        (good_edit.gamed, lambda z, new, true: z, "still prefers"),
        (good_edit.gamed, lambda z, new, true: z.index_fill(0, _i(new), 99.0), "really says"),
        (good_edit.gamed, lambda z, new, true: z.index_fill(0, _i(true), -np.inf), "finite"),
        (good_edit.gamed, lambda z, new, true: z[:2], "give back all"),
        (good_edit.gamed, lambda z, new, true: _drop(z, new, true), "one is enough"),
        (good_edit.gamed_fluency, "one two", "60 words"),
        (good_edit.gamed_fluency, " ".join(map(str, range(60))), "at most 8"),
        (good_edit.gamed_fluency, " ".join(WORDS * 7 + WORDS[:4]), "below 5.5"),
        (good_edit.gamed_fluency, 5, "wants a text"),
        (good_edit.interval, lambda v, s: (v.mean(), v.mean()), "no width"),
        (good_edit.interval, lambda v, s: tuple(np.quantile(v, [0.025, 0.975])), "single values"),
        (good_edit.interval, lambda v, s: (v.mean() + 1, v.mean() + 2), "lies outside"),
        (good_edit.interval, lambda v, s: _normal(v, 1.0), "times the width"),
        (good_edit.interval, lambda v, s: 1 / 0, "ZeroDivisionError"),
        (good_edit.facts_needed, 100, "too wide"),
        (good_edit.facts_needed, 5000, "fewer would do"),
        (good_edit.facts_needed, 864.4, "whole number"),
    ],
)  # fmt: skip
def test_wrong_answers_are_told_why(capsys, function, answer, says):
    passed, text = said(capsys, function, answer)
    assert passed is False and text.startswith("not yet: ") and says in text


def _i(index):
    import torch

    return torch.tensor([index])


def _drop(z, new, true):
    """Lower the true logit, and one more for no reason."""
    order = z.argsort()
    z[true] = z[new] - 1
    z[order[0]] -= 1
    return z


def _normal(values, z):
    half = z * values.std() / len(values) ** 0.5
    return values.mean() - half, values.mean() + half


def test_consistency_is_the_cosine_of_tfidf_vectors_by_hand():
    import math
    from collections import Counter

    from medit_teach.errors import FactError
    from medit_teach.fact import Fact
    from medit_teach.metrics import consistency, generate

    from .helpers import tiny_model, tiny_tokenizer

    tok = tiny_tokenizer()
    model = tiny_model("gptj", tok)
    facts = [
        Fact("{} plays the", "Anna Marlow", "harp", generation=("Anna works", "Here is Anna")),
        Fact("{} plays the", "Otto", "drum", generation=("Otto works in Rome",)),
        Fact("{} plays the", "Zoë", "drum"),
    ]  # fmt: skip
    references = [["Anna works here. Rome is here."], ["Otto plays the drum in Rome."], ["x y"]]
    told = [" ".join(texts) for texts in references[:2]]

    def words(text):
        return Counter(re.findall(r"\b\w\w+\b", text.lower()))

    idf = {
        w: 1 + math.log(3 / (1 + sum(w in words(t) for t in told))) for t in told for w in words(t)
    }

    def vector(text):
        return {w: n * idf[w] for w, n in words(text).items() if w in idf}

    cosines = []
    for fact, text in zip(facts, told, strict=False):
        a, b = vector(" ".join(generate(model, tok, fact.generation, 5))), vector(text)
        norms = math.hypot(*a.values()) * math.hypot(*b.values())
        cosines.append(sum(a[w] * b.get(w, 0) for w in a) / norms)
    found = consistency(model, tok, facts, references, n_tokens=5)
    assert found == pytest.approx(np.mean(cosines), rel=1e-9) and 0 < found < 1
    with pytest.raises(FactError, match="reference texts"):
        consistency(model, tok, facts, [[], [], ["x y"]])


def test_python_numbers_keep_their_digits(capsys):
    check.check_equation("eq:digits", 5.866201679872328, 5.8662016798723275)
    with pytest.raises(AssertionError):
        check.check_equation("eq:digits", 5.8662016, 5.8662017)
