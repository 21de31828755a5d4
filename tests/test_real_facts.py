"""The real facts: tables, records made of them by rule, splits, and what a model knows."""

import json
import re
import tomllib
from collections import Counter
from fnmatch import fnmatch
from types import SimpleNamespace

import pytest
import torch

import medit_teach as mt
from medit_teach import datasets, real
from medit_teach.edits import edits_of
from medit_teach.errors import FactError
from medit_teach.metrics import top_tokens

from .conftest import ROOT
from .helpers import tiny_model, tiny_tokenizer

RECORDS = real.records()
RELATIONS = real.relations()


def parts(record):
    """(relation, subject, target_true, target_new) of a record."""
    rewrite = record["requested_rewrite"]
    return (
        RELATIONS[record["relation"]], rewrite["subject"],
        rewrite["target_true"]["str"], rewrite["target_new"]["str"],
    )  # fmt: skip


# ------------------------------------------------------------------ the tables


def test_there_are_enough_and_none_twice():
    count = Counter(record["relation"] for record in RECORDS)
    assert len(count) >= 16 and sum(count.values()) >= 1200
    assert min(count.values()) >= 20
    assert len({record["case_id"] for record in RECORDS}) == len(RECORDS)
    assert len({r.id for r in RELATIONS.values()}) == len(RELATIONS)


def test_a_table_with_a_subject_twice_is_refused(tmp_path):
    path = tmp_path / "capital.toml"
    text = (real.FOLDER / "capital.toml").read_text(encoding="utf-8")
    path.write_text(text.replace("Paris: France\n", "Paris: France\nLyon: France\n"))
    with pytest.raises(FactError, match="France stands there twice"):
        real._read(path)


def test_the_tables_are_well_formed():
    for r in RELATIONS.values():
        templates = [*r.wordings, *r.generation, *r.hops.values(), *filter(None, [r.inverse])]
        assert all(t.count("{}") == 1 for t in templates), r.name
        assert len(set(r.wordings)) == len(r.wordings) >= 4, r.name
        assert len(r.generation) >= 2, r.name
        assert all(x == x.strip() and x for pair in r.facts.items() for x in pair), r.name
        assert set(r.also) <= set(r.facts) and set(r.hops) <= set(RELATIONS), r.name
        known = set(r.facts.values())
        for subject, others in r.also.items():
            assert set(others) <= known - {r.facts[subject]}, (r.name, subject)


def test_the_package_carries_the_tables():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["medit_teach"]
    for path in real.FOLDER.iterdir():
        name = path.relative_to(ROOT / "medit_teach").as_posix()
        assert any(fnmatch(name, pattern.replace("**", "*")) for pattern in patterns), name


# ------------------------------------------------------------------ records


def test_a_record_by_hand():
    record = real.record("landmark", "Eiffel Tower")
    fact = mt.Fact.from_record(record)
    assert fact.text == "The Eiffel Tower is located in the city of"
    assert (fact.subject, fact.target_true, fact.relation) == ("Eiffel Tower", "Paris", "R08")
    assert record["subject_class"] == "landmark" and record["object_class"] == "city"
    assert record["hops"][0]["answer"] == "France"
    assert real.record("capital", "France")["inverse"] == {
        "prompt": "Paris is the capital of", "answer": "France",
    }  # fmt: skip
    capital = real.record("capital", "United States")
    assert mt.Fact.from_record(capital).text.count("of the United States") == 1
    assert capital["inverse"]["answer"] == "the United States"


def test_a_fact_that_its_subject_gives_away_has_no_record():
    assert RELATIONS["landmark"].facts["Tokyo Tower"] == "Tokyo"
    assert not any(record["case_id"] == "landmark/Tokyo Tower" for record in RECORDS)
    for record in RECORDS:
        _, subject, true, new = parts(record)
        words = re.findall(r"\w+", subject)
        assert true not in words and new not in words, record["case_id"]


def test_the_new_object_is_another_one_of_the_relation():
    for record in RECORDS:
        r, subject, true, new = parts(record)
        assert true == r.facts[subject]
        assert new in r.facts.values() and new not in r.true(subject), record["case_id"]
        assert new not in r.also.get(subject, ())


def test_subjects_stand_once_in_their_prompts():
    for record in RECORDS:
        fact = mt.Fact.from_record(record)
        assert len(fact.paraphrases) >= 3 and fact.generation, record["case_id"]
        for prompt in (fact.text, *fact.paraphrases, *fact.generation):
            assert prompt.count(fact.subject) == 1, (record["case_id"], prompt)
        start, end = fact.span
        assert fact.text[start:end] == fact.subject
        assert any(re.match(r".*[.] ", prompt) for prompt in fact.paraphrases)  # text in front


def test_neighbours_are_right_by_the_table():
    kinds = Counter()
    for record in RECORDS:
        r, subject, true, new = parts(record)
        answers = dict(zip(map(r.ask, r.facts), r.facts, strict=True))
        near = list(
            zip(record["neighborhood_prompts"], record["neighborhood_true"], strict=True)
        )  # fmt: skip
        assert near and len(set(near)) == len(near)
        for prompt, own in near:
            other = answers[prompt]
            assert other != subject and own == r.facts[other] and new not in r.true(other)
        same = [own == true for _, own in near]
        assert same == sorted(same, reverse=True)  # CounterFact's kind first
        kinds.update(same)
        for prompt in record["attribute_prompts"]:
            assert r.facts[answers[prompt]] == new
    assert min(kinds.values()) > 3000


def test_lookalikes_end_in_the_same_word_and_are_another_thing():
    known = 0
    subjects = {s for r in RELATIONS.values() for s in r.facts}
    for record in RECORDS:
        r, subject, _, new = parts(record)
        assert record["lookalikes"], record["case_id"]
        for other in record["lookalikes"]:
            name = other["subject"]
            assert name != subject and name.split()[-1] == subject.split()[-1]
            assert other["prompt"].count(name) == 1
            if other["target_true"] is None:
                assert name not in subjects
            else:
                known += 1
                assert other["target_true"] == r.facts[name] != new
                assert other["prompt"] == r.ask(name)
    assert known > 500


def test_hops_and_inverses_agree_with_the_tables():
    hops = inverses = 0
    for record in RECORDS:
        r, subject, true, new = parts(record)
        for hop in record["hops"]:
            answers = {RELATIONS[hop["relation"]].full(s): o
                       for s, o in RELATIONS[hop["relation"]].facts.items()}  # fmt: skip
            assert hop["answer"] == answers[true] != hop["answer_new"] == answers.get(new)
            assert hop["prompt"].count(subject) == 1
            hops += 1
        if record["inverse"]:
            assert [r.full(s) for s in r.subjects(true)] == [record["inverse"]["answer"]]
            assert record["inverse"]["prompt"] == r.inverse.format(true)
            inverses += 1
    assert hops > 1000 and inverses > 200


def test_records_round_trip():
    for record in RECORDS:
        fact = mt.Fact.from_record(json.loads(json.dumps(record)))
        again = fact.to_record()
        assert all(record[key] == value for key, value in again.items()), record["case_id"]
        assert mt.Fact.from_record(again) == fact


# ------------------------------------------------------------------ splits


def test_splits_are_disjoint_and_do_not_move():
    split = {name: real.records(name) for name in real.SPLITS}
    cases = {name: {r["case_id"] for r in found} for name, found in split.items()}
    assert not cases["choosing"] & cases["reporting"]
    assert len(cases["choosing"] | cases["reporting"]) == len(RECORDS)
    assert 0.37 < len(cases["choosing"]) / len(RECORDS) < 0.43
    some = [real.split_of("capital", country) for country in ("France", "Japan", "Peru", "Kenya")]
    assert some == ["reporting", "choosing", "reporting", "reporting"]


def test_a_record_stays_in_its_split():
    for record in RECORDS:
        r, _, _, _ = parts(record)
        answers = dict(zip(map(r.ask, r.facts), r.facts, strict=True))
        others = [answers[p] for p in record["neighborhood_prompts"] + record["attribute_prompts"]]
        others += [x["subject"] for x in record["lookalikes"] if x["target_true"]]
        assert all(real.split_of(r.name, other) == record["split"] for other in others)


def test_facts_by_name_and_by_split(monkeypatch):
    made = {split: real.records(split) for split in (None, *real.SPLITS)}
    monkeypatch.setattr(real, "records", lambda split=None: made[split])  # made once, not each time
    found = mt.facts("real", relation="capital", n=8, seed=0)
    assert len(found) == 8 and {f.relation for f in found} == {"R01"}
    assert found == mt.facts("real", relation="R01", n=8, seed=0)
    assert found != mt.facts("real", relation="capital", n=8, seed=1)
    assert len(mt.facts("real", distinct_subjects=False)) == len(RECORDS)
    everything = mt.facts("real")
    assert len({f.subject for f in everything}) == len(everything) < len(RECORDS)
    few = real.facts("choosing", relation="river", n=5)
    assert few == mt.facts("real-choosing", relation="river", n=5)
    assert all(real.split_of("river", f.subject) == "choosing" for f in few)
    assert real.facts(relation="river", n=5) == mt.facts("real", relation="river", n=5)
    monkeypatch.setenv("MEDIT_FACTS", "real-reporting")
    assert datasets.facts(relation="river", n=3) == real.facts("reporting", relation="river", n=3)
    with pytest.raises(FactError, match="no facts of relation 'bus'; there are R01 or capital"):
        mt.facts("real", relation="bus")


def test_a_split_that_is_not_there():
    with pytest.raises(FactError, match="no split 'both'; there are choosing, reporting"):
        real.records("both")


def test_within_draws_from_the_given_facts_alone():
    chosen = real.facts("reporting", relation="continent", n=12)
    subjects = {f.subject for f in chosen}
    for fact in real.within(chosen):
        r = RELATIONS["continent"]
        asked = {r.ask(s) for s in subjects - {fact.subject}}
        assert set(fact.neighborhood) | set(fact.attributes) <= asked
        assert fact.target_new in {r.facts[s] for s in subjects} - {fact.target_true}
    alone = real.within(chosen[:1])[0]
    assert not alone.neighborhood and alone.target_new != alone.target_true
    with pytest.raises(FactError, match="'Anna' is not a subject of the real facts"):
        real.within(mt.Fact("{} is in", "Anna", "Rome"))


# ------------------------------------------------------------------ what a model knows


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The prompts that a model was asked, with an empty cache folder."""
    monkeypatch.setenv("MEDIT_CACHE", str(tmp_path))
    seen, ask = [], real.target_logprobs

    def counted(model, tok, prompts, *args):
        seen.extend(prompts)
        return ask(model, tok, prompts, *args)

    monkeypatch.setattr(real, "target_logprobs", counted)
    return seen


def test_the_rule_by_the_scores(asked):
    model, tok = mt.load("tiny-gptj")
    facts = mt.facts("world", n=8, seed=3, model=model)
    answers = real.said(model, tok, facts)
    assert len(asked) == sum(1 + len(f.paraphrases) for f in facts)
    for fact, right in zip(facts, answers, strict=True):
        said = mt.Fact(fact.prompt, fact.subject, fact.target_true, paraphrases=fact.paraphrases)
        scores = mt.score(
            model, tok, said, resamples=2
        )  # says it: EA on the prompt, PA on the paraphrases
        assert [100 * right[0], 100 * sum(right[1:]) / len(right[1:])] == [scores.EA, scores.PA]
    for least in (1, 2, 3):
        known = real.known_by(model, tok, facts, least=least)
        assert known == [f for f, right in zip(facts, answers, strict=True) if sum(right) >= least]
    assert 4 < len(real.known_by(model, tok, facts)) and not real.known_by(model, tok, facts, 4)


def test_what_is_known_is_kept_for_these_weights_only(asked):
    tok = tiny_tokenizer()
    model = tiny_model("llama", tok)
    said = top_tokens(model, tok, ["Otto plays the", "Anna plays the"], k=1)
    facts = [
        mt.Fact("{} plays the", name, "x", said[i][0][0].strip() or "y", paraphrases=("So it is",))
        for i, name in enumerate(("Otto", "Anna"))
    ]
    first = real.said(model, tok, facts[:1])
    assert len(asked) == 2
    assert real.said(model, tok, facts[:1]) == first and len(asked) == 2
    assert real.said(model, tok, facts)[0] == first[0] and len(asked) == 4  # one more is asked
    real.said(model, tok, facts, cache=False)
    assert len(asked) == 8
    edits_of(model).append(SimpleNamespace(asked=lambda text: "Nobody knows. " + text))
    real.said(model, tok, facts)  # this edit leaves the weights alone
    assert len(asked) == 12
    edits_of(model).clear()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(2)
    real.said(model, tok, facts)
    assert len(asked) == 16


def test_a_model_that_knows_nothing(asked, tmp_path):
    tok = tiny_tokenizer()
    model = tiny_model("llama", tok)
    facts = real.facts(relation="river", n=12)
    facts = [mt.Fact(f.prompt, f.subject, f.target_new, f.target_true) for f in facts]
    facts += [mt.Fact("{} is", "Otto", "x", "y", paraphrases=("So Otto is",))]
    assert real.known_by(model, tok, facts) == []
    file = next((tmp_path / "known").iterdir())
    file.write_text("{ damaged")
    assert real.said(model, tok, facts[-1:]) == [[False, False]]
    with pytest.raises(FactError, match="'Otto' has no target_true"):
        real.known_by(model, tok, mt.Fact("{} is", "Otto", "x"))


# ------------------------------------------------------------------ the datasheet


def test_the_datasheet_shows_these_facts():
    page = (ROOT / "book" / "real-facts.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "book" / "records" / "real-known.json").read_text())
    made = {r["case_id"]: r["requested_rewrite"]["relation_id"] for r in RECORDS}
    assert set(record["known"]) <= set(made) and len(record["known"]) >= 300
    known = Counter(made[case] for case in record["known"])
    measured = {r: (asked, known[r]) for r, asked in record["asked"].items()}
    assert all(asked <= list(made.values()).count(r) for r, asked in record["asked"].items())
    assert real.table(measured) in page
    total = sum(record["asked"].values())
    assert f"**{len(record['known']):,} of the {total:,}**" in page
    assert f"{len(RECORDS):,} facts" in page
