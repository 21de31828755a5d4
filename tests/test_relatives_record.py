"""The points in the figure of the chapter on the completed table: of this model, and repeatable."""

from __future__ import annotations

import json

import pytest

import medit_teach as mt
from measure import relatives as tool
from medit_teach.models import EMBEDDED, fingerprint
from tests.conftest import ROOT

RECORD = "medit_teach/book/records/relatives.json"


def test_points_can_be_measured_again():
    record = json.loads((ROOT / RECORD).read_text(encoding="utf-8"))
    assert (EMBEDDED / record["model"]).is_dir(), "the record is of a model that does not ship"
    model, tok = mt.load(record["model"])
    before = fingerprint(model)
    assert record["weights"] == before and record["facts"] == tool.FACTS
    some = ("ENCORE", "PRUNE", "RECT")
    settings, again = tool.measure(model, tok, some)
    assert fingerprint(model) == before
    assert settings["layer"] == record["layer"] and set(again) == set(some)
    for name, row in again.items():
        for field in ("price", "left", "norm", "perplexity"):
            assert row[field] == pytest.approx(record["points"][name][field], rel=0.01), field
        for field in ("S", "NM"):
            assert row[field] == pytest.approx(record["points"][name][field], abs=1.0), field
    assert set(record["points"]) >= {"MEMIT", "EMMET", *some}
