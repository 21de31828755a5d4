"""The live forms under the widgets of Colab (ipywidgets 7.7.1, ipython 7.34), in a real kernel."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from tests.conftest import ROOT

OLD = Path(os.environ.get("MEDIT_OLD_WIDGETS") or ROOT / "_build" / "colab-widgets")
# What ipywidgets 7.7.1 and 8 share, as far as it is used.
COMMON = {"Dropdown", "HTML", "SelectionSlider", "VBox"}
CELLS = [
    """import ipywidgets, IPython, matplotlib.pyplot as plt
from medit_teach.book.widgets import explorer, slider
print(ipywidgets.__version__, IPython.__version__)

def look(method, lam):
    return f"{method} at {lam:g}", {"panel": [("a", 10, 20 * lam, "new")]}

found = explorer("a", {"method": ["soft", "hard"], "λ": [1, 2]}, look, finer={"λ": [1, 1.5, 2]})
found""",
    """menu, dial, page = found.live().children
menu.value, dial.value = "hard", 1.5
print("hard at 1.5" in page.value, "10% → 30%" in page.value)""",
    """def draw(value):
    figure = plt.figure(figsize=(2, 2))
    plt.close(figure)
    return figure

moved = slider(draw, "x", [0, 1], "a square")
moved""",
    """dial, picture = moved.live().children
dial.value = 1
print("(x = 1)" in picture.value)""",
]


def test_only_what_both_versions_share_is_used():
    used = set()
    for path in (ROOT / "medit_teach").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "ipywidgets":
                used.add(node.attr)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ipywidgets"):
                used |= {alias.name for alias in node.names}
    assert used == COMMON


@pytest.mark.parametrize("version", ["installed", "7.7.1"])
def test_the_live_forms_in_a_kernel(version, monkeypatch):
    import ipywidgets
    import nbformat
    from nbclient import NotebookClient

    if version == "7.7.1":
        if not OLD.exists():
            pytest.skip("no widgets of Colab here (make checkers, or MEDIT_OLD_WIDGETS)")
        monkeypatch.setenv("PYTHONPATH", str(OLD))
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(
        notebook, kernel_name="python3", store_widget_state=True,
        resources={"metadata": {"path": str(ROOT)}},
    ).execute()  # fmt: skip
    printed = [o["text"] for c in cells for o in c["outputs"] if o["output_type"] == "stream"]
    want = "7.7.1 7.34.0" if version == "7.7.1" else ipywidgets.__version__
    assert printed[0].startswith(want)
    assert printed[1:] == ["True True\n", "True\n"]
    state = notebook["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    major = {m["state"].get("_model_module_version", "").split(".")[0] for m in state.values()}
    assert ("1" if version == "7.7.1" else "2") in major
    for cell in (cells[0], cells[2]):  # beside a kernel the widget is shown, and the frames stored
        shown = cell["outputs"][-1]["data"]
        assert {"application/vnd.jupyter.widget-view+json", "text/html"} <= set(shown)
