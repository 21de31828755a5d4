"""Public checks of the assignments: shapes, limits, symmetries, tiny cases. The marks ask more."""

import functools
import sys
from contextlib import contextmanager

import torch

from ...classroom.sandbox import FORBIDDEN
from ...classroom.worker import changed, decode, encode, snapshot, told_changed
from . import core
from .core import Wrong, distance

exercise = functools.partial(core.exercise, word="runs")  # the marks say what is right


def call(function, *args):
    """function(*args) as core.call does it, and as the marks see it: numbers that can be sent.

    Wrong if the arguments are not what they were, if it uses what graded work may not import, or
    if the result holds something else than numbers.
    """
    before = snapshot(args)
    try:
        with _library_calls() as used:
            result = core.call(function, *args)
    finally:  # also where the library stops with an error
        if used:
            told = f"your function uses {used[0]}, which graded work may not: write it yourself"
            raise Wrong(told) from None
    if spoiled := changed(function, before, args):
        raise Wrong(told_changed(spoiled))
    try:
        return decode(encode(result))
    except (TypeError, ValueError) as error:
        raise Wrong(f"your function returns what is no number, tensor or array: {error}") from None


@contextmanager
def _library_calls():
    """A list of the modules barred from graded work that are called from outside the package."""
    used, before = [], sys.getprofile()

    def look(frame, event, arg):
        if event == "call" and frame.f_back is not None:
            package, _, inner = frame.f_globals.get("__name__", "").partition(".")
            caller = frame.f_back.f_globals.get("__name__", "").partition(".")[0]
            if package == "medit_teach" != caller and inner.split(".")[0] in FORBIDDEN:
                used.append(f"medit_teach.{inner}")

    sys.setprofile(look)
    try:
        yield used
    finally:
        sys.setprofile(before)


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _moment(d, seed=5):
    F = _randn(d, 4 * d, seed=seed) * torch.logspace(0, -0.7, d, dtype=torch.float64)[:, None]
    return F @ F.T / (4 * d)


def _shaped(x, shape, what):
    """x as a float64 tensor of this shape, or Wrong."""
    if not isinstance(x, torch.Tensor):
        raise Wrong(f"{what} should be a tensor, yours is a {type(x).__name__}")
    if tuple(x.shape) != tuple(shape):
        turned = tuple(x.shape) == tuple(shape)[::-1]
        raise Wrong(
            f"{what} should have shape {tuple(shape)}, yours has {tuple(x.shape)}"
            + ("; is it the wrong way round?" if turned else "")
        )
    if not torch.isfinite(x).all():
        raise Wrong(f"{what} contains NaN or infinite numbers")
    return x.detach().double()


def _number(x, what):
    try:
        return float(x if not isinstance(x, str) else None)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"{what} should be a number, yours is a {type(x).__name__}") from None


def _two(x, what):
    if not isinstance(x, (tuple, list)) or len(x) != 2:
        raise Wrong(f"return two things, {what}")
    return x


def _same(x, y, complaint, rtol=1e-6):
    x, y = (torch.as_tensor(v, dtype=torch.float64) for v in (x, y))
    if not x.any() and not y.any():
        return
    if distance(x, y) > rtol:
        raise Wrong(complaint)


def _lowest(f, x, complaint, along=lambda step: step):
    """Wrong(complaint) if some small step from x lowers f. along: makes a step an allowed one."""
    here = f(x)
    for seed in range(50, 58):
        step = along(_randn(*x.shape, seed=seed))
        step = 1e-4 * step * x.norm() / step.norm()
        if min(f(x + step), f(x - step)) < here * (1 - 1e-10):
            raise Wrong(complaint)


def _price(D, C):
    """What an update costs the old keys of second moment C."""
    return float(torch.trace(D @ C @ D.T))


# ------------------------------------------------------------------ 1


@exercise
def a1_residual(function):
    """function(M, b, K, V): rows are facts."""
    M, b, K, V = _randn(3, 2), torch.zeros(2).double(), _randn(4, 3, seed=1), _randn(4, 2, seed=2)
    R = _shaped(call(function, M, b, K, V), (4, 2), "the residual")
    _same(call(function, M, b, K, V + 1), R + 1, "raise V by 1, and the residual must rise by 1")
    _same(
        call(function, M, b, 0 * K, V), V, "where all keys are zero and b is zero, all of V is left"
    )
    more = call(function, M, b + 1, K, V)
    _same(more, R - 1, "where the memory's b is larger by 1, 1 less is missing")
    return "shapes and simple cases are fine; the marks take other sizes"


@exercise
def a1_losses(function):
    """function(D, K0, w, R, K): (preservation, memorization)."""
    D, K0, R, K = _randn(3, 2), _randn(5, 3, seed=1), _randn(4, 2, seed=2), _randn(4, 3, seed=3)
    w = torch.ones(5).double()
    kept, missed = map(
        lambda x: _number(x, "each loss"), _two(call(function, D, K0, w, R, K), "the two losses")
    )
    none = [float(x) for x in call(function, 0 * D, K0, w, R, K)]
    if abs(none[0]) > 1e-12:
        raise Wrong("no change at all must cost nothing in preservation")
    _same(none[1], (R**2).sum(), "with no change, memorization is the squared length of all of R")
    twice = [float(x) for x in call(function, 2 * D, K0, w, 2 * R, K)]
    _same(twice[0], 4 * kept, "an update twice as large must cost four times as much")
    _same(twice[1], 4 * missed, "twice the residual and update must be missed four times as much")
    _same(
        float(call(function, D, torch.cat([K0, K0]), torch.cat([w, w]), R, K)[0]),
        kept,
        "if every old key comes twice, the mean must stay the same",
    )
    twice = torch.tensor([2.0, 1, 1, 1, 1]).double()
    _same(
        float(call(function, D, K0, twice, R, K)[0]),
        float(call(function, D, torch.cat([K0[:1], K0]), torch.ones(6).double(), R, K)[0]),
        "a key of weight 2 must count like two keys",
    )
    return "the limits are right, and so is a weight of 2"


@exercise
def a1_gradient(function):
    """function(D, A, R, K, lam): zero where it must be, linear where it must be."""
    D, A, R, K = _randn(3, 2), _moment(3), _randn(4, 2, seed=2), _randn(4, 3, seed=3)
    G = _shaped(call(function, D, A, R, K, 1.5), D.shape, "the gradient")
    one = lambda x: torch.tensor([[float(x)]], dtype=torch.float64)  # noqa: E731
    for k, lam, slope in ((1, 0.0, -6), (0, 1.0, 12)):  # d = 2, a = 3, r = 5
        told = f"numbers in place of matrices: at d = 2, a = 3, r = 5, k = {k}, lam = {lam:g} the "
        got = call(function, one(2), one(3), one(5), one(k), lam)
        _same(got, one(slope), told + f"slope of f is {slope}, yours is {float(got):g}")
    flat = call(function, 0 * D, A, 0 * R, K, 1.5)
    if flat.norm() > 1e-12:
        raise Wrong("with nothing to write and nothing written, the ground is flat")
    step = 1e-4 * G
    loss = lambda X: 1.5 * torch.trace(X.T @ A @ X) + ((R - K @ X) ** 2).sum()  # noqa: E731
    if loss(D - step) >= loss(D):
        raise Wrong("a small step against your gradient goes uphill: look at the signs")
    return "downhill is down; now take an A that is not symmetric"


@exercise
def a1_soft_update(function):
    """function(R, K, A, lam, D0): its two limits."""
    R, K, A, D0 = _randn(2, 4), _randn(2, 3, seed=1), _moment(3), _randn(3, 4, seed=2)
    none = 0 * D0
    D = _shaped(call(function, R, K, A, 1.0, none), D0.shape, "the update")
    if distance(K @ call(function, R, K, A, 1e-9, none), R) > 1e-4:
        raise Wrong("as lam goes to zero, the facts must be met: K D = R")
    far = call(function, R, K, A, 1e9, none)
    if far.norm() > 1e-4 * D.norm():
        raise Wrong("with a huge lam and D0 = 0, nothing may be written")
    if distance(call(function, R, K, A, 1e9, D0), D0) > 1e-4:
        raise Wrong("with a huge lam the update must stay at D0")

    def f(D):
        away = D - D0
        return float(1.5 * torch.trace(away.T @ A @ away) + ((R - K @ D) ** 2).sum())

    _lowest(f, call(function, R, K, A, 1.5, D0), "at lam = 1.5, a small step away lowers f(D)")
    return "both limits are right, and no small step lowers f; the marks take other sizes"


# ------------------------------------------------------------------ 2


@exercise
def a2_key_at(function, model, tok, layer, prompt, subject):
    """function(model, tok, layer, contexts, weights, prompt, subject)."""
    one = call(function, model, tok, layer, [""], [1.0], prompt, subject)
    d_in = one.numel() if isinstance(one, torch.Tensor) else 0
    one = _shaped(one, (d_in,), "a key")
    cut = prompt[: prompt.index("{}") + 2]
    _same(
        call(function, model, tok, layer, [""], [1.0], cut, subject),
        one,
        "what comes after the subject must not matter: the model reads from left to right",
        rtol=1e-3,
    )
    _same(
        call(function, model, tok, layer, ["", ""], [1.0, 3.0], prompt, subject),
        one,
        "the same context twice must give the same key: weights are shares of their sum",
        rtol=1e-3,
    )
    bare = call(function, model, tok, layer, [""], [1.0], "{}", subject)
    told = call(function, model, tok, layer, [subject + "? "], [1.0], "{}", subject)
    if distance(_shaped(told, (d_in,), "a key"), _shaped(bare, (d_in,), "a key")) < 1e-4:
        raise Wrong(
            f"in the context {subject + '? '!r} your key is that of the context's subject: "
            "the subject of the prompt counts"
        )
    return (
        f"one key of {d_in} numbers, also where the context speaks of the same subject; "
        "now several contexts of different weight"
    )


@exercise
def a2_second_moment(function):
    """function(batches): symmetric, padding does not count."""
    X, w = _randn(2, 3, 4), torch.tensor([[1.0, 1, 1], [1, 1, 0]]).double()
    C = _shaped(call(function, [(X, w)]), (4, 4), "C0")
    _same(C, C.T, "a second moment is symmetric")
    spoiled = X.clone()
    spoiled[1, 2] = 1e6
    _same(call(function, [(spoiled, w)]), C, "a key with weight 0 must not count")
    _same(call(function, [(X, w), (X, w)]), C, "the same batch twice must give the same C0: a mean")
    parts = [(X[:1], w[:1]), (X[1:, :2], w[1:, :2])]
    _same(call(function, parts), C, "in two batches of different size, the same keys have one C0")
    _same(call(function, [(X, 2 * w)]), C, "if all weights double, C0 must stay")
    return "symmetric, a mean over keys, and blind to padding"


@exercise
def a2_without(function):
    """function(C0, n, gone): taking nothing away changes nothing; two steps are as good as one."""
    X = _randn(12, 4)
    C = X.T @ X / 12
    _same(_shaped(call(function, C, 12, X[:0]), (4, 4), "C0"), C, "nothing is gone, C0 must stay")
    both = call(function, C, 12, X[:5])
    steps = call(function, call(function, C, 12, X[:2]), 10, X[2:5])
    _same(both, steps, "five keys at once, or two and then three: the result must be the same")
    if distance(both, C) < 1e-6:
        raise Wrong("five of twelve keys are gone, and C0 is what it was")
    spare = torch.zeros(3, 4).double()
    _same(call(function, C, 12, spare), 12 / 9 * C, "without 3 keys that are 0, the mean is larger")
    return "consistent with itself; now compare with the moment of the keys that remain"


@exercise
def a2_price(function):
    """function(C0, K, R): one number a fact, with the right units."""
    C, K, R = _moment(4), _randn(3, 4, seed=1), _randn(3, 2, seed=2)
    p = _shaped(call(function, C, K, R), (3,), "the prices")
    _same(call(function, C, K, 2 * R), 4 * p, "twice the residual costs four times as much")
    _same(call(function, C, 2 * K, R), p / 4, "a key twice as long is four times as cheap")
    _same(call(function, 2 * C, K, R), 2 * p, "if all old keys' energy doubles, so do the prices")
    axes = torch.diag(torch.tensor([1.0, 2, 4, 8]).double())
    one = call(function, axes, torch.eye(4).double()[1:3], torch.ones(2, 3).double())
    told = "where C0 is diagonal, a key along one axis costs what old keys have of that axis"
    _same(one, torch.tensor([6.0, 12.0]), told)
    return "the units are right, and so is a diagonal C0; now one that is not"


# ------------------------------------------------------------------ 3


@exercise
def a3_rome_rows(function):
    """function(M, b, k, v, C0): the fact is met where b = 0."""
    M, k, v, C = _randn(4, 3), _randn(4, seed=1), _randn(3, seed=2), _moment(4)
    zero = torch.zeros(3).double()
    new = _shaped(call(function, M, zero, k, v, C), M.shape, "the new matrix")
    _same(k @ new, v, "the memory must answer v at k")
    again = call(function, new, zero, k, v, C)
    _same(again, new, "a fact that is known already must change nothing")
    other = call(function, M, zero, k, v, 3 * C)
    _same(other, new, "the unit in which C0 is measured must not matter")
    b = _randn(3, seed=6)
    D = call(function, M, b, k, v, C) - M
    _same(k @ (M + D) + b, v, "with a bias, the whole answer k M + b must be v")
    aside = lambda step: step - torch.outer(k, k @ step) / (k @ k)  # noqa: E731
    _lowest(lambda x: _price(x.T, C), D, "another M answers v, and moves the old keys less", aside)
    return "the fact is written, and no small step is milder; the marks take other sizes"


@exercise
def a3_write_readout(function):
    """function(k, a, c, C0): a . Delta k = c for a unit a."""
    k, a, C = _randn(4), torch.tensor([0.6, 0.8, 0.0]).double(), _moment(4)
    D = _shaped(call(function, k, a, 2.0, C), (3, 4), "the update")
    _same(a @ D @ k, 2.0, "the readout a . Delta k must change by c")
    longer = call(function, k, 3 * a, 2.0, C)
    _same(3 * a @ longer @ k, 2.0, "with an a of length 3, too, it must change by c")

    def aside(step):
        return step - torch.outer(a, k) * (a @ step @ k) / ((a @ a) * (k @ k))

    _lowest(lambda x: _price(x, C), D, "another update moves the readout by c, for less", aside)
    return "the readout moves by c, and no small step is milder"


@exercise
def a3_repaired(function):
    """function(W, b, keys, weights, v, C0): right where all contexts agree."""
    W, b, v, C = _randn(3, 4), torch.zeros(3).double(), _randn(3, seed=2), _moment(4)
    k = _randn(4, seed=1)
    keys, weights = k[:, None].expand(4, 3).clone(), torch.tensor([0.5, 0.25, 0.25]).double()
    new = _shaped(call(function, W, b, keys, weights, v, C), W.shape, "the new matrix")
    _same(new @ k, v, "where all contexts have one key, and b is zero, it must be met")
    keys, weights = _randn(4, 3, seed=7), torch.tensor([1.0, 2.0, 3.0]).double()
    mean, b = (keys[:, 0] + 2 * keys[:, 1] + 3 * keys[:, 2]) / 6, _randn(3, seed=8)
    D = call(function, W, b, keys, weights, v, C) - W
    _same((W + D) @ mean + b, v, "where contexts and weights differ, v is wanted at the mean key")
    aside = lambda step: step - torch.outer(step @ mean, mean) / (mean @ mean)  # noqa: E731
    _lowest(lambda x: _price(x, C), D, "another W answers v, and moves the old keys less", aside)
    return "it meets the fact at the mean key, and no small step is milder"


@exercise
def a3_achieved(function):
    """function(W, b, W_new, k, v): 0 for no edit, 1 for a perfect one."""
    W, b, k, v = _randn(3, 4), torch.zeros(3).double(), _randn(4, seed=1), _randn(3, seed=2)
    share = _number(call(function, W, b, W, k, v), "a share")
    _same(share + 1, 1.0, "no edit achieves nothing")
    done = W + torch.outer(v - W @ k, k) / (k @ k)
    _same(call(function, W, b, done, k, v), 1.0, "an edit that meets the fact achieves all")
    half = W - 0.5 * (done - W)
    _same(call(function, W, b, half, k, v), -0.5, "half an edit the wrong way is -0.5")
    r = v - W @ k
    side = torch.linalg.svd(r[None])[2][1]
    off = done + torch.outer(side, k)
    _same(call(function, W, b, off, k, v), 1.0, "what is at right angles to r must not count")
    _same(
        call(function, W, v, done, k, v + v), 1.0, "the same with a bias, which is part of answers"
    )
    return "0 for nothing, 1 for all, and sideways does not count"


# ------------------------------------------------------------------ 4


@exercise
def a4_memit_weighted(function):
    """function(R, K, C0, lam, w): a fact of weight 2 is two facts."""
    R, K, C = _randn(3, 2), _randn(4, 2, seed=1), _moment(4)
    w = torch.ones(2).double()
    D = _shaped(call(function, R, K, C, 0.7, w), (3, 4), "the update")
    nothing = call(function, R, K, C, 0.7, torch.tensor([1.0, 1e-12]).double())
    one = call(function, R[:, :1], K[:, :1], C, 0.7, w[:1])
    _same(nothing, one, "a fact of weight (almost) zero must not count")
    if call(function, R, K, C, 1e9, w).norm() > 1e-4 * D.norm():
        raise Wrong("with a huge lam nothing may be written")
    w = torch.tensor([0.5, 3.0]).double()
    _soft(call(function, R, K, C, 0.7, w), R, K, C, 0.7, w)
    return "the limits are right, and no small step lowers f; the marks take other sizes"


def _soft(D, R, K, C, lam, w, along=lambda step: step):
    """Wrong if a small step lowers the objective with weights."""

    def f(D):
        return lam * _price(D, C) + float((w * (R - D @ K) ** 2).sum())

    told = f"for lam = {lam:g} and weights {w.tolist()}, a small step away lowers the objective"
    _lowest(f, D, told, along)


@exercise
def a4_mixed(function):
    """function(R, K, C0, lam, hard): hard facts are met."""
    R, K, C = _randn(3, 3), _randn(5, 3, seed=1), _moment(5)
    all_, none = torch.tensor([True] * 3), torch.tensor([False] * 3)
    some = torch.tensor([True, False, False])
    D = _shaped(call(function, R, K, C, 0.7, some), (3, 5), "the update")
    _same(D @ K[:, :1], R[:, :1], "the hard fact must be met exactly")
    if distance(D @ K[:, 1:], R[:, 1:]) < 1e-6:
        raise Wrong("the soft facts are met exactly too: too much was asked of the old keys")
    _same(call(function, R, K, C, 0.7, all_) @ K, R, "if all facts are hard, all must be met")
    if call(function, R, K, C, 1e9, none).norm() > 1e-4:
        raise Wrong("if no fact is hard and lam is huge, nothing may be written")
    w, k = torch.tensor([0.0, 1, 1]).double(), K[:, 0]
    aside = lambda step: step - torch.outer(step @ k, k) / (k @ k)  # noqa: E731
    _soft(D, R, K, C, 0.7, w, aside)
    return "hard facts are met, and no small step that keeps them does better"


@exercise
def a4_ridges(function):
    """function(lam, w, hard): one number a fact, none negative."""
    w, hard = torch.tensor([1.0, 1.0, 4.0]).double(), torch.tensor([True, False, False])
    rho = _shaped(call(function, 2.0, w, hard), (3,), "the ridges")
    if (rho < 0).any():
        raise Wrong("a ridge is not negative")
    if rho[0] == rho[1]:
        raise Wrong("a hard fact and a soft fact cannot have the same ridge")
    _same(
        call(function, 2.0, 1.0 * w[1:2], hard[1:2]), 2.0, "for one fact of weight 1: MEMIT's own"
    )
    w, none, lam = torch.tensor([0.5, 1.0, 4.0]).double(), torch.tensor([False] * 3), 2.0
    R, K, C = _randn(2, 3), _randn(4, 3, seed=1), _moment(4)
    X = torch.linalg.solve(C, K)
    rho = _shaped(call(function, lam, w, none), (3,), "the ridges")
    _soft(R @ torch.linalg.inv(torch.diag(rho) + K.T @ X) @ X.T, R, K, C, lam, w)
    if call(function, lam, w, ~none).any():
        raise Wrong("with a ridge that is not zero, a hard fact is not met exactly")
    return "put into the formula, your ridges give what no small step betters"


@exercise
def a4_chain(function):
    """function(h, A, W, C0, target, lam, shares): with a tiny lam the target is reached."""
    L, d, E = 3, 4, 2
    h = _randn(d, E)
    A = [0.4 * _randn(d + 2, d, seed=10 + i) for i in range(L)]
    W = [0.3 * _randn(d, d + 2, seed=20 + i) for i in range(L)]
    C = [_moment(d + 2, seed=30 + i) for i in range(L)]

    def run(W):
        x = h
        for a, w in zip(A, W, strict=True):
            x = x + w @ torch.tanh(a @ x)
        return x

    target = run(W) + 0.1 * _randn(d, E, seed=40)
    kept = [w.clone() for w in W]
    new = call(function, h, A, W, C, target, 1e-8, [1.0] * L)
    if not isinstance(new, (list, tuple)) or len(new) != L:
        raise Wrong(f"return a list of {L} matrices")
    for old, now in zip(kept, W, strict=True):
        if not torch.equal(old, now):
            raise Wrong("the matrices that you were given must stay as they were")
    for old, now in zip(kept, new, strict=True):
        if distance(_shaped(now, old.shape, "each new matrix"), old) < 1e-12:
            raise Wrong("with equal shares, every layer must change")
    missed = float((run(new) - target).norm() / (run(kept) - target).norm())
    if missed > 1e-3:
        raise Wrong(f"with a tiny lam the target must be reached; {missed:.0%} is still missing")
    new = call(function, h, A, W, C, target, 1e-9, [2.0, 1.0, 1.0])
    written, wanted = (new[0] - W[0]) @ torch.tanh(A[0] @ h), (target - run(W)) / 2
    told = "of shares 2, 1, 1 and a tiny lam, the first layer must write half of what is missing"
    _same(written, wanted, told, 1e-4)
    moment = [C[0], 3 * C[1], C[2]]
    other = call(function, h, A, W, moment, target, 1.0, [1.0] * L)
    plain = call(function, h, A, W, C, target, 1.0, [1.0] * L)
    _same(other[0], plain[0], "the first layer's edit must not depend on the second layer's C0")
    if distance(other[1], plain[1]) < 1e-9:
        raise Wrong("the second layer's edit must depend on the second layer's C0")
    return "the target is reached, and the first layer writes its share; now the later ones"


# ------------------------------------------------------------------ 5


@exercise
def a5_cheapest(function):
    """function(gain, floor): shares that sum to 1."""
    gain = torch.tensor([[1.0, 2.0], [1.0, 1.0], [1.0, 5.0]]).double()
    s = _shaped(call(function, gain, 0.0), (3, 2), "the shares")
    _same(s.sum(0), torch.ones(2), "the shares of each fact must sum to 1")
    _same(s[:, 0], torch.full((3,), 1 / 3), "layers that are alike must share alike")
    _same(call(function, gain, 1 / 3), torch.full((3, 2), 1 / 3), "a floor of 1/3 leaves no choice")
    gain, floor = torch.exp(_randn(5, 3)), 0.14
    s = _shaped(call(function, gain, floor), (5, 3), "the shares")
    _same(s.sum(0), torch.ones(3), "with a floor, too, the shares of each fact must sum to 1")
    if s.min() < floor - 1e-9:
        raise Wrong(f"a share of {float(s.min()):.3g} is below the floor {floor}")
    slope = s / gain
    gives = torch.where(s > floor + 1e-9, slope, -1.0).max(0).values  # who can still give
    if (gives > slope.min(0).values * (1 + 1e-6)).any():
        raise Wrong("it gets cheaper if one layer leaves a little to another one")
    return "the simple cases are right, and no small exchange of two layers is cheaper"


@exercise
def a5_my_rule(function):
    """function(missing, gain): the residual to write now."""
    missing, gain = _randn(3, 2), 1 + _randn(4, 2, seed=1) ** 2
    R = _shaped(call(function, missing, gain), (3, 2), "the residual to write")
    _same(call(function, missing, gain[-1:]), missing, "the last layer must write all that is left")
    _same(call(function, 3 * missing, gain), 3 * R, "three times as much missing: so much more")
    alone = call(function, missing[:, :1], gain[:, :1])
    _same(alone, R[:, :1], "what is written for a fact must not depend on the other facts")
    cost, rest, equal = 0.0, missing, 0.0
    for layer in range(4):
        now = _shaped(call(function, rest, gain[layer:]), (3, 2), "the residual to write")
        cost += float(((now**2).sum(0) / gain[layer]).sum())
        equal += float((((missing / 4) ** 2).sum(0) / gain[layer]).sum())
        rest = rest - now
    if cost >= 0.99 * equal:
        raise Wrong(f"where layers differ, it costs {cost / equal:.0%} of what equal parts cost")
    return f"a rule; on these four layers it costs {cost / equal:.0%} of what equal parts cost"


@exercise
def a5_paired_interval(function):
    """function(a, b, draws): (mean, low, high) of a - b."""
    a = _randn(30)
    draws = torch.randint(30, (200, 30), generator=torch.Generator().manual_seed(0))
    answer = call(function, a, a - 2, draws)
    if not isinstance(answer, (tuple, list)) or len(answer) != 3:
        raise Wrong("return three numbers: mean, low, high")
    mean, low, high = (_number(x, "each of the three") for x in answer)
    _same(mean, 2.0, "a is everywhere 2 above b, so the mean difference is 2")
    if not low - 1e-9 <= mean <= high + 1e-9:
        raise Wrong("low <= mean <= high")
    if high - low > 1e-6:
        raise Wrong("the difference is 2 for every fact: there is nothing uncertain about it")
    a, b = _randn(30, seed=3) ** 2, _randn(30, seed=4)
    answer = call(function, a, b, draws)
    mean, low, high = (_number(x, "each of the three") for x in answer)
    _same(mean, sum((a - b).tolist()) / 30, "the mean is that of a - b over all facts")
    resampled = [sum(float(a[i] - b[i]) for i in row) / 30 for row in draws.tolist()]
    for side, share in (("below", sum(x < low for x in resampled) / 200),
                        ("above", sum(x > high for x in resampled) / 200)):  # fmt: skip
        if not 0.02 <= share <= 0.03:
            raise Wrong(f"{share:.1%} of the resampled means lie {side} the interval, not 2.5%")
    return "pairs are kept together, and 2.5% lie on each side"


# ------------------------------------------------------------------ 6


@exercise
def a6_evaluate(function):
    """function(U, W, W_new, K, new, K0): four numbers about an edit."""
    U, W = _randn(6, 3), _randn(3, 4, seed=1)
    K, K0 = _randn(4, 2, seed=2), _randn(4, 9, seed=3)
    new = torch.tensor([1, 2])
    s = call(function, U, W, W.clone(), K, new, K0)
    names = {"efficacy", "preference", "specificity", "drift"}
    if not isinstance(s, dict) or set(s) != names:
        raise Wrong(f"return a dict with the keys {', '.join(sorted(names))}")
    values = {k: _number(v, k) for k, v in s.items()}
    if any(not 0 <= v <= 1 + 1e-9 for k, v in values.items() if k != "drift"):
        raise Wrong("efficacy, preference and specificity are shares, between 0 and 1")
    _same(values["specificity"], 1.0, "no edit changes no neighbour: specificity 1")
    if values["drift"] != 0:
        raise Wrong("no edit, no drift")
    two = call(function, U, W, 2 * W, K, new, K0)
    _same(two["drift"], 1.0, "if all values double, each has moved by its own length: drift 1")
    _same(two["specificity"], 1.0, "if all values double, the same words are said")
    eye, all_ = torch.eye(4, dtype=torch.float64), torch.arange(4)
    done = call(function, eye, eye.roll(1, 0), eye, eye, all_, eye)
    for name in ("efficacy", "preference"):
        _same(done[name], 1.0, f"where every new word is said, {name} is 1")
    three, one = torch.eye(3).double(), torch.ones(1, 1).double()
    before = torch.tensor([[3.0], [1.0], [2.0]]).double()
    after = torch.tensor([[2.0], [2.5], [9.0]]).double()
    odd = call(function, three, before, after, one, torch.tensor([1]), one)
    if (float(odd["efficacy"]), float(odd["preference"]), float(odd["specificity"])) != (0, 1, 0):
        raise Wrong("entries 3, 1, 2 before and 2, 2.5, 9 after, new word 1: it is not said, but "
                    "larger than the old word's; and the word said is another")  # fmt: skip
    same, keys = torch.eye(2).double(), torch.tensor([[5.0, 0.0], [0.0, 1.0]]).double()
    moved = torch.diag(torch.tensor([2.0, 4.0])).double()
    odd = call(function, same, same, moved, same, torch.tensor([0, 1]), keys)
    _same(odd["drift"], 2.0, "one key moves by its length, one by three times its own: drift 2")
    mixed = torch.stack([same[0], same[0]])  # key 0 says what it said, key 1 does not
    odd = call(function, same, same, mixed.T, same, torch.tensor([0, 1]), same[:, :1])
    _same(odd["specificity"], 1.0, "specificity is about the kept keys, not about the new ones")
    return "right for no edit, a doubled one, a perfect one and some odd ones"


@exercise
def a6_worst_key(function):
    """function(D, k, r, C0, eps): a key that is near, and on which the edit does less."""
    D, k, r, C = _randn(3, 4), _randn(4, seed=1), _randn(3, seed=2), _moment(4)
    x = _shaped(call(function, D, k, r, C, 0.3), (4,), "the key")
    far = float((x - k) @ torch.linalg.solve(C, x - k)) ** 0.5
    if far > 0.3 + 1e-9:
        raise Wrong(f"your key is {far:.3g} away in the metric of C0, 0.3 is allowed")
    if r @ D @ x >= r @ D @ k:
        raise Wrong("at your key the edit writes no less than at k")
    L = torch.linalg.cholesky(C)
    for seed in range(300):
        y = _randn(4, seed=seed)
        other = k + 0.3 * L @ (y / y.norm())
        if r @ D @ other < r @ D @ x - 1e-9:
            raise Wrong(
                "there is an allowed key at which the edit writes less: there is a worse one"
            )
    if abs(far - 0.3) > 1e-6:
        raise Wrong("a key further away is allowed, and worse")
    return "allowed, weaker, and none of 300 others is worse"


@exercise
def a6_alarm(function):
    """function(W, W_new, K, V, K0): one number, the same whatever the order of facts."""
    W, K, V, K0 = _randn(3, 5), _randn(5, 2, seed=1), _randn(3, 2, seed=2), _randn(5, 40, seed=3)
    bad = W + 5 * _randn(3, 5, seed=4)
    loud = _number(call(function, W, bad, K, V, K0), "an alarm")
    turned = _number(call(function, W, bad, K.flip(1), V.flip(1), K0), "an alarm")
    _same(loud, turned, "the order of the facts must not matter")
    good = W + (V - W @ K) @ torch.linalg.pinv(K)
    if loud <= _number(call(function, W, good, K, V, K0), "an alarm"):
        raise Wrong("a matrix full of noise must be worse than one that learned its facts")
    calm = _number(call(function, W, good, K, V, K0), "an alarm")
    half = W + 0.4 * (good - W)
    if calm >= _number(call(function, W, half, K, V, K0), "an alarm"):
        raise Wrong("an edit that writes 40% of each fact must be worse than one that writes all")
    N = torch.linalg.svd(K)[0][:, 2:]
    beside = good + 3 * _randn(3, 3, seed=5) @ N.T
    if calm >= _number(call(function, W, beside, K, V, K0), "an alarm"):
        raise Wrong("both meet the facts, one moves all old keys: it must be worse")
    return "it hears noise, half an edit, and old keys that move; now a single fact left out"
