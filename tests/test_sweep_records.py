"""Committed records of sweeps: of the model that ships, complete, and repeatable."""

from __future__ import annotations

from dataclasses import replace

import pytest

import medit_teach as mt
from medit_teach.study.experiments import load_sweep, plan, read, run
from tests.conftest import ROOT

DATA = ROOT / "medit_teach" / "book" / "records"
RECORDS = {  # sweep: records
    "batch-size": "batch-size", "batch-size-seeds": "batch-size",
    "categories": "categories", "mixes": "categories",
    "mixes-600": "categories", "mixes-700": "categories",
}  # fmt: skip
SLICES = [  # sweep, which of its selections of facts, label, size
    ("batch-size", 0, "MEMIT, lam 2000", 64),
    ("categories", 3, "hypernetwork", 300),
    ("mixes", 6, "MEMIT", 10),
]


@pytest.fixture(scope="module")
def loaded():
    return mt.load("tiny-gptj")


@pytest.mark.parametrize("name", RECORDS)
def test_every_cell_has_its_record(name, loaded):
    cells = plan(load_sweep(DATA / f"{name}.toml"), *loaded)
    found = {row["key"] for row in read(DATA / f"{RECORDS[name]}.jsonl")}
    assert [c.asked["label"] for c in cells if c.asked["key"] not in found] == []


@pytest.mark.parametrize("name", sorted(set(RECORDS.values())))
def test_records_are_small_and_say_how_they_were_made(name, loaded):
    path = DATA / f"{name}.jsonl"
    assert path.stat().st_size < 600_000
    for row in read(path):
        assert row["hash"] == mt.models.fingerprint(loaded[0]) and row["versions"]["torch"]
        assert (row["error"] is None) == ("ES" in row)


@pytest.mark.parametrize(("name", "facts", "label", "size"), SLICES)
def test_a_slice_can_be_measured_again(name, facts, label, size, loaded, tmp_path):
    whole = load_sweep(DATA / f"{name}.toml")
    method = replace(next(m for m in whole.methods if m.label == label), sizes=(size,))
    part = replace(whole, methods=(method,), facts=whole.facts[facts : facts + 1])
    (now,) = run(part, tmp_path / "x.jsonl", False, loaded=loaded)
    (then,) = [r for r in read(DATA / f"{RECORDS[name]}.jsonl") if r["key"] == now["key"]]
    for measure in ("ES", "PS", "NS", "EM", "PM", "NM", "EA", "PA", "NA", "S"):
        assert now[measure] == pytest.approx(then[measure], abs=1.0), measure
    for measure in {"perplexity", "relative_norm", "unwritten", "condition_gram"} & set(then):
        assert now[measure] == pytest.approx(then[measure], rel=0.02), measure
