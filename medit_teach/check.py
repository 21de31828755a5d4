"""Checks that speak: equations that must hold on the page, and answers to exercises.

Equations, in every chapter:

    from medit_teach.check import check_equation
    check_equation("eq:memit-solution", Delta @ (lam * C0 + K @ K.T), R @ K.T)
    # eq:memit-solution  holds (relative error below 1e-09)

`perturbed` proves that such checks are not empty: it repeats each with one side made wrong.

Exercises: a check runs the reader's answer and says what is wrong with it. It measures what the
answer does (does it meet the fact? could it disturb less?) and so holds no solution. `passed`
keeps the verdicts, for a script that grades.
"""

import functools
from contextlib import contextmanager

import torch

from . import objective as _objective

passed = {}  # name of the check -> True or False; absent while there is no answer

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


# ------------------------------------------------------------------ exercises


class Wrong(Exception):
    """What is wrong with an answer, in words for its author."""


class NoAnswer(Exception):
    """The reader has not started yet."""


def exercise(function):
    """A check: `function` returns praise, or raises Wrong with what to look at."""

    @functools.wraps(function)
    def run(answer, *args, **kwargs):
        try:
            if answer is None or answer is ...:
                raise NoAnswer
            praise = function(answer, *args, **kwargs)
        except NoAnswer:
            print("no answer yet")
        except Wrong as problem:
            passed[function.__name__] = False
            print(f"not yet: {problem}")
        else:
            passed[function.__name__] = True
            print(f"right: {praise}")

    return run


def _problem(d_out, d_in, E, seed=0):
    """R (d_out, E), K (d_in, E), C0 (d_in, d_in): no two sizes equal, C0 far from I."""
    generator = torch.Generator().manual_seed(seed)
    R, K, F = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((d_out, E), (d_in, E), (d_in, 3 * d_in))
    )
    F = F * torch.logspace(0, -1, d_in, dtype=torch.float64)[:, None]
    return R, K, F @ F.T / F.shape[1]


def _update(answer, d_out, d_in):
    """The answer as a float64 tensor of shape (d_out, d_in), or Wrong."""
    if not isinstance(answer, torch.Tensor):
        raise Wrong(f"an update is a tensor, yours is a {type(answer).__name__}")
    shape = tuple(answer.shape)
    if shape == (d_in, d_out) and d_in != d_out:
        raise Wrong(f"your update is {shape}, the wrong way round: rows are outputs, (d_out, d_in)")
    if shape != (d_out, d_in):
        raise Wrong(f"your update has shape {shape}, the matrix it is added to {(d_out, d_in)}")
    if not torch.isfinite(answer).all():
        raise Wrong("your update contains NaN or infinite numbers")
    return answer.detach().double()


def _call(function, *args):
    """function(*args), with an error in it told as feedback."""
    if not callable(function):
        raise Wrong(f"this check wants your function, not a {type(function).__name__}")
    try:
        result = function(*args)
    except Exception as error:
        raise Wrong(f"your function stops with {type(error).__name__}: {error}") from error
    if result is ...:
        raise NoAnswer
    if result is None:
        raise Wrong("your function returns nothing; end it with `return`")
    return result


def _misses(update, R, K):
    """||R - update K|| / ||R||."""
    return float((R - update @ K).norm() / R.norm())


@exercise
def rank_one(update, r, k):
    """The smallest update that sends the key k (d_in,) to the residual r (d_out,)."""
    update = _update(update, len(r), len(k))
    rank = int(torch.linalg.matrix_rank(update))
    if rank != 1:
        raise Wrong(f"your update has rank {rank}, a single edit should have rank 1")
    got = update @ k
    along = float(got @ r / (r @ r))
    if _distance(got, along * r) < 1e-9 and abs(along - 1) > 1e-9:
        raise Wrong(f"update @ k points along r, but is {along:.3g} times as long")
    if _distance(got, r) > 1e-9:
        raise Wrong(f"update @ k misses r by {_misses(update, r[:, None], k[:, None]):.0%}")
    excess = float(update.norm() * k.norm() / r.norm())
    if excess > 1 + 1e-9:
        raise Wrong(f"it writes the fact, but is {excess:.3g} times as large as it needs to be")
    return "rank 1, it writes the fact, and no smaller update does"


@exercise
def memit_update(function):
    """function(R, K, C0, lam) must make the gradient of the soft objective zero."""
    failed = []
    for d_out, d_in, E, lam in ((3, 6, 2, 1.0), (3, 6, 2, 10.0), (5, 4, 7, 0.1)):
        R, K, C0 = _problem(d_out, d_in, E)
        D = _update(_call(function, R, K, C0, lam), d_out, d_in).requires_grad_()
        loss = _objective.objective(D, R, K, C0, lam)
        nothing = _objective.objective(torch.zeros_like(D), R, K, C0, lam)
        if loss > nothing:
            raise Wrong(
                f"with lam = {lam:g} your update scores {loss.item():.3g}, "
                f"worse than no update at all ({nothing.item():.3g})"
            )
        slope = torch.autograd.grad(loss, D)[0].norm() / (2 * R @ K.T).norm()
        if slope > 1e-8:
            failed.append((lam, float(slope)))
    if failed and failed[0][0] != 1.0:
        raise Wrong("right for lam = 1, wrong for other values: is lam where it belongs?")
    if failed:
        raise Wrong(
            f"not at the bottom: with lam = {failed[0][0]:g} the gradient at your update is "
            f"{failed[0][1]:.2g} of the one at zero, and should vanish"
        )
    return "the gradient vanishes for every lam and batch size tried"


@exercise
def emmet_update(function):
    """function(R, K, C0) must meet the facts, and disturb the kept keys least in doing so."""
    for d_out, d_in, E in ((3, 6, 2), (4, 7, 1), (5, 8, 6)):
        R, K, C0 = _problem(d_out, d_in, E)
        D = _update(_call(function, R, K, C0), d_out, d_in)
        if _misses(D, R, K) > 1e-8:
            raise Wrong(f"the facts must be met exactly, and {_misses(D, R, K):.0%} is missing")
        N = torch.linalg.svd(K)[0][:, E:]  # moves along N leave the new facts as they are
        Y = -torch.linalg.solve(N.T @ C0 @ N, N.T @ C0 @ D.T).T
        worse = float(_objective.preservation(D, C0) / _objective.preservation(D + Y @ N.T, C0))
        if worse > 1 + 1e-8:
            raise Wrong(
                "it meets the facts, but among the updates that do it is not the mildest: "
                f"it disturbs the kept keys {worse:.3g} times as much as needed"
            )
    return "exact on the new facts, and no exact update is milder on the kept keys"


@exercise
def half_learned(lam, k, C0, share=0.5):
    """With this lam, MEMIT on one fact must go `share` of the way to its target."""
    k = k.reshape(-1, 1)
    if not float(lam) > 0:
        raise Wrong(f"lam must be positive, yours is {float(lam):g}")
    way = float(_objective.memit(torch.ones(1, 1), k, C0, float(lam)).delta @ k)
    if abs(way - share) > 1e-6:
        hint = "smaller" if way < share else "larger"
        raise Wrong(
            f"with lam = {float(lam):.4g} the edit goes {way:.1%} of the way, not {share:.0%}; "
            f"a {hint} lam gets closer, but look for the formula"
        )
    return f"with lam = {float(lam):.4g} the edit goes {share:.0%} of the way"


@exercise
def constraint_table(answers):
    """answers: {(preserve, memorize): method}, each "soft" or "exact". Runs what is named."""
    if not any(answers.values()):
        raise NoAnswer
    R, K, C0 = _problem(4, 9, 2)
    P = _objective.null_space(C0, energy=0.05)
    run = {
        "memit": lambda: _objective.memit(R, K, C0, 1.0),
        "emmet": lambda: _objective.emmet(R, K, C0),
        "alphaedit": lambda: _objective.alphaedit(R, K, P, 1.0),
        "nullspace": lambda: _objective.nullspace(R, K, P),
    }
    for cell, name in answers.items():
        if name is None or name is ...:
            raise Wrong(f"the cell preserve {cell[0]}, memorize {cell[1]} is still empty")
        if name not in run:
            raise Wrong(f"{name!r} is none of {', '.join(run)}")
        D = run[name]().delta
        exact = _misses(D, R, K) < 1e-9
        inside = float((D - D @ P.U @ P.U.T).norm() / D.norm()) < 1e-9
        does = ("exact" if inside else "soft", "exact" if exact else "soft")
        for wish, wanted, found in zip(("preserve", "memorize"), cell, does, strict=True):
            if wanted != found:
                raise Wrong(f"{name} does not {wish} in the {wanted} way; run it and look")
    if len(answers) != 4:
        raise Wrong(f"the table has 4 cells, you filled {len(answers)}")
    return "each method does what its cell says"


@exercise
def free_directions(function):
    """function(K0) must count the independent updates of one row that leave K0 (d_in, N) alone."""
    generator = torch.Generator().manual_seed(1)
    K0 = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    cases = {  # the number of independent keys is known from how they were made
        "5 keys of 8 numbers": (K0, 5),
        "5 keys of 8 numbers, two of them the same": (K0[:, [0, 1, 2, 3, 3]], 4),
        "20 keys of 8 numbers": (torch.cat([K0] * 4, 1) + torch.eye(8, 20).double(), 8),
        "6 keys, one the sum of two others": (torch.cat([K0, K0[:, :1] + K0[:, 1:2]], 1), 5),
    }
    for name, (keys, independent) in cases.items():
        count = _call(function, keys)
        if int(count) + independent != len(keys):
            raise Wrong(f"you count {int(count)} for {name}, and that is not so")
    return "also where keys repeat, and where they fill the whole space"
