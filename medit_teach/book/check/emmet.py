"""Checks of the exercises on EMMET: equality for a batch, duplicates, prices, ridges."""

import torch

from ... import objective as _objective
from .core import Wrong, call, distance, exercise, judge
from .objective import _misses, _problem


def _published(R, K, C0, a, eps):
    """The update of the published EMMET code: C0 weighted by a, eps added for batches."""
    inverse = torch.linalg.inv(a * C0)
    D = K.T @ inverse @ K
    if len(D) > 1:
        D = D + eps * torch.eye(len(D), dtype=D.dtype)
    return R @ torch.linalg.inv(D) @ K.T @ inverse


def _number(value, what):
    """`value` as a float, or Wrong."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise Wrong(f"{what} is a number, yours is a {type(value).__name__}") from None


@exercise
def emmet_forces(function):
    """function(R, K, C0) must return the multipliers: Delta C0 = M K^T and Delta K = R."""
    for d_out, d_in, E in ((3, 6, 2), (4, 7, 1), (5, 8, 6)):
        R, K, C0 = _problem(d_out, d_in, E)
        M = call(function, R, K, C0)
        if not isinstance(M, torch.Tensor):
            raise Wrong(f"M is a tensor, yours is a {type(M).__name__}")
        if M.shape != (d_out, E):
            raise Wrong(
                f"M has one row an output and one column a fact, {(d_out, E)}; yours has the "
                f"shape {tuple(M.shape)}"
            )
        got = torch.linalg.solve(C0, K @ M.double().T).T @ K
        if distance(got, -R) < 1e-8:
            raise Wrong("the update made from your M writes -R: the forces pull the wrong way")
        along = float((got * R).sum() / (R * R).sum())
        if distance(got, along * R) < 1e-8 and abs(along - 1) > 1e-8:
            raise Wrong(f"the update made from your M writes {along:.3g} R instead of R")
        if distance(got, R) > 1e-8:
            raise Wrong(
                "the update M K^T C0^-1 made from your M does not meet the facts: it misses "
                f"{float((got - R).norm() / R.norm()):.0%} of them"
            )
    return "the update made from your forces meets every fact"


@exercise
def emmet_distinct(function):
    """function(K) must list columns so that each key is kept once and the batch can be solved."""
    _, K, _ = _problem(2, 9, 5)
    noise = 1e-10 * torch.cos(torch.arange(9.0, dtype=torch.float64))
    close = K[:, 0] + 0.05 * K[:, 1]
    cases = {  # batch, how many different keys
        "five different keys": (K, 5),
        "a key that comes three times": (K[:, [0, 1, 1, 2, 1]], 3),
        "a key that comes again with other last digits": (
            torch.stack([K[:, 0], K[:, 1], K[:, 0] + noise], 1),
            2,
        ),
        "two keys that are close but not the same": (torch.stack([K[:, 0], close], 1), 2),
    }
    for name, (batch, count) in cases.items():
        kept = call(function, batch)
        try:
            kept = [int(i) for i in kept]
            columns = batch[:, kept]
        except (TypeError, ValueError, IndexError):
            raise Wrong("the answer is a list of column numbers, such as [0, 2]") from None
        if len(set(kept)) != len(kept):
            raise Wrong(f"for {name}, you list a column twice")
        if len(kept) > count:
            raise Wrong(f"for {name}, {len(kept)} are kept and the batch is still singular")
        if len(kept) < count:
            raise Wrong(f"for {name}, only {len(kept)} is kept: a fact was lost")
        gaps = (batch[:, :, None] - columns[:, None, :]).norm(dim=0).min(dim=1).values
        if float(gaps.max()) > 1e-6:
            raise Wrong(f"for {name}, a key is not kept at all")
    return "every key is kept once, and each batch can be solved"


@exercise
def emmet_next_price(function):
    """function(R, K, C0, r, k) must give the rise of the least preservation loss."""
    for seed, (d_out, d_in, E) in enumerate(((3, 6, 2), (4, 9, 5), (2, 5, 1))):
        R, K, C0 = _problem(d_out, d_in, E + 1, seed)
        before, after = (
            _objective.preservation(_objective.emmet(R[:, :n], K[:, :n], C0).delta, C0)
            for n in (E, E + 1)
        )
        rise = float(after - before)
        answer = call(function, R[:, :E], K[:, :E], C0, R[:, E], K[:, E])
        got = _number(answer, "the price")
        if abs(got - rise) < 1e-7 * rise:
            continue
        if abs(got - float(after)) < 1e-7 * rise:
            raise Wrong("that is the price of the whole batch; asked is by how much it rises")
        alone = _objective.emmet(R[:, E:], K[:, E:], C0).delta
        if abs(got - float(_objective.preservation(alone, C0))) < 1e-7 * rise:
            raise Wrong(
                "that is the price of the newcomer alone; beside a batch, part of its key is "
                "used up and part of its value may be there already"
            )
        raise Wrong(f"for a batch of {E} the price rises by {rise:.4g}, you say {got:.4g}")
    return "the same as two whole solves say"


@exercise
def emmet_true_ridge(function):
    """function(a, eps, E): with this ridge `emmet` must equal the published formula."""
    for a, eps, E in ((1.0, 0.1, 4), (1000.0, 0.1, 4), (50.0, 2.0, 3), (1000.0, 0.1, 1)):
        ridge = _number(call(function, a, eps, E), "a ridge")
        if not 0 <= ridge < float("inf"):
            raise Wrong(f"a ridge is not negative, yours is {ridge:g}")
        R, K, C0 = _problem(3, 7, E)
        ours, theirs = _objective.emmet(R, K, C0, ridge).delta, _published(R, K, C0, a, eps)
        if distance(ours, theirs) > 1e-7:
            raise Wrong(
                f"with a = {a:g}, eps = {eps:g} and {E} fact{'s' * (E > 1)}, the code leaves "
                f"{_misses(theirs, R, K):.1%} of the residual; with your ridge {ridge:g} it is "
                f"{_misses(ours, R, K):.1%}"
            )
    return "with your ridge, equality-constrained editing becomes what the code does"


@exercise
def emmet_largest_ridge(function):
    """function(K, C0, share): the largest ridge that writes every mixture to at least `share`."""
    for E, share in ((2, 0.9), (5, 0.9), (4, 0.5), (1, 0.75)):
        _, K, C0 = _problem(3, 8, E)
        ridge = _number(call(function, K, C0, share), "a ridge")
        if not ridge > 0:
            raise Wrong(f"below a share of 1 there is room for a ridge; yours is {ridge:g}")
        eye = torch.eye(E, dtype=torch.float64)
        least = float(
            torch.linalg.eigvals(_objective.emmet(eye, K, C0, ridge).delta @ K).real.min()
        )
        if abs(least - share) > 1e-7:
            few = "less" if least < share else "more"
            raise Wrong(
                f"with {E} fact{'s' * (E > 1)} and share {share:.0%}, the mixture that is worst "
                f"off is written to {least:.1%} with your ridge of {ridge:.4g}: {few} than asked"
            )
    return "the mixture that is worst off gets exactly its share"


def _referee_cases():
    """{sentence: function that runs it and returns (is it so, what was seen)}."""
    R, K, C0 = _problem(4, 12, 8)

    def far(x, y):
        return f"the two updates differ by {distance(x, y):.1%}", distance(x, y) < 1e-9

    def one():
        text, same = far(
            _published(R[:, :1], K[:, :1], C0, 1000.0, 0.1),
            _objective.rome(R[:, 0], K[:, 0], C0).delta,
        )
        return same, text

    def exact():
        left = _misses(_published(R, K, C0, 1000.0, 0.1), R, K)
        return left < 1e-9, f"{left:.1%} of the residual is left"

    def product():
        text, same = far(_published(R, K, C0, 1000.0, 0.1), _published(R, K, C0, 500.0, 0.2))
        return same, text

    def weight():
        text, same = far(
            _published(R, K, C0, 1000.0, 0.1), _objective.memit(R, K, C0, 1000.0).delta
        )
        return same, text

    def smaller():
        left = [_misses(_published(R, K, C0, 10.0, eps), R, K) for eps in (1.0, 0.1, 0.001)]
        seen = ", ".join(f"{x:.1%}" for x in left)
        return left[0] > left[1] > left[2], f"for eps = 1, 0.1, 0.001 it leaves {seen}"

    return {
        "one fact: the code gives the update of ROME": one,
        "eight facts: the code meets every fact exactly": exact,
        "eight facts: halving a and doubling eps changes nothing": product,
        "eight facts: with the same weight a, it equals MEMIT with lam = a": weight,
        "eight facts: the smaller eps, the closer to equality": smaller,
    }


@exercise
def emmet_referee(verdicts):
    """verdicts: {sentence: True or False}. Runs each sentence."""
    return judge(verdicts, _referee_cases())
