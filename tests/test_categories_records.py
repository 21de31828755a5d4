"""The records behind the chapter on categories: what their files ask for, and repeatable."""

from __future__ import annotations

import pytest

import medit_teach as mt
from medit_teach import experiments
from medit_teach.models import fingerprint
from tests.conftest import ROOT

DATA = ROOT / "medit_teach" / "data"


@pytest.fixture(scope="module")
def loaded():
    return mt.load("tiny-gptj")


@pytest.mark.parametrize("name", ["categories", "mixes"])
def test_every_record_is_a_cell_of_its_file(name, loaded):
    cells = experiments.plan(experiments.load_sweep(DATA / f"{name}.toml"), *loaded)
    asked = {cell.asked["key"] for cell in cells}
    rows = experiments.read(DATA / f"{name}.jsonl")
    assert rows and {row["key"] for row in rows} <= asked
    assert {row["hash"] for row in rows} == {fingerprint(loaded[0])}


def test_a_slice_can_be_measured_again(loaded, tmp_path):
    stored = experiments.read(DATA / "categories.jsonl", label="unedited")[0]
    whole = experiments.load_sweep(DATA / "categories.toml")
    part = experiments.Sweep(
        whole.name, whole.methods[:1], whole.sizes, whole.facts[:1], measures=whole.measures,
        scored=whole.scored, keep=whole.keep,
    )  # fmt: skip
    (again,) = experiments.run(part, tmp_path / "x.jsonl", progress=False, loaded=loaded)
    assert again["key"] == stored["key"]
    for name in ("NS", "NM", "NA"):
        assert again[name] == pytest.approx(stored[name], abs=1.0)
    # and a few facts of it, written with targets that are found anew
    facts = whole.facts[0].draw(10, 0, loaded[0])
    with mt.edit(*loaded, facts, "memit"):
        assert mt.score(*loaded, facts).ES == 100
