"""Questions that follow from edits: complete, not ambiguous, fairly counted; and their records."""

from __future__ import annotations

import json

import numpy as np
import pytest

import medit_teach as mt
from measure import ripples as measure_ripples
from medit_teach.errors import MeditError
from medit_teach.hyper import hyper
from medit_teach.models import fingerprint
from medit_teach.study import ripples
from medit_teach.world import World
from tests.conftest import ROOT

RECORD = ROOT / "medit_teach" / "book" / "records" / "ripples.jsonl"


@pytest.fixture(scope="module")
def world():
    return World.small(seed=1)


def facts(world, relation, n=6):
    return [measure_ripples.fact_of(world, relation, s) for s in world.subjects(relation)[:n]]


@pytest.mark.parametrize("relation", ["chair", "partner", "employer", "headquarters", "country"])
def test_every_question_has_the_answers_of_the_two_worlds(world, relation):
    chosen = facts(world, relation)
    asked = ripples.questions(world, chosen)
    assert len({(q.path, q.subject, q.prompt) for q in asked}) == len(asked)
    for q in asked:
        assert q.old == world.follow(q.path, q.subject)
        assert q.new == world.follow(q.path, q.subject, world.changed(chosen[q.edit]))
        assert (q.old == q.new) == (q.kind == "same")
        assert q.subject in q.prompt
    kinds = {q.kind for q in asked}
    assert {"edited", "words", "same"} <= kinds <= set(ripples.KINDS)


def test_a_question_on_which_two_edits_bear_is_left_out(world):
    a, b = world.subjects("employer")[:2]
    once = ripples.questions(world, [measure_ripples.fact_of(world, "employer", a)])
    twice = ripples.questions(world, [measure_ripples.fact_of(world, "employer", a)] * 2)
    assert once and not twice
    both = ripples.questions(world, facts(world, "employer", 2))
    assert {q.subject for q in both if q.kind == "edited"} == {a, b}


def test_facts_of_two_relations_are_refused(world):
    mixed = facts(world, "employer", 1) + facts(world, "chair", 1)
    with pytest.raises(MeditError, match="one relation"):
        ripples.questions(world, mixed)


def question(edit, kind, old="o", new="n", stated=True):
    return ripples.Question(edit, kind, ("r",), "s", "p", old, new, stated)


def test_known_and_rate_count_what_they_say():
    asked = [question(0, "first"), question(0, "first"), question(1, "first"),
             question(1, "same", "x", "x"), question(2, "inverse", None)]  # fmt: skip
    known = ripples.known(asked, "o-onn")
    assert known == [True, False, True, True, False]
    # edit 0 has one new answer of two, edit 1 one of one
    assert ripples.rate(asked, "n-nnn", kind="first")[::3] == (75.0, 3)
    assert ripples.rate(asked, "n-nnn", known, kind="first")[::3] == (100.0, 2)
    assert ripples.rate(asked, "-o---", want="o", kind={"first", "same"})[::3] == (25.0, 4)
    assert ripples.rate(asked, "nnnnn", kind="three") is None
    assert ripples.rate(asked, "nnnnn", kind="first", stated=False) is None


def test_the_sentences_in_front_hold_the_whole_path(world):
    fact = facts(world, "employer", 1)[0]
    asked = ripples.questions(world, [fact])
    told = measure_ripples.told_links(world, [fact])
    for q in asked:
        assert told(q).startswith(f"{fact.text} {fact.target_new}.")
        if len(q.path) > 1:
            assert told(q).endswith(f"{q.new}.")


@pytest.fixture(scope="module")
def records():
    return [json.loads(line) for line in RECORD.read_text(encoding="utf-8").splitlines()]


def test_the_records_belong_to_the_model_that_ships(records):
    settings, *rows = records
    model, _ = mt.load("tiny-gptj")
    assert settings["weights"] == fingerprint(model)
    assert [row["relation"] for row in rows] == list(measure_ripples.EDITS)
    asked, says, prefers = ripples.load(RECORD)
    assert {len(asked)} == {len(x) for x in [*says.values(), *prefers.values()]}
    assert np.isnan(prefers["MEMIT both ways"]).any()  # relations without an inverse lack it


def test_a_relation_can_be_measured_again(records):
    stored = next(row for row in records[1:] if row["relation"] == "country")
    model, tok = mt.load("tiny-gptj")
    world = World(**model.config.medit_teach["world"])
    C0 = mt.statistics_for(model, tok, hyper("memit", model).layers)
    again = measure_ripples.measure(
        model, tok, world, "country", C0, methods=("unedited", "MEMIT", "prompt")
    )
    for name in ("edits", "edit", "kind", "path", "stated", "moves"):
        assert json.loads(json.dumps(again[name])) == stored[name]
    for name, said in again["says"].items():
        same = [a == b for a, b in zip(said, stored["says"][name], strict=True)]
        assert np.mean(same) > 0.97, name
