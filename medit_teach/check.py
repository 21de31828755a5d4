"""Checks that speak: equations that must hold on the page, and answers to exercises.

    from medit_teach.check import check_equation
    check_equation("eq:memit-solution", Delta @ (lam * C0 + K @ K.T), R @ K.T)
    # eq:memit-solution  holds (relative error below 1e-09)

`perturbed` proves that such checks are not empty: it repeats each with one side made wrong.
"""

from contextlib import contextmanager

import torch

_wrong = None  # inside perturbed(): (factor, {label: True if the wrong side was noticed})


def check_equation(label, lhs, rhs, rtol=1e-9):
    """Prints one line if ||lhs - rhs|| <= rtol * max(||lhs||, ||rhs||), else raises AssertionError.

    lhs, rhs: tensors of one shape, or numbers. The line does not depend on the machine. An
    equation "... = 0" has no scale to be relative to: move one term to the other side.
    """
    lhs, rhs = (torch.as_tensor(side).detach().to("cpu", torch.float64) for side in (lhs, rhs))
    if lhs.shape != rhs.shape:
        raise AssertionError(f"{label}: shapes {tuple(lhs.shape)} and {tuple(rhs.shape)} differ")
    if not lhs.any() and not rhs.any():
        raise AssertionError(f"{label}: both sides are zero, so there is nothing to compare")
    error = _distance(lhs, rhs)
    if not error <= rtol:  # also when it is NaN
        raise AssertionError(f"{label} does not hold: relative error {error:.1e}, above {rtol:.0e}")
    if _wrong is not None:
        factor, noticed = _wrong
        caught = not _distance(factor * lhs, rhs) <= rtol
        noticed[label] = noticed.get(label, True) and caught
    print(f"{label}  holds (relative error below {rtol:.0e})")


@contextmanager
def perturbed(by=1e-3):
    """Within, each check is repeated with its left side scaled by 1 + by.

    Yields {label: noticed}; a check that does not notice is too loose to mean anything.
    """
    global _wrong
    before, _wrong = _wrong, (1 + by, {})
    try:
        yield _wrong[1]
    finally:
        _wrong = before


def _distance(lhs, rhs):
    return float((lhs - rhs).norm() / max(lhs.norm(), rhs.norm()))
