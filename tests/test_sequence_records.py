"""The record behind the chapter on editing in sequence: of this model, and repeatable."""

from __future__ import annotations

import sys

import pytest

import medit_teach as mt
from measure import sequence as tool
from medit_teach.models import EMBEDDED, fingerprint
from tests.conftest import ROOT

SLICE = 32  # edits


@pytest.fixture(scope="module")
def record():
    return tool.read(ROOT / "medit_teach" / "book" / "records" / "sequence.jsonl")


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


def test_what_is_damaged_or_incomplete_is_measured_again(record, tmp_path, monkeypatch):
    """The other rows stay as they are; the model is stood in for, nothing is measured."""
    settings, rows = record
    path, made = tmp_path / "sequence.jsonl", []
    tool.store(path, settings, rows)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2][:40] + b"\n", *lines[3:], b'{"run": "torn']))

    class Still(tool.Bench):
        def __init__(self, model, tok, n):
            self.model, self.tok, self.facts, self.texts = model, tok, mt.facts(n=64), []
            self.layer, self.hyper = settings["layer"], tool.hyper("memit", model)
            self.statistics = type("C0", (), {"tokens": 1})

        def sequence(self, name):
            made.append(name)
            return [row for row in rows if row["run"] == name]

    monkeypatch.setattr(tool, "Bench", Still)
    monkeypatch.setattr(tool.metrics, "perplexity", lambda *a: 1.0)
    monkeypatch.setattr(tool.mt, "score", lambda *a: type("S", (), {"values": settings["before"]}))
    monkeypatch.setattr(sys, "argv", ["measure.sequence", "--out", str(path)])
    with pytest.warns(UserWarning, match="line 3 is damaged") as seen:
        known = tool.read(path)
    assert len(known[1]) == len(rows) - 1 and len(seen) == 1
    tool.main()
    assert made == ["exact, no memory"]
    assert (tmp_path / "sequence.jsonl.damaged").read_bytes() == lines[2][:40] + b"\n"
    again = tool.read(path)[1]
    assert sorted(map(str, again)) == sorted(map(str, rows))
