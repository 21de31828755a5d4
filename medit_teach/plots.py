"""Figures: data in, matplotlib Figure out. One colour means one thing in the whole book."""

import matplotlib.pyplot as plt
import numpy as np

KEYS, VALUES, RESIDUAL, C0 = "#0072B2", "#D55E00", "#CC79A7", "#009E73"
INK, SOFT = "#22272E", "#8A929C"


def _figure(width=6.4, height=4.0):
    """A Figure and its Axes; closed, so that a notebook shows it once, where it is returned."""
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    plt.close(figure)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


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
    figure, axes = plt.subplots(
        1, len(panels), figsize=(7.6, 2.3), sharex=True, layout="constrained", squeeze=False
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
        axis.set_xlim(0, 1)
        axis.set_xticks([0, 0.5, 1])
        axis.set_title(title, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][len(panels) // 2].set_xlabel("probability")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure


def plane(K0, k, directions):
    """Two-dimensional old keys K0 (2, N), a new key k (2,), and directions [(name, u (2,)), ...].

    One panel a direction: the arrows k and u, the line of keys that an update along u leaves
    alone, and each old key shaded by the share of the residual that it receives.
    """
    figure, panels = plt.subplots(
        1, len(directions), figsize=(3.6 * len(directions), 3.7), layout="constrained",
        sharex=True, sharey=True,
    )  # fmt: skip
    plt.close(figure)
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
    for s, (name, values) in enumerate(series.items()):
        mark, colour = marks[s % len(marks)]
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


def curves(x, lines, xlabel, ylabel, log=False, ylim=None, mark=None):
    """Lines with intervals over x: {name: [(mean, low, high), ...]}; None where nothing is known.

    mark: a value of x to point out. log: logarithmic x.
    """
    figure, axes = _figure()
    styles = (("o", "-", VALUES), ("s", "--", KEYS), ("^", ":", C0), ("D", "-.", RESIDUAL))
    for (name, points), (marker, style, colour) in zip(lines.items(), styles, strict=False):
        known = [(at, *p) for at, p in zip(x, points, strict=True) if p[0] is not None]
        if known:
            at, middle, low, high = map(np.array, zip(*known, strict=True))
            axes.plot(at, middle, style, marker=marker, color=colour, label=name, markersize=5)
            axes.fill_between(at, low, high, color=colour, alpha=0.13, linewidth=0)
    if mark is not None:
        axes.axvline(mark, color=SOFT, linewidth=1, linestyle=":")
    if log:
        axes.set_xscale("log")
    elif all(float(at).is_integer() for at in x):
        axes.set_xticks(list(x))
    if ylim:
        axes.set_ylim(*ylim)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False)
    return figure


def blow_up(echoes):
    """The factor 1/echo by which an update grows, as a curve, with a point for each fact.

    echoes: {name of a group: its values}.
    """
    figure, axes = _figure(6.4, 3.6)
    lowest = min(0.2, *(float(min(x)) for x in echoes.values()))
    at = np.linspace(max(lowest, 0.02) * 0.9, 1.5, 300)
    axes.plot(at, 1 / at, color=INK, linewidth=1.2, zorder=1)
    styles = (("o", VALUES), ("x", KEYS), ("^", C0))
    for (name, x), (marker, colour) in zip(echoes.items(), styles, strict=False):
        x = np.asarray(x)
        axes.plot(x, 1 / x, marker, color=colour, label=name, markersize=6, alpha=0.75)
    axes.axhline(1, color=SOFT, linewidth=0.8, linestyle=":")
    axes.set_xlabel("echo of the bare prompt's key (1: the same as the mean key)")
    axes.set_ylabel("length of the update,\nasymmetric / symmetric")
    axes.legend(frameon=False)
    return figure


def dial(lam, lams, preserved, missed, scores):
    """One frame of a dial: where lam stands on the trade-off, and what it does to the scores.

    lams: all values of the dial, with preserved and missed (share of the residual left) at each;
    scores: {name: [percent at each lam]}; lam: the one that this frame is about.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.1), layout="constrained")
    plt.close(figure)
    now = list(lams).index(lam)
    left.plot(preserved, missed, color=INK, linewidth=1.5, marker=".", markersize=4)
    left.plot(preserved[now], missed[now], "o", color=VALUES, markersize=11, markeredgecolor=INK)
    left.set_xlabel("mean squared change of a kept value")
    left.set_ylabel("share of the residual left")
    left.set_xlim(left=0)
    left.set_ylim(-0.03, 1.05)
    styles = (("o", "-", VALUES), ("s", "--", KEYS), ("^", ":", C0))
    for (name, values), (marker, style, colour) in zip(scores.items(), styles, strict=False):
        right.plot(lams, values, style, color=colour, linewidth=1.3, label=name)
        if values[now] is not None:
            right.plot(lam, values[now], marker, color=colour, markersize=9, markeredgecolor=INK)
    right.axvline(lam, color=SOFT, linewidth=1, zorder=0)
    right.set_xscale("log")
    right.set_ylim(-4, 104)
    right.set_xlabel("λ")
    right.set_ylabel("score in percent")
    right.legend(frameon=False, loc="lower left")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


STYLES = (("o", "-", VALUES), ("s", "--", KEYS), ("^", "-.", C0), ("D", ":", RESIDUAL))


def percent_curves(x, series, xlabel, mark=None):
    """Percentages with their intervals over x; lines differ in dashes and marks, not colour alone.

    series: {name: [(value, low, high) at each x]}. mark: (x, text), a vertical line with its name.
    """
    figure, axes = _figure()
    for (name, values), (marker, line, colour) in zip(series.items(), STYLES, strict=False):
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


def census(rows, xlabel="right answers in percent"):
    """Two marks a row, open before and full after, each with its interval.

    rows: [(name, (value, low, high) before, (value, low, high) after)], the first on top.
    """
    figure, axes = _figure(6.8, 0.9 + 0.5 * len(rows))
    for y, (_, *pair) in enumerate(rows):
        both = (("before", SOFT, "white", -0.13), ("after", VALUES, VALUES, 0.13))
        for (mid, low, high), (label, colour, fill, shift) in zip(pair, both, strict=True):
            axes.plot([low, high], [y + shift] * 2, color=colour, linewidth=2)
            axes.plot(mid, y + shift, "o", color=colour, markerfacecolor=fill, markersize=7,
                      label=label if y == 0 else None)  # fmt: skip
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-3, 103)
    axes.set_xlabel(f"{xlabel} (line: 95% interval)")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=2)
    return figure


def side_by_side(table, names):
    """Methods as rows, one panel a measure, a mark with its interval in each.

    table: {method: {measure: (value, low, high) or None}}, percent; names: the measures, in order.
    """
    figure, panels = plt.subplots(1, len(names), figsize=(1.75 * len(names) + 1.6, 3.0),
                                  sharey=True, layout="constrained")  # fmt: skip
    plt.close(figure)
    colours = (C0, VALUES, C0, KEYS)
    for axes, name, colour in zip(panels, names, colours * 2, strict=False):
        for y, values in enumerate(table.values()):
            if values.get(name) is not None:
                mid, low, high = values[name]
                axes.plot([low, high], [y, y], color=colour, linewidth=2)
                axes.plot(mid, y, "o", color=colour, markersize=7)
        axes.set_title(name, fontsize=10)
        axes.set_xlim(-6, 106)
        axes.set_xticks([0, 50, 100])
        axes.grid(axis="x", color=SOFT, alpha=0.3, linewidth=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(table)), list(table))
    panels[0].set_ylim(len(table) - 0.5, -0.5)
    figure.supxlabel("percent (line: 95% interval)", fontsize=10)
    return figure


def novelty(share, d_in):
    """What is new in each further key of a batch (share of its squared length), in order.

    share: list of numbers in [0, 1]; d_in: dimensions of a key, where nothing can be new any more.
    """
    figure, axes = _figure(height=3.6)
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
    for shade, (n, values) in enumerate(spectra.items()):
        values = sorted(values, reverse=True)
        rank = [(i + 0.5) / n for i in range(n)]
        dark = 0.35 + 0.65 * (shade + 1) / len(spectra)
        axes.plot(rank, values, color=KEYS, alpha=dark, linewidth=1.2 + 0.5 * shade)
        axes.annotate(
            f"E = {n}",
            (rank[-1], values[-1]),
            (4, 0),
            textcoords="offset points",
            color=KEYS,
            va="center",
            annotation_clip=False,
        )
    for ridge in ridges:
        axes.axhline(ridge, color=VALUES, linewidth=1.2, linestyle="--")
        axes.annotate(f"λ = {ridge:g}", (0.01, ridge), (0, 3), textcoords="offset points",
                      color=VALUES)  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlim(0, 1)
    axes.set_xlabel("mixtures of facts, cheapest first (share of the batch)")
    axes.set_ylabel("eigenvalue γ of G")
    other = axes.secondary_yaxis("right", functions=(lambda x: x / d_in, lambda x: x * d_in))
    other.set_ylabel("in units of $d_{in}$")
    return figure


PANELS = {  # score: (label of its axis, logarithmic)
    "S": ("S (%)", False),
    "NM": ("NM, neighbours' margin (points)", False),
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
    size = (6.4, 0.8 + 2.0 * len(scores))
    figure, all_axes = plt.subplots(len(scores), figsize=size, sharex=True, layout="constrained")
    plt.close(figure)
    styles = ((VALUES, "-", "o"), (RESIDUAL, "--", "s"), (KEYS, "-", "D"), (C0, ":", "^"))
    for name, axes in zip(scores, [all_axes] if len(scores) == 1 else all_axes, strict=True):
        for line, (colour, style, mark) in zip(
            dict.fromkeys(r[by] for r in rows), styles, strict=False
        ):
            mine = sorted((r for r in rows if r[by] == line), key=lambda r: r["batch"])
            x = [r["batch"] for r in mine]
            y = [r[name] if isinstance(r[name], list) else [r[name]] for r in mine]
            label = f"{by} {line}" if isinstance(line, str) else f"ridge {line:g}"
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


def arrival(lines, n):
    """What is still missing at the last layer after each edited layer, for several rules.

    lines: (name, shares missing [n + 1] or fewer, colour, style), shares counted from the start.
    n: number of edited layers.
    """
    figure, axes = _figure(height=3.6)
    for name, shares, colour, style in lines:
        axes.plot(range(len(shares)), shares, style, color=colour, linewidth=2, label=name,
                  marker="o", markersize=4)  # fmt: skip
    axes.set_xticks(range(n + 1), ["before", *(f"layer {i + 1}" for i in range(n))])
    axes.set_xlabel("edited so far")
    axes.set_ylabel("share still missing at the last layer")
    axes.set_ylim(0, 1.08)
    axes.legend(frameon=False)
    return figure
