"""Checks of the exercises on editing in sequence: ledgers, constraints, undoing, forgetting."""

import torch

from ... import objective as _objective
from .core import Wrong, as_update, call, distance, exercise, judge
from .objective import _problem

LAM = 0.7


def _facts(d_out, d_in, n, seed=0):
    """W (d_out, d_in), V (d_out, n), K (d_in, n), C0 (d_in, d_in)."""
    V, K, C0 = _problem(d_out, d_in, n, seed)
    generator = torch.Generator().manual_seed(seed + 50)
    return torch.randn(d_out, d_in, generator=generator, dtype=torch.float64), V, K, C0


def _batch(W, V, K, C0):
    """W after all facts at once, softly."""
    return W + _objective.memit(V - W @ K, K, C0, LAM).delta


def _written(W, V, K, C0, parts, lam=(LAM,), remember=True):
    """W after the facts in len(parts) batches, softly; part i is solved with lam[i % len(lam)]."""
    done = K[:, :0]
    for i, part in enumerate(parts):
        k = K[:, part]
        kept = done if remember else None
        W = W + _objective.memit(V[:, part] - W @ k, k, C0, lam[i % len(lam)], kept=kept).delta
        done = torch.cat([done, k], 1)
    return W


def _pair(answer, d_out, d_in):
    """(W, A) of an answer, or Wrong."""
    if not (isinstance(answer, tuple | list) and len(answer) == 2):
        raise Wrong("return two things: the new W and the new A")
    W = as_update(answer[0], d_out, d_in)
    A = answer[1]
    if not isinstance(A, torch.Tensor) or A.shape != (d_in, d_in):
        raise Wrong(f"A is a ({d_in}, {d_in}) tensor: lam C0 plus the k k^T of all facts so far")
    return W, A.detach().double()


@exercise
def sequence_step(function):
    """function(W, A, V, K) must return (W, A) after one more batch of facts."""
    for d_out, d_in, parts in ((3, 7, (2, 1, 2)), (5, 4, (1, 1, 1)), (2, 6, (5, 4))):
        W0, V, K, C0 = _facts(d_out, d_in, sum(parts), d_in)
        W, A = W0.clone(), LAM * C0
        done = 0
        for n in parts:
            v, k = V[:, done : done + n], K[:, done : done + n]
            before, A_before = W, A
            W, A = _pair(call(function, W.clone(), A.clone(), v, k), d_out, d_in)
            done += n
            A_right = A_before + k @ k.T
            if distance(A, A_before) < 1e-12:
                raise Wrong("A stays as it was: the next step will not know these keys")
            if distance(A, A_right) > 1e-9:
                raise Wrong("A does not grow by the K K^T of the new facts")
            if distance(W - before, v @ torch.linalg.solve(A_right, k).T) < 1e-9:
                raise Wrong("you write V as if nothing were there; write what is missing, V - W K")
            old = (v - before @ k) @ torch.linalg.solve(A_before, k).T
            if distance(W - before, old) < 1e-9:
                raise Wrong("W is solved with the A from before the new keys; update A first")
            if distance(W, _batch(W0, V[:, :done], K[:, :done], C0)) > 1e-8:
                raise Wrong(
                    f"after {done} fact{'s' * (done > 1)} W is {distance(W, before):.0%} away from "
                    "where it was, but not where one batch of all facts so far would put it"
                )
    return "after every step W is what one batch of all facts so far would give"


@exercise
def sequence_exact(function):
    """function(R, K, kept, C0): exact on K, zero on kept, with the least preservation."""
    for d_out, d_in, n, old in ((3, 8, 2, 3), (4, 9, 1, 1), (2, 7, 3, 4)):
        R, keys, C0 = _problem(d_out, d_in, n + old, n)
        R, K, kept = R[:, :n], keys[:, :n], keys[:, n:]
        D = as_update(call(function, R, K, kept, C0), d_out, d_in)
        missed = float((R - D @ K).norm() / R.norm())
        if missed > 1e-8:
            raise Wrong(f"the new facts are not met: {missed:.1%} of them is missing")
        moved = float((D @ kept).norm() / R.norm())
        if moved > 1e-8:
            raise Wrong(f"the old facts move by {moved:.1%} of what the new ones needed")
        best = _objective.emmet(R, K, C0, kept=kept).delta
        excess = float(_objective.preservation(D, C0) / _objective.preservation(best, C0))
        if excess > 1 + 1e-8:
            raise Wrong(f"all facts are right, but the price is {excess:.3g} times the least one")
    return "the new facts are met, the old ones do not move, and no update does it cheaper"


@exercise
def sequence_undo(function):
    """function(W, A, v, k) must return (W, A) as if this one fact had never been written."""
    for d_out, d_in, n, which in ((3, 7, 4, 0), (4, 6, 5, 2), (2, 5, 2, 1)):
        W0, V, K, C0 = _facts(d_out, d_in, n, n)
        A = LAM * C0 + K @ K.T
        W, v, k = _batch(W0, V, K, C0), V[:, which], K[:, which]
        answer = call(function, W.clone(), A.clone(), v, k)
        W_new, A_new = _pair(answer, d_out, d_in)
        if distance(A_new, A - torch.outer(k, k)) > 1e-9:
            if distance(A_new, A) < 1e-12:
                raise Wrong("A still holds the key of the fact")
            raise Wrong("A must lose this one k k^T, and nothing else")
        rest = [i for i in range(n) if i != which]
        wanted = _batch(W0, V[:, rest], K[:, rest], C0)
        if distance(W_new, W) < 1e-12:
            raise Wrong("W still holds the fact")
        if distance(W_new, W - v[:, None] @ torch.linalg.solve(A, k[:, None]).T) < 1e-9:
            raise Wrong("you solve with the A that still holds the key; take it out first")
        if distance(W_new, wanted) > 1e-8:
            raise Wrong(
                f"W is {distance(W_new, wanted):.1%} away from a sequence without this fact: what "
                "does the ledger W A say before, and what should it say after?"
            )
    return "nobody can tell from W that this fact was ever written"


@exercise
def sequence_forgotten(function):
    """function(W, W0, K, V): for each fact the share of its first residual that is missing."""
    for d_out, d_in, n in ((3, 8, 5), (6, 5, 2)):
        W0, V, K, C0 = _facts(d_out, d_in, n)
        W = _written(W0, V, K, C0, [[i] for i in range(n)], remember=False)
        wanted = (V - W @ K).norm(dim=0) / (V - W0 @ K).norm(dim=0)
        got = call(function, W, W0, K, V)
        try:
            got = torch.as_tensor(got).double().flatten()
        except (TypeError, ValueError, RuntimeError):
            raise Wrong(f"{n} numbers are wanted, yours is a {type(got).__name__}") from None
        if got.shape != wanted.shape:
            raise Wrong(f"one number a fact: {n} are wanted, yours are {len(got)}")
        if distance(got, 1 - wanted) < 1e-8:
            raise Wrong("that is the share that is there; asked is what is missing")
        if distance(got, (V - W @ K).norm(dim=0)) < 1e-8:
            raise Wrong("that is a length; divide by what was missing at the start")
        if distance(got, (V - W @ K).norm(dim=0) / V.norm(dim=0)) < 1e-8:
            raise Wrong("divide by the first residual, V - W0 K, not by the target")
        if distance(got, wanted) > 1e-8:
            raise Wrong(
                f"the first fact misses {wanted[0]:.1%} of its first residual, you say {got[0]:.1%}"
            )
    return "these are the shares that are missing, fact by fact"


def _referee_cases():
    """{sentence: function that runs it and returns (is it so, what was seen)}."""
    W, V, K, C0 = _facts(3, 12, 6)
    batch, apart = _batch(W, V, K, C0), [[i] for i in range(6)]

    def near(x, y=batch):
        return distance(x, y) < 1e-9, f"the two matrices differ by {distance(x, y):.1%}"

    def order():
        return near(_written(W, V, K, C0, [[4], [0, 5], [2], [3, 1]]))

    def two_lams():
        return near(_written(W, V, K, C0, apart, lam=(LAM, 2 * LAM)))

    def twice():
        return near(_written(W, V, K, C0, [*apart, [0]]))

    def exact(kept):
        first = W + _objective.emmet(V[:, :3] - W @ K[:, :3], K[:, :3], C0).delta
        r, k = V[:, 3:] - first @ K[:, 3:], K[:, 3:]
        if kept:
            return first + _objective.emmet(r, k, C0, kept=K[:, :3]).delta
        return first + _objective.emmet(r, k, C0 + 1e4 * K[:, :3] @ K[:, :3].T).delta

    def folded():
        E = exact(kept=False)
        left = float((V - E @ K)[:, :3].norm() / (V - W @ K)[:, :3].norm())
        return left < 1e-9, f"the old facts miss {left:.1e} of their residual"

    def constrained():
        return near(exact(kept=True), W + _objective.emmet(V - W @ K, K, C0).delta)

    return {
        "soft, keys kept: another order of the facts gives the same matrix": order,
        "soft, keys kept: lam may change on the way": two_lams,
        "soft, keys kept: writing a fact a second time changes nothing": twice,
        "exact, old keys added to C0 with weight 10,000: the old facts stay exact": folded,
        "exact, old keys as constraints: the same matrix as one batch": constrained,
    }


@exercise
def sequence_referee(verdicts):
    """verdicts: {sentence: True or False}. Runs each sentence."""
    return judge(verdicts, _referee_cases())
