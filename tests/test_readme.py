"""The README's example prints what the README says, and the README stays short."""

import contextlib
import io
import re

from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_prints_what_is_shown():
    code = re.search(r"```python\n(.*?)```", TEXT, re.S)[1]
    shown = re.search(r"```text\n(.*?)```", TEXT, re.S)[1]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    assert out.getvalue().strip() == shown.strip()


def test_length():
    assert len(TEXT.splitlines()) <= 120
