"""The checks of the EMMET exercises: the published solutions pass, wrong answers are named."""

from __future__ import annotations

import re

import torch

from medit_teach import objective
from medit_teach.book import check
from tests.helpers import solution_tests, solutions, wrong_answers_test

RIGHT = solutions("09-emmet", torch=torch, objective=objective)
PAIRS = [
    (check.emmet_forces, "forces"),
    (check.emmet_distinct, "distinct"),
    (check.emmet_next_price, "next_price"),
    (check.emmet_true_ridge, "true_ridge"),
    (check.emmet_largest_ridge, "largest_ridge"),
    (check.emmet_referee, "verdicts"),
]


test_the_published_solution_passes, test_no_answer_is_not_a_wrong_answer = solution_tests(
    RIGHT, PAIRS
)


def gram(K, C0):
    return K.T @ torch.linalg.solve(C0, K)


def price(R, K, C0):
    return objective.preservation(objective.emmet(R, K, C0).delta, C0)


WRONG = {
    check.emmet_forces: {
        "a tensor, yours is a float": lambda R, K, C0: 1.0,
        "one row an output and one column a fact": lambda R, K, C0: R.T,
        "the forces pull the wrong way": lambda R, K, C0: -RIGHT["forces"](R, K, C0),
        "writes 2 R instead of R": lambda R, K, C0: 2 * RIGHT["forces"](R, K, C0),
        "does not meet the facts": lambda R, K, C0: R @ gram(K, C0),
        "stops with": lambda R, K, C0: R @ K,
    },
    check.emmet_distinct: {
        "is a list of column numbers": lambda K: "all",
        "still singular": lambda K: list(range(K.shape[1])),
        "a fact was lost": lambda K: [0],
        "you list a column twice": lambda K: [0, 0],
        "with other last digits, 3 are kept": lambda K: [
            i for i in range(K.shape[1]) if not any(torch.equal(K[:, i], K[:, j]) for j in range(i))
        ],
        "close but not the same, only 1": lambda K: [
            i
            for i in range(K.shape[1])
            if not any(torch.allclose(K[:, i], K[:, j], 0.2, 0.2) for j in range(i))
        ],
        "a key is not kept at all": lambda K: [0, 1, 2] if K[0, 1] == K[0, 2] else distinct(K),
    },
    check.emmet_next_price: {
        "a number, yours is a str": lambda R, K, C0, r, k: "much",
        "the price of the whole batch": lambda R, K, C0, r, k: price(
            torch.cat([R, r[:, None]], 1), torch.cat([K, k[:, None]], 1), C0
        ),
        "the price of the newcomer alone": lambda R, K, C0, r, k: price(r[:, None], k[:, None], C0),
        "the price rises by": lambda R, K, C0, r, k: price(R, K, C0),
    },
    check.emmet_true_ridge: {
        "with your ridge 0 it is 0.0%": lambda a, eps, E: 0,
        "with a = 1000": lambda a, eps, E: eps,
        "and 1 fact,": lambda a, eps, E: a * eps,
        "is not negative": lambda a, eps, E: -a * eps,
    },
    check.emmet_largest_ridge: {
        "there is room for a ridge": lambda K, C0, share: 0,
        "more than asked": lambda K, C0, share: 1e-3,
        "less than asked": lambda K, C0, share: torch.linalg.eigvalsh(gram(K, C0))[-1],
        "worst off is written to": lambda K, C0, share: (
            torch.linalg.eigvalsh(gram(K, C0)).mean() * (1 - share) / share
        ),
    },
    check.emmet_referee: {
        **{
            re.escape(sentence): {**RIGHT["verdicts"], sentence: not so}
            for sentence, so in RIGHT["verdicts"].items()
        },
        "no verdict yet on": {**RIGHT["verdicts"], next(iter(RIGHT["verdicts"])): None},
    },
}


def distinct(K):
    return RIGHT["distinct"](K)


test_a_wrong_answer_is_named = wrong_answers_test(WRONG)
