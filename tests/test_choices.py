"""Chapter 18 with other choices than its own: each method, each type of weights, and the way of a
small GPU, tried on the embedded model and a processor with few facts."""

from __future__ import annotations

import contextlib
import io
import json
import os

import pytest
import torch

from medit_teach.study import budget
from tests.conftest import ROOT

PATH = ROOT / "book" / "18-real-models.ipynb"
FEWER = {  # what a run on the embedded model takes less of
    "((1, 10, 100), 20) if embedded": "((1, 3), 2) if embedded",
    "max(20_000, ": "max(2_000, ",
}
LEFT_OUT = ("find_spec", "check.real_", "plans", "by_hand")  # cells that no choice changes


def run(changes, folder, monkeypatch):
    """(what the chapter printed, its names), with {text in a cell: what stands there instead}."""
    monkeypatch.setenv("MEDIT_CACHE", str(folder))
    monkeypatch.delenv("MEDIT_MODEL", raising=False)
    monkeypatch.chdir(folder)
    cells = json.loads(PATH.read_text(encoding="utf-8"))["cells"]
    cells = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    source = "\n\n".join(x for x in cells if not any(word in x for word in LEFT_OUT))
    for old, new in changes.items():
        assert old in source, old
        source = source.replace(old, new)
    names, printed = {"__name__": "__main__"}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, PATH.name, "exec"), names)
    return printed.getvalue(), names


@pytest.mark.parametrize(
    ("method", "dtype"),
    [("rome", torch.float32), ("emmet", torch.float16), ("alphaedit", torch.bfloat16)],
)
def test_a_method_and_a_type_of_weights(method, dtype, tmp_path, monkeypatch):
    choice = {
        'method = "memit"': f'method = "{method}"',
        "dtype = torch.float32": f"dtype = {dtype}",
    }
    printed, names = run(FEWER | choice, tmp_path, monkeypatch)
    assert names["model"].dtype == dtype and f"tiny-gptj, {method}" in printed
    assert "eq:real-chunk  holds" in printed and "eq:real-disk  holds" in printed
    rows = [(r["method"], r["edits"]) for r in names["records"]]
    assert rows == list(dict.fromkeys([("none", 0), ("rome", 1), (method, 1), (method, 3)]))
    first, *others = (r["scores"]["ES"][0] for r in names["records"])
    assert first < 50 and min(others) == 100
    kept = json.loads((names["results"] / "record.json").read_text())
    assert kept["dtype"] == str(dtype) and kept["method"] == method
    one = names["plan"].chunk == 1
    assert one == (method == "rome")  # one after another


def test_the_way_of_a_small_gpu(tmp_path, monkeypatch):
    """The branch for a GPU, on a processor that says that only one C0 fits."""
    how = {"one_at_a_time": True, "batch_tokens": budget.FEW}
    room = budget.memory("tiny-gptj", "memit", torch.bfloat16, 1, 3, **how).peak + budget.SPARE
    room += 2**20
    assert budget.memory("tiny-gptj", "memit", torch.bfloat16, 1, 3).peak + budget.SPARE > room
    monkeypatch.setattr(budget, "free", lambda device="cpu": room if device == "cuda" else 2**34)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a small card")
    changes = FEWER | {
        "gpu = torch.cuda.is_available()": "gpu = True",
        'want = "gpt2-xl"': 'want = "tiny-gptj"',
        "sizes = (1, 100, 1000)": "sizes = (1, 3)",
        "singles = 20": "singles = 3",
        "dtype = torch.float32": "dtype = torch.bfloat16",
        "device=where": 'device="cpu"',
    }
    printed, names = run(changes, tmp_path, monkeypatch)
    plan = names["plan"]
    assert plan.one_at_a_time and plan.fits and "one C0 at a time" in printed
    assert "free: " in printed and "1 edit: less than a minute" in printed
    assert "C0 lies on the disk" in printed and names["C0"].device(1).type == "cpu"
    facts = {(r["method"], r["edits"]): r["facts"] for r in names["records"]}
    assert facts == {("none", 0): 3, ("rome", 1): 3, ("memit", 1): 2, ("memit", 3): 3}
    assert all(r["scores"]["ES"][0] == 100 for r in names["records"][1:])
    kept = json.loads((tmp_path / "medit-results" / "record.json").read_text())
    assert kept["one C0 at a time"] is True and kept["device"] == "a small card"
    assert os.listdir(tmp_path / "medit-results" / "targets")

    # and what it prints for a model that tables have been published of
    compare, record = names["compare"], names["records"][1]
    found = compare("openai-community/gpt2-xl", record)
    assert "other size" not in found[0] and len(found) == 4
    assert all("give or take" in line for line in found[1:]) and "100.0 - 96.4" in found[2]
    found = compare("EleutherAI/gpt-j-6b", names["records"][3])
    assert "other size: 10,000 edits" in found[0] and "give or take" not in "".join(found)
    assert compare("gpt2-xl", names["records"][3]) == compare("tiny-gptj", record) == []
