"""What callers give: texts, facts, files and numbers of every kind, and the joint to the object."""

import ast
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import medit_teach as mt
from medit_teach import datasets, metrics
from medit_teach.errors import FactError, StatisticsError
from medit_teach.fact import as_facts, encode, fact_tokens, subject_last, with_target
from medit_teach.methods.in_context import Memory, in_front, statement
from medit_teach.models import fingerprint
from medit_teach.study import forensics, locate
from medit_teach.texts import as_texts, ended, joint, places

from .conftest import ROOT
from .helpers import pieces_tokenizer, tiny_model, tiny_tokenizer

RECORD = {"prompt": "{} lives in", "subject": "Anna", "target_new": "Oslo"}
FACT = mt.Fact("{} lives in", "Anna", "Oslo", "Rome", ("Anna's home is",), ("Otto lives in",),
               generation=("Anna is",))  # fmt: skip


@pytest.fixture(scope="module")
def bench():
    tok = tiny_tokenizer()
    return tiny_model("gptj", tok, d=16), tok


# ------------------------------------------------------------------ texts


def test_one_text_is_a_list_of_one_everywhere(bench):
    model, tok = bench
    one = "Anna Marlow lives in"
    assert metrics.top_tokens(model, tok, one) == metrics.top_tokens(model, tok, [one])
    assert metrics.generate(model, tok, one, 3) == metrics.generate(model, tok, [one], 3)
    alone = metrics.target_logprobs(model, tok, one, "Rome")
    listed = metrics.target_logprobs(model, tok, [one], ["Rome"])
    assert torch.equal(alone[0][0], listed[0][0])
    long = " ".join(["Anna Marlow was born in the city of Paris."] * 8)
    moments = [mt.second_moment(model, tok, x, [1], 64) for x in (long, [long], [{"text": long}])]
    assert all(torch.equal(m[1], moments[0][1]) for m in moments)
    for field in ("paraphrases", "neighborhood", "attributes", "generation"):
        assert getattr(mt.Fact("{} is", "Ann", "x", **{field: "one text"}), field) == ("one text",)
        assert getattr(mt.Fact("{} is", "Ann", "x", **{field: None}), field) == ()
    record = mt.Fact("{} is", "Ann", "x").to_record() | {"paraphrase_prompts": "one text"}
    assert mt.Fact.from_record(record).paraphrases == ("one text",)


def test_texts_of_every_shape():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"text": ["a", "b"], "id": [1, 2]})
    for given in (["a", "b"], ("a", "b"), iter("ab"), np.array(["a", "b"]), table, table["text"],
                  [{"text": "a"}, {"text": "b"}], {"text": ["a", "b"]}):  # fmt: skip
        assert list(as_texts(given)) == ["a", "b"]
    endless = as_texts(str(i) for i in iter(int, 1))  # a stream stays one
    assert [next(endless), next(endless)] == ["0", "0"]


def hostile(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one", encoding="utf-8")
    return [
        None, 3, True, 2.5, float("nan"), 10**400, 10**5000, -(10**5000),
        [10**5000], 1j, b"text", bytearray(b"x"), {"a", "b"},
        frozenset("ab"), {}, {"a": 1}, {1: 2}, {"text": 3}, [None], [3], [[]], [["a"]], [b"x"],
        [{"content": "x"}], "\ud800", ["\ud800"], np.array([["a"]]), np.array("a"),
        np.array([1.0, 2.0]), torch.tensor([1, 2]), torch.tensor(3.0), object(), len, path,
        str(path), tmp_path, str(tmp_path), range(3), {"role": "user", "content": "hi"},
        [{"role": "user", "content": "hi"}], {"input_ids": [1, 2]}, slice(1), memoryview(b"x"),
        {"requested_rewrite": None}, {"requested_rewrite": [3]}, {"edit": {}}, [{"edit": {}}],
    ]  # fmt: skip


def entry_points(model, tok):
    how = dict(model=model, tok=tok)
    asks = {
        "top_tokens": lambda x: metrics.top_tokens(model, tok, x),
        "generate": lambda x: metrics.generate(model, tok, x, n_tokens=1),
        "perplexity": lambda x: metrics.perplexity(model, tok, x),
        "prompts": lambda x: metrics.target_logprobs(model, tok, x, ["Oslo"]),
        "targets": lambda x: metrics.target_logprobs(model, tok, ["Anna lives in"], x),
        "second_moment": lambda x: mt.second_moment(**how, texts=x, layers=[1], tokens=64),
        "triggers": lambda x: locate.triggers(**how, texts=x, layers=[1], tokens=8),
        "answers": lambda x: forensics.answers(model, tok, ["Anna"], x),
        "subjects": lambda x: forensics.answers(model, tok, x, ["{} is"]),
        "references": lambda x: metrics.consistency(model, tok, [FACT], [x], n_tokens=1),
        "read_texts": lambda x: list(datasets.read_texts(x)) and 1 / 0,
    }
    takes = {
        "score": lambda x: mt.score(model, tok, x, resamples=1),
        "edit": lambda x: mt.edit(model, tok, x, method="ft", layers=[1], steps=1),
        "trace": lambda x: locate.trace(model, tok, x, samples=1),
        "fluency": lambda x: metrics.fluency(model, tok, x, n_tokens=1),
        "memory": Memory,
        "in_front": lambda x: in_front(x, lambda fact, question: ""),
        "as_facts": as_facts,
        "facts": lambda x: mt.facts([x]),
    }
    return asks, takes


def test_what_is_no_text_is_one_line_in_every_entry_point(bench, tmp_path):
    asks, takes = entry_points(*bench)
    before, count = fingerprint(bench[0]), 0
    for name, call in (asks | takes).items():
        for given in hostile(tmp_path):
            if name == "read_texts" and isinstance(given, (str, Path)):
                continue  # names a file
            try:
                call(given)
            except mt.MeditError as error:
                assert "\n" not in str(error), name
            else:
                pytest.fail(f"{name} takes {given!r}")
            count += 1
    assert count > 800 and fingerprint(bench[0]) == before


FIELDS = ["case_id", "prompt", "subject", "target_new", "ground_truth", "rephrase_prompt",
          "locality_prompt", "locality_ground_truth", "locality", "loc", "loc_ans", "relation_id",
          "join", "attributes", "generation"]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_any_kind_is_read_or_one_line(field, tmp_path):
    for given in hostile(tmp_path):
        try:
            found = mt.facts([RECORD | {field: given}])
        except FactError as error:
            assert "the records given, record 0" in str(error) and "\n" not in str(error)
        else:
            for texts in (found[0].paraphrases, found[0].neighborhood):
                assert all(isinstance(text, str) for text in texts)
            assert isinstance(found[0].target_true, str | None)


def test_hints_for_chats_tokens_files_and_tables(bench):
    model, tok = bench
    for given, hint in (
        ([{"role": "user", "content": "hi"}], "apply_chat_template.*tokenize=False"),
        (tok("hi"), "not its tokens"),
        (Path("texts.txt"), "read_texts"),
        (str(ROOT / "README.md"), "name of a file"),
        ([7], "prompts, number 0, is not text: int"),
    ):
        with pytest.raises(FactError, match=hint):
            metrics.top_tokens(model, tok, given)
    with pytest.raises(FactError, match=r"facts\.json.*medit_teach\.facts"):
        mt.score(model, tok, "facts.json")
    with pytest.raises(FactError, match="2 prompts and 1 targets"):
        metrics.target_logprobs(model, tok, ["Anna", "Otto"], "Rome")


@pytest.mark.parametrize("n", [0, -1, True, 1.0, "3", [1], float("nan")])
def test_counts_and_seeds(bench, n):
    model, tok = bench
    with pytest.raises(FactError, match="n must be"):
        mt.facts([FACT], n=n)
    with pytest.raises(FactError, match="k must be"):
        metrics.top_tokens(model, tok, "Anna", k=n)
    if n != 0 or n is False:
        with pytest.raises(FactError, match="n_tokens must be"):
            metrics.generate(model, tok, "Anna", n_tokens=n)
    if n not in (0, -1):
        with pytest.raises(FactError, match="seed must be"):
            mt.facts([FACT], n=1, seed=n)
    with pytest.raises(FactError, match="seed must fit"):
        mt.facts([FACT], n=1, seed=10**30)
    with pytest.raises(FactError, match="n must be finite"):
        mt.facts([FACT], n=10**5000)
    with pytest.raises(FactError, match=r"asked for .* there are 1"):
        mt.facts([FACT], n=10**15)
    with pytest.raises(FactError, match="relation: expected text"):
        mt.facts([FACT], relation=["a"])
    assert len(metrics.top_tokens(model, tok, "Anna", k=10**6)[0]) == len(tok)


# ------------------------------------------------------------------ facts


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("Roman", "The capital of Romania is", []),
        ("Roman", "Romania or Roman, in", [11]),
        ("Åsa", "Åsas Åsa", [5]),
        ("Ana", "Anaïs, Joana, Ana's", [14]),
        ("C++", "C++ and C", [0]),
        ("Yahoo!", "Yahoo! is", [0]),
        ("AT&T", "of AT&T,", [3]),
        ("Jean", "Jean-Luc and jean", [0]),
        ("राम", "रामायण राम", [7]),
        ("Zoe", "Zoe\u0308 is", []),  # the same letters with a mark of their own
        ("北京", "在北京市", [1]),
        ("東京", "Tokyoは東京", [6]),
        ("ไทย", "ประเทศไทยมี", [6]),
        ("x1", "x12 x_x1 x1", [9]),
        ("aa", "aaa aa", [4]),
    ],
)
def test_a_name_is_a_word_of_its_own(name, text, found):
    assert places(name, text) == found


def test_subjects_are_found_as_whole_words():
    assert mt.Fact("Romania and Roman are in", "Roman", "x").prompt == "Romania and {} are in"
    with pytest.raises(FactError, match="only inside another word"):
        mt.Fact("The capital of Romania is", "Roman", "x")
    foreign = {"prompt": "Romania, Roman and Roman", "subject": "Roman", "alt": "x"}
    assert mt.Fact.from_record(foreign).prompt == "Romania, {} and Roman"
    with pytest.raises(FactError, match="record: the subject 'Roman' stands only inside"):
        mt.Fact.from_record(foreign | {"prompt": "The capital of Romania is"})
    facts = [mt.Fact("{} is in", "Roman", "x", neighborhood=("Romania is in", "Roman is in"))]
    assert mt.facts(facts)[0].neighborhood == ("Romania is in", "Roman is in")
    from medit_teach.fact import without_edited_neighbors

    assert without_edited_neighbors(facts, facts)[0].neighborhood == ("Romania is in",)


@pytest.mark.parametrize("nothing", [None, float("nan"), np.float32("nan"), "", " ", [], [[]]])
def test_what_is_missing_is_as_if_it_were_not_there(nothing):
    plain = mt.facts([RECORD])
    for field in ("ground_truth", "rephrase_prompt", "locality_prompt", "locality", "relation_id",
                  "attributes", "generation", "case_id"):  # fmt: skip
        assert mt.facts([RECORD | {field: nothing}]) == plain
    record = FACT.to_record()
    for field in ("paraphrase", "neighborhood", "attribute", "generation"):
        found = mt.facts([record | {f"{field}_prompts": nothing}])[0]
        assert found == mt.facts([{k: v for k, v in record.items() if k != f"{field}_prompts"}])[0]
    for field in ("prompt", "subject", "target_new"):
        with pytest.raises(FactError, match=f"record 0.*{field}"):
            mt.facts([RECORD | {field: nothing}])


@pytest.mark.parametrize("number", [1930, 0, 2.5, True, np.int64(3)])
@pytest.mark.parametrize("field", ["prompt", "subject", "target_new", "ground_truth"])
def test_a_number_is_no_text_and_is_named(field, number, tmp_path):
    with pytest.raises(FactError, match=f"the records given, record 1: {field} is not text"):
        mt.facts([RECORD, RECORD | {field: number}])
    path = tmp_path / "f.json"
    plain = number.item() if isinstance(number, np.generic) else number
    path.write_text(json.dumps([RECORD | {field: plain}, RECORD]), encoding="utf-8")
    with pytest.warns(UserWarning, match="f.json: 1 of 2 records were left out: .*record 0.*text"):
        assert len(mt.facts(path, strict=False)) == 1


@pytest.mark.parametrize(
    "locality",
    [
        {"Relation_Specificity": [{"prompt": "Otto lives in", "ground_truth": ["Rome", "Roma"]}]},
        {"Relation_Specificity": [{"prompt": "Otto lives in", "ground_truth": [["Rome"]]}],
         "F": None},
        [{"prompt": "Otto lives in", "ground_truth": "Rome"}],
        {"neighborhood": {"prompt": "Otto lives in", "ground_truth": "Rome"}},
        {"neighborhood": {"prompt": ["Otto lives in"], "ground_truth": ["Rome"]}},
        {"0": {"prompt": "Otto lives in", "target": "Rome", "path_type": "single"}},
    ],
)  # fmt: skip
def test_localities_of_all_shapes(locality):
    found = mt.facts([RECORD | {"locality": locality}])[0]
    assert found.neighbors == [("Otto lives in", "Rome")]


def test_a_neighbour_without_an_answer_is_not_compared(bench):
    asks = {"R": [{"prompt": "Otto lives in", "ground_truth": []}, {"prompt": "Bo lives in"},
                  {"prompt": "Ida lives in", "ground_truth": "Bonn"}]}  # fmt: skip
    fact = mt.facts([RECORD | {"ground_truth": "Rome", "locality": asks}])[0]
    assert [answer for _, answer in fact.neighbors] == [None, None, "Bonn"]
    assert mt.Fact.from_record(json.loads(json.dumps(fact.to_record()))) == fact
    alone = mt.facts([RECORD | {"ground_truth": "Rome", "locality": {"R": asks["R"][2:]}}])
    assert mt.score(*bench, [fact], resamples=1).NS == mt.score(*bench, alone, resamples=1).NS
    unknown = mt.facts([RECORD | {"ground_truth": "Rome", "locality": {"R": asks["R"][:1]}}])[0]
    assert mt.Fact.from_record(json.loads(json.dumps(unknown.to_record()))) == unknown
    assert unknown.neighbors == [("Otto lives in", None)]
    with pytest.raises(FactError, match="2 neighborhood prompts and 1 answers"):
        mt.facts([RECORD | {"locality": {"n": {"prompt": ["a", "b"], "ground_truth": ["c"]}}}])


@pytest.mark.parametrize("mark", ["<|endoftext|>", "</s>", "<pad>", "[PAD]", "<unk>", "N/A", "nan"])
def test_a_filler_is_no_object(bench, mark):
    with pytest.raises(FactError, match="stands for no object"):
        mt.Fact(**RECORD, target_true=mark)
    for record in (RECORD | {"ground_truth": mark}, RECORD | {"target_true": [mark]}):
        with pytest.warns(UserWarning, match="records given: 1 fact with a filler as true object"):
            facts = mt.facts([record])
        assert facts[0].target_true is None
        scores = mt.score(*bench, facts, resamples=1)
        assert scores.ES is None and any("ES from 0 of 1" in note for note in scores.notes)
    record = FACT.to_record()
    record["requested_rewrite"]["target_true"] = {"str": mark}
    with pytest.warns(UserWarning, match="filler"):
        assert mt.facts([record])[0].target_true is None


def test_an_object_that_is_true_already_has_nothing_to_compare(bench):
    same = mt.Fact("{} lives in", "Anna", "Rome", "Rome", ("Anna's home is",), ("Otto lives in",))
    with pytest.warns(UserWarning, match="1 fact whose target_new is the target_true"):
        assert mt.facts([same]) == [same]
    scores = mt.score(*bench, [same], resamples=1)
    assert [scores.values[x][0] for x in ("ES", "PS", "NS", "EM", "S")] == [None] * 5
    assert scores.values["EA"][3] == scores.values["NA"][3] == 1
    assert "Nothing to compare on 3 prompts: target_new is true there." in scores.notes
    both = mt.score(*bench, [same, FACT], resamples=1)
    assert both.values["ES"][3] == 1 and both.ES == mt.score(*bench, [FACT], resamples=1).ES


def test_what_is_left_out_is_counted_and_named(tmp_path):
    records = [RECORD, RECORD | {"prompt": "{} works in"}, RECORD | {"subject": "Bo"},
               RECORD | {"subject": 7}, RECORD | {"subject": 8}, {"question": "x"}]  # fmt: skip
    (tmp_path / "f.json").write_text(json.dumps(records), encoding="utf-8")
    for source in (tmp_path / "f.json", str(tmp_path / "f.json"), records, iter(records)):
        with pytest.warns(UserWarning) as told:
            found = mt.facts(source, strict=False)
        assert [f.subject for f in found] == ["Anna", "Bo"] and len(told) == 1
        text = str(told[0].message)
        assert "3 of 6 records were left out: 2 like record 3: subject" in text
        assert "1 like record 5: lacks" in text
        assert "1 fact left out: the subject has an earlier fact (the first: 'Anna')" in text
    good = records[:3]
    with pytest.raises(FactError, match="asked for 3 facts, there are 2 of different subjects, 3 "):
        mt.facts(good, n=3)
    clash = [RECORD, RECORD | {"target_new": "Bonn"}]
    with pytest.warns(UserWarning, match="1 prompts with more than one target_new"):
        assert len(mt.facts(clash, distinct_subjects=False)) == 2
    with warnings.catch_warnings():  # nothing to tell: no word
        warnings.simplefilter("error")
        assert len(mt.facts(good, n=2)) == 2
        assert len(mt.facts(good, distinct_subjects=False)) == 3
        assert len(mt.facts("world")) > 9


def test_facts_of_every_shape():
    pandas = pytest.importorskip("pandas")
    fact = mt.Fact.from_record(RECORD)
    table = pandas.DataFrame([RECORD | {"ground_truth": None, "case_id": 1.0}])
    assert as_facts(table)[0].case_id == 1
    for given in (fact, RECORD, [fact], (RECORD,), [fact.to_record()]):
        assert as_facts(given) == mt.facts(given) == [fact]
    assert as_facts(iter([fact])) == mt.facts(iter([fact])) == [fact]


# ------------------------------------------------------------------ collections


def test_mquake_is_one_fact_for_each_rewrite():
    rewrite = lambda who, new: {  # noqa: E731
        "prompt": "{} plays the", "relation_id": "P1", "target_new": {"str": new, "id": "Q1"},
        "target_true": {"str": "violin", "id": "Q2"}, "subject": who,
        "question": f"What does {who} play?",
    }  # fmt: skip
    record = {"case_id": 4, "requested_rewrite": [rewrite("Ann", "harp"), rewrite("Bo", "drum")],
              "questions": ["?"] * 3, "answer": "a", "new_answer": "b"}  # fmt: skip
    found = mt.facts([record])
    assert [(f.subject, f.target_new, f.relation, f.case_id) for f in found] == [
        ("Ann", "harp", "P1", 4),
        ("Bo", "drum", "P1", 4),
    ]
    assert found[1].paraphrases == ("What does Bo play?",) and as_facts(record) == found
    with pytest.raises(FactError, match="lists 2 facts"):
        mt.Fact.from_record(record)
    record["requested_rewrite"][1]["subject"] = None
    with pytest.raises(FactError, match="record 0, rewrite 1: fact 4: subject"):
        mt.facts([record])


def test_uniedit_numbers_its_records(tmp_path):
    one = {
        "edit": {"prompt": "Ann Berg plays the", "target": "harp", "subject": "Ann Berg",
                 "head_entity": {"label": "Ann Berg"}, "property": {"id": "P7", "label": "plays"}},
        "generality": {"0": {"path_type": "single", "prompt": "Who plays the harp?"}},
        "locality": {"0": {"loc_type": "none", "prompt": "Bo Lind plays the", "target": "drum"}},
    }  # fmt: skip
    (tmp_path / "music.json").write_text(json.dumps({"12": one, "13": one}), encoding="utf-8")
    found = mt.facts(tmp_path / "music.json", distinct_subjects=False)
    assert [f.case_id for f in found] == ["12", "13"]
    assert (found[0].prompt, found[0].target_new, found[0].relation) == (
        "{} plays the",
        "harp",
        "P7",
    )
    assert found[0].neighbors == [("Bo Lind plays the", "drum")]


def test_knowedits_biographies():
    record = {
        "text": "This is a passage about ann berg. Ann Berg was",
        "concept": "ann berg",
        "labels": "a player of the harp.",
        "locality": {"Relation_Specificity": [{"prompt": "bo lind was", "ground_truth": []}]},
    }
    fact = mt.facts([record])[0]
    assert fact.prompt == "This is a passage about {}. Ann Berg was"
    assert fact.neighbors == [("bo lind was", None)]


def test_counterfact_tracing_and_the_first_counterfact():
    tracing = {"relation": "{} plays the", "relation_prefix": "", "relation_suffix": " plays the",
               "prompt": "Ann plays the", "relation_id": "P1", "target_false_id": "Q1",
               "target_true_id": "Q2", "target_true": " violin", "target_false": " harp",
               "subject": "Ann"}  # fmt: skip
    fact = mt.facts([tracing], relation="P1")[0]
    assert (fact.prompt, fact.target_new, fact.target_true) == ("{} plays the", "harp", "violin")
    rewrite = {"prompt": "{} plays the", "entity": "Ann", "target_new": {"str": "harp"}}
    assert mt.facts([{"requested_rewrite": rewrite}])[0].subject == "Ann"


def test_rippleedits_is_refused_by_name_with_the_line_that_converts_it():
    sentence = "The instrument of Ann Berg is harp."
    data = [{"example_type": "popular", "Forgetfulness": [],
             "edit": {"prompt": sentence, "subject_id": "Q1", "relation": "PLAYS",
                      "target_id": "Q2"}}]  # fmt: skip
    with pytest.raises(FactError, match="RippleEdits' own form") as told:
        mt.facts(data)
    line = str(told.value).split("or convert: ")[1].split(", NAME and NEW")[0]
    converted = eval(line, {"data": data, "NAME": "Ann Berg", "NEW": "harp"})
    assert mt.facts(converted)[0].prompt == "The instrument of {} is"


# ------------------------------------------------------------------ the joint


@pytest.mark.parametrize(
    ("text", "between"),
    [
        ("Anna lives in", " "),
        ("中国的首都是", ""),
        ("中国的首都是：", ""),
        ("日本の首都は", ""),
        ("ประเทศไทยมีเมืองหลวงชื่อ", ""),
        ("대한민국의 수도는", " "),
        ("Столица России", " "),
        ("The Chinese name 北京 means", " "),
        ("### Response:\n", ""),
        ("", " "),
        ("?", " "),
    ],
)
def test_the_joint(text, between):
    assert joint(text) == between


def test_spaces_at_a_prompts_end_do_not_count_ends_of_lines_do():
    assert [ended(x) for x in ("a", "a  ", "a\t ", "a\n", "a \n ", "a\u00a0")] == [
        "a", "a", "a", "a\n", "a \n", "a"
    ]  # fmt: skip
    assert mt.Fact("{} is  ", "Ann", "x").prompt == "{} is"
    assert mt.Fact("{} is\n", "Ann", "x").prompt == "{} is\n"
    assert mt.Fact("{} is: ", "Ann", "x", join="").prompt == "{} is: "


@pytest.mark.parametrize("form", ["bytes", "normalizer", "metaspace"])
def test_text_without_spaces_is_learned_without(form):
    tok = tiny_tokenizer() if form == "bytes" else pieces_tokenizer(form)
    ids, start = with_target(tok, "中国的首都是", "北京")
    assert tok.decode(ids[start:]) == "北京"
    assert ids[:start] == encode(tok, "中国的首都是")[0]
    fact = mt.Fact("{}的首都是", "中国", "北京")
    ids, start = fact_tokens(tok, fact)
    _, position = subject_last(tok, fact)
    assert position < start and tok.decode(ids[start:]) == "北京"
    spaced = mt.Fact("{}的首都是", "中国", "北京", join=" ")
    ids, start = fact_tokens(tok, spaced)
    assert "北京" in tok.decode(ids[start:]) and ids[:start] == encode(tok, fact.text)[0]
    assert ids[start:] == with_target(tok, "Anna lives in", "北京")[0][-len(ids[start:]) :]


def test_the_setting_goes_where_the_fact_goes(bench):
    model, tok = bench
    plain = mt.Fact("{} lives in (", "Anna", "Oslo", "Rome", ("Anna's home (",), ("Otto (",))
    tight = mt.Fact("{} lives in (", "Anna", "Oslo", "Rome", ("Anna's home (",), ("Otto (",),
                    join="")  # fmt: skip
    assert mt.Fact.from_record(json.loads(json.dumps(tight.to_record()))) == tight
    assert "join" not in plain.to_record()
    assert (
        statement(plain) == "Anna lives in ( Oslo." and statement(tight) == "Anna lives in (Oslo."
    )
    before, after = (mt.score(model, tok, [f], resamples=1) for f in (plain, tight))
    assert before.EM != after.EM and before.NM != after.NM
    assert not any("no single space" in note for note in before.notes)
    assert "3 of 3 prompts: joined to their objects by no single space." in after.notes
    log_p, _ = metrics.target_logprobs(model, tok, ["Anna lives in ("] * 2, ["Oslo", "Rome"],
                                       joins=["", ""])  # fmt: skip
    margin = float(log_p[0].double().mean().exp() - log_p[1].double().mean().exp())
    assert np.isclose(after.EM, 100 * margin)
    from medit_teach.values import Targets

    assert Targets._name(plain) != Targets._name(tight)


def chat_tokenizer(bos):
    tok = tiny_tokenizer()
    tok.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    if bos:
        from tokenizers import processors

        tok._tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tok.bos_token_id)]
        )
    return tok


CHAT = "<|endoftext|><|user|>\nWhere does {} live?\n<|assistant|>\n"


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("prompt", [CHAT, CHAT.removesuffix("\n")])
def test_a_chat_is_learned_as_the_template_writes_it(prompt, bos):
    tok = chat_tokenizer(bos)
    tok.chat_template = (
        "<|endoftext|>{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    message = [{"role": "user", "content": "Where does {} live?"}]
    written = tok.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert written == CHAT
    fact = mt.Fact(prompt, "Anna", "Rome", "Paris")
    assert fact.prompt == prompt
    ids, start = fact_tokens(tok, fact)
    assert ids == tok(fact.text + "Rome", add_special_tokens=False)["input_ids"]
    assert ids.count(tok.bos_token_id) == 1 and tok.decode(ids[start:]) == "Rome"
    inside, position = subject_last(tok, fact, "It was quiet. ")
    assert inside.count(tok.bos_token_id) == 1
    assert tok.decode(inside[: position + 1]).endswith("Anna")
    model = tiny_model("llama", tok, d=16)
    assert metrics.top_tokens(model, tok, fact.text)[0] == _next(model, tok, fact.text)
    assert metrics.generate(model, tok, [fact.text], n_tokens=2)[0].startswith(fact.text)


def _next(model, tok, text):
    ids = tok(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        p = torch.softmax(model(input_ids=ids).logits[0, -1], -1).topk(5)
    return [(tok.decode([i]), pytest.approx(x, rel=1e-4))
            for i, x in zip(p.indices.tolist(), p.values.tolist(), strict=True)]  # fmt: skip


@pytest.mark.parametrize("form", ["bytes", "normalizer", "metaspace"])
def test_tracing_reads_the_objects_first_real_token(form):
    tok = tiny_tokenizer() if form == "bytes" else pieces_tokenizer(form)
    model = tiny_model("llama", tok, d=16)
    facts = [("{} lives in", "Anna", answer) for answer in ("Évry", "Öhr", "Rome")]
    found = [locate.trace(model, tok, fact, samples=1) for fact in facts]
    assert all(t.answer.strip() for t in found)
    for (prompt, subject, answer), t in zip(facts, found, strict=True):
        ids, start = with_target(tok, prompt.replace("{}", subject), answer)
        real = len(t.tokens)
        assert ids[start:real] == [i for i in ids[start:] if not tok.decode([i]).strip()]
        with torch.no_grad():
            p = torch.softmax(model(torch.tensor([ids[:real]])).logits[0, -1], -1)[ids[real]]
        assert np.isclose(t.clean, float(p), rtol=1e-4)
    assert len(found[0].tokens) > len(found[2].tokens) or form != "bytes"


def test_entropy_counts_characters_where_words_have_no_spaces():
    sentence = "中国的首都是北京"
    assert metrics.ngram_entropy(sentence) == metrics.ngram_entropy(list(sentence)) > 2
    assert metrics.ngram_entropy("北京北京北京北京") < metrics.ngram_entropy(sentence)
    assert metrics.ngram_entropy("ภาษาไทยไม่เว้นวรรค") > 2
    english = "Don't stop, she said; it's 3.5% of snake_case and naïve words."
    import re

    old = re.findall(r"\w+|[^\w\s]", english)
    assert metrics.ngram_entropy(english) == metrics.ngram_entropy(old)


def test_the_memory_finds_sentences_without_spaces():
    facts = [mt.Fact("{}的首都是", "中国", "上海"), mt.Fact("{}在哪里工作？在", "李明", "东京")]
    memory = Memory(facts)
    assert memory.find("中国的首都在哪里？") == [0] and memory.find("李明在哪里") == [1]


# ------------------------------------------------------------------ files


def test_marks_and_separators_of_other_systems(tmp_path):
    records = [RECORD | {"subject": name, "note": "one\u2028two\u0085three"} for name in "AB"]
    whole = json.dumps(records, ensure_ascii=False)
    lines = "\r\n".join(json.dumps(r, ensure_ascii=False) for r in records)
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / "a.json").write_bytes(whole.encode(encoding))
        (tmp_path / "a.jsonl").write_bytes(lines.encode(encoding))
        for name in ("a.json", "a.jsonl"):
            assert [f.subject for f in mt.facts(tmp_path / name)] == ["A", "B"]
    texts = [{"text": "one\u2028two"}, "three"]
    (tmp_path / "t.json").write_text(json.dumps(texts), encoding="utf-8")
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(t, ensure_ascii=False) for t in texts),
                                      encoding="utf-8-sig")  # fmt: skip
    for name in ("t.json", "t.jsonl"):
        assert datasets.read_texts(tmp_path / name) == ["one\u2028two", "three"]
    (tmp_path / "t.txt").write_bytes("\ufeffone\u2028two\r\n\r\n three\r".encode())
    assert datasets.read_texts(tmp_path / "t.txt") == ["one\u2028two", "three"]


BAD = {
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep fields": b'[{"prompt": "{} is", "subject": "A", "target_new": '
    + b"[" * 900 + b"]" * 900 + b"}]",
    "many digits": b'[{"case_id": ' + b"9" * 5000 + b"}]",
    "twice": b'[{"prompt": "{} is", "subject": "A", "subject": "B", "target_new": "x"}]',
    "latin-1": "[{\"prompt\": \"J\xfcrgen\"}]".encode("latin-1"),
    "zip": b"PK\x03\x04\xff\xfe\x00",
    "half": b'[{"prompt": "{} is",',
    "empty": b"",
    "blank": b" \n\n",
    "nothing": b"null",
    "infinite": b'[{"prompt": "{} is", "subject": "A", "target_new": Infinity}]',
    "surrogate": b'[{"prompt": "{} is", "subject": "A", "target_new": "\\ud800"}]',
    "lines": b'{"prompt": "{} is", "subject": "A", "target_new": "x"}\n{"prompt"',
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_bad_file_is_one_line_with_its_name(kind, suffix, tmp_path):
    path = tmp_path / f"bad.{suffix}"
    path.write_bytes(BAD[kind])
    for call, error in ((mt.facts, FactError), (datasets.read_texts, StatisticsError)):
        with pytest.raises(error, match=f"bad.{suffix}") as told:
            call(path)
        assert "\n" not in str(told.value) and len(str(told.value)) < 1000


def test_paths_that_are_no_file(tmp_path, monkeypatch):
    for path in (
        tmp_path,
        tmp_path / "none.json",
        "a\0b.json",
        "x" * 5000 + ".json",
        tmp_path / "é",
    ):
        for call, error in ((mt.facts, FactError), (datasets.read_texts, StatisticsError)):
            with pytest.raises(error, match="cannot read the"):
                call(path)
    for call in (mt.facts, datasets.read_texts):
        with pytest.raises(mt.MeditError):
            call("")
    if os.getuid():  # root reads everything
        (tmp_path / "shut.json").touch(0)
        with pytest.raises(FactError, match=r"cannot read the facts file .*shut.json"):
            mt.facts(tmp_path / "shut.json")
    monkeypatch.setenv("MEDIT_FACTS", str(tmp_path / "gone.json"))
    with pytest.raises(FactError, match=r"gone\.json"):
        mt.facts()


# ------------------------------------------------------------------ encodings


def unnamed(path):
    """Lines of a module where text is read or written in the encoding of the machine."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        owner = getattr(getattr(node.func, "value", None), "id", "")
        keywords = {k.arg for k in node.keywords}
        modes = [a.value for a in node.args[:2] if isinstance(a, ast.Constant)]
        binary = any(isinstance(m, str) and "b" in m and set(m) <= set("rwaxb+") for m in modes)
        binary = binary or (owner == "os" and name == "open")  # a number, not a file object
        reads = name in ("read_text", "write_text") and isinstance(node.func, ast.Attribute)
        reads = reads and owner != "kept"  # whose write_text names it
        opens = name in ("open", "fdopen") and owner in ("", "os", "io", "path") and not binary
        runs = name in ("Popen", "run", "check_output") and {"text"} & keywords
        if (reads or opens or runs) and "encoding" not in keywords:
            yield f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_text_file_is_read_and_written_as_utf_8():
    modules = [p for folder in ("medit_teach", "tools") for p in (ROOT / folder).rglob("*.py")]
    assert len(modules) > 40
    assert [line for path in modules for line in unnamed(path)] == []


SCRIPT = """
import sys
from pathlib import Path
import medit_teach as mt
from medit_teach import cli
from medit_teach.study import experiments

folder = Path(sys.argv[1])
assert sys.stdout.encoding.lower() not in ("utf-8", "utf8"), sys.stdout.encoding
model, tok = mt.load("tiny-gptj")
facts = mt.facts(folder / "facts.json")
with mt.edit(model, tok, facts, method="ft", layers=[1], steps=1) as edit:
    edit.save(folder / "edit")
assert mt.Edit.load(folder / "edit").facts == facts
sweep = experiments.Sweep(
    "s", model="tiny-gptj", methods=[experiments.Method("ft", {"steps": 1, "layers": [1]})],
    facts=[experiments.Facts(source=str(folder / "facts.json"))], sizes=[1], seeds=[0], scored=1,
)
assert len(experiments.run(sweep, folder / "s.jsonl", progress=False)) == 1
found = cli.main(["edit", "--facts", str(folder / "facts.json"), "--method", "ft", "--layers", "1",
                  "--set", "steps=1", "--quiet"])
assert found == 0
assert cli.main(["edit", "--facts", str(folder / "none.json")]) == 2
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="LC_ALL is a setting of Unix")
def test_load_save_and_sweep_in_a_locale_of_ascii(tmp_path):
    folder = tmp_path / "Größe Ü x"
    folder.mkdir()
    record = {"prompt": "{} wohnt in", "subject": "Jürgen Æ", "target_new": "Köln",
              "target_true": "北京"}  # fmt: skip
    (folder / "facts.json").write_text(json.dumps([record], ensure_ascii=False), encoding="utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT),
             "MEDIT_CACHE": str(tmp_path)}  # fmt: skip
    env = {k: v for k, v in os.environ.items() if k != "PYTHONIOENCODING"} | plain
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder)], env=env,
                          capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode(errors="replace")
