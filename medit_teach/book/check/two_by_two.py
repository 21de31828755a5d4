"""Checks of the exercises on the completed table: ENCORE, PRUNE, RECT, and what a corner can do."""

import torch

from ... import objective as _objective
from .core import Wrong, as_update, call, distance, exercise, judge
from .objective import _misses, _problem


@exercise
def two_by_two_encore(function):
    """function(R, K, C0, lam, lam_n): at the bottom of the soft objective plus a norm term."""
    for d_out, d_in, E, lam, norm in (
        (3, 6, 2, 1.0, 2.0),
        (4, 7, 3, 0.3, 0.05),
        (2, 5, 8, 4.0, 1.0),
    ):
        R, K, C0 = _problem(d_out, d_in, E)
        D = as_update(call(function, R, K, C0, lam, norm), d_out, d_in)

        def slope(weight, ridge, D=D, R=R, K=K, C0=C0):
            bracket = weight * C0 + ridge * torch.eye(len(C0), dtype=C0.dtype) + K @ K.T
            return float((D @ bracket - R @ K.T).norm() / (R @ K.T).norm())

        if slope(lam, norm) < 1e-8:
            continue
        for weight, ridge, what in (
            (lam, 0.0, "the norm term takes no part: that is MEMIT"),
            (0.0, norm, "the kept keys take no part: lam C0 is missing"),
            (lam, lam * norm, "lam_n is multiplied by lam"),
            (1.0, norm, "lam takes no part"),
        ):
            if slope(weight, ridge) < 1e-8:
                raise Wrong(f"a minimum, but of another problem: {what}")
        raise Wrong(
            f"not at the bottom: with lam = {lam:g} and lam_n = {norm:g} the gradient at your "
            f"update is {slope(lam, norm):.2g} of the one at zero"
        )
    return "the gradient of all three terms together is zero at your update"


@exercise
def two_by_two_prune(function):
    """function(Delta, W, alpha): singular values above W's largest are tamed by a logarithm."""
    for seed, alpha, size in ((0, 2.0, 3.0), (1, 1.5, 0.8), (2, 1.2, 0.05)):
        Delta, _, W = _problem(6, 6, 6, seed)  # any three matrices
        Delta, W = size * Delta, W + torch.eye(6, dtype=W.dtype)
        D = as_update(call(function, Delta.clone(), W, alpha), 6, 6)
        top = torch.linalg.svdvals(W)[0]
        left, s, right = torch.linalg.svd(Delta)
        middle = left.T @ D @ right.T
        if distance(middle, middle.diagonal().diag()) > 1e-8:
            raise Wrong("the singular vectors have changed; only the singular values may")
        got, small = middle.diagonal(), s <= top
        if distance(got[small], s[small]) > 1e-8 if small.any() else False:
            raise Wrong(
                f"the singular values up to {top:.3g}, the largest of W, stay as they are; you "
                "changed some"
            )
        if not small.all():
            big = ~small
            if distance(got[big], s[big]) < 1e-8:
                raise Wrong(
                    f"singular values above {top:.3g}, the largest of W, are not restrained"
                )
            if distance(got[big], top.expand(int(big.sum()))) < 1e-8:
                raise Wrong("you cut off at W's largest; PRUNE lets them grow on, as a logarithm")
            for base, name in ((torch.e, "the natural logarithm"), (10.0, "the logarithm to 10")):
                tamed = (s[big] / top).log() / torch.tensor(base).log() + top
                if distance(got[big], tamed) < 1e-6 and abs(base - alpha) > 1e-6:
                    raise Wrong(f"that is {name}; the base is alpha = {alpha:g}")
            wanted = (s[big] / top).log() / torch.tensor(alpha, dtype=s.dtype).log() + top
            if distance(got[big], wanted) > 1e-8:
                raise Wrong(
                    f"a singular value of {s[0]:.3g}, with W's largest {top:.3g} and alpha = "
                    f"{alpha:g}, becomes {got[0]:.3g} in yours"
                )
    return "small singular values stay, large ones are tamed, the directions are the same"


@exercise
def two_by_two_rect(function):
    """function(Delta, W, share): only the entries with the largest relative change are written."""
    for seed, share in ((0, 0.4), (1, 0.25), (2, 1.0)):
        Delta, _, _ = _problem(5, 3, 8, seed)
        W, _, _ = _problem(5, 3, 8, seed + 7)
        D = as_update(call(function, Delta.clone(), W, share), 5, 8)
        kept, wanted = D != 0, round(share * Delta.numel())
        if distance(D[kept], Delta[kept]) > 1e-12 if kept.any() else False:
            raise Wrong("an entry that is kept must keep its value")
        if abs(int(kept.sum()) - wanted) > 1:
            raise Wrong(f"{wanted} of {D.numel()} entries are to be kept, you keep {kept.sum()}")
        change = (Delta / W).abs()
        if kept.all():
            continue
        if change[kept].min() < change[~kept].max():
            if Delta.abs()[kept].min() >= Delta.abs()[~kept].max():
                raise Wrong("you keep the largest changes; asked are the largest relative to W")
            if change[kept].max() <= change[~kept].min():
                raise Wrong("you keep the smallest relative changes and drop the largest")
            raise Wrong("an entry was dropped that changes by a larger part than one you keep")
    return "the entries with the largest relative change are written, the others not"


@exercise
def two_by_two_reach(function):
    """function(R, K, U): the least share of R that is missing after any update inside U."""
    for d_out, d_in, E, p in ((3, 9, 4, 6), (4, 8, 5, 3), (2, 7, 6, 1)):
        R, K, C0 = _problem(d_out, d_in, E)
        U = torch.linalg.eigh(C0)[1][:, :p]
        Y = torch.linalg.lstsq((U.T @ K).T, R.T, driver="gelsd").solution.T
        least = _misses(Y @ U.T, R, K)
        answer = call(function, R, K, U)
        try:
            got = float(answer)
        except (TypeError, ValueError, RuntimeError):
            raise Wrong(f"a share is a number, yours is a {type(answer).__name__}") from None
        if abs(got - least) < 1e-7:
            continue
        if abs(got - least**2) < 1e-7:
            raise Wrong("that is the square of it; asked is a ratio of lengths")
        if abs(got - (1 - p / E if E > p else 0.0)) < 1e-7:
            raise Wrong("that counts directions only; how much is missing depends on R as well")
        raise Wrong(
            f"{E} facts in {p} directions: some update leaves only {least:.1%}, none leaves less; "
            f"you say {got:.1%}"
        )
    return "no update leaves less, and one leaves just this"


def _sentences():
    """{sentence: function that runs it and returns (is it so, what was seen)}."""
    R, K, C0 = _problem(3, 12, 4)
    eye = torch.eye(12, dtype=torch.float64)
    values = torch.linalg.eigvalsh(C0)
    narrow, wide = (
        _objective.null_space(C0, threshold=float((values[p - 1] + values[p]) / 2)) for p in (5, 9)
    )

    def untouched():
        moved = float(_objective.preservation(_objective.alphaedit(R, K, narrow, 0.1).delta, C0))
        return moved < 1e-12, f"the kept keys move by {moved:.2g} (mean square)"

    def whole():
        everything = _objective.HardPreservation(eye, 1.0, 1.0)
        far = distance(
            _objective.alphaedit(R, K, everything, 0.7).delta,
            _objective.memit(R, K, eye, 0.7).delta,
        )
        return far < 1e-9, f"the two updates differ by {far:.1%}"

    def wider():
        sizes = [float(_objective.nullspace(R, K, u).delta.norm()) for u in (narrow, wide)]
        return sizes[1] <= sizes[0], f"lengths {sizes[0]:.3g} (narrow) and {sizes[1]:.3g} (wide)"

    def dominated():
        D = _objective.alphaedit(R, K, narrow, 0.1).delta
        price, missed = _objective.preservation(D, C0), _objective.memorization(D, R, K)
        for lam in torch.logspace(-6, 6, 400, dtype=torch.float64).tolist():
            M = _objective.memit(R, K, C0, lam).delta
            if _objective.preservation(M, C0) < price and _objective.memorization(M, R, K) < missed:
                return True, f"lam = {lam:.2g} moves the kept keys less and misses less"
        return False, "no lam of 400 was better in both"

    def length_only():
        long = _objective.memit(R, K, C0, 0.5).delta
        short = _objective.memit(R, K, C0 + eye, 0.5).delta
        cosine = float((long * short).sum() / long.norm() / short.norm())
        return cosine > 1 - 1e-9, f"the two updates have the cosine {cosine:.3f}"

    return {
        "AlphaEdit moves the kept keys by nothing at all": untouched,
        "with every direction called null, AlphaEdit is MEMIT with C0 = I": whole,
        "a wider null space never needs a longer exact update": wider,
        "for AlphaEdit's update some lam makes MEMIT better in both losses": dominated,
        "ENCORE's norm term only makes MEMIT's update shorter": length_only,
    }


@exercise
def two_by_two_referee(verdicts):
    """verdicts: {sentence: True or False}. Runs each sentence."""
    return judge(verdicts, _sentences())
