"""The checks of chapter 1, and its memory of facts: what is found, in which order, at what cost."""

from __future__ import annotations

import re

import pytest
import torch

from medit_teach.book import check
from medit_teach.book.check import why
from medit_teach.fact import Fact
from medit_teach.methods.in_context import Memory, counting, in_front, statement
from medit_teach.metrics import target_logprobs

from .conftest import ROOT
from .helpers import Untouched, tiny_model, tiny_tokenizer

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "book/solutions/01-why.md").read_text(), re.S)
TABLE = {
    "do nothing": {"EA": (0, 0, 0), "PA": None, "NA": (98, 90, 100)},
    "in the prompt": {"EA": (90, 80, 95), "PA": (80, 70, 90), "NA": (60, 50, 70)},
    "retrieval, first 1": {"EA": (85, 80, 95), "PA": (50, 40, 60), "NA": (70, 60, 80)},
    "fine-tuning": {"EA": (100, 100, 100), "PA": (90, 80, 95), "NA": (10, 0, 20)},
    "ROME": {"EA": (95, 90, 100), "PA": (85, 80, 90), "NA": (88, 80, 90)},
}
ADVICE = {"frozen": "retrieval, first 1", "said": "fine-tuning", "balance": "ROME"}


@pytest.fixture(scope="module")
def solution():
    found = {"table": TABLE}
    for block in BLOCKS:
        exec(block, found)
    return found


def said(capsys, function, *args):
    check.passed.clear()
    assert function(*args) is None
    return check.passed.get(function.__name__), capsys.readouterr().out.strip()


def extra(function):
    return (TABLE,) if function is why.advice else ()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (why.advice, "advice"),
        (why.idf, "idf"),
        (why.retriever, "retrieve"),
        (why.break_even, "questions"),
        (why.storage, "facts_that_fill"),
    ],
)
def test_solutions_pass_and_nothing_is_no_answer(capsys, solution, function, name):
    passed, text = said(capsys, function, solution[name], *extra(function))
    assert passed and text.startswith("right: "), text
    for nothing in (None, ...):
        assert said(capsys, function, nothing, *extra(function)) == (None, "no answer yet")


def test_an_untouched_answer_is_no_answer(capsys, solution):
    assert solution["advice"] == ADVICE
    assert said(capsys, why.advice, dict.fromkeys(ADVICE), TABLE)[0] is None
    for function in (why.idf, why.retriever, why.storage):
        assert said(capsys, function, lambda *_: ...)[0] is None


@pytest.mark.parametrize(
    ("function", "answer", "says"),
    [
        (why.advice, ADVICE | {"frozen": None}, "still waits"),
        (why.advice, ADVICE | {"frozen": "ROME"}, "left alone"),
        (why.advice, ADVICE | {"frozen": "in the prompt"}, "has 60, another 70"),
        (why.advice, ADVICE | {"said": "magic"}, "no row"),
        (why.advice, ADVICE | {"balance": "fine-tuning"}, "has 10, another 85"),
        (why.idf, lambda w, s: 1.0, "'anna', in 1 of 4"),
        (why.idf, lambda w, s: 1 / 0, "ZeroDivisionError"),
        (why.retriever, lambda m, q: m.find(q, 1), "the right sentence is not among"),
        (why.retriever, lambda m, q: m.find(q, 3), ""),
        (why.retriever, lambda m, q: list(range(9)), "you found"),
        (why.retriever, lambda m, q: [], "is not among"),
        (why.retriever, lambda m, q: [99], "outside"),
        (why.retriever, lambda m, q: 0, "list of indices"),
        (why.break_even, 250, "just as much"),
        (why.break_even, 100, "more than"),
        (why.break_even, 300, "before, too"),
        (why.break_even, 250.5, "whole number"),
        (why.storage, lambda a, b: a * b / (a + b), "whole numbers"),
        (why.storage, lambda a, b: a * b // (a + b), "still fewer"),
        (why.storage, lambda a, b: a * b // (a + b) + 1, "fewer would fill"),
    ],
)
def test_wrong_answers_are_told_why(capsys, function, answer, says):
    passed, text = said(capsys, function, answer, *extra(function))
    assert passed is False and text.startswith("not yet: ") and says in text


# ------------------------------------------------------------------ the memory itself

FACTS = [
    Fact("{} plays the", "Anna Marlow", "harp", "horn", ("The instrument of Anna Marlow is the",)),
    Fact("{} plays the", "Otto Marlow", "drum", "flute", neighborhood=("Ida Stone plays the",)),
    Fact("{} was trained as a", "Anna Marlow", "baker"),
]


def test_memory_finds_the_best_first_and_puts_it_last():
    memory = Memory(FACTS)
    assert memory.sentences[0] == statement(FACTS[0]) == "Anna Marlow plays the harp."
    assert memory.find("Anna Marlow plays the", 3) == [0, 1, 2] or (
        memory.find("Anna Marlow plays the", 3)[0] == 0
    )
    found = memory.find("Anna Marlow was trained as a", 2)
    assert found[0] == 2
    text = memory.recall("Anna Marlow was trained as a", 2)
    assert text.endswith("Anna Marlow was trained as baker.") or text.endswith("as a baker.")
    cosine = memory.similarity([memory.sentences[1]])[0]
    assert cosine[1] == pytest.approx(1) and cosine.max() <= 1 + 1e-9
    assert memory.find("nothing in common", 3) == [] and memory.recall("nothing in common") == ""
    assert memory.find("Anna Marlow plays the", 3, at_least=0.99) == []


def test_in_front_reaches_every_question_and_the_subject_stays_the_edited_one():
    asked = in_front(FACTS, lambda fact, question: statement(fact))
    assert asked[0].text == "Anna Marlow plays the harp. Anna Marlow plays the"
    assert asked[0].paraphrases == (
        "Anna Marlow plays the harp. The instrument of Anna Marlow is the",
    )
    assert asked[1].neighborhood == ("Otto Marlow plays the drum. Ida Stone plays the",)
    start, end = asked[0].span
    assert asked[0].text[start:end] == "Anna Marlow" and start > 20
    same = in_front(FACTS, lambda fact, question: "")
    assert [f.text for f in same] == [f.text for f in FACTS]


@pytest.mark.parametrize("kind", ["gpt2", "gptj"])
def test_cost_counts_rows_and_tokens_and_leaves_the_model_alone(kind):
    tok = tiny_tokenizer()
    model = tiny_model(kind, tok)
    with Untouched(model), counting(model) as cost:
        model(torch.ones(3, 5, dtype=torch.long))
        model(input_ids=torch.ones(2, 4, dtype=torch.long))
    assert (cost.texts, cost.tokens) == (5, 23)
    target_logprobs(model, tok, ["Anna lives in"], ["Rome"])
    assert cost.texts == 5
