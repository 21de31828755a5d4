"""The checks of the exercises on ripples: the published solutions pass, wrong answers are named."""

from __future__ import annotations

import re

import pytest
import torch

from medit_teach.book.check import ripples as check
from tests.helpers import solution_tests, solutions, verdict

RIGHT = solutions("16-ripples", torch=torch)
NAMES = ("follow", "changed", "fair_rate", "at_most", "reach")


test_the_published_solution_passes, test_no_answer_is_not_a_wrong_answer = solution_tests(
    RIGHT, [(getattr(check, name), name) for name in NAMES]
)


def all_rate(before, after, old, new):
    return sum(a == n for a, n in zip(after, new, strict=True)) / len(new)


def unguarded(before, after, old, new):
    known = [i for i in range(len(old)) if before[i] == old[i]]
    return sum(after[i] == new[i] for i in known) / len(known)


def in_place(facts, edit, paths):
    facts[edit[:2]] = edit[2]
    return set()


def whole(facts, edit, paths):
    """Takes every question whose path runs through the relation."""
    return {(p, s) for p in paths for r, s in facts if r == "employer"}


def solve(C0, k, other):
    return torch.linalg.solve(C0, k) @ other


WRONG = {
    "follow": {
        "stops with KeyError": lambda facts, path, s: [s := facts[r, s] for r in path][-1],
        "you end at": lambda facts, path, s: facts.get((path[0], s)),
        "you end at 'Ann'": lambda facts, path, s: s,
    },
    "changed": {
        "changes the facts that it was given": in_place,
        "has the same answer as before": whole,
        "you miss it": lambda facts, edit, paths: set(),
        "a set of pairs": lambda facts, edit, paths: [1, 2],
        "stops with": lambda facts, edit, paths: facts["employer"],
    },
    "fair_rate": {
        "were known before, and": all_rate,
        "divides by 0": unguarded,
        "nothing can be said": lambda *x: RIGHT["fair_rate"](*x) or 0.0,
        "you return nothing": lambda *x: None,
    },
    "at_most": {
        "lies between 0 and 1": lambda n: 3 / n,
        "not of 5%": lambda n: 1 / (n + 1),
        "returns nothing": lambda n: None,
    },
    "reach": {
        "of the residual, you say": lambda C0, k, other: (k @ other) / (k @ k),
        "at k itself": solve,
        "at 3 k": lambda C0, k, other: (
            solve(C0, k, other) / (solve(C0, k, k) * solve(C0, other, other)) ** 0.5
        ),
        "is one number": lambda C0, k, other: other,
    },
}


@pytest.mark.parametrize(
    ("name", "message"), [(name, message) for name in WRONG for message in WRONG[name]]
)
def test_a_wrong_answer_is_named(name, message, capsys):
    ok, text = verdict(capsys, getattr(check, name), WRONG[name][message])
    assert ok is False and text.startswith("not yet: "), text
    assert re.search(message, text), text
