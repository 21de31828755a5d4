"""What a hidden test is made of: parts with points, random problems, comparisons that speak.

    @hidden(2, "bias", "is b subtracted as well?")
    def _(student, draw):
        K, b = draw.randn(3, 5), draw.randn(2)
        agree(student.residual(K, b), oracle(K, b))

`student.name(...)` calls the student's function, in another process when `medit-teach grade` runs
the test. Run in a notebook, a part tests the notebook's own function of that name at once.
"""

import hashlib
import secrets
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ..errors import MeditError
from .worker import changed, decode, encode, snapshot, told_changed


class Lost(MeditError):
    """Why a part earns no points, in words for the student."""


@dataclass(frozen=True)
class Ref:
    """An argument that cannot be sent: the student's side uses its own object of this name."""

    name: str


@dataclass(frozen=True)
class Part:
    """A piece of an exercise: its points, what it is about, a hint, and the test itself."""

    points: float
    area: str
    hint: str
    run: object


_collected = None  # inside collecting(): the parts found so far


@contextmanager
def collecting():
    """Within, `hidden` only lists the parts; yields that list."""
    global _collected
    before, _collected = _collected, []
    try:
        yield _collected
    finally:
        _collected = before


def hidden(points, area, hint=""):
    """A part worth `points`, about `area`. The function takes (student, draw); see the module."""

    def register(function):
        if _collected is None:
            function(Here(function.__globals__), Draw(0, area))
        else:
            _collected.append(Part(points, area, hint, function))
        return function

    return register


class Here:
    """`student` in the notebook itself: functions of `names`, with nothing in between."""

    def __init__(self, names):
        self._names = names

    def _afresh(self):
        """There is but one process here."""

    def __getattr__(self, name):
        if name not in self._names:
            raise Lost(f"there is no function {name!r}")

        def call(*args):
            args = [self._names[a.name] if isinstance(a, Ref) else copied(a) for a in args]
            function, before = self._names[name], snapshot(args)
            result = function(*args)
            if spoiled := changed(function, before, args):
                raise Lost(told_changed(spoiled))
            return decode(encode(result))  # as it would arrive from another process

        return call


def afresh(student):
    """The student's next call runs in a new process, which knows nothing of the calls before."""
    student._afresh()


def shuffled(items):
    """The items in an order that nobody can know."""
    items = list(items)
    secrets.SystemRandom().shuffle(items)
    return items


def copied(x):
    """Tensors, and what holds them, as new objects: a function may spoil its arguments.

    The oracle then still works with what was given.
    """
    if isinstance(x, torch.Tensor):
        return x.clone()
    if isinstance(x, (list, tuple)):
        return type(x)(map(copied, x))
    return {k: copied(v) for k, v in x.items()} if isinstance(x, dict) else x


class Draw:
    """Random numbers that depend on `names` only, in float64."""

    def __init__(self, *names):
        digest = hashlib.blake2b(repr(names).encode(), digest_size=7).digest()
        self.generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))

    def randn(self, *shape):
        """Standard normal numbers of this shape."""
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, low, high, *shape):
        """Numbers between low and high."""
        u = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return low + (high - low) * u

    def second_moment(self, d, spread=1.0):
        """A positive definite (d, d), eigenvalues over some `spread` decades, not diagonal."""
        Q = torch.linalg.qr(self.randn(d, d))[0]
        C = Q * torch.logspace(0.3, 0.3 - spread, d, dtype=torch.float64) @ Q.T
        return (C + C.T) / 2


def number(x, what="the result"):
    """x as a float, or Lost. Any kind of number that `encode` sends, a bool, or one in a tensor."""
    if isinstance(x, torch.Tensor) and x.numel() == 1:
        return float(x)
    if not isinstance(x, (int, float)):
        raise Lost(f"{what} should be a number, it is {_kind(x)}")
    return float(x)


def is_true(condition, message):
    """Lost(message) unless the condition holds."""
    if not bool(condition):
        raise Lost(message)


def agree(got, want, what="the result", rtol=1e-7, mistakes=None):
    """Lost unless ||got - want|| <= rtol ||want||. want: a tensor, a number, or a tuple of these.

    mistakes: {what to tell: a wrong result}; the first that is met is told.
    """
    if isinstance(want, tuple):
        if not isinstance(got, (list, tuple)) or len(got) != len(want):
            raise Lost(f"{what} should be {len(want)} things, it is {_kind(got)}")
        for i, (x, y) in enumerate(zip(got, want, strict=True)):
            agree(x, y, f"number {i + 1} of {what}", rtol)
        return
    if not isinstance(want, torch.Tensor):
        got, want = (torch.tensor(float(x), dtype=torch.float64) for x in (number(got, what), want))
    if not isinstance(got, torch.Tensor):
        raise Lost(f"{what} should be a tensor, it is {_kind(got)}")
    got, want = got.double(), want.double()
    if got.shape != want.shape:
        turned = got.ndim == 2 and got.T.shape == want.shape
        raise Lost(
            f"{what} has shape {tuple(got.shape)}, it should have {tuple(want.shape)}"
            + (": it is transposed" if turned else "")
        )
    if not torch.isfinite(got).all():
        raise Lost(f"{what} holds NaN or infinite numbers")
    if near(got, want, rtol):
        return
    for told, wrong in (mistakes or {}).items():
        if near(got, torch.as_tensor(wrong).double(), rtol):
            raise Lost(told)
    if got.ndim == 2 and got.shape[0] == got.shape[1] and near(got.T, want, rtol):
        raise Lost(f"{what} is transposed")
    if near(-got, want, rtol):
        raise Lost(f"{what} has the wrong sign")
    size = float(got.norm() / want.norm()) if want.norm() > 0 else float("inf")
    if got.ndim == 0:
        raise Lost(
            f"{what} is {float(got):.6g}, and should not be"
        )  # no ratio: it tells the answer
    if near(got, size * want, rtol):
        raise Lost(f"{what} has the right direction, but not the right length")
    raise Lost(f"{what} is off by {float((got - want).norm() / want.norm().clamp(min=1e-300)):.2g}")


def near(a, b, rtol=1e-7):
    """||a - b|| <= rtol * max(||a||, ||b||), for tensors of one shape."""
    if a.shape != b.shape or not torch.isfinite(a).all():
        return False
    return float((a - b).norm()) <= rtol * max(float(a.norm()), float(b.norm()), 1e-300)


def _kind(x):
    return f"a {type(x).__name__}" + (f" of {len(x)}" if isinstance(x, (list, tuple)) else "")
