"""Installing the package on Colab leaves what is there as it is.

colab.json lists versions that were preinstalled there (only those whose versions are known). Each
must satisfy the package's own requirement, so that pip has nothing to change.
"""

import json
import tomllib

import pytest
from packaging.requirements import Requirement

from .conftest import ROOT

COLAB = json.loads((ROOT / "tests" / "colab.json").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDS = {r.name: r for r in map(Requirement, PROJECT["dependencies"])}


@pytest.mark.parametrize("name", COLAB["packages"])
def test_a_preinstalled_package_is_kept(name):
    assert NEEDS[name].specifier.contains(COLAB["packages"][name].split("+")[0])


def test_the_python_there_will_do():
    assert Requirement(f"x{PROJECT['requires-python']}").specifier.contains(COLAB["python"])


def test_no_requirement_is_an_exact_version():
    for need in NEEDS.values():
        assert not any(s.operator in ("==", "===", "~=") for s in need.specifier), need


def test_no_widget_api_that_colab_lacks():
    """Only what ipywidgets 7.7.1 and 8 share: not these names of version 8."""
    newer = ("TagsInput", "Stack(", "FileUpload(", ".titles", "TimePicker", "DatetimePicker")
    for path in (ROOT / "medit_teach").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "ipywidgets" in text:
            assert not [name for name in newer if name in text], path
