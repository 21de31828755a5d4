"""The records behind the chapters on EMMET and edit distribution: of this model, and repeatable."""

from __future__ import annotations

import json

import pytest

import medit_teach as mt
from medit_teach.models import EMBEDDED, fingerprint
from tests.conftest import ROOT

DATA = ROOT / "medit_teach" / "book" / "records"
NAMES = ("emmet-batches.json", "distribution.json")


@pytest.fixture(scope="module")
def records():
    return {name: json.loads((DATA / name).read_text(encoding="utf-8")) for name in NAMES}


@pytest.fixture(scope="module")
def loaded(records):
    name = records[NAMES[0]]["model"]
    assert (EMBEDDED / name).is_dir(), "the records are of a model that does not ship"
    return mt.load(name)


def test_the_records_belong_to_the_model_that_ships(records, loaded):
    for record in records.values():
        assert record["weights"] == fingerprint(loaded[0])
        assert {"hyper", "protocol", "versions", "device", "facts", "C0_tokens"} <= set(record)


def test_every_combination_is_there(records):
    rows = records["emmet-batches.json"]["rows"]
    assert len({(r["batch"], r["asked"]) for r in rows}) == len(rows)
    assert len(rows) == len({r["batch"] for r in rows}) * len({r["asked"] for r in rows})
    rows = records["distribution.json"]["rows"]
    found = {(r["batch"], r["rule"], r["solver"]) for r in rows}
    assert len(found) == len(rows) == 4 * 3


def test_a_row_can_be_measured_again(records, loaded):
    model, tok = loaded
    record = records["emmet-batches.json"]
    row = next(r for r in record["rows"] if r["batch"] == 4 and r["asked"] == 300)
    facts = mt.facts(model=model, n=record["facts"]["n"], seed=record["facts"]["seed"])[:4]
    with mt.edit(model, tok, facts, "emmet", layers=[record["layer"]], ridge=300.0) as e:
        scores = mt.score(model, tok, facts)
    assert e.diagnostics[record["layer"]]["condition_gram"] == pytest.approx(
        row["condition_gram"], rel=0.02
    )
    for name in ("S", "NM"):
        assert getattr(scores, name) == pytest.approx(row[name][0], abs=1.0)
