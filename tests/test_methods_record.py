"""The record behind the map of methods: of this model, complete, undone, and repeatable."""

from __future__ import annotations

import json
import sys

import pytest

from measure import methods as measure_methods
from medit_teach.models import fingerprint
from tests.conftest import ROOT

QUALITY = {"ES", "PS", "NS", "EA", "PA", "NA", "own", "following"}


@pytest.fixture(scope="module")
def record():
    path = ROOT / "medit_teach" / "book" / "records" / "methods.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def bench(record):
    return measure_methods.Bench(record["model"])


def row(record, **which):
    (found,) = (r for r in record["rows"] if which.items() <= r.items())
    return found


def test_the_record_is_of_the_model_that_ships_and_says_how_it_was_made(record, bench):
    assert record["weights"] == fingerprint(bench.model)
    now = measure_methods.about(bench, record["model"])
    assert {k: v for k, v in now.items() if k not in ("versions", "device")} == {
        k: record[k] for k in now if k not in ("versions", "device")
    }
    assert {"versions", "device"} <= set(record)


def test_every_row_is_there_once_with_every_column_and_every_edit_was_undone(record):
    wanted = list(measure_methods.wanted())
    found = [w for r in record["rows"] for w in wanted if w.items() <= r.items()]
    assert found == wanted  # in this order, each once
    assert len(record["rows"]) == len(wanted)
    sizes = {"at once": 100, "many": 1000, "alone": 1, "inverse": 20, "store": 10_000}
    for r in record["rows"]:
        assert r.get("undone", r["setting"] == "inverse") is True
        assert r["edits"] == (0 if r["method"] == "nothing" else sizes[r["setting"]])
        if r["setting"] in ("at once", "many", "alone"):
            assert QUALITY | {"seconds", "parameters"} <= set(r)
            assert r["facts"] == (30 if r["setting"] == "alone" else 100)
        if r["setting"] in ("at once", "many"):
            assert "perplexity" in r and ("fluency" in r) == (r["setting"] == "at once")


@pytest.mark.parametrize("name", ["in the prompt", "MEND"])
def test_a_row_can_be_measured_again(record, bench, name):
    again = bench.inverse(name)
    old = row(record, method=name, setting="inverse")
    assert again["undone"] and again["edits"] == old["edits"]
    for measure in ("EA", "inverse"):
        assert again[measure][0] == pytest.approx(old[measure][0], abs=5.1)  # one fact of twenty


def test_a_hundred_edits_at_once_can_be_measured_again(record, bench):
    """The cheapest row with all columns; what is counted may differ by a fact or two."""
    again, old = (
        bench.at_once("in the prompt"),
        row(record, method="in the prompt", setting="at once"),
    )
    assert set(again) == set(old) - {"method", "setting"}
    for measure in QUALITY:
        assert again[measure][0] == pytest.approx(old[measure][0], abs=2.5), measure
    assert again["fluency"][0] == pytest.approx(old["fluency"][0], abs=0.02)
    assert again["perplexity"] == pytest.approx(old["perplexity"], rel=1e-3)
    assert again["parameters"] == 0 and again["undone"]


def test_the_search_among_ten_thousand_edits_errs_as_the_record_says(record, bench):
    sentences = bench.sentences()
    asked = {q for f in bench.facts for q in f.neighborhood}
    assert len(sentences) == len({f.text for f in sentences}) == 10_000
    assert all(f.target_new != f.target_true for f in sentences)
    assert asked.isdisjoint(f.text for f in sentences)
    for at_least in measure_methods.AT_LEAST:
        again = bench.store(at_least, ask_the_model=False)
        old = row(record, setting="store", at_least=at_least)
        for what in (k for k in old if k.startswith(("right,", "wrong,"))):
            assert again[what] == pytest.approx(old[what], abs=0.1), what
        assert old["right, words of the edit"][0] > old["right, other words"][0]
        assert old["wrong, neighbours"][0] > 0


def test_rows_of_other_settings_are_not_kept(tmp_path):
    now = {"weights": "w", "asked": 1, "hyper": {"FT": {"lr": 1}, "ROME": {}}}
    path = tmp_path / "methods.json"
    assert measure_methods.rows_kept(path, now) == []
    rows = [{"method": "FT", "setting": "alone"}, {"method": "ROME", "setting": "alone"}]
    path.write_text(json.dumps(now | {"rows": rows}))
    assert measure_methods.rows_kept(path, now) == rows
    path.write_text(json.dumps(now | {"hyper": {"FT": {"lr": 2}, "ROME": {}}, "rows": rows}))
    assert measure_methods.rows_kept(path, now) == rows[1:]
    path.write_text(json.dumps(now | {"weights": "other", "rows": rows}))
    assert measure_methods.rows_kept(path, now) == []


def test_a_stopped_measurement_goes_on_where_it_was(tmp_path, monkeypatch):
    """Killed in its second row, the file holds the first, which is then not measured again."""
    calls, path = [], tmp_path / "methods.json"

    def measured(bench, which):
        calls.append(which["method"])
        if calls == ["nothing", "in the prompt"]:
            raise KeyboardInterrupt
        return which | {"row": len(calls)}

    about = {"weights": "w", "asked": 1, "hyper": {m: {} for m in measure_methods.methods(())}}
    monkeypatch.setattr(measure_methods, "Bench", lambda model: None)
    monkeypatch.setattr(measure_methods, "about", lambda bench, model: about)
    monkeypatch.setattr(measure_methods, "measure", measured)
    command = ["tool", "--out", str(path), "--settings", "at once"]
    monkeypatch.setattr(sys, "argv", [*command, "--only", "nothing", "in the prompt", "IKE"])
    with pytest.raises(KeyboardInterrupt):
        measure_methods.main()
    assert [r["method"] for r in json.loads(path.read_text())["rows"]] == ["nothing"]
    measure_methods.main()
    rows = json.loads(path.read_text())["rows"]
    assert [(r["method"], r["row"]) for r in rows] == [
        ("nothing", 1),
        ("in the prompt", 3),
        ("IKE", 4),
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["methods.json"]
