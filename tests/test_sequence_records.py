"""The record behind the chapter on editing in sequence: of this model, and repeatable."""

from __future__ import annotations

import sys

import pytest

import medit_teach as mt
from medit_teach.models import EMBEDDED, fingerprint
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import measure_sequence as tool

SLICE = 32  # edits


@pytest.fixture(scope="module")
def record():
    return tool.read(ROOT / "medit_teach" / "data" / "sequence.jsonl")


@pytest.fixture(scope="module")
def bench(record):
    name = record[0]["model"]
    assert (EMBEDDED / name).is_dir(), "the record is of a model that does not ship"
    return tool.Bench(*mt.load(name), SLICE)


def test_the_record_belongs_to_the_model_that_ships(record, bench):
    settings, rows = record
    assert settings["weights"] == fingerprint(bench.model)
    assert settings["layer"] == bench.layer
    assert {"hyper", "protocol", "versions", "device", "facts", "C0_tokens"} <= set(settings)
    assert set(settings["runs"]) == set(tool.RUNS)
    for name, run in settings["runs"].items():
        step, most = tool.RUNS[name][2], tool.RUNS[name][-1]
        found = [row["edits"] for row in rows if row["run"] == name]
        assert found == [n for n in tool.SIZES if n <= most and n % step == 0], name
        assert run["hyper"]["layers"] == [bench.layer]


@pytest.mark.parametrize("name", ["exact, no memory", "soft, keys kept"])
def test_the_first_edits_can_be_measured_again(name, record, bench):
    row = next(r for r in record[1] if r["run"] == name and r["edits"] == SLICE)
    before = fingerprint(bench.model)
    (again,) = bench.sequence(name, SLICE)
    assert fingerprint(bench.model) == before
    for field in ("norm", "price", "missing_all", "perplexity"):
        assert again[field] == pytest.approx(row[field], rel=0.01), field
    for field in ("S", "NM"):
        assert again["all"][field][0] == pytest.approx(row["all"][field][0], abs=1.5), field
