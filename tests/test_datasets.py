"""Facts and texts from every source that is named: their schemas, other fields, no network."""

import json

import numpy as np
import pytest
from datasets import IterableDataset

import medit_teach as mt
from medit_teach import datasets
from medit_teach.errors import FactError, StatisticsError

from .helpers import tiny_model, tiny_tokenizer

# Invented facts in the forms that the collections have.
MEND = {  # zsRE as MEND and MEMIT distribute it
    "subject": "Anna Marlow", "src": "Which city does Anna Marlow live in?", "pred": "Bonn",
    "rephrase": "Where does Anna Marlow live?", "alt": "Oslo", "answers": ["Rome", "Roma"],
    "loc": "nq question: who built the old mill", "loc_ans": "Otto",
    "cond": "Rome >> Oslo || Which city does Anna Marlow live in?",
}  # fmt: skip
KNOWEDIT = {  # zsRE as KnowEdit has it on the hub
    "subject": "Anna Marlow", "prompt": "Which city does Anna Marlow live in?",
    "target_new": "Oslo", "ground_truth": ["Rome", "Roma"],
    "rephrase_prompt": "Where does Anna Marlow live?",
    "locality": {"Relation_Specificity": [
        {"prompt": "Anna Marlow plays the", "ground_truth": [["harp", "lyre"]]},
        {"prompt": "Anna Marlow was born in", "ground_truth": "1901"},
    ]},
    "portability": {"Reasoning": [{"prompt": "Anna Marlow's mayor is", "ground_truth": "Otto"}]},
}  # fmt: skip
EASYEDIT = {  # CounterFact as EasyEdit has it
    "case_id": 7, "prompt": "Anna Marlow, Anna Marlow lives in", "subject": "Anna Marlow",
    "target_new": "Oslo", "ground_truth": "Rome", "rephrase_prompt": "The home of Anna Marlow is",
    "locality_prompt": "Otto Marlow lives in", "locality_ground_truth": "Rome",
}  # fmt: skip


def one(tmp_path, *records):
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(records))
    return mt.facts(path)[0]


def test_zsre_in_the_form_of_mend(tmp_path):
    f = one(tmp_path, MEND)
    assert (f.prompt, f.text) == ("Which city does {} live in?", MEND["src"])
    assert (f.target_new, f.target_true) == ("Oslo", "Rome")
    assert f.paraphrases == ("Where does Anna Marlow live?",)
    assert f.neighbors == [("nq question: who built the old mill?", "Otto")]
    assert mt.Fact.from_record(json.loads(json.dumps(f.to_record()))) == f


def test_zsre_in_the_form_of_knowedit(tmp_path):
    f = one(tmp_path, KNOWEDIT)
    assert (f.prompt, f.target_new, f.target_true) == (
        "Which city does {} live in?",
        "Oslo",
        "Rome",
    )
    assert f.neighbors == [("Anna Marlow plays the", "harp"), ("Anna Marlow was born in", "1901")]


def test_flat_counterfact(tmp_path):
    f = one(tmp_path, EASYEDIT)
    assert f.text == EASYEDIT["prompt"] and f.span == (0, len("Anna Marlow"))
    assert f.neighbors == [("Otto Marlow lives in", "Rome")] and f.neighborhood_true == ()
    assert f.case_id == 7
    other = one(tmp_path, EASYEDIT | {"locality_ground_truth": "Bonn"})
    assert other.neighbors == [("Otto Marlow lives in", "Bonn")]


def test_answers_need_their_prompts():
    with pytest.raises(FactError, match="2 neighborhood prompts and 1 answers"):
        mt.Fact("{} is", "A", "x", neighborhood=("a", "b"), neighborhood_true=("c",))


def test_a_neighbour_is_compared_with_its_own_answer():
    tok = tiny_tokenizer()
    model = tiny_model("gptj", tok, d=16)
    plain = mt.Fact("{} lives in", "Anna", "Oslo", "Rome", neighborhood=("Otto lives in",))
    own = mt.Fact("{} lives in", "Anna", "Oslo", "Rome", neighborhood=("Otto lives in",),
                  neighborhood_true=("New York Times",))  # fmt: skip
    asked = ["Anna lives in", "Otto lives in", "Otto lives in"]
    log_p, _ = mt.metrics.target_logprobs(model, tok, asked, ["Oslo", "Oslo", "New York Times"])
    _, other_new, other = (float(x.double().mean()) for x in log_p)
    found = mt.score(model, tok, [own], resamples=1)
    assert found.NS == (100.0 if other > other_new else 0.0)
    assert np.isclose(found.NM, 100 * (np.exp(other) - np.exp(other_new)))
    before = mt.score(model, tok, [plain], resamples=1)
    assert found.values["ES"] == before.values["ES"] and before.NM != found.NM
    assert any("answers of their own" in note for note in found.notes)
    assert not any("answers of their own" in note for note in before.notes)
    blank = mt.Fact("{} lives in", "Anna", "Oslo", neighborhood=("Otto lives in",),
                    neighborhood_true=("Rome",))  # fmt: skip
    assert mt.score(model, tok, [blank], resamples=1).values["NS"][3] == 1


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": "q", "answer": "a"}, r"lacks the field 'prompt' \(found: answer, question\)"),
        ({"src": "q", "subject": "s"}, r"'target_new' \(found: src, subject\); expected .* alt"),
        (MEND | {"alt": ""}, "target_new is empty"),
        (MEND | {"subject": "Otto"}, "'Otto' is not in the prompt"),
    ],
)
def test_other_fields_are_named(tmp_path, record, message):
    with pytest.raises(FactError, match=message):
        one(tmp_path, record)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Stands for the hub: hub["name"] = records or texts; what is asked for is in hub.asked."""

    class Hub(dict):
        asked: list

    hub = Hub()
    hub.asked = []

    def load_dataset(*name, streaming=False, **kwargs):
        """Rows as they are, or, streamed, in the class that `datasets` has for that."""
        hub.asked.append((name, kwargs | ({"streaming": True} if streaming else {})))
        rows = hub[name[0]]
        make = rows if callable(rows) else lambda: iter(rows)
        return IterableDataset.from_generator(make) if streaming else rows

    def hf_hub_download(repository, path, repo_type):
        hub.asked.append(((repository, path), {"repo_type": repo_type}))
        local = tmp_path / "downloaded.json"
        local.write_text(json.dumps(hub[repository]))
        return str(local)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    monkeypatch.delenv("MEDIT_FACTS", raising=False)
    monkeypatch.delenv("MEDIT_TEXT", raising=False)
    return hub


def test_named_collections(hub):
    records = [mt.Fact("{} is", name, "x", "y").to_record() for name in ("Aa", "Bb")]
    hub[datasets.COUNTERFACT] = records
    assert [f.subject for f in mt.facts("counterfact")] == ["Aa", "Bb"]
    hub["zjunlp/KnowEdit"] = [KNOWEDIT, KNOWEDIT | {"subject": "Otto"}, KNOWEDIT]
    with pytest.warns(UserWarning, match="zsre: 1 of 3 records were left out: .*'Otto' is not"):
        found = mt.facts("zsre", distinct_subjects=False)
    assert len(found) == 2 and found[0].target_true == "Rome"
    with pytest.raises(FactError, match="'Otto' is not in the prompt"):
        mt.facts("zsre", strict=True)
    assert hub.asked[0] == ((datasets.COUNTERFACT,), {"split": "train"})
    assert hub.asked[1] == (datasets.ZSRE, {"repo_type": "dataset"})


def test_a_collection_with_other_fields(hub):
    hub[datasets.COUNTERFACT] = [{"question": "q", "answer": "a"}] * 3
    with pytest.raises(FactError, match=r"none of the 3 records of counterfact .*answer, qu"):
        mt.facts("counterfact")


@pytest.mark.parametrize("name", ["wikitext", "wikipedia"])
def test_named_texts(hub, name):
    repository, configuration = datasets.TEXTS[name]
    long = "word " * 50
    hub[repository] = [{"text": " = Title = \n"}, {"text": f" {long}\n"}, {"text": ""}]
    assert list(mt.datasets.read_texts(name)) == [long.strip()]
    assert hub.asked == [((repository, configuration), {"split": "train", "streaming": True})]
    hub[repository] = [{"content": long}]
    with pytest.raises(StatisticsError, match=r"expected a field 'text' \(found: content\)"):
        list(mt.datasets.read_texts(name))


def test_a_model_without_a_world_reads_wikitext_unless_told(hub, monkeypatch, tmp_path):
    model = tiny_model("gptj", tiny_tokenizer(), layers=1, d=16)
    hub["Salesforce/wikitext"] = [{"text": "word " * 50}]
    assert len(list(datasets.texts_for(model))) == 1
    hub["wikimedia/wikipedia"] = [{"text": "word " * 60}] * 2
    monkeypatch.setenv("MEDIT_TEXT", "wikipedia")
    assert len(list(datasets.texts_for(model))) == 2


def test_streamed_texts_are_mixed_and_the_same_each_time(hub, monkeypatch):
    whole = [f"{i} " + "word " * 50 for i in range(300)]
    hub["Salesforce/wikitext"] = [{"text": text} for text in whole]
    first, again = (list(datasets.read_texts("wikitext")) for _ in range(2))
    assert first == again and sorted(first) == sorted(text.strip() for text in whole)
    places = [int(text.split()[0]) for text in first]
    assert 100 < np.mean(places[:30]) < 200  # of all articles, not of the first 30
    monkeypatch.setitem(datasets.MIXED, "wikitext", 60)
    places = [int(text.split()[0]) for text in datasets.read_texts("wikitext")]
    assert sorted(places) == list(range(300)) and max(places[:30]) < 60


def test_a_connection_that_breaks_on_the_way(hub, monkeypatch):
    def rows():
        for _ in range(4):
            yield {"text": "word " * 50}
        raise ConnectionError("reset by peer")

    hub["Salesforce/wikitext"] = rows
    monkeypatch.setitem(datasets.MIXED, "wikitext", 2)
    texts = datasets.read_texts("wikitext")
    next(texts)
    with pytest.raises(StatisticsError, match=r"cannot load .*reset by peer.*MEDIT_TEXT"):
        list(texts)


def test_no_network_names_the_local_alternative(hub):
    for name in ("counterfact", "zsre"):  # the empty hub raises KeyError
        with pytest.raises(FactError, match=r"cannot load .* from the hub .* MEDIT_FACTS"):
            mt.facts(name)


def test_local_texts(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    assert datasets.read_texts(tmp_path / "a.txt") == ["one", "two"]
    (tmp_path / "a.jsonl").write_text('{"text": "one", "id": 1}\n{"text": " two "}\n')
    assert datasets.read_texts(tmp_path / "a.jsonl") == ["one", "two"]
    for content, message in (
        ('{"content": "x"}', r"record 0: expected a field 'text' \(found: content\)"),
        ("no json", "is not JSON lines"),
    ):
        (tmp_path / "bad.jsonl").write_text(content)
        with pytest.raises(StatisticsError, match=message):
            datasets.read_texts(tmp_path / "bad.jsonl")
    with pytest.raises(StatisticsError, match="cannot read the text file"):
        datasets.read_texts(tmp_path / "missing.txt")
