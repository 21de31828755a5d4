"""Every built page in a real browser with the outside blocked, wide and on a phone."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import browser

NOT_BUILT = browser.not_built()
PAGES = [] if NOT_BUILT else browser.all_pages()
AXE = Path(os.environ.get("MEDIT_AXE") or ROOT / "_build/axe/node_modules/axe-core/axe.min.js")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browser.chromium() is None, reason="no Chromium (apt install chromium)"),
]
built = pytest.mark.skipif(bool(NOT_BUILT), reason=NOT_BUILT)


@pytest.fixture(scope="module")
def window():
    with browser.Browser() as opened:
        yield opened


@built
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


FOUND = """(async () => {
  const list = () => [...document.querySelectorAll('#search-results li a')];
  for (let i = 0; i < 60 && !list().length; i++) await new Promise(d => setTimeout(d, 50));
  return list().map(a => a.getAttribute('href').split('#')[0].split('?')[0]);
})()"""


@built
@pytest.mark.parametrize(
    ("words", "page"),
    [("telescope", "book/08-memit.html"), ("hypernetwork", "book/15-map.html"), ("xqzzy", None)],
)
def test_search_works_without_a_network(window, words, page):
    visit = window.visit(f"search.html?q={words}", script=FOUND)
    assert visit.problems() == []
    assert visit.result == [] if page is None else page in visit.result


# Of each kind of page some; the accessibility checker takes about a second for each.
LOOKED_AT = """index 00-start lab 05-objective 08-memit 10-distribution 12-batch-size api
glossary solutions/05-objective""".split()
SERIOUS = """;axe.run(document, {resultTypes: ['violations']}).then(found => found.violations
  .filter(v => v.impact === 'serious' || v.impact === 'critical')
  .map(v => v.id + ': ' + v.nodes.slice(0, 4).map(n => n.html.slice(0, 120) + ' ' +
    (n.any[0] || {message: ''}).message).join(' | ')))"""


@built
@pytest.mark.skipif(not AXE.exists(), reason="no axe-core (make checkers, or MEDIT_AXE)")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("page", LOOKED_AT)
def test_no_serious_finding_of_axe(window, page, dark):
    script = AXE.read_text(encoding="utf-8") + SERIOUS
    assert window.visit(f"book/{page}.html", "desktop", dark, script).result == []


# ------------------------------------------------------------------ the checks themselves

GOOD = "<!doctype html><html lang=en><meta charset=utf-8><title>t</title>\
<meta name=viewport content='width=device-width, initial-scale=1'><article>{}</article>"
BAD = {
    "console: gone wrong": "<script>console.error('gone wrong')</script>",
    "console: Error: thrown": "<script>throw new Error('thrown')</script>",
    "not loaded": "<link rel=stylesheet href=missing.css>",
    "not loaded: https://example.org/a.js": "<script src=https://example.org/a.js></script>",
    "raw TeX": r"<p>see \(x^2\) here",
    "image without text": "<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='>",
    "broken image": "<img src='data:image/png;base64,xx' alt=x>",
    "scrolls sideways": "<div style='width:2000px;height:9px;background:red'></div>",
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    (folder / "good.html").write_text(GOOD.format("<p>all is well"), encoding="utf-8")
    for number, body in enumerate(BAD.values()):
        (folder / f"{number}.html").write_text(GOOD.format(body), encoding="utf-8")
    with browser.Browser(folder) as opened:
        yield opened


@pytest.mark.parametrize("size", browser.SIZES)
def test_a_good_page_has_no_problem(workshop, size):
    assert workshop.visit("good.html", size, script="JSON.stringify([1])").result == json.dumps([1])
    assert workshop.visit("good.html", size).problems() == []


@pytest.mark.parametrize("size", browser.SIZES)
@pytest.mark.parametrize("problem", BAD)
def test_a_bad_page_is_told(workshop, problem, size):
    found = workshop.visit(f"{list(BAD).index(problem)}.html", size).problems()
    assert any(text.startswith(problem) for text in found), found
