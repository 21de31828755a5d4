"""The set-up line on Colab: pip's own dry run changes no package that is preinstalled there."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.conftest import ROOT

COLAB = json.loads((ROOT / "tests" / "colab.json").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def about(name, version, requires=()):
    """The METADATA of a distribution."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    return "\n".join([*lines, *(f"Requires-Dist: {r}" for r in requires)]) + "\n"


def wheel(folder, name, version, requires):
    """An empty wheel that says what it needs."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", about(name, version, requires))
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """An environment that has Colab's packages, as pip sees them: by their metadata."""
    root = tmp_path_factory.mktemp("colab")
    venv.create(root, with_pip=False)
    site = next((root / "lib").glob("python*/site-packages"))
    for name, version in COLAB["packages"].items():
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(about(name, version))
        (info / "INSTALLER").write_text("pip\n")
        (info / "RECORD").write_text("")
    return root


def dry_run(machine, folder, requires):
    """What pip would install for a package with these requirements: (names or None, its words).

    What the list of Colab's packages does not name is offered as a wheel, with what the real one
    needs of the listed packages: whether it is preinstalled there or not, nothing else may change.
    """
    wheel(folder, "medit_teach", PROJECT["version"], requires)
    for name in {Requirement(r).name for r in requires} - set(COLAB["packages"]):
        needs = [Requirement(r) for r in metadata.requires(name) or ()]
        listed = [str(r) for r in needs if r.name in COLAB["packages"] and not r.marker]
        wheel(folder, name.replace("-", "_"), metadata.version(name), listed)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", machine / "bin" / "python", "install",
         "--dry-run", "--no-index", "--find-links", folder, "--quiet", "--report", "-",
         "--disable-pip-version-check", "medit_teach"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        return None, done.stderr
    found = json.loads(done.stdout)["install"]
    return {item["metadata"]["name"] for item in found}, done.stderr


def test_the_set_up_line_leaves_colab_as_it_is(machine, tmp_path):
    names, said = dry_run(machine, tmp_path, PROJECT["dependencies"])
    assert names, said
    assert "medit_teach" in names and not names & set(COLAB["packages"])
    assert SpecifierSet(PROJECT["requires-python"]).contains(COLAB["python"])


@pytest.mark.parametrize("greedy", ["numpy>=2.2", "ipywidgets>=8", "torch==2.13.0"])
def test_a_requirement_that_would_change_colab_is_noticed(machine, tmp_path, greedy):
    requires = [
        r for r in PROJECT["dependencies"] if Requirement(r).name != Requirement(greedy).name
    ]
    names, said = dry_run(machine, tmp_path, [*requires, greedy])
    assert names is None and Requirement(greedy).name in said
