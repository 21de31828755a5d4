"""Checks of the exercises on edit distribution: rules run on layers that deliver what they are told
to, or only a share of it."""

from itertools import pairwise

import torch

from ...distribution import RULES, Step
from .core import Wrong, call, exercise


def _play(rule, n, delivered=1.0, seed=0):
    """What is missing (d_out, E) after each of n layers that deliver a share of what is asked.

    Also the residuals that the rule asked for, and the target.
    """
    generator = torch.Generator().manual_seed(seed)
    target, start = (torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    now, left, asked = start.clone(), [], []
    for index in range(n):
        R = call(rule, Step(target, start, now.clone(), index, n))
        if not isinstance(R, torch.Tensor):
            raise Wrong(f"a rule returns a residual, a tensor; yours returns {type(R).__name__}")
        if R.shape != target.shape:
            raise Wrong(
                f"a residual has the shape of step.target, {tuple(target.shape)}; "
                f"yours has {tuple(R.shape)}"
            )
        if not torch.isfinite(R).all():
            raise Wrong(f"layer {index + 1} of {n}: your residual holds NaN or infinite numbers")
        now = now + delivered * R
        asked.append(R)
        left.append(target - now)
    return left, asked, target - start


def _same(a, b):
    return all(torch.allclose(x, y, rtol=1e-9, atol=1e-12) for x, y in zip(a, b, strict=True))


@exercise
def distribution_own_rule(rule):
    """A rule must get everything written if the layers obey, and be none of the known ones."""
    for n in (1, 2, 3, 5):
        left, _, missing = _play(rule, n)
        written = float(((missing - left[-1]) * missing).sum() / (missing**2).sum())
        if float(left[-1].norm() / missing.norm()) > 1e-9:
            raise Wrong(
                f"with {n} obedient layer{'s' * (n > 1)} your rule writes {written:.0%} of what "
                "is missing, and should write all of it"
            )
    for name, known in RULES.items():
        if all(
            _same(_play(rule, n, c)[1], _play(known, n, c)[1]) for n in (2, 3) for c in (1, 0.5)
        ):
            raise Wrong(f"it works, but it is {name!r} under another name; invent another")
    left, _, missing = _play(rule, 3, 0.5)
    share = float(left[-1].norm() / missing.norm())
    return (
        "obedient layers write everything; of three layers that deliver half of what they are "
        f"asked, it leaves {share:.0%} missing"
    )


@exercise
def distribution_missing(function):
    """function(c, n): the share still missing when `spread` meets layers that deliver c."""
    for c in (1.0, 0.5, 0.8):
        for n in (1, 2, 3, 6):
            left, _, missing = _play(RULES["spread"], n, c)
            share = float(left[-1].norm() / missing.norm())
            got = float(call(function, c, n))
            if abs(got - share) > 1e-9:
                raise Wrong(
                    f"{n} layer{'s' * (n > 1)} that deliver {c:.0%} leave {share:.4g} missing; "
                    f"you say {got:.4g}"
                )
    return "the same as a run of the rule, for every number of layers tried"


@exercise
def distribution_shares(make):
    """make(shares) must return a rule: layer i is asked for shares[i] of the first residual."""
    for shares in ((1.0,), (0.5, 0.5), (0.7, 0.2, 0.1), (0.0, 0.25, 0.75)):
        rule = call(make, list(shares))
        if not callable(rule):
            raise Wrong(
                f"make(shares) returns a rule, a function of a step; not a {type(rule).__name__}"
            )
        for delivered in (1.0, 0.5):
            _, asked, missing = _play(rule, len(shares), delivered)
            for i, (R, share) in enumerate(zip(asked, shares, strict=True)):
                got = float((R * missing).sum() / (missing**2).sum())
                if abs(got - share) > 1e-9 or float((R - share * missing).norm()) > 1e-9:
                    how = "obey" if delivered == 1 else "deliver only half"
                    raise Wrong(
                        f"shares {list(shares)}, layers that {how}: layer {i} is asked for "
                        f"{got:.0%} of what was missing at the start, not {share:.0%}"
                    )
    return "each layer is asked for its share, whatever the others delivered"


@exercise
def distribution_cheapest(function):
    """function(costs) -> shares that sum to 1 with the least sum of cost * share^2."""
    for costs in ((1.0, 1.0, 1.0), (1.0, 4.0), (2.0, 3.0, 6.0), (5.0,)):
        c = torch.tensor(costs, dtype=torch.float64)
        shares = call(function, c)
        try:
            s = torch.as_tensor(shares, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise Wrong("shares are one number a layer") from None
        if s.shape != c.shape:
            raise Wrong(f"{len(costs)} costs need {len(costs)} shares, yours: {tuple(s.shape)}")
        if abs(float(s.sum()) - 1) > 1e-9:
            raise Wrong(f"your shares for the costs {list(costs)} sum to {float(s.sum()):.4g}")
        slope = 2 * c * s
        if float(slope.max() - slope.min()) > 1e-7:
            i, j = int(slope.argmax()), int(slope.argmin())
            raise Wrong(
                f"costs {list(costs)}: moving a little from layer {i} to layer {j} would still "
                "lower the total cost"
            )
    return "no shift from one layer to another lowers the total cost"


@exercise
def distribution_order(names):
    """names: rules from the least to the most missing, three layers that deliver 50%."""
    wanted = ("spread", "last", "root")
    names = [str(name) for name in names]
    if sorted(names) != sorted(wanted):
        raise Wrong(f"order these three names: {', '.join(wanted)}")
    missing = {}
    for name in wanted:
        left, _, first = _play(RULES[name], 3, 0.5)
        missing[name] = float(left[-1].norm() / first.norm())
    for a, b in pairwise(names):
        if missing[a] > missing[b]:
            raise Wrong(f"{a!r} leaves more than {b!r}; go through the three layers with a pencil")
    return ", ".join(f"{name} leaves {missing[name]:.0%}" for name in names)
