"""The checks of the exercises on tracing: published solutions pass, wrong answers are named."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

import medit_teach as mt
from medit_teach.book import check
from medit_teach.hyper import hyper
from medit_teach.models import EMBEDDED, fingerprint
from medit_teach.study import locate
from tests.conftest import ROOT

from .helpers import solution_blocks, tiny_model, tiny_tokenizer, verdict

CHECKS = {
    "strongest": check.locating_strongest,
    "predictions": check.locating_edges,
    "restore": check.locating_restore,
    "added": check.locating_added,
}
FACT = mt.Fact("It is said that {} was born in", "Anna Marlow", "Rome", "Paris")


@pytest.fixture(scope="module")
def right():
    tok = tiny_tokenizer()
    found = {"np": np, "torch": torch, "locate": locate}
    found |= {"model": tiny_model("gptj", tok), "tok": tok, "fact": FACT}
    for block in solution_blocks("03-locating"):
        exec(block, found)
    return found


@pytest.mark.parametrize("name", CHECKS)
def test_the_published_solution_passes(name, right, capsys):
    ok, text = verdict(capsys, CHECKS[name], right[name])
    assert ok is True, text


def test_no_answer_is_not_a_wrong_answer(right, capsys):
    for name, function in CHECKS.items():
        empty = dict.fromkeys(right["predictions"]) if name == "predictions" else lambda *a: ...
        for nothing in (None, ..., empty):
            assert verdict(capsys, function, nothing) == (None, "no answer yet")
    assert verdict(capsys, check.locating_noise, None, 1, 2, 3) == (None, "no answer yet")


def test_strongest_says_what_is_wrong(right, capsys):
    def anywhere(found):
        effect = found.effect - found.corrupted
        t, layer = np.unravel_index(effect.argmax(), effect.shape)
        return t, layer, effect[t, layer]

    def shifted(found):
        t, layer, effect = right["strongest"](found)
        return t - found.subject.start, layer, effect

    def not_subtracted(found):
        t, layer, _ = right["strongest"](found)
        return t, layer, found.effect[t, layer]

    wrong = {
        "that is not the subject's": anywhere,
        "count from the start": shifted,
        "not yet what restoring brought": not_subtracted,
        "return three things": lambda found: 1,
        "there is a stronger state": lambda found: (found.subject.start, 0, 0.4),
        "the indirect effect is not": lambda found: (*right["strongest"](found)[:2], 5.0),
    }
    for message, answer in wrong.items():
        ok, text = verdict(capsys, check.locating_strongest, answer)
        assert ok is False and message in text, (message, text)


def test_edges_says_which_is_wrong(right, capsys):
    good = right["predictions"]
    for case, said in good.items():
        for other in {"clean", "corrupted", "measured"} - {said}:
            ok, text = verdict(capsys, check.locating_edges, good | {case: other})
            assert ok is False and text.startswith(f"not yet: {case}"), (case, other, text)
    assert "still open" in verdict(capsys, check.locating_edges, good | {next(iter(good)): None})[1]
    assert "answer clean" in verdict(capsys, check.locating_edges, good | {next(iter(good)): 1})[1]


def test_restore_says_what_is_wrong(capsys):
    def in_place(x, clean, token):
        x[:, token] = clean[token]
        return x

    wrong = {
        "changes its input": in_place,
        "other tokens changed too": lambda x, clean, token: clean.expand_as(x).clone(),
        "not those of the clean run": lambda x, clean, token: x,
        "must be a tensor of shape": lambda x, clean, token: clean,
    }
    for message, answer in wrong.items():
        ok, text = verdict(capsys, check.locating_restore, answer)
        assert ok is False and message in text, (message, text)


def test_added_says_what_is_wrong(right, capsys):
    def not_corrected(x, layer, y):
        def r_squared(X):
            fitted = X @ np.linalg.lstsq(X, y, rcond=None)[0]
            return 1 - ((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum()

        return r_squared(np.column_stack([np.ones(len(x)), x]))  # forgets the layer

    for message, answer in {
        "too large": not_corrected,
        "too small": lambda x, layer, y: 0.0,
        "not a number": lambda x, layer, y: float("nan"),
    }.items():
        ok, text = verdict(capsys, check.locating_added, answer)
        assert ok is False and message in text, (message, text)


def test_noise_runs_the_trace(right, capsys):
    tok, model = right["tok"], right["model"]
    ok, text = verdict(capsys, check.locating_noise, 0.0, model, tok, FACT)
    assert ok is False and "try more" in text
    assert "negative" in verdict(capsys, check.locating_noise, -1, model, tok, FACT)[1]


# ------------------------------------------------------------------ on the embedded model

DATA = ROOT / "medit_teach" / "book" / "records"
RECORDS = {"tiny-gptj": "locating.json", "tiny-gptj-plain": "locating-control.json"}
embedded = pytest.mark.skipif(
    not (EMBEDDED / "tiny-gptj").is_dir(), reason="the embedded model is not there"
)


@embedded
def test_the_published_noise_is_right(capsys):
    model, tok = mt.load("tiny-gptj")
    fact = mt.facts(model=model, n=40, seed=1)[0]
    namespace = {"locate": locate, "model": model, "tok": tok, "fact": fact}
    exec(solution_blocks("03-locating")[3], namespace)
    noise = namespace["half_noise"]
    ok, text = verdict(capsys, check.locating_noise, noise, model, tok, fact)
    assert ok is True, text


@embedded
@pytest.mark.parametrize("name", RECORDS)
def test_the_record_is_of_the_embedded_model(name):
    record, model = json.loads((DATA / RECORDS[name]).read_text()), mt.load(name)[0]
    assert record["fingerprint"] == fingerprint(model)
    now = asdict(hyper("rome", model))
    assert all(json.loads(json.dumps(now[name])) == x for name, x in record["hyper"].items())
    shapes = {np.array(x).shape for x in record["values"].values()}
    assert shapes == {(len(record["facts"]), len(record["layers"]))}
