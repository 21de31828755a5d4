"""Checks of the chapter on misuse: published solutions pass, wrong answers hear what is wrong."""

from __future__ import annotations

import pytest
import torch

from medit_teach import objective
from medit_teach.book import check
from tests.helpers import solution_tests, solutions, verdict

RIGHT = solutions("17-misuse", torch=torch, objective=objective, check=check)
PAIRS = [
    (check.misuse_effective_rank, "effective_rank"),
    (check.misuse_who, "who"),
    (check.misuse_auc, "area"),
    (check.misuse_erase, "erase"),
    (check.misuse_referee, "verdicts"),
]


test_the_published_solution_passes, test_no_answer_is_not_a_wrong_answer = solution_tests(
    RIGHT, PAIRS
)


def row(D):
    return D[D.norm(dim=1).argmax()]


def signed(D, K, C0):
    """The right metric, but the sign of the first row is taken at face value."""
    L = torch.linalg.cholesky(C0)
    Z = torch.linalg.solve(L, K)
    return int((D[0] @ L @ (Z / Z.norm(dim=0))).argmax())


def flipped(change):
    return RIGHT["verdicts"] | change


WRONG = {
    check.misuse_effective_rank: {
        "an effective rank is a number": lambda S: S,
        "six equal values: the effective rank is 6": lambda S: 1.0,
        "look at the definition again": lambda S: (S > 0).sum(),
        "squares of the shares; the definition has a logarithm": lambda S: (
            1 / ((S / S.sum()) ** 2).sum()
        ),
        "not of their squares": lambda S: RIGHT["effective_rank"](S**2),
        "yours is nan": lambda S: torch.exp(-(S / S.sum() * (S / S.sum()).log()).sum()),
        "ten times larger": lambda S: RIGHT["effective_rank"](S) if S[0] < 20 else 60.0,
    },
    check.misuse_who: {
        "what the plain cosine of row and key does": lambda D, K, C0: int(
            (row(D) @ (K / K.norm(dim=0))).abs().argmax()
        ),
        "what the largest |D k| does": lambda D, K, C0: int((D @ K).norm(dim=0).argmax()),
        "names are wrong. Which metric": signed,
        "numbers 0 to 7; you name 8": lambda D, K, C0: 8,
        "is a number, yours is a str": lambda D, K, C0: "Ada",
        "stops with": lambda D, K, C0: D @ C0 @ D,
    },
    check.misuse_auc: {
        "the same scores for both": lambda p, n: sum(a > b for a in p for b in n) / len(p) / len(n),
        "all positives above all negatives": lambda p, n: 0.5,
        "all positives below all negatives": lambda p, n: 1.0,
        "more negatives than positives": lambda p, n: (
            sum((a > b) + (a == b) / 2 for a in p for b in n) / len(p) ** 2
            if len(n) > 3
            else RIGHT["area"](p, n)
        ),
    },
    check.misuse_erase: {
        "with 1 of the old value's length": lambda W, k, C0: W,
        "with 2 of the old value's length": lambda W, k, C0: W + objective.rome(W @ k, k, C0).delta,
        "disturbed": lambda W, k, C0: W - torch.outer(W @ k, k) / (k @ k),
        "times too much": lambda W, k, C0: 0 * W,
        "the wrong way round": lambda W, k, C0: W.T,
    },
    check.misuse_referee: {
        "two facts about one subject, in one batch: rank 1": flipped(
            {"MEMIT with two facts about one subject changes it by rank two": True}
        ),
        "in every entry the rank is 8": flipped(
            {"adding a millionth to every entry leaves the rank as it is": True}
        ),
        "no verdict yet on 'MEMIT and EMMET": flipped(
            {"MEMIT and EMMET with the same facts have the same row space": None}
        ),
        "four facts leave rank 4": flipped(
            {"EMMET with four facts of different subjects changes the matrix by rank four": False}
        ),
    },
}
CASES = [(function, text) for function, cases in WRONG.items() for text in cases]


@pytest.mark.parametrize(("function", "message"), CASES, ids=lambda x: getattr(x, "__name__", x))
def test_a_wrong_answer_hears_what_is_wrong(function, message, capsys):
    ok, text = verdict(capsys, function, WRONG[function][message])
    assert ok is False and text.startswith("not yet: ") and message in text, text
