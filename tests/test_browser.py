"""Every built page in a real browser with the outside blocked, wide and on a phone."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import browser

NOT_BUILT = browser.not_built()
PAGES = [] if NOT_BUILT else browser.all_pages()

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(NOT_BUILT), reason=NOT_BUILT),
    pytest.mark.skipif(browser.chromium() is None, reason="no Chromium (apt install chromium)"),
]


@pytest.fixture(scope="module")
def window():
    with browser.Browser() as opened:
        yield opened


@pytest.mark.parametrize("size", browser.SIZES)
@pytest.mark.parametrize("page", PAGES)
def test_page(window, page, size):
    visit = window.visit(page, size)
    shots = ROOT / "_build" / "screenshots"
    shots.mkdir(exist_ok=True)
    (shots / f"{page.replace('/', '-')}-{size}.png").write_bytes(visit.screenshot)
    assert visit.problems() == []
    text = (browser.HTML / page).read_text(encoding="utf-8")
    if 'class="math ' in text:
        assert visit.facts["maths"] > 0, "formulas were not set"
    if "widget-view+json" in text:
        assert visit.facts["widgets"] > 0, "widgets were not drawn"
