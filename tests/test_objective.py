"""The closed forms against independent oracles: brute force, KKT systems, textbook formulas."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch

from medit_teach import objective as o
from medit_teach.errors import MeditError, SingularError

RTOL = 1e-9
# (d_out, d_in, E): no two sizes equal, so that a transposed matrix cannot pass; then a square W,
# then more facts than dimensions.
SIZES = [(5, 12, 3), (12, 7, 4), (9, 9, 4), (3, 8, 13)]
FEASIBLE = SIZES[:3]


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def eye(n):
    return torch.eye(n, dtype=torch.float64)


def zeros(*shape):
    return torch.zeros(*shape, dtype=torch.float64)


def second_moment(d, condition=100.0, seed=0):
    """C0 (d, d) with eigenvalues from 1 down to 1 / condition, in random directions."""
    Q, _ = torch.linalg.qr(randn(d, d, seed=seed + 1000))
    values = torch.logspace(0, -math.log10(condition), d, dtype=torch.float64)
    return (Q * values) @ Q.T


def problem(size, condition=100.0, seed=0):
    """R (d_out, E), K (d_in, E), C0 (d_in, d_in)."""
    d_out, d_in, E = size
    R, K = randn(d_out, E, seed=seed + 1), randn(d_in, E, seed=seed + 2)
    return R, K, second_moment(d_in, condition, seed)


def gap(a, b):
    """Relative Frobenius distance."""
    return float((a - b).norm() / max(a.norm(), b.norm()))


def close(a, b, rtol=RTOL):
    assert a.shape == b.shape, f"{tuple(a.shape)} against {tuple(b.shape)}"
    assert gap(a, b) < rtol, f"relative distance {gap(a, b):.1e}"


def inverse_root(C0):
    """F with F F^T = C0, from eigenvectors: the module uses Cholesky instead."""
    values, vectors = torch.linalg.eigh(C0)
    return vectors * values.sqrt()


def directions(C0, p):
    """The p weakest eigenvectors of C0 from an SVD: the module uses eigh instead."""
    return torch.linalg.svd(C0)[0][:, -p:]


def threshold(C0, p):
    values = torch.linalg.eigvalsh(C0)
    return float((values[p - 1] * values[p]).sqrt())


# ------------------------------------------------------------------ brute force


def minimise(loss, shape):
    """The minimum of a quadratic loss, by conjugate gradients on autograd's gradient alone."""

    def gradient(X):
        X = X.clone().requires_grad_()
        return torch.autograd.grad(loss(X), X)[0]

    X = torch.zeros(shape, dtype=torch.float64)
    start = gradient(X)
    for _ in range(6):  # restarts wash out rounding
        g = gradient(X)
        step = -g
        for _ in range(2 * X.numel()):
            if g.norm() <= 1e-14 * start.norm():
                return X
            curved = gradient(step) - start  # the Hessian times step: the gradient is affine
            t = (g * g).sum() / (step * curved).sum()
            X = X + t * step
            new = g + t * curved
            step = -new + (new * new).sum() / (g * g).sum() * step
            g = new
    return X


def meeting(R, K):
    """Any Delta with Delta K = R, and N (d_in, d_in - E) with N^T K = 0."""
    N = torch.linalg.svd(K)[0][:, K.shape[1] :]
    start = torch.linalg.lstsq(K.T, R.T, driver="gelsd").solution.T
    return start + randn(len(R), N.shape[1], seed=55) @ N.T, N


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lam", [0.05, 3.0])
def test_memit_minimises_the_soft_objective(size, lam):
    R, K, C0 = problem(size)
    found = minimise(lambda D: o.objective(D, R, K, C0, lam), (size[0], size[1]))
    close(o.memit(R, K, C0, lam).delta, found)


@pytest.mark.parametrize("size", FEASIBLE)
def test_emmet_minimises_preservation_among_the_exact_updates(size):
    R, K, C0 = problem(size)
    start, N = meeting(R, K)
    Y = minimise(lambda Y: o.preservation(start + Y @ N.T, C0), (size[0], N.shape[1]))
    close(o.emmet(R, K, C0).delta, start + Y @ N.T)


@pytest.mark.parametrize("size", FEASIBLE)
def test_rome_minimises_preservation_for_one_fact(size):
    R, K, C0 = problem((*size[:2], 1))
    start, N = meeting(R, K)
    Y = minimise(lambda Y: o.preservation(start + Y @ N.T, C0), (size[0], N.shape[1]))
    close(o.rome(R[:, 0], K[:, 0], C0).delta, start + Y @ N.T)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("p", [2, 6])
def test_alphaedit_minimises_inside_the_null_space(size, p):
    R, K, C0 = problem(size)
    U = directions(C0, p)

    def loss(Y):
        return o.memorization(Y @ U.T, R, K) + 0.3 * (Y**2).sum()

    found = o.alphaedit(R, K, C0, L2=0.3, threshold=threshold(C0, p))
    assert found.dimensions == p
    close(found.delta, minimise(loss, (size[0], p)) @ U.T)


@pytest.mark.parametrize("size", FEASIBLE)
def test_nullspace_is_the_smallest_exact_update_in_the_null_space(size):
    R, K, C0 = problem(size)
    p = 6
    U = directions(C0, p)
    start, N = meeting(R, U.T @ K)
    Y = minimise(lambda Y: ((start + Y @ N.T) ** 2).sum(), (size[0], N.shape[1]))
    found = o.nullspace(R, K, C0, threshold=threshold(C0, p)).delta
    close(found, (start + Y @ N.T) @ U.T)
    close(found @ K, R)


@pytest.mark.parametrize("size", SIZES)
def test_kept_keys_count_with_residual_zero(size):
    R, K, C0 = problem(size)
    old, p = randn(size[1], 2, seed=77), 5

    def soft(D):
        return o.objective(D, R, K, C0, 0.7) + ((D @ old) ** 2).sum()

    close(o.memit(R, K, C0, 0.7, kept=old).delta, minimise(soft, size[:2]))
    U = directions(C0, p)

    def hard(Y):
        D = Y @ U.T
        return o.memorization(D, R, K) + 0.3 * (Y**2).sum() + ((D @ old) ** 2).sum()

    found = o.alphaedit(R, K, C0, 0.3, threshold=threshold(C0, p), kept=old).delta
    close(found, minimise(hard, (size[0], p)) @ U.T)


@pytest.mark.parametrize("size", FEASIBLE)
def test_kept_keys_are_constraints_of_the_exact_methods(size):
    R, K, C0 = problem((*size[:2], 3))
    old = randn(size[1], 2, seed=77)
    both, target = torch.cat([old, K], 1), torch.cat([zeros(size[0], 2), R], 1)
    start, N = meeting(target, both)
    Y = minimise(lambda Y: o.preservation(start + Y @ N.T, C0), (size[0], N.shape[1]))
    close(o.emmet(R, K, C0, kept=old).delta, start + Y @ N.T)
    hard = o.nullspace(R, K, C0, threshold=threshold(C0, 6), kept=old).delta
    close(hard @ both, target)
    close(hard, target @ torch.linalg.pinv(directions(C0, 6).T @ both) @ directions(C0, 6).T)


# ------------------------------------------------------------------ KKT systems, up to cond 1e6


@pytest.mark.parametrize("condition", [1e1, 1e3, 1e6])
@pytest.mark.parametrize("size", SIZES)
def test_memit_meets_its_normal_equations(size, condition):
    R, K, C0 = problem(size, condition)
    lam = 0.4
    D = o.memit(R, K, C0, lam).delta
    close(D @ (lam * C0 + K @ K.T), R @ K.T)
    stacked = torch.cat([lam**0.5 * inverse_root(C0).T, K.T])  # rows: preserve, then memorize
    wanted = torch.cat([zeros(size[1], size[0]), R.T])
    close(D, torch.linalg.lstsq(stacked, wanted, driver="gelsd").solution.T)


@pytest.mark.parametrize("condition", [1e1, 1e3, 1e6])
@pytest.mark.parametrize("size", FEASIBLE)
def test_emmet_meets_its_kkt_conditions(size, condition):
    R, K, C0 = problem(size, condition)
    E = size[2]
    D = o.emmet(R, K, C0).delta
    close(D @ K, R)
    # stationary: 2 D C0 = M K^T for some multipliers M, i.e. D C0 lies in the row space of K^T
    gradient = 2 * D @ C0
    M = gradient @ torch.linalg.pinv(K.T)
    close(gradient, M @ K.T)
    # and the whole system at once: [2 C0, K; K^T, 0] [D^T; -M^T] = [0; R^T]
    system = torch.cat([torch.cat([2 * C0, K], 1), torch.cat([K.T, zeros(E, E)], 1)])
    right = torch.cat([zeros(size[1], size[0]), R.T])
    solved = torch.linalg.solve(system, right)
    close(D, solved[: size[1]].T)
    close(M, -solved[size[1] :].T)


@pytest.mark.parametrize("condition", [1e1, 1e3, 1e6])
@pytest.mark.parametrize("size", SIZES)
def test_alphaedit_meets_its_normal_equations(size, condition):
    R, K, C0 = problem(size, condition)
    U = directions(C0, 5)
    P = U @ U.T
    D = o.alphaedit(R, K, C0, 0.2, threshold=threshold(C0, 5)).delta
    close(D, D @ P)
    close((R - D @ K) @ K.T @ P, 0.2 * D)


# ------------------------------------------------------------------ identities


def textbook(formula, *matrices):
    """A formula worked out with 40 digits : plain float64 inverses lose too many."""
    with mpmath.workdps(40):
        result = formula(*(mpmath.matrix(m.tolist()) for m in matrices))
        rows = [[float(x) for x in row] for row in result.tolist()]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("condition", [1e1, 1e6])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lam", [0.01, 1.0, 50.0])
def test_memit_is_emmet_plus_a_ridge(size, condition, lam):
    R, K, C0 = problem(size, condition)
    memit, emmet = o.memit(R, K, C0, lam).delta, o.emmet(R, K, C0, ridge=lam).delta
    close(memit, emmet)

    def least_squares(R, K, C0):
        return R * K.T * (lam * C0 + K * K.T) ** -1

    def equality_plus_ridge(R, K, C0):
        inverse = C0**-1
        return R * (K.T * inverse * K + lam * mpmath.eye(K.cols)) ** -1 * K.T * inverse

    close(memit, textbook(least_squares, R, K, C0))
    close(emmet, textbook(equality_plus_ridge, R, K, C0))


@pytest.mark.parametrize("condition", [1e1, 1e6])
@pytest.mark.parametrize("size", FEASIBLE)
def test_emmet_textbook_formula(size, condition):
    def equality(R, K, C0):
        inverse = C0**-1
        return R * (K.T * inverse * K) ** -1 * K.T * inverse

    R, K, C0 = problem(size, condition)
    close(o.emmet(R, K, C0).delta, textbook(equality, R, K, C0))


@pytest.mark.parametrize("condition", [1e1, 1e6])
def test_rome_is_emmet_for_one_fact(condition):
    R, K, C0 = problem((5, 12, 1), condition)
    close(o.rome(R, K, C0).delta, o.emmet(R, K, C0).delta)
    u = torch.linalg.solve(C0, K[:, 0])
    close(o.rome(R[:, 0], K[:, 0], C0).delta, torch.outer(R[:, 0], u) / (K[:, 0] @ u))


def test_rome_divided_by_another_key_misses_its_target_by_a_known_factor():
    R, K, C0 = problem((5, 12, 1))
    other = K[:, 0] + 0.1 * randn(12, seed=5)
    found = o.rome(R, K, C0, divide_by=other)
    close(found.delta @ other[:, None], R)
    u = torch.linalg.solve(C0, K[:, 0])
    close(found.delta @ K, R * (K[:, 0] @ u) / (other @ u))
    assert found.notes and not o.rome(R, K, C0).notes


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("lam", "eps"), [(20.0, 0.1), (1.0, 0.1), (1000.0, 0.1)])
def test_the_published_emmet_with_eps_is_memit_with_lam_eps(size, lam, eps):
    def published(R, K, C0):
        inverse = (lam * C0) ** -1  # C' = lam C0
        return R * (K.T * inverse * K + eps * mpmath.eye(K.cols)) ** -1 * K.T * inverse

    R, K, C0 = problem(size, 1e6)
    close(o.memit(R, K, C0, lam * eps).delta, textbook(published, R, K, C0))
    close(o.emmet(R, K, lam * C0, ridge=eps).delta, textbook(published, R, K, C0))


@pytest.mark.parametrize("size", FEASIBLE)
def test_scaling_c0_leaves_the_exact_solution_alone(size):
    R, K, C0 = problem(size)
    close(o.emmet(R, K, 1000 * C0).delta, o.emmet(R, K, C0).delta)


@pytest.mark.parametrize("size", SIZES)
def test_alphaedit_textbook_formula(size):
    def formula(R, K, P, old):  # in sequence the accumulated keys join the system
        return R * K.T * P * ((K * K.T + old * old.T) * P + L2 * mpmath.eye(K.rows)) ** -1

    (R, K, C0), L2 = problem(size), 0.1
    U, null = directions(C0, 6), threshold(C0, 6)
    for old in (zeros(size[1], 1), randn(size[1], 3, seed=9)):
        found = o.alphaedit(R, K, C0, L2, threshold=null, kept=old).delta
        close(found, textbook(formula, R, K, U @ U.T, old))
    none = torch.empty(size[1], 0)
    close(
        o.alphaedit(R, K, C0, L2, threshold=null, kept=none).delta,
        o.alphaedit(R, K, C0, L2, threshold=null).delta,
        1e-15,
    )


@pytest.mark.parametrize("size", SIZES)
def test_alphaedit_is_memit_with_the_projector_in_place_of_the_inverse(size):
    """Along the kept-out directions alone (C0 = I there) the two are one formula."""
    R, K, C0 = problem(size)
    U = directions(C0, 6)
    inside = o.memit(R, U.T @ K, eye(6), lam=0.1).delta
    close(o.alphaedit(R, K, C0, 0.1, threshold=threshold(C0, 6)).delta, inside @ U.T)


def test_factors_are_low_rank_and_reusable():
    R, K, C0 = problem((5, 12, 3))
    soft = o.factor(C0)
    for lam in (0.1, 1.0):
        found = o.memit(R, K, soft, lam)
        close(found.delta, o.memit(R, K, C0, lam).delta)
        assert found.left.shape == (5, 3) and found.right.shape == (12, 3)
        assert (found.ridge, found.dimensions) == (lam, 12)
        assert torch.linalg.matrix_rank(found.delta) == 3
    hard = o.null_space(C0, threshold=threshold(C0, 6))
    close(o.nullspace(R, K, hard).delta, o.nullspace(R, K, C0, threshold=threshold(C0, 6)).delta)


def test_float32_input_is_solved_in_float64():
    R, K, C0 = problem((5, 12, 3))
    R, K, C0 = R.float(), K.float(), C0.float()
    found = o.memit(R, K, C0, 0.1).delta
    assert found.dtype == torch.float64
    close(found, o.memit(R.double(), K.double(), C0.double(), 0.1).delta, 1e-15)


def test_the_losses_by_their_definitions():
    K0, K = randn(7, 40), randn(7, 3, seed=1)
    W, b, V, D = randn(4, 7, seed=2), randn(4, seed=3), randn(4, 3, seed=4), randn(4, 7, seed=5)
    close(o.preservation(D, K0 @ K0.T / 40), ((D @ K0) ** 2).sum() / 40)
    R = o.residual(W, b, K, V)
    close(R, V - torch.nn.functional.linear(K.T, W, b).T)
    close(o.residual(W, None, K, V), V - W @ K)
    close(o.memorization(D, R, K), (V - torch.nn.functional.linear(K.T, W + D, b).T).pow(2).sum())


# ------------------------------------------------------------------ editing in sequence


def in_sequence(method, W, K, V, parts):
    """Edits in `parts` batches; each residual is measured on the weight edited so far."""
    done = 0
    for k in torch.tensor_split(torch.arange(K.shape[1]), parts):
        R = V[:, k] - W @ K[:, k]
        W = W + method(R, K[:, k], K[:, :done]).delta
        done += len(k)
    return W


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("size", [(5, 12, 7), (9, 9, 6), (3, 8, 13)])
def test_soft_methods_in_sequence_equal_the_batch(size, parts):
    """Recursive least squares: fixed keys and targets, one lam, old keys accumulated."""
    V, K, C0 = problem(size)
    W = randn(*size[:2], seed=8)
    hard = o.null_space(C0, threshold=threshold(C0, 5))

    def memit(R, K, old):
        return o.memit(R, K, C0, 0.3, kept=old)

    def alphaedit(R, K, old):
        return o.alphaedit(R, K, hard, 0.3, kept=old)

    for method in (memit, alphaedit):
        batch = W + method(V - W @ K, K, None).delta
        close(in_sequence(method, W, K, V, parts), batch)
        forgetful = in_sequence(lambda R, K, old, m=method: m(R, K, None), W, K, V, parts)
        assert gap(forgetful, batch) > 1e-3


@pytest.mark.parametrize("parts", [2, 3])
def test_exact_methods_in_sequence_equal_the_batch_only_with_constraints(parts):
    """Old keys as constraints with residual 0 give the batch solution itself.

    Each step is orthogonal, in the metric of C0, to every update that leaves the facts so far
    alone; so the sum of the steps is the smallest update that meets all facts. Old keys folded
    into C0 instead are only one more soft term: the old facts get a residual.
    """
    V, K, C0 = problem((5, 12, 7))
    W, N = randn(5, 12, seed=8), 50
    batch = W + o.emmet(V - W @ K, K, C0).delta
    close(batch @ K, V)

    def constrained(R, K, old):
        return o.emmet(R, K, C0, kept=old)

    close(in_sequence(constrained, W, K, V, parts), batch)
    hard = o.null_space(C0, threshold=threshold(C0, 8))
    close(
        in_sequence(lambda R, K, old: o.nullspace(R, K, hard, kept=old), W, K, V, parts),
        W + o.nullspace(V - W @ K, K, hard).delta,
    )

    def folded(R, K, old):
        return o.emmet(R, K, C0 + old @ old.T / N)

    edited = in_sequence(folded, W, K, V, parts)
    last = torch.tensor_split(torch.arange(7), parts)[-1]
    first = torch.tensor_split(torch.arange(7), parts)[0]
    close(edited @ K[:, last], V[:, last])  # the newest facts are exact
    assert gap(edited @ K[:, first], V[:, first]) > 1e-2  # the oldest are not
    assert gap(edited, batch) > 1e-2


# ------------------------------------------------------------------ limits


@pytest.mark.parametrize("size", FEASIBLE)
def test_memit_tends_to_emmet_linearly_in_lam(size):
    R, K, C0 = problem(size)
    exact = o.emmet(R, K, C0).delta
    rates = [gap(o.memit(R, K, C0, lam).delta, exact) / lam for lam in (1e-3, 1e-4, 1e-5, 1e-6)]
    assert max(rates) / min(rates) < 1.01, rates


@pytest.mark.parametrize("size", SIZES)
def test_memit_vanishes_like_one_over_lam(size):
    R, K, C0 = problem(size)
    first_order = R @ K.T @ torch.linalg.inv(C0)  # lam * Delta as lam -> infinity
    lams = (1e5, 1e6, 1e7, 1e8)
    rates = [gap(o.memit(R, K, C0, lam).delta * lam, first_order) * lam for lam in lams]
    assert max(rates) / min(rates) < 1.05, rates


@pytest.mark.parametrize("size", FEASIBLE)
def test_alphaedit_tends_to_nullspace_linearly_in_l2(size):
    R, K, C0 = problem((*size[:2], 3))
    hard = o.null_space(C0, threshold=threshold(C0, 6))
    exact = o.nullspace(R, K, hard).delta
    rates = [gap(o.alphaedit(R, K, hard, x).delta, exact) / x for x in (1e-3, 1e-4, 1e-5, 1e-6)]
    assert max(rates) / min(rates) < 1.05, rates


def test_more_lam_trades_memorization_for_preservation():
    R, K, C0 = problem((5, 12, 3))
    deltas = [o.memit(R, K, C0, lam).delta for lam in (1e-3, 1e-1, 1e1, 1e3)]
    kept = [float(o.preservation(D, C0)) for D in deltas]
    missed = [float(o.memorization(D, R, K)) for D in deltas]
    assert kept == sorted(kept, reverse=True) and missed == sorted(missed)


# ------------------------------------------------------------------ what has no solution


def test_c0_from_too_few_tokens_is_refused_and_shrinking_cures_it():
    R, K, _ = problem((5, 12, 3))
    K0 = randn(12, 8, seed=3)
    C0 = K0 @ K0.T / 8
    with pytest.raises(SingularError, match=r"condition number .*tokens") as caught:
        o.memit(R, K, C0, 1.0)
    assert caught.value.condition > o.MAX_CONDITION
    cured = o.shrink(C0, 0.01)
    close(cured.trace(), C0.trace())
    assert torch.linalg.cond(cured) < 1e4
    close(o.emmet(R, K, cured).delta @ K, R)


def test_duplicate_keys_are_named():
    R, K, C0 = problem((5, 12, 4))
    K[:, 3] = K[:, 1]
    with pytest.raises(SingularError, match=r"facts? 1 and (fact )?3.*same") as caught:
        o.emmet(R, K, C0)
    assert caught.value.condition > o.MAX_CONDITION
    assert "condition number" in str(caught.value)
    found = o.memit(R, K, C0, 0.1)  # soft memorization needs no unique interpolation
    close(found.right[:, 1], found.right[:, 3])


def test_a_key_that_repeats_a_kept_one_is_named_by_its_own_number():
    R, K, C0 = problem((5, 12, 3))
    old = torch.cat([randn(12, 1, seed=4), K[:, 2:]], 1)
    with pytest.raises(SingularError, match="kept key 1 and fact 2"):
        o.emmet(R, K, C0, kept=old)


def test_dependent_keys_and_zero_keys_are_refused():
    R, K, C0 = problem((5, 12, 3))
    K[:, 2] = K[:, 0] + K[:, 1]
    with pytest.raises(SingularError, match="linearly dependent"):
        o.emmet(R, K, C0)
    with pytest.raises(SingularError):
        o.rome(R[:, 0], torch.zeros(12), C0)


def test_more_keys_than_dimensions_need_a_ridge():
    R, K, C0 = problem((3, 8, 13))
    with pytest.raises(SingularError, match="13 keys in 8 directions"):
        o.emmet(R, K, C0)
    with pytest.raises(SingularError, match="13 keys in 4 directions"):
        o.nullspace(R, K, C0, threshold=threshold(C0, 4))
    with pytest.raises(SingularError, match="9 keys in 8 directions"):
        o.emmet(R[:, :4], K[:, :4], C0, kept=K[:, 8:])
    assert o.emmet(R, K, C0, ridge=0.1).ridge == 0.1


def test_bad_input_is_refused():
    R, K, C0 = problem((5, 12, 3))
    with pytest.raises(MeditError, match="R has 2 columns and K has 3"):
        o.memit(R[:, :2], K, C0, 1.0)
    with pytest.raises(MeditError, match="keys have 11 dimensions, C0 has 12"):
        o.memit(R, K[:11], C0, 1.0)
    with pytest.raises(MeditError, match="keys have 11 dimensions, C0 has 12"):
        o.memit(R, K, C0, 1.0, kept=K[:11])
    for lam in (0.0, -1.0, float("nan")):
        with pytest.raises(MeditError, match="lam must be positive"):
            o.memit(R, K, C0, lam)
    for ridge in (-1e-3, float("nan"), float("inf")):
        with pytest.raises(MeditError, match="ridge"):
            o.emmet(R, K, C0, ridge=ridge)
    with pytest.raises(MeditError, match="L2 must be positive"):
        o.alphaedit(R, K, C0, 0.0, threshold=0.1)
    for bad in (float("nan"), float("inf")):
        spoilt = K.clone()
        spoilt[0, 0] = bad
        with pytest.raises(MeditError, match="K contains NaN"):
            o.memit(R, spoilt, C0, 1.0)
        with pytest.raises(MeditError, match="kept contains NaN"):
            o.memit(R, K, C0, 1.0, kept=spoilt)
        with pytest.raises(MeditError, match="R contains NaN"):
            o.emmet(R * bad, K, C0)
        with pytest.raises(MeditError, match="C0 contains NaN"):
            o.factor(C0 * bad)
    with pytest.raises(MeditError, match="C0 must be square"):
        o.memit(R, K, C0[:6], 1.0)
    with pytest.raises(MeditError, match="alpha"):
        o.shrink(C0, 1.5)


def test_the_null_space_is_chosen_by_one_rule():
    C0 = second_moment(10, 1e4)
    for kwargs in ({}, {"threshold": 0.1, "energy": 0.1}):
        with pytest.raises(MeditError, match="exactly one"):
            o.null_space(C0, **kwargs)
    with pytest.raises(SingularError, match="no direction"):
        o.null_space(C0, threshold=1e-9)
    found = o.null_space(C0, threshold=threshold(C0, 4))
    assert found.U.shape == (10, 4)
    close(found.U @ found.U.T, directions(C0, 4) @ directions(C0, 4).T)
    values = torch.linalg.eigvalsh(C0)
    share = float(values[:4].sum() / values.sum())
    for scale in (1.0, 1e6):  # energy does not depend on the scale of C0
        assert o.null_space(scale * C0, energy=share * 1.01).U.shape == (10, 4)
    assert found.largest_kept == pytest.approx(float(values[3]))


# ------------------------------------------------------------------ condition numbers


@pytest.mark.parametrize("d", [2, 30, 256])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e6, 1e10])
def test_the_condition_number_is_right_within_a_factor(d, condition):
    C0 = second_moment(d, condition)
    true = float(torch.linalg.cond(C0))
    found = o.factor(C0).condition
    assert true / 1.3 < found < true * (1 + 1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_least_ridge_brings_the_condition_to_the_asked_value(size):
    R, K, C0 = problem(size)
    K = K + 30 * K[:, :1]  # nearly one direction
    soft = o.factor(C0)
    Z = torch.linalg.solve(inverse_root(C0), K)
    gram = Z.T @ Z
    ridge = o.least_ridge(K, soft, condition=50.0)
    assert ridge > 0
    reached = float(torch.linalg.cond(gram + ridge * eye(size[2])))
    assert reached == pytest.approx(50.0, rel=1e-6)
    found = o.emmet(R, K, soft, ridge=ridge)
    assert found.ridge == ridge and found.condition_gram < 50.0 * (1 + 1e-6)


def test_least_ridge_is_zero_where_none_is_needed():
    _, K, C0 = problem((5, 12, 3))
    assert o.least_ridge(K, o.factor(C0), condition=1e6) == 0
    doubled = torch.cat([K, K], 1)
    ridge = o.least_ridge(K, o.factor(C0), condition=1e6, kept=K)
    assert ridge == pytest.approx(o.least_ridge(doubled, o.factor(C0), condition=1e6))
    assert ridge > 0
