"""The lock: everything that `make` installs stands in it, fits together, and is what runs here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import lock

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = [Requirement(line) for line in lock.lines(lock.REQUIREMENTS)]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
LOCKED = lock.locked()


def installed():
    """{name: version} of this environment, without a torch build's own mark."""
    return {
        canonicalize_name(d.metadata["Name"]): d.version.split("+")[0]
        for d in metadata.distributions()
    }


def follows_the_lock():
    """None, or why this environment is not the lock's (LATEST=1, another torch, Colab's list)."""
    here = installed()
    other = [n for n in map(canonicalize_name, NAMES) if here.get(n) != LOCKED[n]]
    return f"this environment has other versions of {', '.join(other)}" if other else None


NAMES = [r.name for r in REQUIRED]


def needs(name):
    """What an installed package asks for on this machine."""
    found = [Requirement(line) for line in metadata.requires(name) or ()]
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]


@pytest.mark.parametrize("python", lock.PYTHONS)
def test_every_requirement_is_in_the_lock_and_met(python):
    versions = lock.locked(python=python)
    for r in [*REQUIRED, *RUNTIME]:
        assert r.specifier.contains(versions[canonicalize_name(r.name)]), (r, python)


def test_one_version_serves_every_python():
    sets = [lock.locked(python=python) for python in lock.PYTHONS]
    shared = set.intersection(*map(set, sets))
    assert {canonicalize_name(n) for n in NAMES} <= shared
    assert all(len({versions[name] for versions in sets}) == 1 for name in shared)


def test_the_lock_is_names_and_versions_only():
    for line in lock.lines(lock.LOCK):
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[\w.!]+( ; .+)?", line), line
    assert "://" not in lock.LOCK.read_text()


def test_the_lock_holds_the_torch_that_make_installs():
    assert lock.default_torch() == f"torch=={LOCKED['torch']}"


def test_it_resolves():
    """Every package of the lock, as installed here, is content with the lock's other versions."""
    if why := follows_the_lock():
        pytest.skip(why)
    here, lacking = installed(), []
    for name, version in LOCKED.items():
        if (
            here.get(name) != version
        ):  # torch's companions on a machine without a GPU, other systems
            continue
        for r in needs(name):
            got = LOCKED.get(canonicalize_name(r.name))
            if got is None or not r.specifier.contains(got, prereleases=True):
                lacking.append(f"{name} {version} needs {r}, the lock has {got}")
    assert lacking == []
    assert {canonicalize_name(n) for n in NAMES} <= set(here)


def test_pip_finds_nothing_to_install_or_change():
    if why := follows_the_lock():
        pytest.skip(why)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-",
         "--no-index", "-r", lock.REQUIREMENTS, "-c", lock.LOCK],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["install"] == []


def test_a_requirement_that_the_lock_lacks_is_noticed(tmp_path):
    short = tmp_path / "constraints.txt"
    short.write_text(re.sub(r"(?m)^numpy==.*\n", "", lock.LOCK.read_text()))
    assert "numpy" not in lock.locked(short) and "numpy" in LOCKED


def test_bounds_end_at_what_was_tested():
    """No bound of the library admits the minor version after the one that the tests ran with."""
    for r in RUNTIME:
        tested = Version(LOCKED[canonicalize_name(r.name)])
        following = f"{tested.major}.{tested.minor + 1}"
        assert r.specifier.contains(str(tested)), r
        assert not r.specifier.contains(following), f"{r} admits {following}, which nobody tried"


def test_make_uses_the_lock_unless_told_otherwise():
    def dry(*words):
        command = ["make", "--dry-run", "--always-make", "setup", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "cat constraints.txt" in dry() and ".venv/bin" in dry()
    latest = dry("LATEST=1")
    assert "constraints.txt /dev/null" not in latest and ".venv-latest/bin" in latest
    assert "cat tests/colab.txt" in dry("LOCK=tests/colab.txt")
    installs = [line for line in dry().splitlines() if "pip install" in line]
    assert installs and all("-c " in line or "--no-deps" in line for line in installs)


def test_colabs_list_is_one_list():
    """The canary's constraints and the set-up line's test speak of the same machine."""
    packages = json.loads((ROOT / "tests" / "colab.json").read_text())["packages"]
    canary = lock.locked(ROOT / "tests" / "colab.txt")
    for name, version in canary.items():
        assert packages[name].split("+")[0] == version, name
