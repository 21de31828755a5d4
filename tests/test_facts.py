"""The subject's last token, against an oracle that counts bytes; records, targets, bad input."""

import json

import pytest

import medit_teach as mt
from medit_teach.errors import FactError, ModelError
from medit_teach.fact import encode, last_token, pad, subject_last, with_target


@pytest.fixture(scope="module")
def gpt2(reference):
    from transformers import GPT2TokenizerFast

    return GPT2TokenizerFast.from_pretrained(reference("data/gpt2-tokenizer"))


def by_bytes(tok, ids, text, end):
    """Index of the token holding the last byte before character `end`, for byte-level tokens.

    Independent of offsets: one character of a byte-level token stands for one byte.
    """
    target, total = len(text[:end].encode()), 0
    for i, token in enumerate(tok.convert_ids_to_tokens(ids)):
        if token in tok.all_special_tokens:
            continue
        total += len(token)
        if total >= target:
            return i
    raise AssertionError("text shorter than its tokens")


def test_all_counterfact_prompts(gpt2, reference):
    records = json.loads(reference("data/counterfact-edit.json").read_text())
    assert len(records) == 10_000
    wrong = repeated = 0
    for r in records:
        prompt, subject = r["prompt"], r["subject"]
        if prompt.count(subject) != 1:  # then the caller must say which one is meant
            repeated += 1
            start = prompt.index(subject)
            fact = mt.Fact(prompt[:start] + "{}" + prompt[start + len(subject) :], subject, "x")
        else:
            fact = mt.Fact(prompt, subject, "x")
        for prefix in ("", "It was quiet. "):
            ids, position = subject_last(gpt2, fact, prefix)
            end = len(prefix) + fact.span[1]
            wrong += position != by_bytes(gpt2, ids, prefix + fact.text, end)
    assert wrong == 0
    assert repeated < 100


def test_flat_records_of_easyedit(reference):
    facts = mt.facts(reference("data/counterfact-edit.json"), distinct_subjects=False)
    assert len(facts) == 10_000
    first = facts[0]
    assert (first.prompt, first.target_true) == ("The mother tongue of {} is", "French")
    assert first.paraphrases == ("Where Danielle Darrieux is from, people speak the language of",)
    assert first.neighborhood == ("Michel Rocard is a native speaker of",)


HARD = [
    ("({} is", "Anna"),
    ('The "{}" show', "Late Night"),
    ("{}s are", "Volvo"),
    ("{}", "Anna"),
    ("{} is", "Anna"),
    ("{}n is", "Dortmund"),
    ("The mother tongue of {} is", "Dvořák Ångström"),
    ("{} lives in", "北京の人"),
    ("In {}'s house", "Zoë"),
    ("{} 🙂 is", "Smile 🙂"),
    ("{}is", "Merge"),
]


@pytest.mark.parametrize("prompt, subject", HARD)
def test_hard_subjects(gpt2, prompt, subject):
    fact = mt.Fact(prompt, subject, "x")
    for prefix in ("", "He said. ", "{odd} braces. "):
        ids, position = subject_last(gpt2, fact, prefix)
        end = len(prefix) + fact.span[1]
        assert position == by_bytes(gpt2, ids, prefix + fact.text, end)


def test_bos_and_left_padding_do_not_move_the_subject(gpt2):
    import copy

    from tokenizers.processors import TemplateProcessing

    fact = mt.Fact("The mother tongue of {} is", "Anna Bell", "French")
    plain, at = subject_last(gpt2, fact)
    bos = copy.deepcopy(gpt2)
    end = ("<|endoftext|>", gpt2.eos_token_id)
    for single, shift in (("<|endoftext|> $A", 1), ("$A <|endoftext|>", 0)):
        bos._tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=[end])
        ids, position = subject_last(bos, fact)
        assert (ids[shift:], position - shift) == (plain, at)
    left = copy.deepcopy(gpt2)
    left.padding_side = "left"
    assert subject_last(left, fact) == (plain, at)
    batch = pad([plain, plain[:3]], left)
    assert batch["input_ids"][1, :3].tolist() == plain[:3]
    assert batch["attention_mask"].tolist() == [[1] * len(plain), [1] * 3 + [0] * (len(plain) - 3)]


@pytest.mark.parametrize("target", ["French", "San Francisco", "Ångström", "北京", "3.5%"])
def test_target_tokens_are_those_of_running_text(gpt2, target):
    text = "The mother tongue of Anna is"
    ids, start = with_target(gpt2, text, target)
    assert ids[:start] == gpt2(text)["input_ids"]
    assert ids[start:] == gpt2(" " + target)["input_ids"]


def test_tokenizer_without_offsets(gpt2):
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="Slow gives no character offsets"):
        encode(Slow(), "text")


def test_last_token_needs_a_subject():
    with pytest.raises(FactError, match="no token covers"):
        last_token([(0, 0), (0, 4)], 9, 9)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(prompt="He is from", subject="Anna", target_new="x"), "'Anna' is not in the prompt"),
        (dict(prompt="Anna met Anna in", subject="Anna", target_new="x"), "stands 2 times"),
        (dict(prompt="{} met {} in", subject="Anna", target_new="x"), "two subjects"),
        (dict(prompt="{} is", subject="Anna", target_new=" "), "target_new is empty"),
        (dict(prompt="{} is", subject="", target_new="x"), "subject is empty"),
        (dict(prompt="{} is", subject="Anna", target_new=None), "target_new is empty"),
        (dict(prompt="{} is", subject="A", target_new="x", target_true=""), "target_true is empty"),
    ],
)
def test_bad_facts(fields, message):
    with pytest.raises(FactError, match=message):
        mt.Fact(**fields)
    with pytest.raises(FactError, match="fact 7"):
        mt.Fact(**fields, case_id=7)


def test_spelled_out_prompt_and_round_trip():
    fact = mt.Fact(
        "Anna was born in", "Anna", " Paris ", "Rome", ("a", "b"), case_id=3, relation="R"
    )
    assert (fact.prompt, fact.text, fact.target_new) == (
        "{} was born in",
        "Anna was born in",
        "Paris",
    )
    assert mt.Fact.from_record(json.loads(json.dumps(fact.to_record()))) == fact


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "is empty"),
        ("[]", "holds no records"),
        ("{not json", "is not JSON"),
        ('"text"', "holds no records"),
        ('[{"subject": "A", "prompt": "{} is"}]', "record 0: lacks the field 'target_new'"),
        (
            '[{"requested_rewrite": {"prompt": "{} is", "subject": "A"}}]',
            "lacks the field 'target_new'",
        ),
        ("[3]", "record 0: expected an object"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "facts.json"
    path.write_text(content)
    with pytest.raises(FactError, match=message):
        mt.facts(path)
    with pytest.raises(FactError, match="cannot read"):
        mt.facts(tmp_path / "missing.json")


def test_files_in_both_forms(tmp_path):
    records = [mt.Fact("{} is", s, "x", relation=r).to_record() for s, r in ("Aa", "Bb", "Ca")]
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    for name in ("a.json", "a.jsonl"):
        assert [f.subject for f in mt.facts(tmp_path / name)] == ["A", "B", "C"]
        assert [f.subject for f in mt.facts(tmp_path / name, relation="a")] == ["A", "C"]
        drawn = mt.facts(tmp_path / name, n=2, seed=1)
        assert len(drawn) == 2 and drawn == mt.facts(tmp_path / name, n=2, seed=1)
        with pytest.raises(FactError, match="asked for 4 facts, there are 3"):
            mt.facts(tmp_path / name, n=4)
        with pytest.raises(FactError, match="no facts of relation 'z'; there are a, b"):
            mt.facts(tmp_path / name, relation="z")
