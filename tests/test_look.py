"""The look of the book: one palette for figures and pages, and colours that can be read."""

from __future__ import annotations

import re

import pytest

from medit_teach.book import plots
from tests.conftest import ROOT

CSS = (ROOT / "book" / "_static" / "medit.css").read_text(encoding="utf-8")
AA, LARGE = 4.5, 3.0  # WCAG 2.1: contrast of text, and of large text and shapes


def block(selector):
    """{variable: colour} of the first rule for `selector`."""
    body = CSS.split(selector + " {", 1)[1].split("}", 1)[0]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-fA-F]{6});", body))


ALWAYS = block("html")
THEMES = {name: block(f'html[data-theme="{name}"]') for name in ("light", "dark")}


def linear(colour):
    """Linear RGB of #rrggbb."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def times(matrix, x):
    return [sum(w * c for w, c in zip(row, x, strict=True)) for row in matrix]


def luminance(colour):
    return times([(0.2126, 0.7152, 0.0722)], linear(colour))[0]


def contrast(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_guidelines():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # a known near miss


def test_pages_have_the_colours_of_the_figures():
    mine = {name: ALWAYS[f"mt-{name}"] for name in ("keys", "values", "residual", "preserve")}
    figures = (plots.KEYS, plots.VALUES, plots.RESIDUAL, plots.C0)
    assert [c.lower() for c in mine.values()] == [c.lower() for c in figures]
    assert THEMES["light"]["mt-ink"].lower() == plots.INK.lower()


TEXTS = ["mt-ink", "mt-soft", "mt-keys-text", "mt-values-text", "mt-residual-text",
         "mt-preserve-text", "pst-color-primary", "pst-color-secondary", "pst-color-link",
         "pst-color-link-hover", "pst-color-inline-code"]  # fmt: skip


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("text", TEXTS)
def test_text_can_be_read(theme, text):
    colours = THEMES[theme]
    for ground in ("mt-paper", "mt-panel"):
        assert contrast(colours[text], colours[ground]) >= AA, (theme, text, ground)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("shape", ["keys", "values", "preserve"])
def test_bars_can_be_seen(theme, shape):
    for ground in ("mt-paper", "mt-panel"):
        assert contrast(ALWAYS[f"mt-{shape}"], THEMES[theme][ground]) >= LARGE


# Viénot, Brettel and Mollon 1999: how a colour looks to who lacks one kind of cone, as a matrix on
# linear RGB (protanopia, deuteranopia).
BLIND = {
    "protan": ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
    "deutan": ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
}


def lab(rgb):
    """CIE L*a*b* of linear RGB."""
    M = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    white = (0.9505, 1.0, 1.089)
    f = [
        (x / w) ** (1 / 3) if x / w > 0.008856 else 7.787 * max(x / w, 0) + 16 / 116
        for x, w in zip(times(M, rgb), white, strict=True)
    ]
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


@pytest.mark.parametrize("kind", BLIND)
def test_the_four_colours_stay_apart_for_the_colour_blind(kind):
    colours = (plots.KEYS, plots.VALUES, plots.RESIDUAL, plots.C0)
    seen = [lab(times(BLIND[kind], linear(colour))) for colour in colours]
    for i, one in enumerate(seen):
        for other in seen[:i]:
            distance = sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5
            assert distance > 15, (kind, i)
