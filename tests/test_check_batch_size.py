"""The checks of the exercises on batch sizes: the published solutions pass, wrong ones do not."""

from __future__ import annotations

import re

import numpy as np
import torch

from medit_teach.book import check
from tests.helpers import solution_tests, solutions, wrong_answers_test

RIGHT = solutions("12-batch-size", torch=torch, np=np)
PAIRS = [
    (check.batch_effective, "effective"),
    (check.batch_interval, "interval"),
    (check.batch_break, "first_break"),
    (check.batch_ridge, "least_ridge"),
    (check.batch_wall, "beyond"),
    (check.batch_referee, "verdicts"),
]


test_the_published_solution_passes, test_no_answer_is_not_a_wrong_answer = solution_tests(
    RIGHT, PAIRS
)


def unpaired(a, b):
    rng = np.random.default_rng(0)
    means = [rng.choice(a, len(a)).mean() - rng.choice(b, len(b)).mean() for _ in range(1000)]
    return (np.mean(a) - np.mean(b), *np.quantile(means, [0.025, 0.975]))


def spread(a, b):
    d = a - b
    return d.mean(), *np.quantile(d, [0.025, 0.975])


def own(K, C0, lam):
    return RIGHT["effective"](K, C0, lam)


WRONG = {
    check.batch_effective: {
        "a number, yours is a str": lambda K, C0, lam: "many",
        "the mean share": lambda K, C0, lam: own(K, C0, lam) / K.shape[1],
        "6 directions for them": lambda K, C0, lam: K.shape[1] if lam < 1 else own(K, C0, lam),
        "add up to": lambda K, C0, lam: own(K, torch.eye(len(C0)).double(), lam),
        "stops with": lambda K, C0, lam: (K @ C0).trace(),
    },
    check.batch_interval: {
        "three numbers": lambda a, b: (a - b).mean(),
        "the other way round": lambda a, b: RIGHT["interval"](b, a),
        "the mean difference is": lambda a, b: (0.0, -1.0, 1.0),
        "draw whole facts": unpaired,
        "low < mean < high": lambda a, b: RIGHT["interval"](a, b)[:1] * 3,
        "single facts": spread,
        "moves within": lambda a, b: np.mean(a - b) + np.array([0, -1e-3, 1e-3]),
    },
    check.batch_break: {
        "straddles the bar": lambda s, v, bar: next(
            (n for n, x in zip(s, v, strict=True) if x[0] < bar), None
        ),
        "a later recovery": lambda s, v, bar: (
            None if v[-1][2] > bar else RIGHT["first_break"](s, v, bar)
        ),
        "the answer is None": lambda s, v, bar: RIGHT["first_break"](s, v, bar) or s[-1],
        "stops with": lambda s, v, bar: v[bar],
    },
    check.batch_ridge: {
        "no ridge is needed": lambda K, C0, c: (
            RIGHT["least_ridge"](K, C0, min(c, 1.1)) if c > 1e3 else RIGHT["least_ridge"](K, C0, c)
        ),
        "larger than needed": lambda K, C0, c: 2 * RIGHT["least_ridge"](K, C0, c),
        "too small": lambda K, C0, c: RIGHT["least_ridge"](K, C0, c) / 2,
        "is not negative": lambda K, C0, c: -1.0,
    },
    check.batch_wall: {
        "the wrong way round": lambda R, K: RIGHT["beyond"](R, K).T,
        "no update leaves less": lambda R, K: 0.9 * RIGHT["beyond"](R, K),
        "an update is a tensor": lambda R, K: 0,
    },
    check.batch_referee: {
        **{
            re.escape(sentence): {**RIGHT["verdicts"], sentence: not so}
            for sentence, so in RIGHT["verdicts"].items()
        },
        "no verdict yet on": {**RIGHT["verdicts"], next(iter(RIGHT["verdicts"])): None},
    },
}


test_a_wrong_answer_is_named = wrong_answers_test(WRONG)
