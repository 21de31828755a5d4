"""The workflows: every tool, make target, chapter and option that a step names is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

BIN = Path(sys.executable).parent
STEPS = [
    (path.name, step)
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    for job in yaml.safe_load(path.read_text())["jobs"].values()
    for step in job["steps"]
]
COMMANDS = [(name, step["run"]) for name, step in STEPS if "run" in step]


def lacking(command):
    """What a step's command needs and does not find."""
    needed = [BIN / name for name in re.findall(r"\.venv/bin/([\w-]+)", command)]
    needed += [BIN / f"jupyter-{name}" for name in re.findall(r"bin/jupyter ([\w-]+)", command)]
    needed += [ROOT / path for path in re.findall(r"(?<=\s)book/[\w.-]+", command)]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    words = [w for line in re.findall(r"\bmake ([\w =./-]+)", command) for w in line.split()]
    called = [word for word in words if "=" not in word]
    return [path.name for path in needed if not path.exists()] + sorted({*called} - {*targets})


def test_everything_that_a_workflow_calls_is_there():
    assert len(COMMANDS) > 4
    assert [(name, what) for name, run in COMMANDS if (what := lacking(run))] == []


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (".venv/bin/jupyter nbconvert --execute book/00-start.ipynb", "jupyter-nbconvert"),
        (".venv/bin/no-such-tool", "no-such-tool"),
        ("make setup no-such-target", "no-such-target"),
        (".venv/bin/jupyter execute book/99-none.ipynb", "99-none.ipynb"),
    ],
)
def test_what_is_not_there_is_named(command, what):
    assert lacking(command) == [what]


def test_a_self_test_out_of_range_skips_no_chapter():
    chapters = [step for _, step in STEPS if "jupyter execute" in step.get("run", "")]
    assert len(chapters) == 2
    assert all(step["if"] == "always()" and step["env"]["MEDIT_MODEL"] for step in chapters)


def test_the_command_that_runs_chapters_stores_what_they_printed(tmp_path):
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(6 * 7)")])
    nbformat.write(notebook, tmp_path / "a.ipynb")
    command = [BIN / "jupyter", "execute", "--output=executed-0.ipynb", tmp_path / "a.ipynb"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kept = nbformat.read(tmp_path / "executed-0.ipynb", as_version=4)
    assert kept.cells[0].outputs[0].text == "42\n"


def test_the_canary_tries_the_newest_and_colabs_list_and_reports():
    canary = yaml.safe_load((ROOT / ".github" / "workflows" / "canary.yml").read_text())
    assert canary[True]["schedule"] and canary["permissions"]["issues"] == "write"  # on: is True
    runs = {
        job: [s.get("run", "") for s in about["steps"]] for job, about in canary["jobs"].items()
    }
    assert any("make test LATEST=1" in run for run in runs["newest"])
    assert any("make test LOCK=tests/colab.txt" in run for run in runs["colab"])
    for job in canary["jobs"].values():
        reports = [s for s in job["steps"] if "gh issue create" in s.get("run", "")]
        assert len(reports) == 1 and reports[0]["if"] == "failure()"
