"""The tests themselves: a deprecation in what we call fails them, warned or logged."""

from __future__ import annotations

import tomllib

import pytest

from tests.conftest import ROOT

CALLED = """
import logging, warnings

def call():
    {line}
"""
TEST = """
import called

def test_ours():
    called.call()
"""


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        ("warnings.warn('use cache', FutureWarning, stacklevel=2)", "failed"),
        ("warnings.warn('use cache', FutureWarning)", "failed"),
        ("warnings.warn('old', DeprecationWarning)", "failed"),
        ("warnings.warn('soon', PendingDeprecationWarning)", "failed"),
        ("logging.getLogger('transformers.x').warning('x is deprecated')", "errors"),
        ("logging.getLogger('transformers.x').warning('will be removed in v5.40')", "errors"),
        ("logging.getLogger('transformers.x').warning('a long text')", "passed"),
        ("warnings.warn('a long text')", "passed"),
    ],
)
def test_a_deprecation_that_our_call_causes_is_seen(pytester, line, outcome):
    filters = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    pytester.makeini("[pytest]\nfilterwarnings =\n" + "\n".join(
        f"    {f}" for f in filters["filterwarnings"]
    ))  # fmt: skip
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text())
    pytester.makepyfile(called=CALLED.format(line=line), test_it=TEST)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(**({"passed": 1, "errors": 1} if outcome == "errors" else {outcome: 1}))
