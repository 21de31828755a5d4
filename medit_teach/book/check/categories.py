"""Checks of the exercises on categories and mixes: gaps, intervals on differences, ranks, S."""

import numpy as np

from .core import Wrong, call, exercise


def _scores(rng, n, mean, spread=15.0):
    return np.clip(rng.normal(mean, spread, n), 0, 100)


@exercise
def gap(function):
    """function(mix, a, b): mean of the mix minus the mean of the two pure runs' means."""
    rng = np.random.default_rng(0)
    for sizes in ((40, 40, 40), (40, 10, 90), (3, 5, 7)):
        mix, a, b = (_scores(rng, n, m) for n, m in zip(sizes, (70, 90, 60), strict=True))
        try:
            got = float(call(function, mix, a, b))
        except (TypeError, ValueError):
            raise Wrong("a gap is one number") from None
        true = float(mix.mean() - (a.mean() + b.mean()) / 2)
        pooled = float(mix.mean() - np.concatenate([a, b]).mean())
        if abs(got + true) < 1e-9 and abs(true) > 1e-6:
            raise Wrong("your sign is turned: a mix better than average has a gap above 0")
        if abs(got - pooled) < 1e-9 and abs(pooled - true) > 1e-6:
            raise Wrong(
                f"with {len(a)} and {len(b)} facts scored, you average over facts; the two "
                "relations should count alike"
            )
        if abs(got - true) > 1e-9:
            raise Wrong(f"the means are {mix.mean():.2f}, {a.mean():.2f}, {b.mean():.2f}; you say "
                        f"{got:.2f}")  # fmt: skip
    return "a positive gap means that mixing helped"


@exercise
def categories_interval(function):
    """function(mix, a, b): (low, high), a 95% bootstrap interval of the gap."""
    rng = np.random.default_rng(1)
    for shift, n in ((0.0, 400), (8.0, 400), (0.0, 60)):
        mix, a, b = _scores(rng, n, 60 + shift), _scores(rng, n, 70), _scores(rng, n, 50)
        try:
            low, high = map(float, call(function, mix, a, b))
        except (TypeError, ValueError):
            raise Wrong("return two numbers, low and high") from None
        centre = mix.mean() - (a.mean() + b.mean()) / 2
        error = (mix.var() / n + (a.var() + b.var()) / (4 * n)) ** 0.5
        if low > high:
            raise Wrong("your low end lies above your high end")
        if not low < centre < high:
            raise Wrong(
                f"the gap is {centre:.2f}, your interval is {low:.2f} to {high:.2f}: draw each of "
                "the three lists again, and compute the gap of the drawn lists"
            )
        width = (high - low) / (2 * 1.96 * error)
        if not 0.8 < width < 1.25:
            much = "narrow" if width < 1 else "wide"
            raise Wrong(
                f"your interval is {width:.1f} times as wide as the scatter of {n} facts makes it: "
                f"too {much}. How many values do you draw, and which quantiles do you take?"
            )
    return "an interval on the difference, not a difference of intervals"


interval = categories_interval  # as the chapter calls it


@exercise
def harmonic_of_mix(function):
    """function(a, b): S of an ideal mix, when a and b are (ES, PS, NS) of the two pure runs."""
    for a, b in (((100, 100, 50), (100, 100, 90)), ((90, 80, 70), (90, 80, 70)),
                 ((100, 100, 10), (10, 100, 100))):  # fmt: skip
        got = float(call(function, a, b))
        middle = [(x + y) / 2 for x, y in zip(a, b, strict=True)]
        true = 3 / sum(1 / x for x in middle)
        naive = sum(3 / sum(1 / x for x in s) for s in (a, b)) / 2
        if abs(got - naive) < 1e-6 and abs(naive - true) > 1e-6:
            raise Wrong(
                f"{got:.1f} is the mean of the two S. But ES, PS and NS average over facts, and S "
                "does not"
            )
        if abs(got - true) > 1e-6:
            raise Wrong(f"for {a} and {b} you say {got:.1f}; what are ES, PS and NS of the mix?")
    return "the three scores of an ideal mix are averages; its S is not"


@exercise
def ranks(function):
    """function(x, y): Spearman's rank correlation of two lists without ties."""
    rng = np.random.default_rng(2)
    for n in (4, 9, 30):
        x = rng.normal(size=n)
        for y in (x, -x, np.exp(3 * x), rng.normal(size=n)):
            got = float(call(function, x, y))
            a, b = (np.argsort(np.argsort(v)) for v in (x, y))
            true = float(np.corrcoef(a, b)[0, 1])
            plain = float(np.corrcoef(x, y)[0, 1])
            if abs(got - plain) < 1e-9 and abs(plain - true) > 1e-6:
                raise Wrong(
                    f"{got:.2f} is the correlation of the values; a curve that only rises should "
                    "have 1, however bent it is"
                )
            if abs(got - true) > 1e-9:
                raise Wrong(f"for {n} pairs you say {got:.3f}; rank both lists by hand")
    return "it asks whether the order agrees, and nothing else"
