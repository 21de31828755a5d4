"""Shared by all tests: one thread, no network, and the reference data beside the repository."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest

ROOT = Path(__file__).parent.parent
MISSING = "reference data"


def reference_root() -> Path:
    """Where the reference data lies: MEDIT_REFERENCE, or `shared` beside the repository."""
    return Path(os.environ.get("MEDIT_REFERENCE") or ROOT.parent / "shared")


def find_reference(path: str) -> Path:
    """The file or folder `path` of the reference data; skips the test where it is missing."""
    found = reference_root() / path
    if not found.exists():
        pytest.skip(f"{MISSING} {path!r} is not here (set MEDIT_REFERENCE to its folder)")
    return found


@pytest.fixture(scope="session")
def reference():
    """`reference("golden/rome.npz")` is a Path, or the test is skipped with the reason."""
    return find_reference


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


class _Deprecations(logging.Handler):
    """Messages that a library logs, rather than warns, about what will be removed."""

    WORDS = re.compile(r"deprecat|will be removed|removed in", re.IGNORECASE)

    def __init__(self):
        super().__init__(logging.WARNING)
        self.seen = []

    def emit(self, record):
        if self.WORDS.search(message := record.getMessage()):
            self.seen.append(f"{record.name}: {message}")


@pytest.fixture(autouse=True)
def no_logged_deprecation():
    """A deprecation that one of our calls causes fails the test, however the library says it."""
    handler = _Deprecations()
    loggers = [logging.getLogger(n) for n in ("transformers", "datasets", "huggingface_hub")]
    for logger in loggers:
        logger.addHandler(handler)
    yield
    for logger in loggers:
        logger.removeHandler(handler)
    assert handler.seen == [], "what we call is deprecated"


def _refuse_missing(report) -> None:
    """With MEDIT_REQUIRE_REFERENCE=1 a skip for missing reference data is a failure."""
    if os.environ.get("MEDIT_REQUIRE_REFERENCE") != "1" or report.outcome != "skipped":
        return
    if hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
        return
    reason = report.longrepr[2].removeprefix("Skipped: ")
    if reason.startswith(MISSING):
        report.outcome = "failed"
        report.longrepr = f"skipped, and MEDIT_REQUIRE_REFERENCE=1 forbids it: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    _refuse_missing(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    _refuse_missing(report)
    return report


@pytest.fixture(autouse=True, scope="module")
def default_dtype():
    """Chapters and assignments that ask for float64 do not leave it to the next module."""
    import torch

    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)
