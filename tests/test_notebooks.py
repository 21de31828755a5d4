"""The stored notebooks: run, free of errors, portable; and the tool that checks them.

The outputs themselves are compared by nbval (`make test`), which passes over a cell that was never
run: hence the execution counts here.
"""

from __future__ import annotations

import copy
import json
import re
import sys

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import notebooks

STORED = notebooks.all_notebooks()


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.name)
def test_stored_notebook(path):
    assert notebooks.check(path) == []


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.name)
def test_stored_in_normal_form(path):
    text = path.read_text(encoding="utf-8")
    notebook = notebooks.normalise(json.loads(text), path.name)
    again = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    assert again == text, "run: python tools/notebooks.py --normalise"


def test_every_notebook_is_in_the_table_of_contents():
    toc = (ROOT / "_toc.yml").read_text()
    for path in STORED:
        assert path.relative_to(ROOT).with_suffix("").as_posix() in toc


NAME = "book/made_up.ipynb"
SOMEWHERE = "/".join(["", "home", "me"])  # a path of some machine


def good() -> dict:
    """A notebook with nothing wrong."""
    cells = [
        {"cell_type": "markdown", "id": "a", "source": f"# T\n\n{notebooks.badge(NAME)}"},
        {"cell_type": "code", "id": "b", "source": notebooks.setup_line(), "execution_count": 1},
        {"cell_type": "code", "id": "c", "source": "print(1)", "execution_count": 2},
    ]
    for cell in cells:
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            cell["outputs"] = []
    cells[2]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def test_a_good_notebook_has_no_problems():
    assert notebooks.problems(good(), NAME) == []


def _set(cell, key, value):
    def change(notebook):
        notebook["cells"][cell][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(2, "execution_count", None), "was not run"),
        (_set(0, "source", "# T"), "no Colab button"),
        (_set(0, "source", "T"), "title"),
        (_set(1, "source", "%pip install x"), "set-up line"),
        (_set(2, "metadata", {"execution": {}}), "timings"),
        (
            _set(2, "outputs", [{"output_type": "display_data", "data": {"image/png": "iVBOR"}}]),
            "a picture without words",
        ),
        (_set(2, "metadata", {"mystnb": {"figure": {"name": "fig-x"}}}), "but no figure"),
        (_set(2, "source", "ax.plot(x);"), "ends in ';'"),
        (_set(2, "source", f"open('{SOMEWHERE}/x.json')"), "absolute path"),
        (
            _set(2, "outputs", [{"output_type": "error", "ename": "E", "evalue": "no"}]),
            "ends in E: no",
        ),
        (
            _set(2, "outputs", [{"output_type": "stream", "name": "stderr", "text": "careful"}]),
            "stderr",
        ),
        (
            _set(
                2,
                "outputs",
                [{"output_type": "stream", "name": "stdout", "text": f"{SOMEWHERE}/x1"}],
            ),
            "absolute path",
        ),
    ],
)
def test_a_bad_notebook_is_named(change, message):
    notebook = good()
    change(notebook)
    found = notebooks.problems(notebook, NAME)
    assert any(message in problem for problem in found), found


def test_the_page_of_times_is_made_from_the_record_and_the_chapters_agree():
    known = json.loads(notebooks.TIMES.read_text())
    assert notebooks.TIMES_PAGE.read_text() == notebooks.times_page(known)
    for name, row in known.items():
        said = re.search(r"takes about (\d+) seconds of one processor", (ROOT / name).read_text())
        if said:
            assert abs(int(said[1]) - row["seconds"]) <= max(5, 0.25 * row["seconds"]), name


def test_a_large_notebook_is_named():
    assert "cap" in notebooks.problems(good(), NAME, size=notebooks.MAX_BYTES + 1)[0]


def test_normal_form_is_stable_and_keeps_what_counts():
    def run(*ids):
        """The same notebook as another run would store it: other ids, another order of models."""
        box, child, link = ids
        notebook = good()
        cell = notebook["cells"][2]
        cell["metadata"] = {"execution": {"iopub.execute_input": "now"}, "tags": ["x"]}
        streams = [
            {"output_type": "stream", "name": "stdout", "text": f"{n}\n", "metadata": {}}
            for n in (1, 2)
        ]
        view = {"output_type": "display_data", "data": {notebooks.WIDGET_VIEW: {"model_id": box}}}
        cell["outputs"] = [*streams, view]
        models = {
            box: {"children": [f"IPY_MODEL_{child}"]},
            child: {"value": 3},
            link: {"source": [f"IPY_MODEL_{child}", "value"]},
        }
        state = {key: models[key] for key in sorted(models)}
        notebook["metadata"]["widgets"] = {notebooks.WIDGET_STATE: {"state": state}}
        return notebooks.normalise(notebook, "made_up.ipynb")

    once, other = (run(*(letter * 32 for letter in letters)) for letters in ("abc", "cab"))
    assert json.dumps(once, sort_keys=True) == json.dumps(other, sort_keys=True)
    cell = once["cells"][2]
    assert cell["metadata"] == {"tags": ["x"]} and cell["id"] == "c"
    assert cell["outputs"][0]["text"] == ["1\n", "2\n"]
    state = once["metadata"]["widgets"][notebooks.WIDGET_STATE]["state"]
    assert (
        cell["outputs"][1]["data"][notebooks.WIDGET_VIEW]["model_id"] in state and len(state) == 3
    )
    assert notebooks.normalise(copy.deepcopy(once), "made_up.ipynb") == once
