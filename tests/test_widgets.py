"""Slider and explorer over stored frames: words, bytes, what nbval sees, and real key presses."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from html.parser import HTMLParser
from itertools import product

import matplotlib.pyplot as plt
import pytest

from medit_teach.book.widgets import LIMIT, VIEW, explorer, frames, slider
from medit_teach.errors import MeditError
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import browser

VALUES = [0.1, 1, 10000]


def pictures(n=3):
    out = []
    for i in range(n):
        figure, axes = plt.subplots(figsize=(3, 2))
        axes.plot([0, 1, 4, 9], [0, i, 1, 2])
        plt.close(figure)
        out.append(figure)
    return out


def page(*args, **kwargs):
    return frames(pictures(), "λ", VALUES, *args, **kwargs)._repr_html_()


class Tags(HTMLParser):
    """[(tag, attributes)] in order."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def all(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


def test_a_native_labelled_slider_over_pictures_with_words():
    tags = Tags(page(alt="a curve", start=1))
    (slider,) = tags.all("input")
    assert slider["type"] == "range" and slider["aria-label"] == "λ"
    assert (slider["min"], slider["max"], slider["step"], slider["value"]) == ("0", "2", "1", "1")
    assert slider["aria-valuetext"] == "1"
    assert tags.all("output")[0]["aria-live"] == "polite"
    images = tags.all("img")
    assert [i["alt"] for i in images] == [f"a curve (λ = {v})" for v in ("0.1", "1", "10000")]
    assert [i["data-value"] for i in images] == ["0.1", "1", "10000"]
    assert ["block" in i["style"] for i in images] == [False, True, False]
    from PIL import Image

    for image in images:
        data = image["src"].removeprefix("data:image/png;base64,")
        assert Image.open(io.BytesIO(base64.b64decode(data))).format == "PNG"


def test_every_frame_may_have_its_own_words():
    tags = Tags(page(alt=["low", "middle", "high"]))
    assert [i["alt"].split(" (")[0] for i in tags.all("img")] == ["low", "middle", "high"]


def test_nothing_from_outside_and_no_kernel():
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page())
    for word in ("http", "require", "kernel", "widget-view", "<script", 'src="/'):
        assert word not in text


def test_text_is_escaped():
    text = frames(pictures(1), '<b>"x', ["<i>"], alt="a < b & c")._repr_html_()
    assert "<b>" not in text and "<i>" not in text
    assert Tags(text).all("img")[0]["alt"] == 'a < b & c (<b>"x = <i>)'


def test_the_same_bytes_again():
    assert page() == page()


def test_large_frames_get_a_lower_resolution_or_an_error(monkeypatch):
    full = len(page().encode())
    assert full <= LIMIT
    monkeypatch.setattr("medit_teach.book.widgets.LIMIT", full - 1)
    assert len(page().encode()) < full
    monkeypatch.setattr("medit_teach.book.widgets.LIMIT", 3000)
    with pytest.raises(MeditError, match="take fewer frames"):
        page()


@pytest.mark.parametrize(
    ("figures", "values", "alt"), [(3, [1, 2], "x"), (0, [], "x"), (2, [1, 2], ["x"])]
)
def test_numbers_must_fit(figures, values, alt):
    with pytest.raises(MeditError):
        frames(pictures(figures), "n", values, alt)


def test_the_repr_is_short():
    assert repr(frames(pictures(), "λ", VALUES)) == "slider: λ from 0.1 to 10000"


def clean(text):
    """What nbval compares of an output."""
    from nbval.plugin import get_sanitize_patterns

    rules = get_sanitize_patterns((ROOT / "tools" / "nbval_sanitize.cfg").read_text())
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def test_nbval_compares_the_slider_but_not_the_pixels():
    """Pixels may differ between versions of matplotlib; labels, values and words may not."""
    one = page()
    other = frames(pictures()[::-1], "λ", VALUES)._repr_html_()
    assert one != other and clean(one) == clean(other)
    assert clean(one) != clean(frames(pictures(), "λ", [0.1, 1, 20000])._repr_html_())


# ------------------------------------------------------------------ explorers

CONTROLS = {"method": ["soft", "<hard>"], "λ": [0.5, 1, 200]}


def look(method, lam):
    rows = [("it's", 20, 10 * lam, "new"), ("b & c", None, 7, "rest")]
    return f"{method} at {lam:g}", {"first": rows, "second": rows[:1]}


def explored(**more):
    return explorer("a test", CONTROLS, look, **more)


def stored(page):
    """The frames as a browser reads them: [[sentence, panel, panel], ...]."""
    data = json.loads(Tags(page).all("div")[0]["data-frames"])
    return [[data["pieces"][i] for i in frame] for frame in data["frames"]]


def test_an_explorer_has_labelled_native_controls_and_a_frame_for_every_choice():
    text = explored(start={"λ": 1})._repr_html_()
    tags = Tags(text)
    assert tags.all("div")[0]["role"] == "group" and tags.all("div")[0]["aria-label"] == "a test"
    (slider,), (menu,) = tags.all("input"), tags.all("select")
    assert (slider["type"], slider["max"], slider["value"]) == ("range", "2", "1")
    assert (slider["aria-label"], slider["aria-valuetext"]) == ("λ", "1")
    assert (menu["data-n"], slider["data-n"]) == ("2", "3")
    assert len(tags.all("label")) == 2 and "&lt;hard&gt;</option>" in text
    found = [frame[0] for frame in stored(text)]
    want = [look(*choice)[0] for choice in product(*CONTROLS.values())]
    assert found == [w.replace("<", "&lt;").replace(">", "&gt;") for w in want]
    panel = stored(text)[5][1]  # "<hard>", 200: the bar ends at the edge, the number does not
    assert "--a:20;--z:100" in panel and "<b>20% → 2000%</b>" in panel and "it's" in panel
    assert "<b>7%</b>" in panel and "b &amp; c" in panel


def test_without_a_script_the_start_frame_is_seen():
    text = explored(start={"method": "<hard>", "λ": 200})._repr_html_()
    body = text.split("</style>")[1]
    assert '<p class="medit-slot" role="status">&lt;hard&gt; at 200</p>' in body
    assert "<script" not in text and "http" not in text
    assert all(part in body for part in stored(text)[5])


def test_one_value_needs_no_control():
    text = explorer("one", {"method": ["soft"], "λ": [1, 2]}, look)._repr_html_()
    assert not Tags(text).all("select") and len(Tags(text).all("input")) == 1
    assert len(stored(text)) == 2


def test_nbval_compares_the_controls_and_the_sentence_but_not_the_bars():
    def other(method, lam):
        return look(method, lam)[0], {"first": [("z", 1, 2, "left")], "second": []}

    def elsewhere(method, lam):
        return f"{method} at last", look(method, lam)[1]

    one, two, three = (explorer("a", CONTROLS, f)._repr_html_() for f in (look, other, elsewhere))
    assert one != two and clean(one) == clean(two)
    assert clean(one) != clean(three)
    assert clean(one) != clean(explorer("a", CONTROLS | {"λ": [0.5, 1, 20]}, look)._repr_html_())


def test_an_explorer_that_is_too_large_or_uneven_is_refused(monkeypatch):
    with pytest.raises(MeditError, match="same number of panels"):
        explorer("a", CONTROLS, lambda m, x: ("s", {"first": [], **({"b": []} if x > 1 else {})}))
    monkeypatch.setattr("medit_teach.book.widgets.LIMIT", 3000)
    with pytest.raises(MeditError, match="take fewer values"):
        explored()


def test_the_live_explorer_computes_what_it_is_asked_for():
    found = explorer("a", CONTROLS | {"fact": ["f"]}, lambda m, x, f: look(m, x),
                     finer={"λ": [0.5, 0.7, 1]})  # fmt: skip
    menu, dial, page = found.live().children
    assert (menu.description, dial.description) == ("method", "λ")
    assert [text for text, _ in dial.options] == ["0.5", "0.7", "1"]
    assert "soft at 0.5" in page.value
    dial.value, menu.value = 0.7, "<hard>"
    assert "&lt;hard&gt; at 0.7" in page.value and "<b>20% → 7%</b>" in page.value


# ------------------------------------------------------------------ beside a kernel


def draw(value):
    return pictures(1)[0] if value < 1 else pictures(2)[1]


def test_the_live_slider_draws_what_it_is_moved_to():
    found = slider(draw, "λ", VALUES, "a curve", start=1, finer=[0.1, 0.5, 1, 10000])
    assert Tags(found._repr_html_()).all("input")[0]["value"] == "1"  # the frames are there too
    dial, picture = found.live().children
    assert dial.description == "λ" and dial.value == 1
    assert [text for text, _ in dial.options] == ["0.1", "0.5", "1", "10000"]
    before = Tags(picture.value).all("img")[0]
    dial.value = 0.5
    after = Tags(picture.value).all("img")[0]
    assert (before["alt"], after["alt"]) == ("a curve (λ = 1)", "a curve (λ = 0.5)")
    assert before["src"] != after["src"]


def test_the_widget_is_shown_only_where_a_kernel_runs(monkeypatch):
    import IPython

    found = slider(draw, "λ", VALUES)
    assert found._repr_mimebundle_() == {}  # no kernel here: the frames are all there is
    monkeypatch.setattr(IPython, "get_ipython", lambda: type("Shell", (), {"kernel": 1})())
    assert found._repr_mimebundle_()[VIEW]["model_id"]
    assert frames(pictures(), "λ", VALUES)._repr_mimebundle_() == {}  # frames alone stay frames


def test_a_stored_notebook_keeps_the_frames_and_not_the_widget():
    import notebooks

    data = {VIEW: {"model_id": "a" * 32}, "text/html": ["<p>"], "text/plain": ["slider"]}
    output = {"output_type": "execute_result", "data": dict(data), "metadata": {}}
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [output], "source": ""}
    state = {notebooks.WIDGET_STATE: {"state": {"a" * 32: {}}}}
    stored = notebooks.normalise({"cells": [cell], "metadata": {"widgets": state}}, "a.ipynb")
    assert set(stored["cells"][0]["outputs"][0]["data"]) == {"text/html", "text/plain"}
    assert "widgets" not in stored["metadata"]


# ------------------------------------------------------------------ in a real browser

STATE = """JSON.stringify({
  shown: [...document.querySelectorAll('img')].map(e => getComputedStyle(e).display !== 'none'),
  said: document.querySelector('output').textContent,
  text: document.querySelector('input').getAttribute('aria-valuetext')})"""


HEAD = (
    "<!doctype html><html lang=en><meta charset=utf-8><title>t</title>"
    "<meta name=viewport content='width=device-width, initial-scale=1'>"
)


@pytest.mark.browser
@pytest.mark.skipif(browser.chromium() is None, reason="no Chromium (apt install chromium)")
def test_the_arrow_keys_move_it(tmp_path):
    (tmp_path / "a.html").write_text(HEAD + page(start=1), encoding="utf-8")
    with browser.Browser(tmp_path) as window:
        before, right, home = map(
            json.loads, window.press("a.html", ["Tab", "ArrowRight", "Home"], STATE)
        )
        visit = window.visit("a.html", "phone")
    assert before == {"shown": [False, True, False], "said": "1", "text": "1"}
    assert right == {"shown": [False, False, True], "said": "10000", "text": "10000"}
    assert home == {"shown": [True, False, False], "said": "0.1", "text": "0.1"}
    assert visit.problems() == []


EXPLORED = """JSON.stringify([...document.querySelectorAll('.medit-slot')].map(e => e.innerHTML)
  .concat(document.querySelector('input').getAttribute('aria-valuetext'),
          document.querySelector('output').textContent))"""


@pytest.mark.browser
@pytest.mark.skipif(browser.chromium() is None, reason="no Chromium (apt install chromium)")
def test_keys_lead_to_every_frame_of_an_explorer(tmp_path):
    text = explored()._repr_html_()
    (tmp_path / "a.html").write_text(HEAD + text, encoding="utf-8")
    with browser.Browser(tmp_path) as window:
        states = window.press("a.html", ["Tab", "ArrowDown", "Tab", "End"], EXPLORED)
        visit = window.visit("a.html", "phone")
    start, hard, _, end = map(json.loads, states)
    want = stored(text)
    assert start == [*want[0], "0.5", "0.5"]
    assert hard == [*want[3], "0.5", "0.5"]
    assert end == [*want[5], "200", "200"]
    assert visit.problems() == []
