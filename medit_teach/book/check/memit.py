"""Checks of the exercises on MEMIT: least squares, lam, and the rule of distribution."""

import torch

from ... import objective as _objective
from ...distribution import Step
from .core import Wrong, as_update, call, distance, exercise
from .objective import _problem


@exercise
def memit_stacked(function):
    """function(R, K, K0, lam) must make the gradient of the soft objective zero."""
    for N, lam in ((6, 1.0), (20, 1.0), (20, 30.0)):
        generator = torch.Generator().manual_seed(N)
        R, K, _ = _problem(3, 6, 2)
        K0 = torch.randn(6, N, generator=generator, dtype=torch.float64)
        C0 = K0 @ K0.T / N
        D = as_update(call(function, R, K, K0, lam), 3, 6)

        def slope(weight, D=D, C0=C0, R=R, K=K):
            return float((D @ (weight * C0 + K @ K.T) - R @ K.T).norm() / (R @ K.T).norm())

        if slope(lam) < 1e-8:
            continue
        for weight, what in (
            (lam * N, "each old key counts lam instead of lam / N"),
            (lam**2 / N**2 * N, "the weight goes into the data by its square root"),
            (0.0, "the old keys take no part"),
        ):
            if slope(weight) < 1e-8:
                raise Wrong(f"a fit, but of another problem: {what}")
        raise Wrong(
            f"not at the bottom: with {N} old keys and lam = {lam:g} the gradient at your update "
            f"is {slope(lam):.2g} of the one at zero"
        )
    return "the same minimum as the closed form, with old keys instead of C0"


@exercise
def memit_lam(lam, R, K, C0, left=0.10, share=0.95):
    """With this lam at most `left` of the residual is missing, at `share` of the exact price."""
    if not float(lam) > 0:
        raise Wrong(f"lam must be positive, yours is {float(lam):g}")
    preserve = _objective.factor(C0)
    D = _objective.memit(R, K, preserve, float(lam)).delta
    missing = float(((R - D @ K).norm(dim=0) / R.norm(dim=0)).mean())
    price = _objective.preservation(D, C0)
    price = float(price / _objective.preservation(_objective.emmet(R, K, preserve).delta, C0))
    if missing > left:
        raise Wrong(f"{missing:.0%} of the residual is left, {left:.0%} is allowed")
    if price > share:
        raise Wrong(f"enough is written, but at {price:.1%} of the exact update's price")
    return f"{missing:.1%} is left, at {price:.0%} of the price of the exact update"


@exercise
def memit_twice(function):
    """function(r1, r2): what MEMIT writes at one key with two residuals, for small lam."""
    for seed in (0, 1):
        R, K, C0 = _problem(3, 6, 2, seed)
        K = K[:, :1].expand(-1, 2)
        answer = call(function, R[:, 0], R[:, 1])
        if not isinstance(answer, torch.Tensor) or answer.numel() != 3:
            raise Wrong("give a vector as long as r1")
        answer = answer.detach().double().reshape(-1)
        written = _objective.memit(R, K, C0, 1e-6).delta @ K[:, 0]
        if distance(answer, written) < 1e-4:
            continue
        for i in (0, 1):
            if distance(answer, R[:, i]) < 1e-4:
                raise Wrong(f"that is r{i + 1}: why should it win?")
        along = float(answer @ written / (written @ written))
        if distance(answer, along * written) < 1e-4:
            raise Wrong(f"the direction is right, but yours is {along:.3g} times as long")
        raise Wrong("measured on an example, MEMIT writes something else there")
    return "as measured; an exact method would have to refuse"


@exercise
def memit_doubled(function):
    """function(lam): the lam with which a doubled batch gives the update of the simple one."""
    R, K, C0 = _problem(4, 7, 3)
    for lam in (1.0, 10.0):
        new = float(call(function, lam))
        if not new > 0:
            raise Wrong(f"lam must be positive, yours is {new:g}")
        simple = _objective.memit(R, K, C0, lam).delta
        doubled = _objective.memit(torch.cat([R, R], 1), torch.cat([K, K], 1), C0, new).delta
        if distance(doubled, simple) > 1e-8:
            more = "more" if doubled.norm() > simple.norm() else "less"
            raise Wrong(f"with lam = {lam:g}, yours for the doubled batch writes {more}")
    return "the doubled batch gives the same update"


@exercise
def memit_rule(rule):
    """rule(step) must bring what is missing to zero in equal steps, whatever happened before."""
    generator = torch.Generator().manual_seed(0)
    start, target = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    for n, failing in ((1, None), (3, None), (5, None), (4, 1)):
        now, sizes = start.clone(), []
        for index in range(n):
            R = call(rule, Step(target, start, now, index, n))
            if not isinstance(R, torch.Tensor) or R.shape != target.shape:
                raise Wrong("a rule returns a residual for every fact, as large as step.missing")
            sizes.append(float(R.norm() / (target - start).norm()))
            now = now if index == failing else now + R
        left = float((target - now).norm() / (target - start).norm())
        told = f"{n} layers" + (f", of which number {failing} failed" if failing else "")
        if left > 1e-8:
            raise Wrong(f"in a chain of {told}, {left:.0%} is still missing after the last")
        after = sizes if failing is None else sizes[failing + 1 :]
        if max(after) - min(after) > 1e-8:
            steps = ", ".join(f"{x:.0%}" for x in sizes)
            raise Wrong(f"in a chain of {told}, the steps are {steps}; they should be even")
    return "even steps, and the layers that are left make up for one that fails"


@exercise
def memit_crowding(function):
    """function(K, C0): root mean square echo between different keys of a batch."""
    for E in (2, 5):
        _, K, C0 = _problem(3, 8, E)
        value = call(function, K, C0)
        if getattr(value, "numel", lambda: 1)() != 1:
            raise Wrong("one number is asked for")
        G = K.T @ torch.linalg.solve(C0, K)
        echo, plain = G / G.diagonal(), K.T @ K / (K**2).sum(0)
        others = ~torch.eye(E, dtype=torch.bool)
        right = float((echo[others] ** 2).mean() ** 0.5)
        for wrong, why in (
            (float((echo**2).mean() ** 0.5), "a key's echo at itself is 1 and does not count"),
            (float((plain[others] ** 2).mean() ** 0.5), "these are echoes with C0 = I"),
            (float(echo[others].mean()), "in a plain mean, echoes of opposite sign cancel"),
            (right**2, "the mean of the squares is there, its root is missing"),
        ):
            if abs(float(value) - wrong) < 1e-8 < abs(wrong - right):
                raise Wrong(why)
        if abs(float(value) - right) > 1e-8:
            size = "smaller" if right < float(value) else "larger"
            raise Wrong(f"for a batch of {E} the root mean square echo is {size} than yours")
    return "the echo that a fact of the batch hears of another one, in the root mean square"
