"""Figures draw all that they are given: no series is left out, and no two look alike."""

from __future__ import annotations

import numpy as np
import pytest

from medit_teach.book import plots
from medit_teach.errors import MeditError


def named(n, value):
    return {f"series {i}": value for i in range(n)}


LINE, BAND = [1.0, 2.0, 3.0], [(1.0, 0.5, 1.5), (2.0, 1.5, 2.5), (3.0, 2.5, 3.5)]
X = [1, 2, 4]
SWEEP = [{"label": f"series {i}", "size": s, "ES": 50.0} for i in range(20) for s in X]
BATCHES = [
    {"ridge": f"series {i}", "batch": b, "S": [50.0, 40.0, 60.0]} for i in range(20) for b in X
]
ONE = {"trade": {"ES": (50.0, 40.0, 60.0)}}
FIGURES = {  # a function that draws n series
    "curves": lambda n: plots.curves(X, named(n, BAND), "x", "y"),
    "blow_up": lambda n: plots.blow_up(named(n, [0.5, 0.7])),
    "dial": lambda n: plots.dial(1.0, (1, 1), [(0, 1), (1, 0)], X, named(n, BAND)),
    "percent_curves": lambda n: plots.percent_curves(X, named(n, BAND), "x"),
    "batches": lambda n: plots.batches(BATCHES[: 3 * n], "ridge", scores=("S",)),
    "knob": lambda n: plots.knob(X, named(n, LINE), 2),
    "log_curves": lambda n: plots.log_curves(named(n, (X, LINE)), "x", "y"),
    "bands": lambda n: plots.bands(named(n, (X, BAND)), "x", "y"),
    "roc": lambda n: plots.roc(named(n, ([1.0, 2.0], [0.0, 1.5]))),
    "by_size": lambda n: plots.by_size(SWEEP, {f"series {i}": f"series {i}" for i in range(n)},
                                       {"ES": ("ES (%)", False)}),
    "price_lists": lambda n: plots.price_lists(LINE, named(n, LINE)),
    "solvers": lambda n: plots.solvers(named(n, [(1, 1), (2, 0)]), named(n, (1, 0.5)), {}),
    "cloud": lambda n: plots.cloud(range(n), range(n), range(n), "x", "y",
                                   {i: f"series {i}" for i in range(n)}),
    "strips": lambda n: plots.strips(["group"], named(n, [LINE]), "x"),
    "by_category": lambda n: plots.by_category(named(n, ONE), ["ES"]),
}  # fmt: skip


def looks(figure):
    """{name in the legend: all that tells its line from others}."""
    found = {}
    for axes in figure.axes:
        for line in axes.lines:
            name = line.get_label().removesuffix(" ridge")
            if name.startswith("series"):
                look = (line.get_color(), str(line.get_linestyle()), str(line.get_marker()),
                        str(line._dash_pattern))  # fmt: skip
                found.setdefault(name, look)
    return found


@pytest.mark.parametrize("name", FIGURES)
def test_every_series_is_drawn_and_can_be_told_apart(name):
    most = 8 if name in ("blow_up", "knob", "strips") else 12  # three looks: nine lines
    for n in range(1, most + 1):
        found = looks(FIGURES[name](n))
        assert list(found) == [f"series {i}" for i in range(n)]
        assert name == "solvers" or len(set(found.values())) == n


@pytest.mark.parametrize("n", range(1, 13))
def test_panels_and_parts_are_all_drawn(n):
    figure = plots.clouds(named(n, (X, LINE)), "x", "y")
    assert [a.get_title() for a in figure.axes if a.get_visible()] == list(named(n, 0))
    figure = plots.side_by_side({"memit": named(n, (50.0, 40.0, 60.0))}, list(named(n, 0)))
    assert [a.get_title() for a in figure.axes if a.get_visible()] == list(named(n, 0))
    bars = plots.stacked({"row": named(n, 1.0)}, "x").axes[0].containers
    assert [bar.get_label() for bar in bars] == list(named(n, 0))
    assert len({(b[0].get_facecolor(), b[0].get_hatch()) for b in bars}) == n
    measures = {f"m{i}": (f"m{i}", False) for i in range(n)}
    rows = [{"label": "a", "size": 1, **dict.fromkeys(measures, 1.0)}]
    figure = plots.by_size(rows, {"a": "a"}, measures)
    assert [a.get_ylabel() for a in figure.axes if a.get_visible()] == list(measures)


def test_more_than_can_be_told_apart_is_refused():
    with pytest.raises(MeditError, match="17 lines, but only 16"):
        plots.percent_curves(X, named(17, BAND), "x")


EMPTY = [
    lambda: plots.first_edit([]), lambda: plots.plane(np.ones((2, 3)), np.ones(2), []),
    lambda: plots.strips([], {}, "x"), lambda: plots.curves([], {}, "x", "y"),
    lambda: plots.blow_up({}), lambda: plots.percent_curves([], {}, "x"), lambda: plots.census([]),
    lambda: plots.side_by_side({}, []), lambda: plots.novelty([], 4),
    lambda: plots.gram_spectrum({}, [], 4), lambda: plots.batches([], "ridge"),
    lambda: plots.batches([], "ridge", ()), lambda: plots.knob([], {}, 1),
    lambda: plots.heat_maps({}, [], "x"), lambda: plots.cloud([], [], [], "x", "y", {}),
    lambda: plots.clouds({}, "x", "y"), lambda: plots.log_curves({}, "x", "y"),
    lambda: plots.bands({}, "x", "y"), lambda: plots.roc({}),
    lambda: plots.by_size([], {}, {"ES": ("ES", False)}), lambda: plots.by_size([], {"a": "a"}, {}),
    lambda: plots.price_lists([], {}), lambda: plots.solvers({}, {}, {}),
    lambda: plots.outcomes({}, {}), lambda: plots.by_category({}, ["ES"]),
    lambda: plots.stacked({}, "x"),
]  # fmt: skip


@pytest.mark.parametrize("draw", EMPTY)
def test_nothing_to_draw_is_said(draw):
    with pytest.raises(MeditError, match="nothing to draw"):
        draw()


def test_values_in_another_unit_than_percent_are_seen():
    figure = plots.side_by_side({"memit": {"perplexity": (250.0, 240.0, 260.0)}}, ["perplexity"],
                                unit="perplexity")  # fmt: skip
    low, high = figure.axes[0].get_xlim()
    assert low < 240 and high > 260 and "perplexity (line" in figure.get_supxlabel()
    rows = [("memit", (250.0, 240.0, 260.0), (150.0, 140.0, 160.0))]
    low, high = plots.census(rows, "perplexity", limits=None).axes[0].get_xlim()
    assert low < 140 and high > 260
