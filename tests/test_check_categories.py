"""The checks of the exercises on categories: the published solutions pass, wrong ones are named."""

from __future__ import annotations

import re

import numpy as np
import pytest

from medit_teach.book.check import categories as check
from tests.helpers import solution_tests, solutions, verdict

RIGHT = solutions("11-categories", np=np)
NAMES = ("gap", "interval", "harmonic_of_mix", "ranks")


test_the_published_solution_passes, test_no_answer_is_not_a_wrong_answer = solution_tests(
    RIGHT, [(getattr(check, name), name) for name in NAMES]
)


def half(mix, a, b):
    """An interval from half as many values as there are."""
    return RIGHT["interval"](mix[::4], a[::4], b[::4])


def of_mix(mix, a, b):
    gap = RIGHT["gap"](mix, a, b)
    return gap - 0.01, gap + 0.01


WRONG = {
    "gap": {
        "your sign is turned": lambda m, a, b: -RIGHT["gap"](m, a, b),
        "you average over facts": lambda m, a, b: m.mean() - np.concatenate([a, b]).mean(),
        "the means are": lambda m, a, b: m.mean() - a.mean(),
        "one number": lambda m, a, b: [m, a],
    },
    "interval": {
        "two numbers": lambda m, a, b: 3.0,
        "above your high end": lambda m, a, b: RIGHT["interval"](m, a, b)[::-1],
        "draw each of": lambda m, a, b: (200.0, 300.0),
        "too wide": half,
        "too narrow": of_mix,
    },
    "harmonic_of_mix": {
        "mean of the two S": lambda a, b: sum(3 / sum(1 / x for x in s) for s in (a, b)) / 2,
        "what are ES, PS and NS": lambda a, b: sum(a + b) / 6,
    },
    "ranks": {
        "correlation of the values": lambda x, y: np.corrcoef(x, y)[0, 1],
        "rank both lists": lambda x, y: np.corrcoef(np.argsort(x), np.argsort(y))[0, 1],
    },
}


@pytest.mark.parametrize(
    ("name", "message"), [(name, message) for name in WRONG for message in WRONG[name]]
)
def test_a_wrong_answer_is_named(name, message, capsys):
    ok, text = verdict(capsys, getattr(check, name), WRONG[name][message])
    assert ok is False and text.startswith("not yet: "), text
    assert re.search(message, text), text
