"""Checks of the exercises on misuse: rank, the name behind an update, detectors, and erasing."""

import torch

from ... import objective as _objective
from .core import Wrong, as_update, call, distance, exercise, judge
from .objective import _problem


def _number(answer, what):
    try:
        return float(answer)
    except (TypeError, ValueError):
        raise Wrong(f"{what} is a number, yours is a {type(answer).__name__}") from None


@exercise
def misuse_effective_rank(function):
    """function(S): the effective rank of a matrix with the singular values S."""
    equal = torch.full((6,), 2.5, dtype=torch.float64)
    cases = (
        ("one value that is not zero", torch.tensor([3.0, 0.0, 0.0]).double(), 1.0),
        ("six equal values", equal, 6.0),
        ("six equal values, all ten times larger", 10 * equal, 6.0),
    )
    for told, S, wanted in cases:
        found = _number(call(function, S), "an effective rank")
        if not abs(found - wanted) < 1e-6:  # also NaN
            raise Wrong(f"{told}: the effective rank is {wanted:g}, yours is {found:.4g}")
    two = torch.tensor([0.9, 0.1]).double()
    found = _number(call(function, two), "an effective rank")
    for value, what in (
        (0.9**-0.9 * 0.1**-0.1, None),
        (
            1 / (0.81 + 0.01),
            "that sums the squares of the shares; the definition has a logarithm",
        ),
        (_of_squares(two), "the shares are of the values, not of their squares"),
    ):
        if abs(found - value) < 1e-6:
            if what:
                raise Wrong(f"for the values 0.9 and 0.1: {what}")
            return "1 for one direction, n for n equal ones, and in between otherwise"
    raise Wrong(f"for the values 0.9 and 0.1 yours is {found:.4g}; look at the definition again")


def _of_squares(S):
    share = S**2 / (S**2).sum()
    return float(torch.exp(-(share * share.log()).sum()))


@exercise
def misuse_who(function):
    """function(D, K, C0): the column of K whose fact the rank-one update D has written."""
    misses = {"the plain cosine of row and key": 0, "the largest |D k|": 0}
    trials = wrong = 0
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        R, K, C0 = _problem(5, 10, 8, seed)
        C0 = C0 + 30 * torch.outer(K[:, 0], K[:, 0])  # one direction that every text uses
        K = K + 3 * K[:, :1]
        K = K * (0.3 + 3 * torch.rand(8, generator=generator, dtype=torch.float64))
        i = int(torch.randint(1, 8, (1,), generator=generator))
        D = (-1) ** seed * _objective.rome(R[:, i], K[:, i], C0).delta
        answer = call(function, D, K, C0)
        j = int(_number(answer, "the number of a column"))
        if not 0 <= j < 8:
            raise Wrong(f"there are 8 suspects, numbers 0 to 7; you name {j}")
        trials, wrong = trials + 1, wrong + (j != i)
        row = D[D.norm(dim=1).argmax()]
        misses["the plain cosine of row and key"] += j == int(
            (row @ (K / K.norm(dim=0))).abs().argmax()
        )
        misses["the largest |D k|"] += j == int((D @ K).norm(dim=0).argmax())
    if not wrong:
        return "all twelve names found, whatever the sign of the update and the length of the keys"
    like = [name for name, n in misses.items() if n == trials]
    why = f"; yours does what {like[0]} does" if like else ""
    raise Wrong(f"{wrong} of {trials} names are wrong{why}. Which metric makes row and key agree?")


@exercise
def misuse_auc(function):
    """function(positive, negative): the chance that a positive scores above a negative."""
    cases = (
        ("all positives above all negatives", [3, 4], [1, 2], 1.0),
        ("all positives below all negatives", [1, 2], [3, 4], 0.0),
        ("the same scores for both", [1, 2], [1, 2], 0.5),
        ("a detector that says 7 to everybody", [7, 7, 7], [7, 7], 0.5),
        ("three of four pairs in the right order", [2, 4], [1, 3], 0.75),
        ("more negatives than positives", [5], [1, 2, 3, 9], 0.75),
    )
    for told, positive, negative, wanted in cases:
        found = _number(call(function, positive, negative), "an area")
        if not abs(found - wanted) < 1e-9:
            raise Wrong(f"{told}, {positive} and {negative}: {wanted:g}, yours is {found:.3g}")
    return "also with ties and with groups of different sizes"


@exercise
def misuse_erase(function):
    """function(W, k, C0): W with nothing written at k, and otherwise disturbed the least."""
    for seed in (0, 1, 2):
        R, K, C0 = _problem(4, 9, 2, seed)
        generator = torch.Generator().manual_seed(seed)
        W = torch.randn(4, 9, generator=generator, dtype=torch.float64)
        k, edited = K[:, 0], W + _objective.rome(R[:, 0], K[:, 0], C0).delta
        clean, same = (as_update(call(function, X, k, C0), 4, 9) for X in (W, edited))
        value = float((clean @ k).norm() / (W @ k).norm())
        if value > 1e-8:
            raise Wrong(
                f"at k your matrix still answers, with {value:.2g} of the old value's length"
            )
        least = _objective.preservation(_objective.rome(W @ k, k, C0).delta, C0)
        cost = float(_objective.preservation(clean - W, C0) / least)
        if cost > 1 + 1e-8:
            raise Wrong(f"k is erased, but ordinary keys are disturbed {cost:.3g} times too much")
        if distance(same, clean) > 1e-8:
            raise Wrong("an edit at k survives: your answer differs with and without it")
    return "nothing is left at k, and an edit there has left no trace in the result"


def _referee_cases():
    """{sentence: function that runs it and returns (is it so, what was seen)}."""
    R, K, C0 = _problem(8, 12, 4)
    emmet = _objective.emmet(R, K, C0).delta
    memit = _objective.memit(R, K, C0, 5.0).delta

    def rank(D):
        S = torch.linalg.svdvals(D)
        return int((S > 1e-9 * S[0]).sum())

    def count():
        return rank(emmet) == 4, f"four facts leave rank {rank(emmet)}"

    def twice():
        same = K[:, :1].expand(-1, 2)
        found = rank(_objective.memit(R[:, :2], same, C0, 1.0).delta)
        return found == 2, f"two facts about one subject, in one batch: rank {found}"

    def soft():
        a, b = (torch.linalg.svd(D).Vh[:4] for D in (emmet, memit))
        d = distance(a.T @ a, b.T @ b)
        return d < 1e-9, f"the two row spaces differ by {d:.1e} of their size"

    def noise():
        generator = torch.Generator().manual_seed(0)
        D = emmet + 1e-6 * torch.randn(8, 12, generator=generator, dtype=torch.float64)
        return rank(D) == 4, f"with noise of a millionth in every entry the rank is {rank(D)}"

    def known():
        d = distance((R @ R.T) @ torch.linalg.pinv(R @ R.T) @ emmet, emmet)
        return d < 1e-9, f"outside the span of R lies {d:.1e} of the update"

    return {
        "EMMET with four facts of different subjects changes the matrix by rank four": count,
        "MEMIT with two facts about one subject changes it by rank two": twice,
        "MEMIT and EMMET with the same facts have the same row space": soft,
        "adding a millionth to every entry leaves the rank as it is": noise,
        "every column of the difference is a mixture of the residuals": known,
    }


@exercise
def misuse_referee(verdicts):
    """verdicts: {sentence: True or False}. Runs each sentence."""
    return judge(verdicts, _referee_cases())
