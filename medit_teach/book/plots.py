"""Figures: data in, matplotlib Figure out. One colour means one thing in the whole book."""

import matplotlib.pyplot as plt
import numpy as np

from ..errors import MeditError

KEYS, VALUES, RESIDUAL, C0 = "#0072B2", "#D55E00", "#CC79A7", "#009E73"
INK, SOFT = "#22272E", "#8A929C"


def _figure(width=6.4, height=4.0):
    """A Figure and its Axes; closed, so that a notebook shows it once, where it is returned."""
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    plt.close(figure)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _styled(series, styles):
    """[(one of the series, its style)], none left out and no two alike.

    styles: tuples of one look each (mark, dash, colour ...). Where they end they begin again, each
    part but the first one style further on. MeditError for more series than can be told apart so,
    and for none.
    """
    series, styles = list(series), list(styles)
    n = len(styles)
    _some(series)
    if len(series) > n * n:
        raise MeditError(f"{len(series)} lines, but only {n * n} can be told apart; draw fewer")
    looks = [
        (styles[i % n][0], *(part for part in styles[(i + i // n) % n][1:]))
        for i in range(len(series))
    ]
    return list(zip(series, looks, strict=True))


def _some(data):
    """MeditError if there is nothing in what is to be drawn."""
    if not len(data):
        raise MeditError("there is nothing to draw")


def tradeoff(preserved, missed, marks=(), points=()):
    """The curve of the two losses as lam moves, and single updates beside it.

    preserved, missed: the two losses along the curve, one number for each lam.
    marks: (lam, preserved, missed), lam values to write at the curve.
    points: (name, preserved, missed, colour), other updates.
    """
    figure, axes = _figure()
    axes.plot(preserved, missed, color=INK, linewidth=2, zorder=2)
    axes.fill_between(preserved, missed, 0, color=SOFT, alpha=0.12, linewidth=0)
    for lam, x, y in marks:
        axes.plot(x, y, "o", color=INK, markersize=5, zorder=3)
        axes.annotate(f"λ = {lam:g}", (x, y), (8, 6), textcoords="offset points", color=INK)
    for name, x, y, colour in points:
        axes.plot(x, y, "D", color=colour, markersize=8, zorder=4, clip_on=False)
        axes.annotate(
            name, (x, y), (0, 10), textcoords="offset points", color=colour, weight="bold"
        )
    axes.set_xlabel("preservation: mean squared change of a kept value")
    axes.set_ylabel("memorization: share of the residual left")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.05)
    return figure


def first_edit(panels):
    """One edit: how likely the old and the new object are after some prompts, before and after.

    panels: (title, [(object, probability before, probability after), ...]), one for each prompt.
    """
    _some(panels)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(6.6, 2.5), sharex=True, layout="constrained", squeeze=False
    )
    plt.close(figure)
    for axis, (title, bars) in zip(axes[0], panels, strict=True):
        y = range(len(bars))
        names, before, after = zip(*bars, strict=True)
        light = dict(color="white", edgecolor=SOFT, hatch="////", linewidth=1)
        axis.barh([i - 0.19 for i in y], before, 0.36, label="before", **light)
        axis.barh([i + 0.19 for i in y], after, 0.36, label="after", color=VALUES)
        axis.set_yticks(list(y), names)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.03)
        axis.set_xticks([0, 0.5, 1])
        axis.set_title(title, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][len(panels) // 2].set_xlabel("probability")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure


def whitening(before, after):
    """Keys in the plane before and after whitening; each pair: old keys (2, N), a new key (2,).

    Dashed: the ellipse of points whose whitened length is 1 (after: the unit circle).
    """
    figure, panels = plt.subplots(1, 2, figsize=(6.8, 3.7), layout="constrained")
    plt.close(figure)
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    back = np.asarray(before[0]) @ np.linalg.pinv(np.asarray(after[0]))  # L
    titles = ("keys", "whitened keys")
    rows = zip(panels, (before, after), (back, np.eye(2)), titles, strict=True)
    for axes, (old, new), shape, title in rows:
        axes.plot(*(shape @ circle), "--", color=C0, linewidth=1.4)
        axes.plot(*np.asarray(old), "o", color=SOFT, markeredgecolor=INK, label="old")
        axes.plot(*np.asarray(new), "D", color=KEYS, markersize=7, label="new")
        reach = 1.15 * max(float(abs(old).max()), float(abs(new).max()))
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=title)
        axes.set_xlabel("first coordinate")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("second coordinate")
    panels[0].legend(frameon=False, loc="upper left")
    return figure


def touching(moment, k, r, best, costs=(1, 3, 5)):
    """Updates delta (2,) of equal cost delta^T moment delta, and the line k^T delta = r.

    best (2,): where the cheapest ellipse touches the line; the square is the smallest update.
    """
    C, k, best = (np.asarray(x) for x in (moment, k, best))
    figure, axes = _figure(5.2, 4.4)
    angle = np.linspace(0, 2 * np.pi, 400)
    unit = np.linalg.solve(np.linalg.cholesky(C).T, np.stack([np.cos(angle), np.sin(angle)]))
    for number, cost in enumerate(costs):
        name = "equal cost" if number == 0 else None
        axes.plot(*(cost**0.5 * unit), color=C0, linewidth=1 + 0.5 * number, label=name)
    reach = 1.15 * float(abs(costs[-1] ** 0.5 * unit).max())
    x = np.array([-reach, reach])
    axes.plot(x, (r - k[0] * x) / k[1], "--", color=INK, linewidth=1.6, label="meets the fact")
    smallest = r * k / (k @ k)
    axes.plot(*smallest, "s", color=KEYS, markersize=8, label="smallest update")
    axes.plot(*best, "o", color=VALUES, markersize=9, label="cheapest update")
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.set_xlabel("first entry of the update")
    axes.set_ylabel("second entry of the update")
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    return figure


def plane(K0, k, directions):
    """Two-dimensional old keys K0 (2, N), a new key k (2,), and directions [(name, u (2,)), ...].

    One panel a direction: the arrows k and u, the line of keys that an update along u leaves
    alone, and each old key shaded by the share of the residual that it receives.
    """
    _some(directions)
    figure, panels = plt.subplots(
        1, len(directions), figsize=(3.6 * len(directions), 3.7), layout="constrained",
        sharex=True, sharey=True, squeeze=False,
    )  # fmt: skip
    plt.close(figure)
    panels = panels[0]
    reach = 1.15 * float(abs(K0).max())
    for axes, (name, u) in zip(panels, directions, strict=True):
        share = abs(u @ K0 / (u @ k))
        dots = axes.scatter(*K0, c=share, cmap="viridis_r", vmin=0, vmax=1, s=9, linewidth=0)
        along = reach * 2 * u / (u @ u) ** 0.5
        axes.plot([-along[1], along[1]], [along[0], -along[0]], "--", color=INK, linewidth=1.2)
        for text, x, colour in (("k", k, KEYS), ("u", u / (u @ u) ** 0.5 * (k @ k) ** 0.5, VALUES)):
            if text == "k" or abs(share.max() - abs(k @ K0 / (k @ k)).max()) > 1e-9:
                axes.annotate(
                    "", x, (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.2}
                )
                axes.annotate(
                    text, x, (5, 4), textcoords="offset points", color=colour, weight="bold"
                )
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=name)
        axes.set_xlabel("first coordinate of a key")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("second coordinate")
    figure.colorbar(dots, ax=panels, label="|share| of r received", shrink=0.85)
    return figure


def strips(groups, series, xlabel):
    """How numbers of several groups of keys are spread, for two or more ways to make them.

    groups: names, one a row; series: {name: [values of group 1, of group 2, ...]}. Thick bar:
    the middle half; thin line: 5% to 95%; mark: the median.
    """
    figure, axes = _figure(6.8, 0.75 * len(groups) + 1.3)
    marks = (("o", VALUES), ("s", SOFT), ("D", C0))
    for s, ((name, values), (mark, colour)) in enumerate(_styled(series.items(), marks)):
        for g, x in enumerate(values):
            low, first, middle, third, high = (
                float(v) for v in np.quantile(np.asarray(x), (0.05, 0.25, 0.5, 0.75, 0.95))
            )
            y = g + 0.16 * (2 * s - len(series) + 1)
            axes.plot([low, high], [y, y], color=colour, linewidth=1.2)
            axes.plot([first, third], [y, y], color=colour, linewidth=6, alpha=0.6)
            axes.plot(
                middle, y, mark, color=colour, markeredgecolor=INK, label=name if g == 0 else None
            )
    for x in (0, 1):
        axes.axvline(x, color=SOFT, linewidth=0.8, linestyle=":", zorder=0)
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=3)
    return figure


def curves(x, lines, xlabel, ylabel, log=False, ylim=None, mark=None, above=False):
    """Lines with intervals over x: {name: [(mean, low, high), ...]}; None where nothing is known.

    mark: a value of x to point out. log: logarithmic x. above: the legend goes above the axes.
    """
    figure, axes = _figure()
    styles = (("o", "-", VALUES), ("s", "--", KEYS), ("^", ":", C0), ("D", "-.", RESIDUAL))
    for (name, points), (marker, style, colour) in _styled(lines.items(), styles):
        known = [(at, *p) for at, p in zip(x, points, strict=True) if p[0] is not None]
        if known:
            at, middle, low, high = map(np.array, zip(*known, strict=True))
            axes.plot(at, middle, style, marker=marker, color=colour, label=name, markersize=5)
            axes.fill_between(at, low, high, color=colour, alpha=0.13, linewidth=0)
    if mark is not None:
        axes.axvline(mark, color=SOFT, linewidth=1, linestyle=":")
    if log:
        axes.set_xscale("log")
        if len(x) <= 8:
            axes.set_xticks(list(x), [f"{at:g}" for at in x], minor=False)
            axes.minorticks_off()
    elif all(float(at).is_integer() for at in x):
        axes.set_xticks(list(x))
    if ylim:
        axes.set_ylim(*ylim)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if above:
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    else:
        axes.legend(frameon=False)
    return figure


def blow_up(echoes):
    """The factor 1/echo by which an update grows, as a curve, with a point for each fact.

    echoes: {name of a group: its values}.
    """
    figure, axes = _figure(6.4, 3.6)
    lowest = min([0.2, *(float(min(x)) for x in echoes.values())])
    at = np.linspace(max(lowest, 0.02) * 0.9, 1.5, 300)
    axes.plot(at, 1 / at, color=INK, linewidth=1.2, zorder=1)
    styles = (("o", VALUES), ("x", KEYS), ("^", C0))
    for (name, x), (marker, colour) in _styled(echoes.items(), styles):
        x = np.asarray(x)
        axes.plot(x, 1 / x, marker, color=colour, label=name, markersize=6, alpha=0.75)
    axes.axhline(1, color=SOFT, linewidth=0.8, linestyle=":")
    axes.set_xlabel("echo of the bare prompt's key (1: the same as the mean key)")
    axes.set_ylabel("length of the update,\nasymmetric / symmetric")
    axes.legend(frameon=False)
    return figure


def dial(lam, now, curve, lams, scores):
    """One frame of a dial: where lam stands on the trade-off, and what it does to the scores.

    now, and each point of curve: (preservation, share of the residual left). scores: {name:
    [(percent, low, high) at each of lams]}, the percent None where nothing was asked.
    """
    figure, (left, right) = _pair()
    left.plot(*zip(*curve, strict=True), color=INK, linewidth=1.5)
    left.plot(*now, "o", color=VALUES, markersize=11, markeredgecolor=INK)
    left.set_xlabel("mean squared change of a kept value")
    left.set_ylabel("share of the residual left")
    left.set_xlim(left=0)
    left.set_ylim(-0.03, 1.05)
    for (name, values), (marker, style, colour) in _styled(scores.items(), STYLES):
        if values[0][0] is not None:
            middle, low, high = zip(*values, strict=True)
            right.fill_between(lams, low, high, color=colour, alpha=0.13, linewidth=0)
            right.plot(lams, middle, style, marker=marker, color=colour, markersize=4, label=name)
    right.axvline(lam, color=INK, linewidth=1.5, zorder=0)
    right.set_xscale("log")
    right.set_ylim(-4, 104)
    right.set_xlabel("λ")
    right.set_ylabel("score in percent (band: 95% interval)")
    right.legend(frameon=False, loc="lower left")
    return figure


def corner(title, moved, left_over):
    """One frame for a pair of constraints: what an update moves, and what it leaves unwritten.

    moved: how far each direction of the keys is moved, the least used direction first; a bar is
    missing where nothing moves. left_over: percent of each fact's residual that is not written.
    """
    figure, (left, right) = _pair((3, 1))
    left.bar(range(1, len(moved) + 1), moved, color=C0)
    left.set_yscale("log")
    left.set_ylim(0.03, 200)
    left.set_xlabel("direction, from the least used to the most used")
    left.set_ylabel("length of the move")
    right.bar(range(1, len(left_over) + 1), left_over, color=VALUES)
    right.set_xticks(range(1, len(left_over) + 1))
    right.set_ylim(0, 100)
    right.set_xlabel("fact")
    right.set_ylabel("residual left, percent")
    figure.suptitle(title, fontsize=10)
    return figure


def estimate(count, spectrum, reference, counts, efficiency):
    """One frame of an estimate of C0: its eigenvalues, and how good the updates made with it are.

    spectrum, reference: eigenvalues, the largest first, of the estimate from `count` tokens and of
    the C0 that it is compared with. efficiency: [(mean, low, high) at each of counts].
    """
    figure, (left, right) = _pair()
    order = range(1, len(spectrum) + 1)
    left.plot(order, reference, "--", color=SOFT, linewidth=2, label="a much longer text")
    left.plot(order, spectrum, color=C0, linewidth=2, label="this estimate")
    left.set_yscale("log")
    left.set_ylim(min(reference) / 300, 2 * max(reference))
    left.set_xlabel("direction, the most used first")
    left.set_ylabel("eigenvalue of $C_0$")
    left.legend(frameon=False)
    middle, low, high = zip(*efficiency, strict=True)
    right.fill_between(counts, low, high, color=C0, alpha=0.15, linewidth=0)
    right.plot(counts, middle, "o-", color=C0, markersize=4)
    right.axvline(count, color=INK, linewidth=1.5, zorder=0)
    right.set_xscale("log")
    right.set_ylim(0, 1)
    right.set_xlabel("tokens")
    right.set_ylabel("best price / price paid\n(band: 95% interval)")
    return figure


def _pair(ratios=(1, 1)):
    """Figure and two Axes beside each other, as the frames of a slider have them; closed."""
    figure, pair = plt.subplots(
        1, 2, figsize=(7.2, 3.1), layout="constrained", width_ratios=list(ratios)
    )
    plt.close(figure)
    for axes in pair:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, pair


STYLES = (("o", "-", VALUES), ("s", "--", KEYS), ("^", "-.", C0), ("D", ":", RESIDUAL))


def percent_curves(x, series, xlabel, mark=None):
    """Percentages with their intervals over x; lines differ in dashes and marks, not colour alone.

    series: {name: [(value, low, high) at each x]}. mark: (x, text), a vertical line with its name.
    """
    figure, axes = _figure()
    for (name, values), (marker, line, colour) in _styled(series.items(), STYLES):
        mid, low, high = zip(*values, strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(x, mid, line, marker=marker, color=colour, markersize=5, label=name)
    if mark is not None:
        axes.axvline(mark[0], color=SOFT, linewidth=1, zorder=0)
        axes.annotate(mark[1], (mark[0], 1), (4, 2), xycoords=("data", "axes fraction"),
                      textcoords="offset points", color=INK, fontsize=9)  # fmt: skip
    axes.set_xlabel(xlabel)
    axes.set_ylabel("percent (band: 95% interval)")
    axes.set_ylim(-4, 104)
    axes.legend(frameon=False, loc="best")
    return figure


def census(rows, xlabel="right answers in percent", limits=(0, 100)):
    """Two marks a row, open before and full after, each with its interval.

    rows: [(name, (value, low, high) before, (value, low, high) after)], the first on top, in the
    unit that xlabel tells. limits: the least and the largest value there can be; None: as drawn.
    """
    _some(rows)
    figure, axes = _figure(6.8, 0.9 + 0.5 * len(rows))
    for y, (_, *pair) in enumerate(rows):
        both = (("before", SOFT, "white", -0.13), ("after", VALUES, VALUES, 0.13))
        for (mid, low, high), (label, colour, fill, shift) in zip(pair, both, strict=True):
            axes.plot([low, high], [y + shift] * 2, color=colour, linewidth=2)
            axes.plot(mid, y + shift, "o", color=colour, markerfacecolor=fill, markersize=7,
                      label=label if y == 0 else None)  # fmt: skip
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    if limits:
        axes.set_xlim(limits[0] - 3, limits[1] + 3)
    axes.set_xlabel(f"{xlabel} (line: 95% interval)")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=2)
    return figure


def side_by_side(table, names, unit="percent"):
    """Methods as rows, one panel a measure (three beside each other), a mark with its interval.

    table: {method: {measure: (value, low, high) or None}}; names: the measures, in order. unit: of
    all values; a panel of percent shows 0 to 100, of any other unit what there is.
    """
    _some(names)
    down, across = -(-len(names) // 3), min(3, len(names))
    figure, panels = plt.subplots(down, across, figsize=(7.0, 2.8 * down), sharey=True,
                                  layout="constrained", squeeze=False)  # fmt: skip
    plt.close(figure)
    for axes, name in zip(panels.flat[: len(names)], names, strict=True):
        for y, values in enumerate(table.values()):
            if values.get(name) is not None:
                mid, low, high = values[name]
                axes.plot([low, high], [y, y], color=VALUES, linewidth=2)
                axes.plot(mid, y, "o", color=VALUES, markersize=7)
        axes.set_title(name, fontsize=10)
        if unit == "percent":
            axes.set_xlim(-6, 106)
            axes.set_xticks([0, 50, 100])
        axes.grid(axis="x", color=SOFT, alpha=0.3, linewidth=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    panels[0, 0].set_yticks(range(len(table)), list(table))
    panels[0, 0].set_ylim(len(table) - 0.5, -0.5)
    figure.supxlabel(f"{unit} (line: 95% interval)", fontsize=10)
    return figure


def novelty(share, d_in):
    """What is new in each further key of a batch (share of its squared length), in order.

    share: list of numbers in [0, 1]; d_in: dimensions of a key, where nothing can be new any more.
    """
    figure, axes = _figure(height=3.6)
    _some(share)
    share = [float(x) for x in share]
    width = min(25, len(share))
    mean = [sum(share[i : i + width]) / width for i in range(len(share) - width + 1)]
    axes.plot(range(len(share)), share, ".", color=SOFT, markersize=3, alpha=0.6, label="one fact")
    middle = [i + (width - 1) / 2 for i in range(len(mean))]
    axes.plot(middle, mean, color=KEYS, linewidth=2.2, label=f"mean of {width}")
    axes.plot([0, d_in], [1, 0], "--", color=INK, linewidth=1.2, label="random directions")
    axes.set_xlabel("facts in the batch so far")
    axes.set_ylabel("share of the next key that is new")
    axes.set_xlim(0, d_in)
    axes.set_ylim(0, 1.05)
    axes.legend(frameon=False)
    return figure


def gram_spectrum(spectra, ridges, d_in):
    """Eigenvalues of G = K^T C0^-1 K for batches of several sizes, and ridges as lines.

    spectra: {batch size: eigenvalues}; ridges: numbers; d_in: the unit of the right-hand axis.
    """
    figure, axes = _figure(height=4.0)
    _some(spectra)
    for shade, (n, values) in enumerate(spectra.items()):
        values = sorted(values, reverse=True)
        rank = [(i + 0.5) / n for i in range(n)]
        dark = 0.35 + 0.65 * (shade + 1) / len(spectra)
        axes.plot(
            rank, values, color=KEYS, alpha=dark, linewidth=1.2 + 0.5 * shade, label=f"E = {n}"
        )
    for ridge in ridges:
        axes.axhline(ridge, color=VALUES, linewidth=1.2, linestyle="--")
        axes.annotate(f"λ = {ridge:g}", (0.01, ridge), (0, 3), textcoords="offset points",
                      color=VALUES)  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlim(0, 1)
    axes.legend(frameon=False, loc="upper right")
    axes.set_xlabel("mixtures of facts, cheapest first (share of the batch)")
    axes.set_ylabel("eigenvalue γ of G")
    other = axes.secondary_yaxis("right", functions=(lambda x: x / d_in, lambda x: x * d_in))
    other.set_ylabel("in units of $d_{in}$")
    return figure


PANELS = {  # score: (label of its axis, logarithmic)
    "S": ("S (%)", False),
    "NM": ("NM (points)", False),
    "NS": ("NS (%)", False),
    "PS": ("PS (%)", False),
    "NA": ("NA (%)", False),
    "perplexity": ("perplexity", True),
    "condition_gram": ("condition number", True),
}


def batches(rows, by, scores=("S", "NM")):
    """One panel a score against the batch size, one line for each value of rows[i][by].

    rows: dicts with "batch", `by` and the scores, each a number or [value, low, high]; the
    interval is drawn as a band.
    """
    _some(scores)
    size = (6.4, 0.8 + 2.0 * len(scores))
    figure, all_axes = plt.subplots(len(scores), figsize=size, sharex=True, layout="constrained")
    plt.close(figure)
    styles = ((VALUES, "-", "o"), (RESIDUAL, "--", "s"), (KEYS, "-", "D"), (C0, ":", "^"))
    for name, axes in zip(scores, [all_axes] if len(scores) == 1 else all_axes, strict=True):
        for line, (colour, style, mark) in _styled(dict.fromkeys(r[by] for r in rows), styles):
            mine = sorted((r for r in rows if r[by] == line), key=lambda r: r["batch"])
            x = [r["batch"] for r in mine]
            y = [r[name] if isinstance(r[name], list) else [r[name]] for r in mine]
            label = f"{line} ridge" if isinstance(line, str) else f"ridge {line:g}"
            axes.plot(x, [v[0] for v in y], style, color=colour, marker=mark, markersize=4,
                      linewidth=1.8, label=label)  # fmt: skip
            if len(y[0]) == 3:
                low, high = ([v[i] for v in y] for i in (1, 2))
                axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        label, logarithmic = PANELS[name]
        axes.set_ylabel(label)
        axes.set_yscale("log" if logarithmic else "linear")
        axes.set_xscale("log", base=2)
        axes.spines[["top", "right"]].set_visible(False)
    ticks = sorted({r["batch"] for r in rows})
    axes.set_xticks(ticks, [str(t) for t in ticks], rotation=45)
    axes.minorticks_off()
    axes.set_xlabel("facts in the batch")
    figure.axes[0].legend(frameon=False, fontsize=9)
    return figure


def running_sum(values, xlabel, ylabel):
    """A running sum in percent over how many terms it has; lines at 0 and at the whole, 100."""
    figure, axes = _figure(6.4, 3.4)
    axes.plot(range(1, len(values) + 1), values, color=VALUES, linewidth=2)
    axes.axhline(100, color=SOFT, linewidth=1, linestyle=":")
    axes.axhline(0, color=SOFT, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks([x for x in (1, 3, 10, 30, 100, 300, 1000, 3000) if x <= len(values)])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(plt.NullLocator())
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return figure


def knob(settings, probabilities, usual):
    """Probabilities {name: [P at each setting]} as one coefficient is turned.

    usual: the largest coefficient seen in ordinary text; up to there the ground is shaded.
    """
    figure, axes = _figure(6.4, 3.4)
    styles = (("-", VALUES), ("--", KEYS), (":", C0))
    for (name, values), (style, colour) in _styled(probabilities.items(), styles):
        axes.plot(settings, values, style, color=colour, linewidth=2, label=name)
    axes.axvspan(min(settings), usual, color=SOFT, alpha=0.18, linewidth=0, label="seen in text")
    axes.set_ylim(0, 1)
    axes.set_xlim(min(settings), max(settings))
    axes.set_xlabel("coefficient of the cell at the last token")
    axes.set_ylabel("probability")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def heat_maps(panels, rows, label, bold=(), xlabel="layer", percent=True):
    """Maps over (row, layer) side by side, one scale of darkness for all.

    panels: {title: (rows, layers) array}, NaN where nothing was measured. rows: names of the rows;
    bold: those to point out. label: what darkness means.
    """
    _some(panels)
    wide = 1.6 + 2.0 * len(panels)
    figure, all_axes = plt.subplots(
        1, len(panels), figsize=(wide, 0.26 * len(rows) + 1.4), layout="constrained", squeeze=False
    )
    plt.close(figure)
    scale = 100 if percent else 1
    low = min([0.0, *(scale * float(np.nanmin(x)) for x in panels.values())])
    high = max(scale * float(np.nanmax(x)) for x in panels.values())
    for axes, (title, values) in zip(all_axes[0], panels.items(), strict=True):
        picture = axes.imshow(
            scale * np.asarray(values), cmap="Oranges", vmin=low, vmax=high, aspect="auto"
        )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(xlabel)
        layers = np.asarray(values).shape[1]
        axes.set_xticks(range(0, layers, 1 if layers <= 12 else max(1, layers // 6)))
        axes.set_yticks(range(len(rows)), rows if axes is all_axes[0, 0] else [""] * len(rows))
        axes.tick_params(length=0)
    for name, text in zip(rows, all_axes[0, 0].get_yticklabels(), strict=True):
        if name in bold:
            text.set_weight("bold")
    figure.colorbar(picture, ax=list(all_axes[0]), label=label, shrink=0.9)
    return figure


def cloud(x, y, groups, xlabel, ylabel, names):
    """Points (x, y), with one mark and colour for each group number; names: {group: its name}.

    Points of a group without a name are drawn small and grey.
    """
    figure, axes = _figure(6.4, 3.8)
    x, y, groups = map(np.asarray, (x, y, groups))
    rest = ~np.isin(groups, list(names))
    axes.plot(x[rest], y[rest], ".", color=SOFT, markersize=3, alpha=0.6)
    for (group, name), (marker, colour) in _styled(names.items(), zip(MARKS, COLOURS, strict=True)):
        chosen = groups == group
        axes.plot(x[chosen], y[chosen], marker, color=colour, label=name, markersize=5, alpha=0.75)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False)
    return figure


def clouds(points, xlabel, ylabel):
    """One panel a name, with common axes: {name: (x, y)}; the others' points in grey behind."""
    _some(points)
    down, across = -(-len(points) // 3), min(3, len(points))
    figure, panels = plt.subplots(
        down, across, figsize=(0.8 + 2.4 * across, 0.6 + 2.2 * down), sharex=True, sharey=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    plt.close(figure)
    styles = zip(MARKS, COLOURS, strict=True)
    for axes, (name, (mark, colour)) in zip(
        panels.flat[: len(points)], _styled(points, styles), strict=True
    ):
        for x, y in points.values():
            axes.plot(x, y, ".", color=SOFT, markersize=3, alpha=0.5)
        axes.plot(*points[name], mark, color=colour, markersize=6, alpha=0.75)
        axes.set_title(name, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels.flat[len(points) :]:
        axes.set_visible(False)
    figure.supxlabel(xlabel, fontsize=10)
    figure.supylabel(ylabel, fontsize=10)
    return figure


DASHES = ("-", "--", "-.", ":", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
COLOURS = (VALUES, KEYS, C0, RESIDUAL, INK, SOFT)
MARKS = "osv^DP"


def log_curves(lines, xlabel, ylabel):
    """Falling numbers on a logarithmic scale: {name: (x, y)}."""
    figure, axes = _figure()
    styles = zip(DASHES, COLOURS, strict=True)
    for (name, (x, y)), (dash, colour) in _styled(lines.items(), styles):
        y = np.maximum(np.asarray(y, dtype=float), 1e-30)
        axes.plot(x, y, linestyle=dash, color=colour, linewidth=1.8, label=name)
    axes.set_yscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False)
    return figure


def bands(lines, xlabel, ylabel, mark=None):
    """Lines with intervals, each over its own x, logarithmic: {name: (x, [(mean, low, high)])}.

    mark: (x, text), a vertical line with its name.
    """
    figure, axes = _figure(6.8, 3.8)
    marks = ("o", "s", "^", "", "D", "x")
    styles = zip(DASHES, COLOURS, marks, strict=True)
    for (name, (x, y)), (dash, colour, point) in _styled(lines.items(), styles):
        middle, low, high = zip(*y, strict=True)
        axes.plot(x, middle, linestyle=dash, marker=point, color=colour, label=name, markersize=5)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    if mark is not None:
        axes.axvline(mark[0], color=SOFT, linewidth=1, linestyle=":")
        axes.annotate(mark[1], (mark[0], 0), (3, 4), xycoords=("data", "axes fraction"),
                      textcoords="offset points", color=INK)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False)
    return figure


def lost_points(lost):
    """Which question failed most: the mean share of its points that a class lost.

    lost: {question: [share lost by each student]}, drawn with the hardest question on top.
    """
    mean = {name: float(np.mean(shares)) for name, shares in lost.items()}
    names = sorted(mean, key=mean.get, reverse=True)
    figure, axes = _figure(6.8, 1.2 + 0.4 * len(names))
    axes.barh(range(len(names)), [100 * mean[name] for name in names], 0.6, color=VALUES)
    for y, name in enumerate(names):
        axes.annotate(
            f"{mean[name]:.0%}", (100 * mean[name], y), (4, 0), va="center",
            textcoords="offset points", color=INK,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 108)
    students = max(map(len, lost.values()), default=0)
    axes.set_xlabel(f"points lost, in percent (mean of {students} submissions)")
    return figure


def roc(detectors):
    """How often each detector is right about a positive, for every rate of false alarms.

    detectors: {name: (scores of positives, scores of negatives)}, large scores meaning positive.
    """
    from sklearn.metrics import roc_curve

    figure, axes = _figure(5.6, 4.4)
    styles = zip(DASHES, COLOURS, strict=True)
    for (name, (positive, negative)), (dash, colour) in _styled(detectors.items(), styles):
        truth = [1] * len(positive) + [0] * len(negative)
        alarms, hits, _ = roc_curve(truth, [*positive, *negative])
        axes.plot(100 * alarms, 100 * hits, linestyle=dash, color=colour, linewidth=1.8, label=name)
    axes.plot([0, 100], [0, 100], color=SOFT, linewidth=0.8, zorder=0)
    axes.set_xlabel("untouched facts that are called edited (percent)")
    axes.set_ylabel("edited facts that are found (percent)")
    axes.set(xlim=(-2, 102), ylim=(-2, 102), aspect="equal")
    axes.legend(frameon=False, loc="lower right")
    return figure


def by_size(rows, labels, measures, mark=None, xlabel="facts in the batch"):
    """One panel a measure against the number of facts, one line a label; bands are intervals.

    rows: records of a sweep (medit_teach.study.experiments). labels: {label of the records: its
    name in the legend}. measures: {field of the records: (label of its axis, logarithmic)}.
    mark: (size, text), a vertical line with its name.
    """
    _some(measures)
    down, across = -(-len(measures) // 2), min(2, len(measures))
    figure, panels = plt.subplots(
        down, across, figsize=(3.7 * across, 0.6 + 2.5 * down), sharex=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    plt.close(figure)
    styles = zip(COLOURS, DASHES, "os^D*x", strict=True)
    for (label, name), (colour, dash, point) in _styled(labels.items(), styles):
        for axes, field in zip(panels.flat[: len(measures)], measures, strict=True):
            mine = [r for r in rows if r["label"] == label and r.get(field) is not None]
            mine.sort(key=lambda r: r["size"])
            x = [r["size"] for r in mine]
            y = [r[field] if isinstance(r[field], list) else [r[field]] * 3 for r in mine]
            middle, low, high = zip(*y, strict=True) if y else ((), (), ())
            axes.plot(x, middle, linestyle=dash, marker=point, color=colour, markersize=5,
                      linewidth=1.6, label=name)  # fmt: skip
            axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
    sizes = {r["size"] for r in rows if r["label"] in labels}
    ticks = sorted(sizes if len(sizes) < 6 else sizes & {4**i for i in range(9)})
    titles = measures.values()
    for axes, (title, logarithmic) in zip(panels.flat[: len(titles)], titles, strict=True):
        axes.set_ylabel(title)
        axes.set_yscale("log" if logarithmic else "linear")
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        if mark:
            axes.axvline(mark[0], color=SOFT, linewidth=1, zorder=0)
            axes.annotate(mark[1], (mark[0], 1), (-2, 3), xycoords=("data", "axes fraction"),
                          textcoords="offset points", ha="right", color=INK,
                          fontsize=8)  # fmt: skip
    for axes in panels[-1]:
        axes.set_xlabel(xlabel)
    for axes in panels.flat[len(measures) :]:
        axes.set_visible(False)
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def price_lists(used, prices):
    """What a method charges for each direction, over how much old keys use it; both logarithmic.

    used: eigenvalues of C0, ascending. prices: {method: (d,) prices}; an infinite one is a wall.
    """
    figure, axes = _figure(6.4, 3.8)
    _some(prices)
    used = np.asarray(used, dtype=float)
    everything = np.concatenate([np.asarray(p, dtype=float) for p in prices.values()])
    top = 3 * everything[np.isfinite(everything)].max()
    styles = zip(DASHES, COLOURS, strict=True)
    for (name, price), (dash, colour) in _styled(prices.items(), styles):
        price = np.asarray(price, dtype=float)
        open_ = np.isfinite(price)
        x, y = used[open_], price[open_]
        if not open_.all():
            x, y = np.append(x, x[-1]), np.append(y, top)
        axes.plot(x, y, linestyle=dash, color=colour, linewidth=2, label=name)
    axes.plot(used, np.full(len(used), 0.02), "|", color=SOFT, markersize=6, clip_on=False,
              transform=axes.get_xaxis_transform())  # fmt: skip
    axes.set(xscale="log", yscale="log")
    axes.set_ylim(top=top)
    axes.set_xlabel("eigenvalue of $C_0$: mean square of old keys in this direction")
    axes.set_ylabel("price of a unit of |Δq|²")
    axes.legend(frameon=False)
    return figure


def solvers(curves, points, relatives):
    """The plane of the two losses: dials as curves, single solvers as marks.

    curves: {name: [(price, share left), ...]}. points and relatives: {name: (price, share left)};
    points are written at the bottom edge, relatives are diamonds.
    """
    figure, axes = _figure(6.8, 4.6)
    styles = zip((VALUES, INK, KEYS, C0), ("-", ":", "--", "-."), strict=True)
    for (name, dial), (colour, dash) in _styled(curves.items(), styles):
        price, left = zip(*dial, strict=True)
        axes.plot(price, left, linestyle=dash, color=colour, linewidth=2, label=name)
    marks = zip("osv^P", (VALUES, INK, KEYS, C0, SOFT), strict=True)
    for (name, (price, left)), (mark, colour) in _styled(points.items(), marks):
        axes.plot(price, left, mark, color=colour, markersize=9, markeredgecolor=INK, label=name,
                  clip_on=False, zorder=4, linestyle="none")  # fmt: skip
    for name, (price, left) in relatives.items():
        outer = price == max(x for x, _ in relatives.values())
        axes.plot(price, left, "D", color=RESIDUAL, markersize=8, markeredgecolor=INK, zorder=5)
        axes.annotate(name, (price, left), (9 if outer else -9, -3), textcoords="offset points",
                      color=RESIDUAL, weight="bold", ha="left" if outer else "right")  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(-0.015, 1.03)
    axes.set_xlabel("preservation: mean squared change of a kept value")
    axes.set_ylabel("memorization: share of |R|² left")
    axes.legend(frameon=False, fontsize=9)
    return figure


def outcomes(table, kinds):
    """What a model says to each kind of question: one panel a method, one bar a kind, 100% wide.

    table: {method: {kind: (percent new answer, percent old answer)}}, the rest is something else;
    kinds: {kind: its name}, the first on top. None or missing: nothing was asked.
    """
    _some(table)
    figure, panels = plt.subplots(
        1, len(table), figsize=(1.6 + 1.75 * len(table), 0.9 + 0.42 * len(kinds)), sharey=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    plt.close(figure)
    for axes, (title, found) in zip(panels[0], table.items(), strict=True):
        for y, kind in enumerate(kinds):
            if found.get(kind) is None:
                continue
            new, old = found[kind]
            axes.barh(y, new, 0.68, color=VALUES, label="the new answer")
            axes.barh(y, old, 0.68, left=new, color=SOFT, hatch="///", edgecolor="white",
                      label="the old answer")  # fmt: skip
            axes.barh(y, 100 - new - old, 0.68, left=new + old, color="white", edgecolor=SOFT,
                      label="something else")  # fmt: skip
        axes.set_title(title, fontsize=10)
        axes.set_xlim(0, 100)
        axes.set_xticks([0, 50, 100])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0, 0].set_yticks(range(len(kinds)), list(kinds.values()))
    panels[0, 0].set_ylim(len(kinds) - 0.5, -0.5)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles[:3], labels[:3], loc="outside upper center", ncols=3, frameon=False)
    figure.supxlabel("percent of the questions", fontsize=10)
    return figure


def by_category(table, names, xlabel="percent (line: 95% interval)"):
    """Categories as rows, one panel a score, one mark a method.

    table: {method: {category: {score: (value, low, high)}}}; names: the scores, one panel each.
    Methods differ in mark and colour; a category that a method lacks has no mark.
    """
    _some(table), _some(names)
    rows = list(dict.fromkeys(c for found in table.values() for c in found))
    figure, panels = plt.subplots(
        1, len(names), figsize=(1.4 + 2.6 * len(names), 1.5 + 0.42 * len(rows)), sharey=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    plt.close(figure)
    for axes, name in zip(panels[0], names, strict=True):
        styles = zip(MARKS, COLOURS, strict=True)
        for m, ((method, found), (mark, colour)) in enumerate(_styled(table.items(), styles)):
            shift = 0.13 * (m - (len(table) - 1) / 2)
            label = method
            for y, category in enumerate(rows):
                if category in found and found[category].get(name) is not None:
                    mid, low, high = found[category][name]
                    axes.plot([low, high], [y + shift] * 2, color=colour, linewidth=1.4)
                    axes.plot(mid, y + shift, mark, color=colour, markersize=5.5, label=label)
                    label = None
        axes.set_title(name, fontsize=10)
        axes.grid(axis="x", color=SOFT, alpha=0.3, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0, 0].set_yticks(range(len(rows)), rows)
    panels[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
    figure.supxlabel(xlabel, fontsize=10)
    return figure


def stacked(rows, xlabel, marks=()):
    """Bars made of parts, one a row, the first on top: {name of the row: {part: length}}.

    marks: [(x, text)], vertical lines with their names.
    """
    figure, axes = _figure(7.0, 1.2 + 0.5 * len(rows))
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    hatches = ("", "//", "..", "\\\\", "xx", "++")
    for part, (colour, hatch) in _styled(parts, zip(COLOURS, hatches, strict=True)):
        start = [sum(x for p, x in row.items() if parts.index(p) < parts.index(part))
                 for row in rows.values()]  # fmt: skip
        axes.barh(list(rows), [row.get(part, 0) for row in rows.values()], left=start, height=0.6,
                  color=colour, hatch=hatch, edgecolor="white", label=part)  # fmt: skip
    for x, text in marks:
        axes.axvline(x, color=INK, linewidth=1.2, linestyle="--")
        axes.annotate(text, (x, 1), (3, 2), xycoords=("data", "axes fraction"),
                      textcoords="offset points", color=INK, fontsize=9)  # fmt: skip
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    axes.legend(frameon=False, ncols=len(parts), loc="upper center", bbox_to_anchor=(0.45, -0.22),
                fontsize=9)  # fmt: skip
    return figure
