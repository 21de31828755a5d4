"""The checks of the exercises on the completed table: right answers pass, wrong ones are named."""

from __future__ import annotations

import math
import re

import torch

from medit_teach import objective
from medit_teach.book import check
from tests.helpers import solution_tests, solutions, wrong_answers_test

RIGHT = solutions("14-two-by-two", torch=torch, math=math, objective=objective)
PAIRS = [
    (check.two_by_two_encore, "encore"),
    (check.two_by_two_prune, "prune"),
    (check.two_by_two_rect, "rect"),
    (check.two_by_two_reach, "out_of_reach"),
    (check.two_by_two_referee, "verdicts"),
]


test_the_published_solution_passes, test_no_answer_is_not_a_wrong_answer = solution_tests(
    RIGHT, PAIRS
)


def with_values(change):
    """A function of (Delta, W, alpha) that changes the singular values."""

    def run(Delta, W, alpha):
        left, s, right = torch.linalg.svd(Delta, full_matrices=False)
        return (left * change(s, torch.linalg.svdvals(W)[0], alpha)) @ right

    return run


def keeping(score, largest=True):
    """A function of (Delta, W, share) that keeps the entries with the largest score."""

    def run(Delta, W, share):
        values = score(Delta, W).flatten()
        keep = torch.zeros_like(values)
        keep[values.topk(round(share * len(values)), largest=largest).indices] = 1
        return Delta * keep.reshape(Delta.shape)

    return run


def eye(C0):
    return torch.eye(len(C0), dtype=C0.dtype)


WRONG = {
    check.two_by_two_encore: {
        "that is MEMIT": lambda R, K, C0, lam, n: objective.memit(R, K, C0, lam).delta,
        "the kept keys take no part": lambda R, K, C0, lam, n: (
            objective.memit(R, K, eye(C0), n).delta
        ),
        "lam_n is multiplied by lam": lambda R, K, C0, lam, n: (
            objective.memit(R, K, C0 + n * eye(C0), lam).delta
        ),
        "not at the bottom": lambda R, K, C0, lam, n: objective.memit(R, K, C0, lam + n).delta,
        "wrong way round": lambda R, K, C0, lam, n: objective.memit(R, K, C0, lam).delta.T,
    },
    check.two_by_two_prune: {
        "are not restrained": lambda Delta, W, alpha: Delta,
        "the singular vectors have changed": lambda Delta, W, alpha: Delta * (Delta.abs() > 0.1),
        "you cut off": with_values(lambda s, top, alpha: s.clamp(max=float(top))),
        "that is the natural logarithm": with_values(
            lambda s, top, alpha: torch.where(s > top, (s / top).log() + top, s)
        ),
        "you changed some": with_values(lambda s, top, alpha: s / 2),
        "in yours": with_values(lambda s, top, alpha: torch.where(s > top, (s + top) / 2, s)),
    },
    check.two_by_two_rect: {
        "entries are to be kept": lambda Delta, W, share: Delta,
        "must keep its value": lambda Delta, W, share: 2 * RIGHT["rect"](Delta, W, share),
        "relative to W": keeping(lambda Delta, W: Delta.abs()),
        "the smallest relative changes": keeping(lambda Delta, W: (Delta / W).abs(), largest=False),
        "was dropped": keeping(lambda Delta, W: W.abs()),
    },
    check.two_by_two_reach: {
        "a share is a number": lambda R, K, U: "all",
        "the square of it": lambda R, K, U: RIGHT["out_of_reach"](R, K, U) ** 2,
        "counts directions only": lambda R, K, U: max(0, 1 - U.shape[1] / K.shape[1]),
        "you say": lambda R, K, U: 1.0,
    },
    check.two_by_two_referee: {
        **{
            re.escape(sentence): {**RIGHT["verdicts"], sentence: not so}
            for sentence, so in RIGHT["verdicts"].items()
        },
        "no verdict yet on": {**RIGHT["verdicts"], next(iter(RIGHT["verdicts"])): None},
    },
}


test_a_wrong_answer_is_named = wrong_answers_test(WRONG)
