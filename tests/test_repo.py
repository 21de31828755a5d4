"""The repository itself: one address, one place; the two commands; nothing from one machine."""

from __future__ import annotations

import re
import shutil
import sys
import tomllib

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import address

HERE = address.Address("owner", "medit_teach", "main")


def test_every_link_points_to_the_address_of_pyproject():
    assert address.check() == []
    assert address.in_use() == address.read()


@pytest.mark.parametrize(
    "text",
    [
        "https://github.com/someone/medit_teach",
        "git+https://github.com/someone/medit-teach",
        "https://someone.github.io/medit_teach/book/index.html",
        "https://colab.research.google.com/github/a/b/blob/main/book/x.ipynb",
    ],
)
def test_a_stray_is_found(text):
    assert address.strays(f"see {text}.", HERE)


@pytest.mark.parametrize(
    "text",
    [
        "https://github.com/kmeng01/rome",
        "https://github.com/owner/medit_teach/issues",
        "https://owner.github.io/medit_teach/",
        "https://colab.research.google.com/github/kmeng01/memit/blob/main/notebooks/memit.ipynb",
        "https://colab.research.google.com/github/owner/medit_teach/blob/main/book/x.ipynb",
    ],
)
def test_other_links_are_no_strays(text):
    assert address.strays(f"see {text}.", HERE) == []


def test_one_command_rewrites_every_link(tmp_path, monkeypatch):
    for path in address.files():
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (tmp_path / "tests" / "test_repo.py").unlink()
    old = address.read(tmp_path)
    monkeypatch.setattr(address, "ROOT", tmp_path)
    address.set_address(tmp_path, "Some-One", "editing.course", "trunk")
    changed = address.sync(tmp_path)
    assert tmp_path / "_config.yml" in changed
    assert address.check(tmp_path) == []
    assert address.in_use(tmp_path) == address.read(tmp_path)
    assert address.read(tmp_path) == address.Address("Some-One", "editing.course", "trunk")
    for path in address.files(tmp_path):
        assert f"{old.owner}/{old.name}" not in path.read_text(encoding="utf-8"), path
    assert address.sync(tmp_path) == []


def test_package_dependencies_are_the_runtime_set():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=!~ ]", line)[0] for line in project["dependencies"]}
    everything = (ROOT / "requirements.txt").read_text().splitlines()
    required = [line for line in everything if line and not line.startswith("#")]
    with_torch = {"filelock", "safetensors", "tqdm"}  # which torch and transformers bring along
    assert names <= {re.split(r"[<>=!~ ]", line)[0] for line in required} | with_torch
    assert not any("==" in line for line in project["dependencies"])
    groups = project["optional-dependencies"]
    assert groups.pop("teach")  # nbgrader brings JupyterLab: only for those who ask for it
    extras = {line for group in groups.values() for line in group}
    assert extras <= set(required)


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_no_path_of_one_machine():
    for path in address.files():
        if path.suffix != ".ipynb" and path.parent.name != "tests":
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(?<![\w.)])/(?:home|Users|root|work)/\w", text), path


def test_a_missing_reference_file_skips_or_fails(pytester, monkeypatch):
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text())
    pytester.makepyfile(
        """
        import pytest
        from conftest import find_reference

        def test_reference(reference):
            reference("no/such/file")

        def test_other():
            pytest.skip("another reason")
        """
    )
    monkeypatch.setenv("MEDIT_REFERENCE", str(pytester.path))
    monkeypatch.delenv("MEDIT_REQUIRE_REFERENCE", raising=False)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(skipped=2)
    monkeypatch.setenv("MEDIT_REQUIRE_REFERENCE", "1")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(skipped=1, failed=1)
    result.stdout.fnmatch_lines(["*MEDIT_REQUIRE_REFERENCE=1 forbids it*"])
