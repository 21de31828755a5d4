"""Checks of the exercises on the objective: updates of a matrix, with no model in sight."""

import torch

from ... import objective as _objective
from .core import NoAnswer, Wrong, as_update, call, distance, exercise


def _problem(d_out, d_in, E, seed=0):
    """R (d_out, E), K (d_in, E), C0 (d_in, d_in): no two sizes equal, C0 far from I."""
    generator = torch.Generator().manual_seed(seed)
    R, K, F = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((d_out, E), (d_in, E), (d_in, 3 * d_in))
    )
    F = F * torch.logspace(0, -1, d_in, dtype=torch.float64)[:, None]
    return R, K, F @ F.T / F.shape[1]


def _misses(update, R, K):
    """||R - update K|| / ||R||."""
    return float((R - update @ K).norm() / R.norm())


@exercise
def rank_one(update, r, k):
    """The smallest update that sends the key k (d_in,) to the residual r (d_out,)."""
    update = as_update(update, len(r), len(k))
    rank = int(torch.linalg.matrix_rank(update))
    if rank != 1:
        raise Wrong(f"your update has rank {rank}, a single edit should have rank 1")
    got = update @ k
    along = float(got @ r / (r @ r))
    if distance(got, along * r) < 1e-9 and abs(along - 1) > 1e-9:
        raise Wrong(f"update @ k points along r, but is {along:.3g} times as long")
    if distance(got, r) > 1e-9:
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
        D = as_update(call(function, R, K, C0, lam), d_out, d_in).requires_grad_()
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
        D = as_update(call(function, R, K, C0), d_out, d_in)
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
        count = call(function, keys)
        if int(count) + independent != len(keys):
            raise Wrong(f"you count {int(count)} for {name}, and that is not so")
    return "also where keys repeat, and where they fill the whole space"
