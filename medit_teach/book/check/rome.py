"""Checks of the exercises on ROME: one key, one residual, one row."""

import torch

from ... import objective as _objective
from .core import NoAnswer, Wrong, as_update, call, distance, exercise
from .objective import _problem


def _excess(D, K, C0):
    """How many times the least preservation that an update with the same D K needs is spent."""
    N = torch.linalg.svd(K)[0][:, K.shape[1] :]  # moves along N leave D K as it is
    Y = -torch.linalg.solve(N.T @ C0 @ N, N.T @ C0 @ D.T).T
    return float(_objective.preservation(D, C0) / _objective.preservation(D + Y @ N.T, C0))


def _writes(D, k, r, name="r"):
    """Wrong unless D k = r; `name` is what the exercise calls it."""
    got = D @ k
    along = float(got @ r / (r @ r))
    if distance(got, r) < 1e-8:
        return
    if distance(got, along * r) < 1e-8:
        raise Wrong(f"at k your update gives {along:.3g} times {name}; it must give {name}")
    raise Wrong(f"at k your update gives a vector that does not even point along {name}")


@exercise
def rome_update(function):
    """function(r, k, C0) must write the fact exactly, as mildly as can be."""
    for d_out, d_in in ((3, 6), (4, 7), (5, 8)):
        R, K, C0 = _problem(d_out, d_in, 1)
        r, k = R[:, 0], K[:, 0]
        D = as_update(call(function, r, k, C0), d_out, d_in)
        _writes(D, k, r)
        if distance(D, torch.outer(r, k) / (k @ k)) < 1e-8:
            raise Wrong("it writes the fact, but along the key itself: C0 takes no part in it")
        if (excess := _excess(D, K, C0)) > 1 + 1e-8:
            raise Wrong(
                f"it writes the fact, but disturbs the kept keys {excess:.3g} times as much "
                "as needed"
            )
    return "exact, and no exact update is milder on the kept keys"


@exercise
def rome_echo(function):
    """function(k, C0, X) must be what ROME's update at k does to the columns of X."""
    for d_in, n in ((6, 4), (9, 1)):
        R, K, C0 = _problem(3, d_in, n + 1)
        k, X, r = K[:, 0], K[:, 1:], R[:, 0]
        found = call(function, k, C0, X)
        if not isinstance(found, torch.Tensor) or found.numel() != n:
            shape = tuple(getattr(found, "shape", ()))
            raise Wrong(f"for {n} columns you give back {shape} numbers; one for each is wanted")
        own = call(function, k, C0, k[:, None]).reshape(-1).double()
        if abs(float(own[0]) - 1) > 1e-8:
            raise Wrong(f"the key k itself must get 1, with your function it gets {own[0]:.3g}")
        moved = _objective.rome(r, k, C0).delta @ X
        found = found.detach().double().reshape(-1)
        if distance(torch.outer(r, found), moved) > 1e-8:
            raise Wrong("k gets 1, but other keys get a share that ROME's update does not give")
    return "every key's share, without knowing r"


@exercise
def rome_scale(factors):
    """factors: {"length": , "price": }, by which a doubled key changes the update."""
    if not any(value is not None for value in factors.values()):
        raise NoAnswer
    R, K, C0 = _problem(3, 6, 1)
    once, twice = (_objective.rome(R, x * K, C0).delta for x in (1, 2))
    measured = {
        "length": float(twice.norm() / once.norm()),
        "price": float(_objective.preservation(twice, C0) / _objective.preservation(once, C0)),
    }
    for name, true in measured.items():
        value = factors.get(name)
        if value is None or value is ...:
            raise Wrong(f"there is no number for {name!r} yet")
        if abs(float(value) - true) > 1e-8:
            size = "smaller" if true < float(value) else "larger"
            raise Wrong(f"measured on an example, the factor of the {name} is {size} than yours")
    return "as measured: long keys are easy to write at"


@exercise
def rome_repair(function):
    """function(Delta_bug, k, k_e, C0) must undo the use of two keys."""
    for seed in (0, 1, 2):
        R, K, C0 = _problem(4, 7, 1, seed)
        r_e, k = R[:, 0], K[:, 0]
        k_e = k + 0.4 * _problem(4, 7, 1, seed + 10)[1][:, 0]
        bug = _objective.rome(r_e, k, C0, divide_by=k_e).delta
        D = as_update(call(function, bug.clone(), k, k_e, C0), 4, 7)
        if distance(D, bug) < 1e-8:
            raise Wrong("your update is still the asymmetric one")
        if distance(D @ k_e, r_e) < 1e-8:
            raise Wrong("it still gives all of r_e at the bare key, not at the mean key")
        _writes(D, k, r_e, "r_e")
        if _excess(D, K, C0) > 1 + 1e-8:
            raise Wrong("it writes r_e at k, but the row is not ROME's any more")
    return "the symmetric update, from the asymmetric one alone"


@exercise
def rome_second(function):
    """function(r2, k2, k1, C0): write at k2, leave k1 alone, disturb least."""
    for d_out, d_in in ((3, 6), (4, 9)):
        R, K, C0 = _problem(d_out, d_in, 2)
        k1, k2, r2 = K[:, 0], K[:, 1], R[:, 1]
        D = as_update(call(function, r2, k2, k1, C0), d_out, d_in)
        _writes(D, k2, r2)
        if (D @ k1).norm() > 1e-8 * r2.norm():
            share = float((D @ k1).norm() / r2.norm())
            raise Wrong(f"the first fact is still moved: it receives {share:.0%} of r2")
        if (excess := _excess(D, K, C0)) > 1 + 1e-8:
            raise Wrong(
                f"both facts are right, but the kept keys are disturbed {excess:.3g} times as much "
                "as needed"
            )
    return "the second fact is written, the first untouched, at the least price"


@exercise
def rome_bargain(cheapest, K, C0):
    """cheapest: indices of the five facts (columns of K) whose price for a residual is lowest."""
    found = [int(i) for i in cheapest]
    if len(found) != 5 or len(set(found)) != 5:
        raise Wrong(f"five different indices are asked for, yours are {found}")
    if not set(found) <= set(range(K.shape[1])):
        raise Wrong(f"indices go from 0 to {K.shape[1] - 1}")
    white = (K * torch.linalg.solve(C0, K)).sum(0)
    best = white.argsort(descending=True).tolist()
    if set(found) <= set(best[-5:]):
        raise Wrong("these are the five most expensive ones: the price falls as k^T C0^-1 k grows")
    if strangers := [i for i in found if i not in best[:5]]:
        cheaper = sum(float(white[j]) > float(white[strangers[0]]) for j in best)
        raise Wrong(f"{cheaper} facts are cheaper than fact {strangers[0]}")
    if found != best[:5]:
        raise Wrong("the right five, but not the cheapest first")
    ratio = float(white.max() / white.min())
    return (
        f"the dearest fact costs {ratio:.1f} times as much as the cheapest, for the same residual"
    )
