"""The command that makes all records of the labs again: it goes on, and its comparison can fail."""

from __future__ import annotations

import json
import sys

import pytest

import medit_teach as mt
from measure import records as tool
from tests.conftest import ROOT

NAMES = list(tool.RECORDS)


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_there_and_equal_to_themselves(name):
    for command in tool.commands(name, "out", full=False):
        files = [part for part in command[1:] if part.endswith(".toml")]
        files += [f"{x.replace('.', '/')}.py" for x in command[1:] if x.startswith("measure.")]
        assert files and all((ROOT / file).is_file() for file in files)
    n, exempt, different = tool.compare(tool.DATA / name, tool.DATA / name)
    assert n > 50 and different == [] and exempt < len(tool.read(tool.DATA / name)) / 2


@pytest.mark.parametrize(
    ("name", "path", "change"),
    [
        ("batch-size.jsonl", "NS", lambda x: [x[0] - 2.1, *x[1:]]),
        ("batch-size.jsonl", "per_fact/ES", lambda x: [v - 3 for v in x]),
        ("batch-size.jsonl", "perplexity", lambda x: 1.03 * x),
        ("batch-size.jsonl", "error", lambda x: "no solution"),
        ("sequence.jsonl", "first/NM", lambda x: [x[0], x[1] + 2.1, x[2]]),
        ("sequence.jsonl", "norm", lambda x: None),
        ("ripples.jsonl", "says/MEMIT", lambda x: "b" * 20 + x[20:]),
        ("relatives.json", "points/RECT/price", lambda x: 0.97 * x),
    ],
)
def test_a_number_that_is_off_is_found(name, path, change, tmp_path):
    text = (tool.DATA / name).read_text(encoding="utf-8")
    rows = (
        [json.loads(text)]
        if name.endswith(".json")
        else list(map(json.loads, text.split("\n")[:-1]))
    )
    *outer, last = path.split("/")
    at = rows[-1]
    for step in outer:
        at = at[step]
    assert at[last] != change(at[last])
    at[last] = change(at[last])
    (tmp_path / name).write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    (line,) = tool.compare(tmp_path / name, tool.DATA / name)[2]
    assert f"{path}: " in line


def test_what_is_missing_is_a_difference(tmp_path, monkeypatch, capsys):
    name = "batch-size.jsonl"
    book, made = tool.DATA / name, tmp_path / name
    rows = book.read_text(encoding="utf-8").splitlines(keepends=True)
    made.write_text("".join(rows[1:]), encoding="utf-8")
    (line,) = tool.compare(made, book)[2]
    assert line.endswith(": only there")
    (line,) = tool.compare(book, made)[2]
    assert line.endswith(": only here")
    assert tool.compare(made, book, full=True)[2] == []  # with --full the cells are others
    monkeypatch.setattr(sys, "argv", ["records.py", "--compare", str(tmp_path), "--only", name])
    assert tool.main() == 1 and "1 differ" in capsys.readouterr().out
    made.unlink()
    monkeypatch.setattr(sys, "argv", ["records.py", "--compare", str(tmp_path)])
    assert tool.main() == 1  # an empty folder
    assert capsys.readouterr().out.count("is not in") == len(NAMES)


def test_small_differences_are_none():
    assert tool.alike([50.0, 48.0, 52.0], [51.9, 46.1, 52.0])
    assert tool.alike(1.0, 1.019) and tool.alike("o" * 100, "n" + "o" * 99)
    assert tool.alike([0, 100, None], [0, 99, None], "per_fact/ES")
    assert not tool.alike(9.6, 10.1, "condition_solved") and not tool.alike(9.6, 10.1, "price")
    assert not tool.alike([0, 100, 50], [0, 100], "per_fact/ES")
    assert not tool.alike([1, None], [1, 2]) and not tool.alike("memit", "emmet")


def test_it_makes_goes_on_and_compares(tmp_path, monkeypatch, capsys):
    book, out = tmp_path / "book", tmp_path / "out"
    book.mkdir()
    facts = tmp_path / "facts.json"
    model, _ = mt.load("tiny-gptj")
    facts.write_text(json.dumps([f.to_record() for f in mt.facts("world", n=4, model=model)]))
    asked = {
        "name": "small", "model": "tiny-gptj", "sizes": [1, 2], "scored": 2,
        "facts": [{"source": str(facts)}], "methods": [{"method": "none"}], "measures": ["scores"],
    }  # fmt: skip
    lines = [
        f"{key} = {json.dumps(value)}"
        for key, value in asked.items()
        if key not in ("facts", "methods")
    ]
    lines += [f'[[facts]]\nsource = "{facts}"', '[[methods]]\nmethod = "none"']
    (book / "small.toml").write_text("\n".join(lines))
    monkeypatch.setattr(tool, "DATA", book)
    monkeypatch.setattr(tool, "RECORDS", {"small.jsonl": ("small",)})
    monkeypatch.setattr(sys, "argv", ["records.py", "--out", str(book)])
    with pytest.raises(SystemExit):  # the book's own records are not touched
        tool.main()
    assert tool.make("small.jsonl", book, full=False)[2]
    whole = (book / "small.jsonl").read_bytes()
    out.mkdir()
    first = whole.splitlines(keepends=True)[0]
    (out / "small.jsonl").write_bytes(first + b'{"torn')  # as a kill leaves it
    monkeypatch.setattr(sys, "argv", ["records.py", "--out", str(out)])
    assert tool.main() == 0
    assert (out / "small.jsonl").read_bytes().startswith(first)
    assert len((out / "small.jsonl").read_text().splitlines()) == 2
    assert "of 2 records (2 in the book), 0 differ" in capsys.readouterr().out
    (book / "small.toml").write_text("name = 1")  # what fails is said
    monkeypatch.setattr(sys, "argv", ["records.py", "--out", str(tmp_path / "other")])
    assert tool.main() == 1 and "FAILED" in capsys.readouterr().out
