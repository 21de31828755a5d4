"""The checks of the exercises on sequences: the published solutions pass, wrong ones are named."""

from __future__ import annotations

import re

import torch

from medit_teach import objective
from medit_teach.book import check
from tests.helpers import solution_tests, solutions, wrong_answers_test

RIGHT = solutions("13-sequence", torch=torch, objective=objective)
PAIRS = [
    (check.sequence_step, "step"),
    (check.sequence_forgotten, "forgotten"),
    (check.sequence_exact, "exact_step"),
    (check.sequence_undo, "undo"),
    (check.sequence_referee, "verdicts"),
]


test_the_published_solution_passes, test_no_answer_is_not_a_wrong_answer = solution_tests(
    RIGHT, PAIRS
)


def solve(A, B):
    """B A^-1 for a symmetric A."""
    return torch.linalg.solve(A, B.T).T


WRONG = {
    check.sequence_step: {
        "return two things": lambda W, A, V, K: W,
        "A is a": lambda W, A, V, K: (W, None),
        "wrong way round": lambda W, A, V, K: (W.T, A),
        "A stays as it was": lambda W, A, V, K: (W + solve(A, (V - W @ K) @ K.T), A),
        "does not grow by": lambda W, A, V, K: (W, A + torch.eye(len(A))),
        "as if nothing were there": lambda W, A, V, K: (
            W + solve(A + K @ K.T, V @ K.T),
            A + K @ K.T,
        ),
        "update A first": lambda W, A, V, K: (W + solve(A, (V - W @ K) @ K.T), A + K @ K.T),
        "not where one batch": lambda W, A, V, K: (W, A + K @ K.T),
        "stops with": lambda W, A, V, K: (W @ V, A),
    },
    check.sequence_forgotten: {
        "numbers are wanted": lambda W, W0, K, V: "much",
        "one number a fact": lambda W, W0, K, V: (V - W @ K).norm() / (V - W0 @ K).norm(),
        "that is there": lambda W, W0, K, V: 1 - RIGHT["forgotten"](W, W0, K, V),
        "that is a length": lambda W, W0, K, V: (V - W @ K).norm(dim=0),
        "not by the target": lambda W, W0, K, V: (V - W @ K).norm(dim=0) / V.norm(dim=0),
        "the first fact misses": lambda W, W0, K, V: RIGHT["forgotten"](W0, W0, K, V),
    },
    check.sequence_exact: {
        "the new facts are not met": lambda R, K, kept, C0: 0 * R @ K.T,
        "the old facts move": lambda R, K, kept, C0: objective.emmet(R, K, C0).delta,
        "the old facts move by": lambda R, K, kept, C0: (
            objective.emmet(R, K, C0 + 100 * kept @ kept.T).delta
        ),
        "times the least one": lambda R, K, kept, C0: (
            objective.emmet(R, K, torch.eye(len(C0), dtype=C0.dtype), kept=kept).delta
        ),
        "wrong way round": lambda R, K, kept, C0: objective.emmet(R, K, C0).delta.T,
    },
    check.sequence_undo: {
        "return two things": lambda W, A, v, k: W,
        "still holds the key of the fact": lambda W, A, v, k: (W, A),
        "lose this one": lambda W, A, v, k: (W, A - 2 * torch.outer(k, k)),
        "W still holds the fact": lambda W, A, v, k: (W, A - torch.outer(k, k)),
        "take it out first": lambda W, A, v, k: (
            W - solve(A, torch.outer(v, k)),
            A - torch.outer(k, k),
        ),
        "away from a sequence without": lambda W, A, v, k: (
            W - torch.outer(v, k) / (k @ k),
            A - torch.outer(k, k),
        ),
    },
    check.sequence_referee: {
        **{
            re.escape(sentence): {**RIGHT["verdicts"], sentence: not so}
            for sentence, so in RIGHT["verdicts"].items()
        },
        "no verdict yet on": {**RIGHT["verdicts"], next(iter(RIGHT["verdicts"])): None},
    },
}


test_a_wrong_answer_is_named = wrong_answers_test(WRONG)
