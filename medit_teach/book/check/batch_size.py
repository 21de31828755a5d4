"""Checks of the exercises on batch sizes: capacity, intervals on differences, the wall."""

from itertools import pairwise

import numpy as np
import torch

from ... import objective as _objective
from .core import Wrong, as_update, call, distance, exercise, judge
from .emmet import _number
from .objective import _misses, _problem


@exercise
def batch_effective(function):
    """function(K, C0, lam): the sum over the facts of the own share that MEMIT writes."""
    for d_in, E, lam in ((9, 4, 3.0), (6, 15, 0.5), (8, 3, 1e-9)):
        _, K, C0 = _problem(E, d_in, E)
        own = _objective.memit(torch.eye(E, dtype=torch.float64), K, C0, lam).delta @ K
        want = float(own.trace())
        got = _number(call(function, K, C0, lam), "the number of facts written")
        if abs(got - want) < 1e-6 * want:
            continue
        if abs(got - want / E) < 1e-6 * want:
            raise Wrong("that is the mean share; asked is the sum over the facts")
        if got > min(d_in, E) + 1e-6:
            raise Wrong(
                f"{got:.3g} facts cannot be written: there are {E}, and {d_in} directions for them"
            )
        raise Wrong(
            f"{E} facts in {d_in} dimensions, lam = {lam:g}: the own shares that a real update "
            f"writes add up to {want:.4g}, you say {got:.4g}"
        )
    return "as many as an update really writes, and never more than there are directions"


@exercise
def batch_interval(function):
    """function(a, b): (mean, low, high) of a - b, 95%, facts drawn again in pairs."""
    rng = np.random.default_rng(0)
    for n, noise in ((200, 2.0), (60, 5.0)):
        hard = rng.normal(80, 15, n)  # some facts are easy, for both methods
        a, b = hard + rng.normal(0, noise, n) + 1, hard + rng.normal(0, noise, n)
        answer = call(function, a, b)
        try:
            mean, low, high = (float(x) for x in answer)
        except (TypeError, ValueError):
            raise Wrong("the answer is three numbers: mean, low, high") from None
        if abs(mean + float((a - b).mean())) < 1e-9:
            raise Wrong("the sign is the other way round: a - b")
        if abs(mean - float((a - b).mean())) > 1e-6:
            raise Wrong(f"the mean difference is {(a - b).mean():.3f}, yours is {mean:.3f}")
        if not low < mean < high:
            raise Wrong("the mean lies inside its interval, low < mean < high")
        width = high - low
        paired = 2 * 1.96 * float((a - b).std(ddof=1)) / n**0.5
        alone = 2 * 1.96 * float((a.var(ddof=1) + b.var(ddof=1)) ** 0.5) / n**0.5
        if abs(width / (paired * n**0.5) - 1) < 0.25:
            raise Wrong("that is where single facts lie; asked is where their mean may lie")
        if width > 0.6 * alone and alone > 2 * paired:
            raise Wrong(
                f"your interval is {width:.2f} wide. The facts differ much more from each other "
                "than the two methods do: draw whole facts, the same ones for a and for b"
            )
        if not 0.75 < width / paired < 1.3:
            raise Wrong(
                f"your interval is {width:.3f} wide; over many data sets of this kind the mean "
                f"difference moves within {paired:.3f} in 95 of 100"
            )
    return "the interval is as wide as the difference is uncertain"


@exercise
def batch_break(function):
    """function(sizes, values, bar): the first size whose whole interval lies below bar."""
    sizes = [1, 4, 16, 64, 256]
    cases = {
        "an interval that straddles the bar is no break": (
            [(99, 98, 100), (97, 95, 99), (94, 90, 97), (80, 76, 84), (20, 15, 25)], 95, 64,
        ),
        "the first size may be the one": ([(50, 40, 60)] * 5, 95, 1),
        "a later recovery does not take it back": (
            [(99, 98, 100), (70, 60, 80), (99, 98, 100), (99, 98, 100), (98, 97, 99)], 95, 4,
        ),
        "where nothing breaks the answer is None": ([(99, 98, 100)] * 5, 95, None),
    }  # fmt: skip
    for name, (values, bar, want) in cases.items():
        try:
            got = function(sizes, values, bar)
        except Exception as error:
            raise Wrong(f"your function stops with {type(error).__name__}: {error}") from error
        if got is ...:
            call(function, sizes, values, bar)  # no answer yet
        if got != want:
            raise Wrong(f"{name}; for {values} and the bar {bar} you say {got}")
    return "every break is found, and no doubtful one"


@exercise
def batch_ridge(function):
    """function(K, C0, condition): the least ridge with cond(G + ridge I) <= condition."""
    for d_in, E, condition in ((9, 6, 4.0), (5, 12, 100.0), (9, 3, 1e6)):
        _, K, C0 = _problem(3, d_in, E)
        G = K.T @ torch.linalg.solve(C0, K)
        ridge = _number(call(function, K, C0, condition), "a ridge")
        if not 0 <= ridge < float("inf"):
            raise Wrong(f"a ridge is not negative, yours is {ridge:g}")
        values = torch.linalg.eigvalsh((G + G.T) / 2)
        low, high = (0.0 if E > d_in else float(values[0])), float(values[-1])
        if high / max(low, 1e-300) <= condition:
            if ridge > 0:
                raise Wrong(
                    f"G has the condition number {high / low:.1f} by itself, {condition:g} is "
                    f"allowed: no ridge is needed, yours is {ridge:g}"
                )
            continue
        got = (high + ridge) / (low + ridge) if low + ridge > 0 else float("inf")
        if abs(got / condition - 1) > 1e-6:
            how = "too small" if got > condition else "larger than needed"
            raise Wrong(
                f"{E} facts in {d_in} dimensions: with your ridge {ridge:.4g} the condition "
                f"number is {got:.4g}, asked is {condition:g}; the ridge is {how}"
            )
    return "the system is exactly as well conditioned as was asked"


@exercise
def batch_wall(function):
    """function(R, K): what MEMIT tends to as lam goes to 0, with more facts than dimensions."""
    for d_out, d_in, E in ((3, 5, 12), (4, 6, 7)):
        R, K, C0 = _problem(d_out, d_in, E)
        update = as_update(call(function, R, K), d_out, d_in)
        limit = _objective.memit(R, K, C0, 1e-9).delta
        if distance(update, limit) < 1e-6:
            continue
        left, least = _misses(update, R, K), _misses(limit, R, K)
        if left > least * (1 + 1e-9):
            raise Wrong(
                f"your update leaves {left:.1%} of the residual; the limit leaves {least:.1%}, "
                "and no update leaves less"
            )
        raise Wrong(f"your update differs from MEMIT with lam = 1e-9 by {distance(update, limit)}")
    return "beyond the wall only the new facts count"


def _cases():
    """{sentence: function that runs it and returns (is it so, what was seen)}."""

    def cond(K, C0, ridge=0.0):
        G = K.T @ torch.linalg.solve(C0, K)
        values = torch.linalg.eigvalsh((G + G.T) / 2)
        return float((values[-1] + ridge) / (values[0] + ridge))

    def worse():
        _, K, C0 = _problem(3, 20, 15)
        found = [cond(K[:, :n], C0) for n in range(1, 16)]
        seen = f"condition numbers for 1, 5, 10, 15 facts: {found[0]:.1f}, {found[4]:.1f}, "
        seen += f"{found[9]:.1f}, {found[14]:.1f}"
        return all(b >= a * (1 - 1e-9) for a, b in pairwise(found)), seen

    def exact():
        R, K, C0 = _problem(3, 20, 18)
        left = _misses(_objective.emmet(R, K, C0).delta, R, K)
        return left < 1e-9, f"18 facts in 20 dimensions: {left:.0e} of the residual is left"

    def beyond():
        R, K, C0 = _problem(3, 8, 20)
        least = _objective.least_ridge(K, _objective.factor(C0))
        left = _misses(_objective.emmet(R, K, C0, least).delta, R, K)
        return left < 1e-6, f"20 facts in 8 dimensions: {left:.0%} of the residual is left"

    def cancels():
        R, K, C0 = _problem(3, 8, 20)
        other = torch.eye(8, dtype=torch.float64)
        one, two = (_objective.memit(R, K, C, 1e-9).delta for C in (C0, other))
        return distance(one, two) < 1e-6, f"with C0 and with I: they differ by {distance(one, two)}"

    def half():
        _, K, C0 = _problem(3, 30, 24)
        eye = torch.eye(24, dtype=torch.float64)

        def written(n):
            part = _objective.memit(eye[:n, :n], K[:, :n], C0, 5.0).delta @ K[:, :n]
            return float(part.trace())

        few, many = written(12), written(24)
        return abs(many / few - 2) < 0.02, f"12 facts: {few:.1f} written, 24 facts: {many:.1f}"

    return {
        "a further fact never lowers the condition number of G": worse,
        "with fewer facts than dimensions, equality leaves nothing unwritten": exact,
        "with more facts than dimensions, the least ridge still writes all of them": beyond,
        "with more facts than dimensions and lam near 0, C0 does not matter": cancels,
        "with a fixed lam, twice the facts means twice as much is written": half,
    }


@exercise
def batch_referee(verdicts):
    """verdicts: {sentence: True or False}. Runs each sentence."""
    return judge(verdicts, _cases())
