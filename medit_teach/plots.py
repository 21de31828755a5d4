"""Figures: data in, matplotlib Figure out. One colour means one thing in the whole book."""

import matplotlib.pyplot as plt

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
