"""The preservation-memorization objective: two losses, and one solver for the whole family.

A weight W (d_out, d_in) is an associative memory. K0 holds N keys whose values must stay, and
C0 = K0 K0^T / N is their second moment (uncentred covariance). K (d_in, E) and V (d_out, E) are
the keys and wanted values of E new facts; R = V - (W K + b 1^T) is the residual. An edit adds
Delta (d_out, d_in) to W:

    preservation(Delta) = tr(Delta C0 Delta^T)   = (1/N) ||Delta K0||_F^2
    memorization(Delta) = ||R - Delta K||_F^2

Every closed form here is one ridge regression in whitened coordinates. Preservation gives a
factor B (p, d_in); the keys become Z = B K (p, E), and

    Delta = R (Z^T Z + ridge I)^-1 Z^T B            (E x E system)
          = R Z^T (Z Z^T + ridge I)^-1 B            (p x p system, by the push-through identity)

    soft preservation   B = L^-1 with C0 = L L^T    B^T B = C0^-1
    hard preservation   B = U^T, U spans the kept-out null space    B^T B = P

    ROME       soft, ridge = 0, E = 1       EMMET      soft, ridge = 0
    MEMIT      soft, ridge = lam            AlphaEdit  hard, ridge = L2
    nullspace  hard, ridge = 0

No model is in sight: tensors in, tensors out, all in float64.
Sources: ROME arXiv:2202.05262 (eq. 2), MEMIT arXiv:2210.07229 (eq. 14), EMMET arXiv:2403.14236,
AlphaEdit arXiv:2410.02355. That one parameter joins MEMIT and EMMET is derived in the book.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from .errors import MeditError, SingularError
from .settings import number, shown, tensor

MAX_CONDITION = 1e13  # above this a float64 solve keeps fewer than three correct digits
LEAST_COSINE = 1e-7  # below this the product of two keys read in float32 is rounding


# ------------------------------------------------------------------ the two losses


def residual(W, b, K, V):
    """What is still missing: R = V - (W K + b 1^T), eq:residual.

    W (d_out, d_in), b (d_out,) or None, K (d_in, E), V (d_out, E); returns R (d_out, E).
    """
    _agree(W, V, K, "W", "V")
    if b is not None and b.shape != W.shape[:1]:
        raise MeditError(f"b must have {len(W)} entries, its shape is {tuple(b.shape)}")
    out = W @ K
    return V - (out if b is None else out + b[:, None])


def preservation(Delta, C0):
    """tr(Delta C0 Delta^T), eq:preservation: mean squared change of the preserved keys' values.

    Delta (d_out, d_in), C0 (d_in, d_in); returns a scalar. EMMET paper, the preservation term of
    its preservation-memorization objective.
    """
    _agree(Delta, Delta, C0, "Delta", "Delta")
    return ((Delta @ C0) * Delta).sum()


def memorization(Delta, R, K):
    """||R - Delta K||_F^2: squared distance of the new facts from their targets (eq:memorization).

    Delta (d_out, d_in), R (d_out, E), K (d_in, E); returns a scalar.
    """
    _agree(Delta, R, K, "Delta", "R")
    return ((R - Delta @ K) ** 2).sum()


def objective(Delta, R, K, C0, lam):
    """lam * preservation(Delta, C0) + memorization(Delta, R, K): soft, soft (eq:soft-objective)."""
    return lam * preservation(Delta, C0) + memorization(Delta, R, K)


# ------------------------------------------------------------------ preservation, factored once


@dataclass(frozen=True)
class SoftPreservation:
    """C0 = L L^T, factored once and used for every lam and every batch; B = L^-1.

    L (d_in, d_in) lower triangular; `condition` is an estimate of cond(C0).
    """

    L: torch.Tensor
    _last: list = field(default_factory=list, repr=False, compare=False)

    @cached_property
    def condition(self):
        """cond(C0), estimated when it is first asked for: on a big C0 that takes seconds."""
        return _condition(self.L)

    def whiten(self, K):
        """Z = B K, (d_in, E) -> (d_in, E)."""
        return torch.linalg.solve_triangular(self.L, K, upper=False)

    def unwhiten(self, Z):
        """B^T Z, (d_in, E) -> (d_in, E)."""
        return torch.linalg.solve_triangular(self.L.T, Z, upper=True)


@dataclass(frozen=True)
class HardPreservation:
    """U (d_in, p): orthonormal directions that the preserved keys (almost) never use; B = U^T.

    `condition` is cond(C0); `largest_kept` the largest eigenvalue of C0 that was called null.
    """

    U: torch.Tensor
    condition: float
    largest_kept: float
    _last: list = field(default_factory=list, repr=False, compare=False)

    def whiten(self, K):
        """Z = B K, (d_in, E) -> (p, E)."""
        return self.U.T @ K

    def unwhiten(self, Z):
        """B^T Z, (p, E) -> (d_in, E)."""
        return self.U @ Z


def factor(C0):
    """Cholesky factor of C0 (d_in, d_in), with its condition number.

    Raises SingularError when C0 is not positive definite to working precision: usually it was
    collected from fewer tokens than it has dimensions. `shrink` is the remedy when no more
    tokens are at hand.
    """
    C0 = _square(C0)
    L, info = torch.linalg.cholesky_ex(C0)
    condition = _condition(L, rounds=3) if info == 0 else float("inf")  # finds a null direction
    if not condition <= MAX_CONDITION:  # also when it is NaN
        raise SingularError(
            f"C0 ({C0.shape[0]} x {C0.shape[0]}) is singular to working precision "
            f"(condition number {condition:.1e}); collect it from more tokens than it has "
            "dimensions, or use objective.shrink(C0, alpha)",
            condition,
        )
    return SoftPreservation(L)


def null_space(C0, threshold=None, energy=None):
    """Eigenvectors of C0 that preserved keys hardly use: U (d_in, p), so that P = U U^T.

    Give one of: threshold, the absolute eigenvalue below which a direction counts as null (the
    AlphaEdit code uses 0.02; the right value depends on the scale of C0); or energy, the share of
    tr(C0) that the null directions may hold together (free of scale, e.g. 1e-4). threshold=math.inf
    says that every direction is to count as null: nothing is preserved.
    """
    if (threshold is None) == (energy is None):
        raise MeditError("give exactly one of threshold and energy")
    everything = isinstance(threshold, float) and threshold == math.inf
    threshold = (
        threshold if everything else number("threshold", threshold, none=True, error=MeditError)
    )
    energy = number("energy", energy, low=0, none=True, error=MeditError)
    values, vectors = torch.linalg.eigh(_square(C0))  # ascending
    if energy is not None:
        keep = int((values.clamp(min=0).cumsum(0) <= energy * values.sum()).sum())
    else:
        keep = int((values < threshold).sum())
    if keep == 0:
        raise SingularError(
            f"no direction of C0 counts as null (smallest eigenvalue {values[0]:.1e}); "
            "raise threshold or energy"
        )
    if keep == len(values) and not everything:
        raise MeditError(
            f"all {keep} directions of C0 count as null, so that nothing would be preserved "
            f"(largest eigenvalue {values[-1]:.1e}); lower threshold or energy"
        )
    condition = float(values[-1] / values[0]) if values[0] > 0 else float("inf")
    return HardPreservation(vectors[:, :keep].contiguous(), condition, float(values[keep - 1]))


def shrink(C0, alpha):
    """(1 - alpha) C0 + alpha tr(C0)/d I, 0 <= alpha <= 1: pulls the spectrum towards its mean.

    In the book eq:keys-shrinkage.
    """
    alpha = number("alpha", alpha, low=0, high=1, what="in [0, 1]", error=MeditError)
    C0 = _square(C0)
    eye = torch.eye(len(C0), dtype=C0.dtype, device=C0.device)
    return (1 - alpha) * C0 + alpha * C0.trace() / len(C0) * eye


# ------------------------------------------------------------------ the one solver


@dataclass(frozen=True)
class Solution:
    """Delta = left @ right^T and how it was found.

    left (d_out, E), right (d_in, E), float64; ridge is what was really added to Z^T Z;
    condition_gram = cond of the system that was solved; dimensions = p, the directions in which
    the update may live; preserve: the factor that was given.
    """

    left: torch.Tensor
    right: torch.Tensor
    ridge: float
    condition_gram: float
    dimensions: int
    preserve: object = field(repr=False)
    notes: tuple = field(default=())

    @property
    def condition_C0(self):
        """cond(C0)."""
        return self.preserve.condition

    @property
    def delta(self):
        """Delta (d_out, d_in)."""
        return self.left @ self.right.T


def solve(R, K, preserve, ridge=0.0, kept=None):
    """Delta = R (Z^T Z + ridge I)^-1 Z^T B with Z = B K: the solver behind every method.

    R (d_out, E), K (d_in, E), preserve = factor(C0) or null_space(C0, ...), ridge >= 0.
    kept (d_in, M), optional: keys of earlier edits, which take part with residual 0. With
    ridge 0 they are exact constraints; with a ridge they add their K K^T to the system.
    Solves the smaller of the E x E and p x p systems by Cholesky. In the book eq:family and
    eq:push-through.

    Raises SingularError (with the condition number) when the system has no unique solution:
    duplicate keys, or more keys than directions, with ridge 0.
    """
    R = tensor("R", R, None, None)
    K = _keys(K, preserve)
    keys = _behind(kept, K, preserve)
    if R.shape[1] != K.shape[1]:
        raise MeditError(f"R has {R.shape[1]} columns and K has {K.shape[1]}; both need one a fact")
    ridge = number("ridge (lam)", ridge, low=0, error=MeditError)
    E = K.shape[1]
    Z, BZ = _whitened(preserve, keys)
    p, n = Z.shape
    if n > p and ridge == 0:
        raise SingularError(_why_singular(Z, n - E, float("inf")))
    primal = n <= p  # E x E; otherwise the p x p twin
    S = Z.T @ Z if primal else Z @ Z.T
    S = S + ridge * torch.eye(len(S), dtype=S.dtype, device=S.device)
    L, info = torch.linalg.cholesky_ex(S)
    condition = _condition(L) if info == 0 else float("inf")
    if not condition <= MAX_CONDITION:  # also when it is NaN
        raise SingularError(_why_singular(Z, n - E, condition), condition)
    if primal:
        right = torch.cholesky_solve(BZ.T, L).T
    else:
        right = preserve.unwhiten(torch.cholesky_solve(Z, L))
    return Solution(R, right[:, n - E :], float(ridge), condition, p, preserve)


def least_ridge(K, preserve, condition=1e10, kept=None):
    """The smallest ridge that brings cond(Z^T Z + ridge I) down to `condition` (0 if none needed).

    With lo and hi the extreme eigenvalues of Z^T Z: (hi + ridge) / (lo + ridge) <= condition.
    """
    K = _behind(kept, _keys(K, preserve), preserve)
    Z, _ = _whitened(preserve, K)
    p, n = Z.shape
    values = torch.linalg.eigvalsh(Z.T @ Z if n <= p else Z @ Z.T)
    lo = max(float(values[0]), 0.0) if n <= p else 0.0
    return max(0.0, (float(values[-1]) - condition * lo) / (condition - 1))


# ------------------------------------------------------------------ the methods, as thin names


def memit(R, K, C0, lam, kept=None):
    """Delta = R K^T (lam C0 + K K^T)^-1, the minimiser of lam * preservation + memorization.

    R (d_out, E), K (d_in, E), C0 (d_in, d_in) or factor(C0), lam > 0 (emmet is the limit
    lam -> 0). MEMIT paper, eq. 14;
    in the book eq:memit-solution.
    """
    lam = number("lam", lam, above=0, error=MeditError)
    return solve(R, K, _soft(C0), ridge=lam, kept=kept)


def emmet(R, K, C0, ridge=0.0, kept=None):
    """Delta = R (K^T C0^-1 K + ridge I)^-1 K^T C0^-1; with ridge 0, Delta K = R exactly.

    Minimises preservation subject to the equality (EMMET paper, where EMMET is introduced). With
    ridge > 0 it *is* memit with lam = ridge. Raises SingularError for duplicate keys or more keys
    than dimensions. In the book eq:emmet-solution and eq:emmet-ridge-identity.
    """
    return solve(R, K, _soft(C0), ridge=ridge, kept=kept)


def rome(r, k, C0, divide_by=None):
    """Delta = r (C0^-1 k)^T / (k^T C0^-1 k), emmet for one fact. ROME paper, eq. 2.

    r (d_out,) or (d_out, 1), k (d_in,) or (d_in, 1). divide_by (d_in,), optional: the key used in
    the denominator. The original code divides by the key of the bare prompt while k is a mean
    over contexts; then Delta k is not r any more (the asymmetry that r-ROME, arXiv:2403.07175,
    removes). In the book eq:rome-solution and eq:rome-bug.
    """
    r, k = _column("r", r), _column("k", k)
    solution = solve(r, k, _soft(C0))
    if divide_by is None:
        return solution
    other = _keys(_column("divide_by", divide_by), solution.preserve, "divide_by")[:, 0]
    u = solution.right[:, 0]
    gain = float(other @ u)  # k_d.u / k.u
    if not abs(gain) > LEAST_COSINE * float(other.norm() * u.norm()):
        raise SingularError(
            f"the key to divide by is orthogonal to C0^-1 k (their product is {gain:.1e}, where "
            "that of k is 1): Delta would be without bound; divide by the key itself "
            '(divide_by="key")'
        )
    note = f"divided by another key: Delta k = {1 / gain:.3g} r"
    return replace(solution, right=solution.right / gain, notes=(note,))


def alphaedit(R, K, C0, L2, threshold=None, energy=None, kept=None):
    """Delta = R K^T P (K K^T P + L2 I)^-1, P = U U^T the projector onto the null space of C0.

    Minimises memorization + L2 ||Delta||^2 (+ ||Delta kept||^2) over updates with Delta = Delta P.
    L2 > 0 (nullspace is the limit L2 -> 0). C0 may be null_space(C0, ...). AlphaEdit paper, its
    closed form for sequential editing; in the book eq:alphaedit-solution.
    """
    L2 = number("L2", L2, above=0, error=MeditError)
    return solve(R, K, _hard(C0, threshold, energy), ridge=L2, kept=kept)


def nullspace(R, K, C0, threshold=None, energy=None, kept=None):
    """Delta = R (K^T P K)^-1 K^T P: exact memorization, the smallest such update in the null space.

    Feasible for every R only if P K has full column rank; otherwise SingularError. In the book
    eq:nullspace-solution.
    """
    return solve(R, K, _hard(C0, threshold, energy), kept=kept)


# ------------------------------------------------------------------ small helpers


def _soft(C0):
    return C0 if isinstance(C0, SoftPreservation) else factor(C0)


def _hard(C0, threshold, energy):
    return C0 if isinstance(C0, HardPreservation) else null_space(C0, threshold, energy)


def _whitened(preserve, K):
    """Z = B K and B^T Z; the last ones are remembered, so that a sweep of lam makes them once."""
    last = preserve._last
    if not last or last[0].device != K.device or not torch.equal(last[0], K):
        Z = preserve.whiten(K)
        last[:] = [K.clone(), Z, preserve.unwhiten(Z)]
    return last[1:]


def _agree(A, B, X, a, b):
    """MeditError unless A X can be compared with B entry by entry, so that nothing is repeated."""
    for name, Y in ((a, A), (b, B), ("the other factor", X)):
        if not isinstance(Y, torch.Tensor):
            raise MeditError(f"{name} must be a tensor, not {shown(Y)}")
    if A.ndim != 2 or A.shape[1:] != X.shape[:1] or B.shape != (len(A), *X.shape[1:]):
        raise MeditError(
            f"{a} {tuple(A.shape)} times {tuple(X.shape)} cannot be compared with {b} "
            f"{tuple(B.shape)}"
        )


def _keys(K, preserve, name="K"):
    """Keys (d_in, E) as float64; MeditError unless they have the dimensions that C0 has."""
    if not isinstance(preserve, (SoftPreservation, HardPreservation)):
        raise MeditError(f"give factor(C0) or null_space(C0, ...), not {shown(preserve)}")
    K = tensor(name, K, None, None)
    d_in = (preserve.L if isinstance(preserve, SoftPreservation) else preserve.U).shape[0]
    if len(K) != d_in:
        raise MeditError(f"keys have {len(K)} dimensions, C0 has {d_in}")
    return K


def _behind(kept, K, preserve):
    """The keys K behind those that are kept (d_in, M), if there are any."""
    none = kept is None or (isinstance(kept, torch.Tensor) and kept.shape[1:] == (0,))
    return K if none else torch.cat([_keys(kept, preserve, "kept"), K], 1)


def _column(name, x):
    """A vector, or a matrix of one column, as (d, 1) float64."""
    x = x[:, 0] if getattr(x, "ndim", 1) == 2 and x.shape[1] == 1 else x
    return tensor(name, x, None)[:, None]


def _square(C0):
    C0 = tensor("C0", C0, None, None)
    if C0.shape[0] != C0.shape[1]:
        raise MeditError(f"C0 must be square (d_in, d_in), got shape {tuple(C0.shape)}")
    return (C0 + C0.T).mul_(0.5)


def _condition(L, rounds=60, enough=1e-3):
    """cond(L L^T) by power and inverse iteration: a lower bound, within percents in practice.

    Ends when a round changes it by less than the share `enough`.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(L), 1, dtype=torch.float64, generator=generator).to(L.device)
    y, known = x.clone(), 0.0
    for _ in range(rounds):
        x = L @ (L.T @ (x / x.norm()))
        y = torch.linalg.solve_triangular(L, y / y.norm(), upper=False)
        y = torch.linalg.solve_triangular(L.T, y, upper=True)
        found = float(x.norm() * y.norm())
        if abs(found - known) < enough * found:
            break
        known = found
    return found


def _why_singular(Z, M, condition):
    """What to tell the user; Z (p, n) holds M kept keys, then those of the facts."""
    p, n = Z.shape
    head = f"no unique solution (condition number {condition:.1e}): "
    if n > p:
        return head + f"{n} keys in {p} directions cannot all be met exactly; use a ridge"
    Q = Z / Z.norm(dim=0).clamp(min=1e-300)
    G = (Q.T @ Q).abs() - torch.eye(n, dtype=Z.dtype, device=Z.device)
    if float(G.max()) > 1 - 1e-9:
        i, j = sorted(divmod(int(G.argmax()), n))
        first, second = (f"kept key {x}" if x < M else f"fact {x - M}" for x in (i, j))
        return head + (
            f"the keys of {first} and {second} are the same; drop one of them "
            "(one subject asked in the same words has one key) or use a ridge"
        )
    return head + "the keys are linearly dependent; drop facts or use a ridge"
