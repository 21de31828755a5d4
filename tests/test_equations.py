"""Every displayed equation has a label and says what it is; every claim is checked and can fail.

In a chapter a displayed equation stands as

    **Claim** (a few words).          or    **Definition** (a few words).

    $$
    ...
    $$ (eq:its-label)

and each claim of a cell has its check_equation("eq:its-label", ...) in the code cell that follows.
"""

from __future__ import annotations

import contextlib
import io
import json
import re

import pytest

from medit_teach.book import check
from tests.conftest import ROOT

DISPLAYED = re.compile(r"^\$\$\n.*?^\$\$(?:[ ]*\((?P<label>[^)]*)\))?", re.M | re.S)
TAG = re.compile(r"^\*\*(Claim|Definition)\*\*", re.M)
CHECKED = re.compile(r"check_equation\(\s*\"([^\"]+)\"")


def cells_of(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]


def equations(text):
    """[(label or None, "Claim", "Definition" or None)] of one markdown cell.

    A tag belongs to the first equation after it.
    """
    found, start = [], 0
    for match in DISPLAYED.finditer(text):
        tags = TAG.findall(text[start : match.start()])
        found.append((match["label"], tags[-1] if tags else None))
        start = match.end()
    return found


CHAPTERS = [
    path
    for path in sorted((ROOT / "book").glob("*.ipynb"))
    if any(kind == "markdown" and "$$" in text for kind, text in cells_of(path))
]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_equations_are_labelled_tagged_and_checked_where_they_stand(path):
    cells, wrong = cells_of(path), []
    for number, (kind, text) in enumerate(cells):
        if kind != "markdown":
            continue
        bare = DISPLAYED.sub("", text)
        if "$$" in bare or "{math}" in bare:
            wrong.append(f"cell {number}: write displayed maths as $$ ... $$ (eq:label)")
        following = cells[number + 1][1] if cells[number + 1 : number + 2] else ""
        for label, tag in equations(text):
            if not (label or "").startswith("eq:"):
                wrong.append(f"cell {number}: an equation has the label {label!r}, not eq:...")
            if tag is None:
                wrong.append(f"cell {number}: {label} is tagged neither Claim nor Definition")
            if tag == "Claim" and label not in CHECKED.findall(following):
                wrong.append(f"cell {number}: the next cell does not check the claim {label}")
    assert wrong == []


def test_no_label_is_used_twice():
    labels = [
        label
        for path in CHAPTERS
        for kind, text in cells_of(path)
        if kind == "markdown"
        for label, _ in equations(text)
    ]
    assert sorted(labels) == sorted(set(labels))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_check_notices_an_error_of_one_in_a_thousand(path, monkeypatch):
    import torch

    cells = cells_of(path)
    claims = {
        label
        for kind, text in cells
        if kind == "markdown"
        for label, tag in equations(text)
        if tag == "Claim"
    }
    default = torch.get_default_dtype()
    monkeypatch.chdir(path.parent)
    try:
        with check.perturbed(1e-3) as noticed, contextlib.redirect_stdout(io.StringIO()):
            namespace = {"__name__": "__main__"}
            for kind, text in cells:
                if kind == "code":
                    exec(compile(text, path.name, "exec"), namespace)
    finally:
        torch.set_default_dtype(default)
    assert set(noticed) >= claims
    assert [label for label, caught in noticed.items() if not caught] == []


def test_the_rules_themselves():
    good = "**Claim** (x).\n\n$$\na = b\n$$ (eq:a)\n\n**Definition** (y).\n\n$$\nc\n$$ (eq:c)"
    assert equations(good) == [("eq:a", "Claim"), ("eq:c", "Definition")]
    assert equations("$$\na\n$$") == [(None, None)]
    assert equations("**Claim**\n\n$$\na\n$$ (eq:a)\n\nand\n\n$$\nb\n$$ (eq:b)")[1] == (
        "eq:b",
        None,
    )


def test_the_table_of_equations_is_up_to_date():
    import sys

    sys.path.insert(0, str(ROOT / "tools"))
    import equations as table

    listed = {label for path in table.chapters() for label, *_ in table.rows(path)}
    used = {
        label
        for path in CHAPTERS
        for kind, text in cells_of(path)
        if kind == "markdown"
        for label, _ in equations(text)
    }
    assert listed == used
    for path in table.chapters():
        for label, kind, _, code in table.rows(path):
            assert kind == "definition" or code, f"{label} has no check"
    assert table.PAGE.read_text() == table.page(), "run: python tools/equations.py"
