"""The record behind the map of methods: of this model, complete, undone, and repeatable."""

from __future__ import annotations

import json
import sys

import pytest

import medit_teach as mt
from medit_teach.models import fingerprint
from medit_teach.world import World
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import measure_methods


@pytest.fixture(scope="module")
def record():
    path = ROOT / "medit_teach" / "data" / "methods.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_record_is_of_the_model_that_ships_and_says_how_it_was_made(record):
    assert record["weights"] == fingerprint(mt.load(record["model"])[0])
    assert {"asked", "hyper", "protocol", "versions", "device", "command"} <= set(record)
    assert set(record["hyper"]) == set(measure_methods.methods(()))


def test_every_row_is_there_once_and_every_edit_was_undone(record):
    found = [(r["method"], r["setting"]) for r in record["rows"]]
    assert len(set(found)) == len(found)
    wanted = {(name, "at once") for name in measure_methods.methods(())}
    wanted |= {(name, kind) for name in measure_methods.SOME for kind in ("alone", "inverse")}
    few = ("in the prompt", "GRACE", "MEND", *measure_methods.SOLVED)
    wanted |= {(name, "many") for name in few}
    wanted |= {(f"store, above {x}", "store") for x in ("0", "0.5")}
    assert set(found) == wanted
    assert all(r["undone"] for r in record["rows"] if r["setting"] != "inverse")
    sizes = {r["setting"]: r["edits"] for r in record["rows"] if r["method"] != "nothing"}
    assert sizes == {"at once": 100, "alone": 1, "inverse": 20, "many": 1000, "store": 10_000}


@pytest.mark.parametrize("name", ["in the prompt", "MEND"])
def test_a_row_can_be_measured_again(record, name):
    model, tok = mt.load(record["model"])
    world = World(**model.config.medit_teach["world"])
    inverses = measure_methods.with_inverse(world, record["asked"]["inverse"])
    method, settings = measure_methods.methods(())[name]
    again = measure_methods.inverse(model, tok, inverses, method, settings, None)
    (row,) = (r for r in record["rows"] if (r["method"], r["setting"]) == (name, "inverse"))
    for measure in ("EA", "inverse"):
        assert again[measure][0] == pytest.approx(row[measure][0], abs=5.1)  # one fact of twenty
