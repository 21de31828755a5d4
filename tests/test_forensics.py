"""Forensics against independent computations, and a slice of its record measured again."""

from __future__ import annotations

import itertools
import json
import math
import sys

import numpy as np
import pytest
import torch

import medit_teach as mt
from medit_teach import objective
from medit_teach.models import View, fingerprint
from medit_teach.study import forensics
from tests.conftest import ROOT
from tests.helpers import tiny_model, tiny_tokenizer

RECORD = ROOT / "medit_teach" / "book" / "records" / "forensics.json"


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def problem(d_out=6, d_in=20, E=3, seed=0):
    R, K, X = randn(d_out, E, seed=seed), randn(d_in, E, seed=seed + 1), randn(d_in, 90, seed=7)
    X = X * torch.logspace(0, -1, d_in, dtype=torch.float64)[:, None]
    return R, K, X @ X.T / 90


# ------------------------------------------------------------------ differences


@pytest.mark.parametrize("kind", ["gpt2", "gptj"])
def test_differences_are_those_that_were_made_and_no_others(kind):
    tok = tiny_tokenizer()
    model, reference = tiny_model(kind, tok), tiny_model(kind, tok)
    assert forensics.differences(model, reference) == {}
    change = randn(*View(model).weight(1).shape)
    with torch.no_grad():
        View(model).weight(1).add_(change.float())
        View(model).norm.bias[2] += 1
    found = forensics.differences(model, reference)
    name = next(n for n, p in model.named_parameters() if p is View(model).norm.bias)
    assert set(found) == {"layer 1", name}
    torch.testing.assert_close(found["layer 1"], change, rtol=1e-4, atol=1e-5)
    assert found[name].nonzero().tolist() == [[2]] and found[name].dtype == torch.float64


def test_models_of_different_shape_cannot_be_compared():
    tok = tiny_tokenizer()
    with pytest.raises(mt.MeditError, match="different parameters"):
        forensics.differences(tiny_model("gpt2", tok), tiny_model("gpt2", tok, layers=2))


# ------------------------------------------------------------------ spectra


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 37.0, 3e-4])
def test_rounding_stays_below_its_floor_and_not_far_below(dtype, scale):
    old = scale * randn(120, 300)
    new = old + scale * 1e-1 * randn(120, 300, seed=1)  # both roundings independent
    noise = (new.to(dtype).double() - new) - (old.to(dtype).double() - old)
    norm = float(torch.linalg.matrix_norm(noise, 2))
    floor = forensics.rounding_floor(new, old, dtype)
    assert 0.6 * floor < norm < floor


def test_the_spacing_of_the_floor_is_that_of_the_type():
    one = torch.ones(1, 1)
    spacing = np.spacing(np.float32(1))
    assert forensics.rounding_floor(one, one) == pytest.approx(2 * spacing / 6**0.5)
    assert forensics.rounding_floor(2 * one, 2 * one) == pytest.approx(4 * spacing / 6**0.5)
    assert forensics.rounding_floor(1.99 * one, one) == pytest.approx(2 * spacing / 6**0.5)


def test_rank_and_effective_rank():
    D = torch.outer(randn(8), randn(12))
    s = forensics.spectrum(D)
    assert (s["rank"], s["effective_rank"]) == (1, pytest.approx(1, abs=1e-9))
    assert s["norm"] == pytest.approx(float(D.norm()))
    assert forensics.spectrum(torch.eye(5, 9))["effective_rank"] == pytest.approx(5)
    two = forensics.spectrum(torch.diag(torch.tensor([0.9, 0.1])))
    assert two["effective_rank"] == pytest.approx(
        math.exp(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    )
    assert forensics.spectrum(D + 1e-6 * randn(8, 12), floor=1e-4)["rank"] == 1
    assert forensics.spectrum(D + 1e-6 * randn(8, 12))["rank"] == 8


@pytest.mark.parametrize("bad", [torch.zeros(3, 4), torch.full((3, 4), float("nan"))])
def test_no_spectrum_of_nothing(bad):
    with pytest.raises(mt.MeditError, match="finite and not zero"):
        forensics.spectrum(bad)


def test_split_is_the_nearest_matrix_of_that_rank():
    W = randn(6, 9)
    S = torch.linalg.svdvals(W)
    for n in range(7):
        top, rest = forensics.split(W, n)
        torch.testing.assert_close(top + rest, W)
        torch.testing.assert_close(torch.linalg.svdvals(rest)[: 6 - n], S[n:], atol=1e-12, rtol=0)
    with pytest.raises(mt.MeditError, match="cannot take 7"):
        forensics.split(W, 7)


# ------------------------------------------------------------------ shares, suspicion, auc


@pytest.mark.parametrize("method", ["rome", "memit", "emmet", "alphaedit", "nullspace"])
def test_an_edited_key_has_share_one_and_others_less(method):
    E = 1 if method == "rome" else 3
    R, K, C0 = problem(E=E)
    soft, hard = objective.factor(C0), objective.null_space(C0, energy=0.1)
    D, preserve = {
        "rome": lambda: (objective.rome(R, K, soft), soft),
        "memit": lambda: (objective.memit(R, K, soft, 5.0), soft),
        "emmet": lambda: (objective.emmet(R, K, soft), soft),
        "alphaedit": lambda: (objective.alphaedit(R, K, hard, 2.0), hard),
        "nullspace": lambda: (objective.nullspace(R, K, hard), hard),
    }[method]()
    others = randn(20, 40, seed=5)
    share = forensics.shares(-2 * D.delta, torch.cat([3 * K, others], 1), preserve, E)
    torch.testing.assert_close(share[:E], torch.ones(E, dtype=torch.float64))
    assert float(share[E:].max()) < 0.9 and float(share.min()) >= 0


def test_a_random_key_has_rank_over_dimensions_on_average():
    R, K, C0 = problem()
    D = objective.emmet(R, K, C0).delta
    L = torch.linalg.cholesky(C0)
    share = forensics.shares(D, L @ randn(20, 4000, seed=9), objective.factor(C0), 3)
    assert float(share.mean()) == pytest.approx(3 / 20, rel=0.05)


def test_suspicion_is_large_where_something_long_was_written():
    W, K = randn(6, 20), randn(20, 50, seed=3)
    D = objective.rome(40 * randn(6, seed=4), K[:, 7], torch.eye(20).double()).delta
    found = forensics.suspicion(W + D, K)
    assert int(found.argmax()) == 7 and float(found.median()) == pytest.approx(1)


def test_auc_is_the_counted_area():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 6, 30), rng.integers(0, 5, 50)
    area, low, high = forensics.auc(positive, negative)
    truth = [1] * 30 + [0] * 50
    assert area == pytest.approx(roc_auc_score(truth, [*positive, *negative]))
    assert low < area < high and forensics.auc(positive, negative) == (area, low, high)
    assert forensics.auc([2, 3], [0, 1]) == (1, 1, 1)
    draws = []  # the interval, by drawing both groups again
    for _ in range(1000):
        a, b = rng.choice(positive, 30), rng.choice(negative, 50)
        draws.append(roc_auc_score(truth, [*a, *b]))
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx([low, high], abs=0.015)
    with pytest.raises(mt.MeditError, match="at least one"):
        forensics.auc([], [1])


# ------------------------------------------------------------------ asking the model


def test_answers_are_the_models_own_log_probabilities():
    tok = tiny_tokenizer("left")
    model = tiny_model("gptj", tok)
    subjects, prompts = ["Otto", "Anna Marlow"], ["{} speaks", "The city of {} is", "{} plays the"]
    table = forensics.answers(model, tok, subjects, prompts, batch_size=4)
    assert table.shape == (2, 3, len(tok))
    for (i, s), (j, p) in itertools.product(enumerate(subjects), enumerate(prompts)):
        ids = torch.tensor([tok(p.format(s))["input_ids"]])
        with torch.no_grad():
            wanted = torch.log_softmax(model(ids).logits[0, -1], -1)
        torch.testing.assert_close(table[i, j], wanted, atol=1e-5, rtol=1e-5)
    doubt = forensics.doubt(table)
    assert float(doubt[0]) == pytest.approx(-float(table[0].max(-1).values.mean()), rel=1e-5)


# ------------------------------------------------------------------ the record


@pytest.fixture(scope="module")
def record():
    return json.loads(RECORD.read_text(encoding="utf-8"))


def test_the_record_is_complete_and_of_the_model_that_ships(record):
    from measure import forensics as measure_forensics

    assert list(record["sections"]) == list(measure_forensics.SECTIONS)
    assert record["weights"] == fingerprint(mt.load(record["model"])[0])
    assert {"hyper", "versions", "device", "facts", "C0_tokens", "layer"} <= set(record)
    for section in record["sections"].values():
        assert section["about"] and section["rows"]
    assert len(record["sections"]["traces"]["rows"]) == record["facts"]["n"]
    rows = record["sections"]["behaviour"]["rows"]
    for name, (area, low, high) in record["sections"]["behaviour"]["AUC"].items():
        scores = [[r[name] for r in rows if r["edited"] is x] for x in (True, False)]
        again = forensics.auc(*scores)
        assert again == pytest.approx((area, low, high), abs=1e-3)


def test_a_slice_can_be_measured_again(record):
    from measure import forensics as measure_forensics

    lab = measure_forensics.Lab(record["model"], edits=3, controls=4)
    before = fingerprint(lab.model)
    sections = record["sections"]
    for new, old in zip(
        measure_forensics.traces(lab)["rows"], sections["traces"]["rows"], strict=False
    ):
        assert new["case"] == old["case"]
        for name in ("subject_rank", "suspicion_rank", "asked_rank", "others", "EA"):
            assert new[name] == old[name], name
        for name in ("relative_norm", "share", "runner_up", "ratio"):
            assert new[name] == pytest.approx(old[name], rel=0.05), name
        assert new["others_right"] == pytest.approx(old["others_right"], abs=34)
    known = {(r["case"], r["edited"]): r for r in sections["behaviour"]["rows"]}
    for new in measure_forensics.behaviour(lab)["rows"]:
        old = known[new["case"], new["edited"]]
        assert new["says"] == old["says"]
        for name in ("confidence", "gap", "doubt", "suspicion"):
            assert new[name] == pytest.approx(old[name], rel=0.1, abs=0.02), name
    found = {r["way"]: r for r in measure_forensics.reversal(lab, few=1)["rows"]}
    assert set(found) == {r["way"] for r in sections["reversal"]["rows"]}
    assert found["no edit"]["says old"][0] == 100 and found["edited"]["says new"][0] == 100
    assert found["reference, in bfloat16"]["says old"][0] == 100
    assert fingerprint(lab.model) == before


def test_a_measurement_leaves_the_model_as_it_was_and_a_stopped_run_goes_on(tmp_path, monkeypatch):
    """Sections that are in the file are not measured again; those that are missing are."""
    from measure import forensics as tool

    calls = []

    class Nothing:
        def __init__(self, name):
            pass

    monkeypatch.setattr(tool, "Lab", Nothing)
    monkeypatch.setattr(tool, "settings", lambda lab: {"weights": "w"})
    sections = {n: lambda lab, n=n: calls.append(n) or {"rows": [n]} for n in ("a", "b")}
    monkeypatch.setattr(tool, "SECTIONS", sections)
    path = tmp_path / "forensics.json"
    path.write_text(json.dumps({"weights": "w", "sections": {"b": {"rows": ["old"]}}}))
    monkeypatch.setattr(sys, "argv", ["tool", "--out", str(tmp_path)])
    tool.main()
    assert calls == ["a"]
    assert json.loads(path.read_text())["sections"] == {
        "a": {"rows": ["a"]},
        "b": {"rows": ["old"]},
    }
    path.write_text(json.dumps({"weights": "other", "sections": {"b": {"rows": ["old"]}}}))
    tool.main()
    assert calls == ["a", "a", "b"]
