"""The checks of the exercises on edit distribution: solutions pass, wrong answers are named."""

from __future__ import annotations

import pytest
import torch

from medit_teach import distribution, objective
from medit_teach.book import check
from tests.helpers import solution_tests, solutions, verdict

RIGHT = solutions("10-distribution", torch=torch, objective=objective)
PAIRS = [
    (check.distribution_own_rule, "my_rule"),
    (check.distribution_own_rule, "lagging_first"),
    (check.distribution_order, "order"),
    (check.distribution_missing, "left_by_spread"),
    (check.distribution_shares, "by_shares"),
    (check.distribution_cheapest, "cheapest"),
]


test_the_published_solution_passes, test_no_answer_is_not_a_wrong_answer = solution_tests(
    RIGHT, PAIRS
)


def fixed(shares):
    """A rule of shares of what is missing now, the mistake for shares of the start."""
    return lambda step: shares[step.index] * step.missing


WRONG = {
    check.distribution_own_rule: {
        "writes 50% of what": lambda step: 0.5 * step.missing,
        "writes 0% of what": lambda step: torch.zeros_like(step.missing),
        "writes 200% of what": lambda step: 2 * (step.target - step.start) / step.n,
        "is 'spread' under another name": lambda step: (
            (step.target - step.now) / (step.n - step.index)
        ),
        "is 'even' under another name": distribution.even,
        "is 'last' under another name": lambda step: step.missing * (step.left == 1),
        "is 'root' under another name": distribution.root,
        "a residual has the shape": lambda step: step.missing[:, 0],
        "yours returns float": lambda step: 0.5,
        "NaN or infinite": lambda step: step.missing / 0,
        "stops with AttributeError": lambda step: step.missng,
        "returns nothing": lambda step: None,
    },
    check.distribution_order: {
        "order these three names": ["root", "spread"],
        "'last' leaves more than 'spread'": ["last", "spread", "root"],
        "'spread' leaves more than 'root'": ["spread", "root", "last"],
    },
    check.distribution_missing: {
        "leave 0.375 missing": lambda c, n: 1 - c,
        "2 layers that deliver 50%": lambda c, n: (1 - c / n) ** n if c < 1 else 0,
    },
    check.distribution_shares: {
        "a function of a step; not a Tensor": lambda shares: torch.tensor(shares),
        "layers that obey: layer 1 is asked for": fixed,
        "layers that deliver only half": lambda shares: (
            lambda step: (
                shares[step.index] * step.missing / max(1 - sum(shares[: step.index]), 1e-12)
            )
        ),
    },
    check.distribution_cheapest: {
        "sum to": lambda costs: 1 / costs,
        "moving a little from layer 1 to layer 0": lambda costs: (
            torch.ones_like(costs) / len(costs)
        ),
        "moving a little": lambda costs: costs / costs.sum(),
        "3 costs need 3 shares": lambda costs: torch.ones(1),
        "one number a layer": lambda costs: "equal",
    },
}


@pytest.mark.parametrize(
    ("function", "message"),
    [(function, message) for function, answers in WRONG.items() for message in answers],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_a_wrong_answer_is_named(function, message, capsys):
    ok, text = verdict(capsys, function, WRONG[function][message])
    assert ok is False and text.startswith("not yet: ") and message in text, text
