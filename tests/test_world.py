"""The invented world: deterministic, in CounterFact's schema, consequences right, enough of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from medit_teach.corpus import Corpus
from medit_teach.facts import Fact
from medit_teach.world import (
    BY_NAME,
    CATEGORIES,
    CLASSES,
    COMPOSITIONS,
    RELATIONS,
    WORDS,
    World,
    table,
)
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def small():
    return World.small()


@pytest.fixture(scope="module")
def full():
    return World()


@pytest.fixture(scope="module")
def tok(full):
    return full.corpus().tokenizer()


def test_same_arguments_same_world_other_seed_other_world(small):
    again, other = World.small(), World.small(seed=1)
    assert again.facts == small.facts and again.status == small.status
    assert again.records() == small.records() and again.texts(50) == small.texts(50)
    assert not set(other.names["person"]) & set(small.names["person"])
    assert other.texts(5) != small.texts(5)


def test_it_does_not_depend_on_the_order_of_hashes():
    code = (
        "from medit_teach.world import World; import hashlib; w = World.small();"
        "text = repr((w.facts, w.records(), w.texts(200), w.consequences(w.records()[0])));"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": s},
        ).stdout
        for s in ("1", "2")
    ]  # fmt: skip
    assert runs[0] == runs[1] and len(runs[0].strip()) == 64


def test_names_are_unique_and_no_name_lies_in_another(full):
    names = [n for c in CLASSES for n in full.names[c] + full.spare[c]]
    assert len(names) == len(set(names))
    text = "\n".join(names)
    # every name occurs once in the text of all names, also when case is ignored
    assert all(text.count(n) == 1 for n in names)
    words = [w for ws in WORDS.values() for w in ws]
    assert not [n for n in full.first + full.family if n.lower() in words]


def test_classes_are_large_enough(full):
    assert [len(full.names[c]) for c in CLASSES] == [1600, 600, 600, 30]
    known = {c: set() for c in ("person", "city", "company")}
    for r in CATEGORIES:
        for s in full.subjects(r):
            known[BY_NAME[r].cls].add(s)
    assert all(len(v) >= 350 for v in known.values()), {k: len(v) for k, v in known.items()}
    assert sum(map(len, known.values())) >= 1800
    assert all(len(full.subjects(r)) >= 330 for r in CATEGORIES)


def test_words_are_one_token_and_bridges_are_several(full, tok):
    for w in {w for ws in WORDS.values() for w in ws}:
        assert len(tok(" " + w)["input_ids"]) == 1, w
    for c in CLASSES:
        counts = Counter(len(tok(" " + n)["input_ids"]) for n in full.names[c])
        assert min(counts) >= 2
        assert sum(v for k, v in counts.items() if k <= 5) / sum(counts.values()) > 0.95
    assert len(tok) < 2000
    assert tok("Hello there")["input_ids"] == tok("Hello there", add_special_tokens=False).input_ids


def test_categories_differ_as_documented(full):
    rows = {r["relation"]: r for r in full.describe()}
    assert rows["sport"]["most_frequent"] > 0.3 > 0.06 > rows["trade"]["most_frequent"]

    def same_group(relation):
        """How often two subjects of one family, type or ending share the object."""
        groups = {}
        for (r, s), o in full.facts.items():
            if r == relation:
                groups.setdefault(full.group(s), []).append(o)
        pairs = [a == b for os in groups.values() for a, b in pairwise(os)]
        return sum(pairs) / len(pairs)

    assert same_group("tongue") > 0.5 > 0.2 > same_group("instrument")
    assert same_group("landmark") > 0.4 > 0.2 > same_group("dish")


def test_records_follow_counterfacts_schema(small):
    records = small.records()
    subjects = [r["requested_rewrite"]["subject"] for r in records]
    assert len(subjects) == len(set(subjects))
    for r in small.records(distinct_subjects=False) + small.records(["partner", "chair"]):
        rw = r["requested_rewrite"]
        relation, s = r["relation"], rw["subject"]
        assert rw["prompt"].count("{}") == 1 and rw["relation_id"] == BY_NAME[relation].id
        assert rw["target_true"]["str"] == small.facts[relation, s]
        assert rw["target_new"]["str"] not in (rw["target_true"]["str"], s)
        assert rw["target_new"]["str"] in small.objects[relation]
        assert s in small.editable and small.status[relation, s] == "common"
        assert all(s in p for p in r["paraphrase_prompts"]) and len(r["paraphrase_prompts"]) == 2
        for p, x in zip(r["neighborhood_prompts"], r["neighborhood_subjects"], strict=True):
            assert small.facts[relation, x] == rw["target_true"]["str"] and x in p and s not in p
        assert len(r["neighborhood_prompts"]) <= 10 and r["generation_prompts"]
        fact = Fact.from_record(r)
        assert (fact.subject, fact.target_new) == (s, rw["target_new"]["str"])
    ids = [r["case_id"] for r in small.records(distinct_subjects=False)]
    assert len(ids) == len(set(ids))
    with pytest.raises(ValueError, match="unknown relation 'colr'"):
        small.records("colr")


def test_dataset_splits_by_subject(small):
    data = small.dataset()
    assert set(data) == {"train", "validation", "test"}
    subjects = [{r["requested_rewrite"]["subject"] for r in data[k]} for k in data]
    assert all(subjects) and not subjects[0] & subjects[1] and not subjects[0] & subjects[2]
    assert sum(map(len, data.values())) == len(small.records(distinct_subjects=False))


def test_held_out_templates_are_never_used_for_editable_subjects(small):
    corpus = Corpus(small)
    text = "\n".join(corpus.texts(6000))
    used = 0
    for r in RELATIONS:
        for s in small.names[r.cls]:
            n = sum(t.format(s) in text for t in r.heldout)
            used += n
            assert s not in small.editable or n == 0, s
    assert used > 20  # and they are used for the others


def test_no_page_contradicts_a_fact_that_edits_use(small):
    corpus = Corpus(small)
    text = "\n".join(corpus.texts(6000))
    for r in RELATIONS:
        for s in small.subjects(r.name):
            true = small.facts[r.name, s]
            for t in r.train:
                head = t.format(s) + " "
                for part in text.split(head)[1:]:
                    assert part.startswith(true + "."), head
    contested = [s for r in RELATIONS for s in corpus.contested[r.name]]
    assert contested and not all(s in small.editable for s in contested)


def test_never_stated_facts_are_not_in_the_corpus_and_rare_ones_are_rare(small):
    corpus = Corpus(small)
    for (relation, s), status in small.status.items():
        said = [w for p, w in corpus.menu[s] if p == (relation,)]
        assert said == {"common": [1.0], "rare": [0.2], "never": []}[status]


def test_the_chain_and_the_questions_are_right(small):
    p = small.names["person"][0]
    path = ("employer", "headquarters", "country", "language")
    company = small.facts["employer", p]
    city = small.facts["headquarters", company]
    land = small.facts["country", city]
    assert small.follow(path, p) == small.facts["language", land]
    for q in small.questions(known=False):
        if q.kind in ("two-hop", "three-hop"):
            assert q.answer == small.follow(q.path, q.subject)
        elif q.kind == "inverse":
            assert small.facts["chair", q.answer] == q.subject
        else:
            assert small.facts["partner", q.answer] == q.subject
        assert all(q.subject in t for t in q.prompts)
    stated = {q.stated for q in small.questions("two-hop", known=False)}
    assert stated == {True, False}


def brute_force(world, edit):
    """Answers of every single-fact and composed question, asked of a plain dictionary."""
    facts = world.changed(edit)
    keys = dict.fromkeys([*world.facts, *facts])
    out = {((r,), s): (world.facts.get((r, s)), facts.get((r, s))) for r, s in keys}
    for path in COMPOSITIONS:
        for s in world.names[BY_NAME[path[0]].cls]:
            ends = []
            for known in (world.facts, facts):
                x = s
                for r in path:
                    x = known.get((r, x))
                ends.append(x)
            out[path, s] = tuple(ends)
    relation, s, _ = world.as_edit(edit)
    out.pop(((relation,), s))
    return {k: v for k, v in out.items() if v[0] != v[1]}


@pytest.mark.parametrize("relation", list(BY_NAME))
def test_consequences_are_all_there_is(small, relation):
    rng = Random(relation)
    subjects = [s for (r, s) in small.facts if r == relation]
    for s in rng.sample(subjects, min(6, len(subjects))):
        true = small.facts[relation, s]
        new = rng.choice([o for o in small.objects[relation] if o not in (true, s)])
        found = small.consequences((relation, s, new))
        listed = {(c.path, c.subject): (c.old, c.new) for c in found}
        assert listed == brute_force(small, (relation, s, new))
        assert len(listed) == len(found) and all(c.prompts for c in found)
        kinds = Counter(c.kind for c in found)
        if relation == "instrument":
            assert not found
        if relation in ("chair", "chairs"):
            assert kinds["inverse"] == 2
        if relation == "partner":
            assert kinds["symmetric"] == 2


def test_a_partner_edit_by_hand(small):
    a = next(s for (r, s) in small.facts if r == "partner")
    b = small.facts["partner", a]
    c = next(s for (r, s) in small.facts if r == "partner" and s not in (a, b))
    d = small.facts["partner", c]
    answers = {(x.subject, x.old, x.new, x.kind) for x in small.consequences(("partner", a, c))}
    assert answers == {
        (b, a, None, "symmetric"), (c, d, a, "symmetric"), (d, c, None, "displaced"),
    }  # fmt: skip


def test_an_edit_can_be_a_record_or_a_fact(small):
    record = small.records("employer")[0]
    rw = record["requested_rewrite"]
    plain = small.consequences(("employer", rw["subject"], rw["target_new"]["str"]))
    assert small.consequences(record) == plain == small.consequences(Fact.from_record(record))
    assert {c.kind for c in plain} <= {"two-hop", "three-hop"} and plain
    with pytest.raises(ValueError, match="has no employer"):
        small.consequences(("employer", "Nobody", "x"))
    with pytest.raises(ValueError, match="unknown relation"):
        small.consequences(("boss", rw["subject"], "x"))


def test_the_datasheet_shows_this_world(full):
    page = (ROOT / "book" / "datasheet.md").read_text(encoding="utf-8")
    assert table(full) in page
