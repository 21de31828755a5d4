"""Checks that speak: of equations on the page, and of the reader's answers to exercises.

    from medit_teach import check
    check.check_equation("eq:memit-solution", Delta @ (lam * C0 + K @ K.T), R @ K.T)
    check.rank_one(answer, r, k)

`core` has the machinery; each topic has a module with the checks of its exercises.
"""

from .core import NoAnswer, Wrong, as_update, call, check_equation, exercise, passed, perturbed
from .objective import (
    constraint_table,
    emmet_update,
    free_directions,
    half_learned,
    memit_update,
    rank_one,
)

__all__ = [
    "NoAnswer",
    "Wrong",
    "as_update",
    "call",
    "check_equation",
    "constraint_table",
    "emmet_update",
    "exercise",
    "free_directions",
    "half_learned",
    "memit_update",
    "passed",
    "perturbed",
    "rank_one",
]
