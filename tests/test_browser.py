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


DRAWER = """(async () => {
  await new Promise(done => setTimeout(done, 400));  // it slides in
  const open = document.querySelector('dialog[open]');
  const shown = open || document.querySelector('#pst-primary-sidebar');
  const box = shown.getBoundingClientRect();
  const seen = box.right > 1 && getComputedStyle(shown).visibility === 'visible';
  return {modal: Boolean(open), text: seen ? shown.innerText : '',
          inside: box.left >= 0 && box.right <= innerWidth && box.height > innerHeight / 2};
})()"""


@built
@pytest.mark.parametrize("size", browser.SIZES)
def test_the_menu_opens_and_closes(window, size):
    """Chapters and, where they have no column of their own, the page's contents."""
    with window.tab("book/05-objective.html", size) as tab:
        menu = tab.click(".bd-header-article .primary-toggle").run(DRAWER)
        if size == "desktop":  # there it folds the chapters away, and back
            assert menu["text"] == "" and not menu["modal"]
            again = tab.click(".bd-header-article .primary-toggle").run(DRAWER)
            assert "6. Keys, values" in again["text"]
        else:
            assert menu["modal"] and menu["inside"] and "6. Keys, values" in menu["text"]
            assert not tab.key("Escape").run(DRAWER)["modal"]
            contents = tab.click(".bd-header-article .secondary-toggle").run(DRAWER)
            assert contents["modal"] and contents["inside"]
            assert "5.2. One new fact" in contents["text"]
            tab.click("dialog .section-nav a", "5.2. One new fact, written carelessly")
            assert not tab.run(DRAWER)["modal"]  # a reader who has chosen wants to read
            assert tab.run("location.hash.length > 1")
        assert tab.problems() == []


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


@built
def test_chapters_are_found_first_and_an_excerpt_tells_why(window):
    script = """(async () => {
      const list = () => [...document.querySelectorAll('#search-results li')];
      for (let before = -1; !list().length || list().length !== before;) {
        before = list().length;
        await new Promise(d => setTimeout(d, 1500));
      }
      return list().map(e => [e.querySelector('a').getAttribute('href'), e.innerText]);
    })()"""
    found = window.visit("search.html?q=ROME", script=script).result
    pages = [link.split("#")[0].split("?")[0] for link, _ in found]
    assert "book/07-rome.html" in pages[:3]
    later = [n for n, page in enumerate(pages) if "/api" in page or "/solutions/" in page]
    assert later and min(later) >= 10
    told = [text.split("\n", 1)[-1] for _, text in found[:10]]
    assert all(len(text) > 100 and "\\(" not in text for text in told)


# Of each kind of page some; the accessibility checker takes about a second for each.
LOOKED_AT = """index 00-start lab 05-objective 08-memit 10-distribution 12-batch-size 15-map api
bibliography glossary solutions/05-objective""".split()
FINDINGS = """;axe.run(document, {resultTypes: ['violations']}).then(found => found.violations
  .map(v => v.id + ': ' + v.nodes.slice(0, 4).map(n => n.html.slice(0, 120) + ' ' +
    (n.any[0] || {message: ''}).message).join(' | ')))"""


@built
@pytest.mark.skipif(not AXE.exists(), reason="no axe-core (make checkers, or MEDIT_AXE)")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("page", LOOKED_AT)
def test_no_finding_of_axe(window, page, dark):
    script = AXE.read_text(encoding="utf-8") + FINDINGS
    assert window.visit(f"book/{page}.html", "desktop", dark, script).result == []


# Of all text that is seen: its colour, what lies beneath it, and their contrast (WCAG 2.1).
FAINT = r"""(() => {
  const parse = (text) => {
    const n = (text.match(/-?[\d.]+(?:e-?\d+)?/g) || []).map(Number);
    const scale = text.startsWith('color(srgb') ? 255 : 1;
    return [...n.slice(0, 3).map((x) => x * scale), n[3] ?? 1];
  };
  const over = (above, below) =>
    [0, 1, 2].map((i) => above[i] * above[3] + below[i] * (1 - above[3]));
  const ground = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3]) layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const style = getComputedStyle(element);
    const words = walker.currentNode.data.trim();
    if (!words || !element.checkVisibility({visibilityProperty: true})) continue;
    if (element.closest('script, style, mjx-assistive-mml, [aria-disabled=true]')) continue;
    const below = ground(element);
    const colour = over(parse(element.closest('svg') ? style.fill : style.color), below);
    const [a, b] = [light(colour), light(below)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const enough = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    const ratio = (a + 0.05) / (b + 0.05);
    const pair = [colour, below].map((c) => c.slice(0, 3).map(Math.round).join()).join(' on ');
    if (ratio < enough)
      found.set(pair, `${ratio.toFixed(2)} ${element.tagName}. ${words.slice(0, 30)}`);
  }
  return [...found].map(([colours, where]) => `${colours}: ${where}`);
})()"""


@built
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("page", LOOKED_AT)
def test_all_text_can_be_read(window, page, dark):
    assert window.visit(f"book/{page}.html", "desktop", dark, FAINT).result == []


def test_faint_text_is_told(workshop):
    assert workshop.visit("good.html", script=FAINT).result == []
    (found,) = workshop.visit("faint.html", script=FAINT).result
    assert found.startswith("153,153,153 on 255,255,255: 2.85 B.")


SLIDERS = """(async () => {
  const moved = [];
  for (const slider of document.querySelectorAll('article input[type=range]')) {
    if (!slider.getClientRects().length) continue;
    const group = slider.closest('[role=group]');
    const place = () => {
      const [mine, all] = [slider, group].map(e => e.getBoundingClientRect());
      return [mine.left - all.left, mine.top - all.top, mine.width].map(Math.round).join();
    };
    const [before, start] = [place(), slider.value];
    for (let value = +slider.min; value <= +slider.max; value++) {
      slider.value = value;
      slider.dispatchEvent(new Event('input', {bubbles: true}));
      await new Promise(requestAnimationFrame);
      if (place() !== before) moved.push(`${slider.ariaLabel} at ${value}: ${before}, ${place()}`);
    }
    slider.value = start;
    slider.dispatchEvent(new Event('input', {bubbles: true}));
  }
  return moved;
})()"""
SLIDING = [p for p in PAGES if 'type="range"' in (browser.HTML / p).read_text(encoding="utf-8")]


@built
@pytest.mark.parametrize("size", ["desktop", "phone"])
@pytest.mark.parametrize("page", SLIDING)
def test_a_slider_stays_under_the_thumb(window, page, size):
    assert window.visit(page, size, script=SLIDERS).result == []


@built
def test_the_sign_at_an_edge_can_be_pressed(window):
    edge = """(() => {
      const frame = document.querySelector('.mt-scroll[data-more~=right]');
      frame.scrollIntoView({block: 'center'});
      const box = frame.getBoundingClientRect();
      return [box.right - 9, box.y + box.height / 2];
    })()"""
    with window.tab("book/12-batch-size.html", "phone") as tab:
        x, y = tab.run(edge)
        for kind in ("mousePressed", "mouseReleased"):
            tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        moved = """new Promise(done => setTimeout(() => done(
          document.querySelector('.mt-scroll[data-more~=left]')?.firstChild.scrollLeft), 1500))"""
        assert tab.run(moved) > 50


@built
def test_what_is_unfolded_has_its_sign(window):
    with window.tab("book/14-two-by-two.html", "phone") as tab:
        tab.run("document.querySelectorAll('article details').forEach(part => part.open = true)")
        facts = tab.run(browser.READY)
        assert facts["cut"] == []
        assert tab.run("document.querySelectorAll('details .mt-scroll[data-more~=right]').length")


@built
def test_formulas_are_set_when_they_come_into_view(window):
    """All at once they block a slow phone for seconds; no task of it is longer than two."""
    count = "['mjx-container', 'mjx-lazy'].map(c => document.querySelectorAll(c).length)"
    with window.tab("book/05-objective.html", "phone", slower=4) as tab:
        tab.run("MathJax.startup.promise.then(() => new Promise(d => setTimeout(d, 1000)))")
        formulas, left = tab.run(count)
        assert formulas > 200 and left > 0.9 * formulas
        longest = tab.run("""new Promise(done => new PerformanceObserver(list =>
          done(Math.max(...list.getEntries().map(e => e.duration))))
          .observe({type: 'longtask', buffered: true}))""")
        busy = os.getloadavg()[0] > os.cpu_count()  # with something else: its seconds say nothing
        assert longest < 2000 or busy, longest
        tab.run("document.querySelector('#equation-eq-outer-sum').scrollIntoView()")
        tab.run("new Promise(done => setTimeout(done, 3000))")
        assert 0 < tab.run(count)[1] < left
        assert tab.run("document.querySelectorAll('#equation-eq-outer-sum mjx-math').length") == 1


@built
def test_a_transpose_is_a_letter(window):
    """The bar of the sign for it is thinner than a pixel on most screens."""
    script = """['22A4', '1D5B3'].map(c => document.querySelectorAll(
      `mjx-container .mjx-c${c}`).length)"""
    signs, letters = window.visit("book/05-objective.html", script=script).result
    assert signs == 0 and letters > 50


PRINTED = """(async () => {
  dispatchEvent(new Event('beforeprint'));
  await new Promise(done => setTimeout(done, 500));
  const article = document.querySelector('article');
  const box = article.getBoundingClientRect();
  const seen = e => e.getClientRects().length;
  return {
    title: [...document.querySelectorAll('h1')].filter(seen).map(e => e.innerText.trim()),
    closed: article.querySelectorAll('details:not([open])').length,
    cut: [...article.querySelectorAll('pre, .output, table, mjx-container')].filter(e =>
      e.getClientRects().length && (e.getBoundingClientRect().right > box.right + 1 ||
      e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'visible'))
      .map(e => e.outerHTML.slice(0, 80)),
    signs: [...article.querySelectorAll('.mt-scroll')].filter(e =>
      getComputedStyle(e, '::after').display !== 'none').length,
  };
})()"""


@built
@pytest.mark.parametrize(
    ("page", "title"),
    [("05-objective", "5. The preservation"), ("12-batch-size", "12. Lab"), ("speed", "")],
)
def test_on_paper_the_title_has_its_number_and_no_line_is_cut(window, page, title):
    with window.tab(f"book/{page}.html") as tab:
        tab.run(browser.READY)
        paper = {"width": 718, "height": 1040, "deviceScaleFactor": 1, "mobile": False}
        tab.call("Emulation.setDeviceMetricsOverride", **paper)
        tab.call("Emulation.setEmulatedMedia", media="print")
        seen = tab.run(PRINTED)
    assert len(seen["title"]) == 1 and seen["title"][0].startswith(title)
    assert (seen["closed"], seen["cut"], seen["signs"]) == (0, [], 0)


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
    "cut off: <pre": "<pre style='width:9em;overflow:auto'>a line longer than its column</pre>",
    "scrolls sideways": "<div style='width:2000px;height:9px;background:red'></div>",
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    (folder / "good.html").write_text(GOOD.format("<p>all is well"), encoding="utf-8")
    faint = GOOD.format("<p>well <b style='color:#999'>badly</b>")
    (folder / "faint.html").write_text(faint, encoding="utf-8")
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
