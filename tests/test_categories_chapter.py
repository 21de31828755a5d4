"""Chapter 11 reads records of other relations, sizes and methods as it reads its own."""

from __future__ import annotations

import ast
import contextlib
import io
import json
from dataclasses import asdict

import numpy as np
import pytest

from medit_teach.study.experiments import Cell, load_sweep
from tests.conftest import ROOT

DATA = ROOT / "medit_teach" / "book" / "records"
CHAPTER = ROOT / "book" / "11-categories.ipynb"
SCENARIOS = {"P103 + P27": "similar subjects, different objects", "P27 + P17": "the other way"}
SPREAD = 20.0  # points between the relations of a mix in the made-up records


def made_up(sweep):
    """Records as a run of `sweep` would leave them; in a mix each relation has its own level."""
    rng = np.random.default_rng(0)
    for facts in sweep.facts:
        for method in sweep.methods:
            for n in method.sizes or sweep.sizes:
                kinds = len(facts.relations)
                pool = [i % kinds for i in range(n * max(1, sweep.scored // n))]
                cell = Cell({}, method, None, pool, n, sweep.scored, sweep.keep)
                level = [k for _, scored in cell.groups for k in scored]
                lost = 0 if method.method == "none" else 1
                values = 80 - lost * SPREAD * np.array(level) + rng.normal(0, 0.1, len(level))
                per_fact = {k: [round(x, 3) for x in values] for k in sweep.keep}
                per_fact["NS"][0] = None  # a fact without neighbours
                means = {k: [50, 40, 60] for k in ("ES", "PS", "NS", "NM", "EA", "NA", "S")}
                yield {
                    "key": f"{facts.label}{method.label}{n}", "label": method.label, "size": n,
                    "facts": asdict(facts), "method": method.method, "seed": 0, "error": None,
                    "scored": sweep.scored, "groups": len(cell.groups), "per_fact": per_fact,
                } | means  # fmt: skip


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """(what the cells define, what they print, number of figures) on records of other relations."""
    path = tmp_path_factory.mktemp("records") / "other.jsonl"
    rows = made_up(load_sweep(DATA / "categories-counterfact.toml"))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    tagged = [c for c in cells if "records" in c["metadata"].get("tags", [])]
    space, printed, figures = {"__name__": "__main__"}, io.StringIO(), 0
    with contextlib.redirect_stdout(printed):
        for cell in tagged:
            tree = ast.parse("".join(cell["source"]))
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, "chapter", "exec"), space)
            if last is not None:
                shown = eval(compile(ast.Expression(last.value), "chapter", "eval"), space)
                figures += hasattr(shown, "savefig")
            if "RECORDS" in space and "records" not in space:  # the cell of the settings
                space |= {"RECORDS": path, "SIZE": 300, "SCENARIOS": SCENARIOS}
    return space, printed.getvalue(), figures


def test_all_that_reads_records_reads_these(read):
    space, printed, figures = read
    assert figures == 3 and space["names"] == ["P103", "P1412", "P27", "P17"]
    assert len(space["methods"]) == 5 and space["before"]["P27"]["method"] == "none"
    for name in (*SCENARIOS, "P1412", "AlphaEdit"):
        assert name in printed
    assert "trade" not in printed and "hypernetwork" not in printed


def test_gaps_are_those_of_the_records(read):
    space, _, _ = read
    gap, low, high = space["gaps"](100, 100, "MEMIT")["P103 + P27"]["NM"]
    assert low < gap < high and gap == pytest.approx(-SPREAD / 2, abs=1.5)


def test_halves_of_a_mix_are_its_relations(read):
    space, _, _ = read
    for n in (10, 100, 300):
        lost = [np.mean(space["lost"]("EMMET", "P27 + P17", n, kind)) for kind in ("P27", "P17")]
        assert lost == pytest.approx([0, SPREAD], abs=0.2)
