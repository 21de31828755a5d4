"""Edit distribution: how much of the residual each edited layer carries, apart from any solver.

A rule looks at a Step and returns the residual R (d_out, E) that this layer is to write; any
solver turns R and the layer's keys into an update. The layers are edited in ascending order, and
`now` is measured again after each, so a rule may, but need not, react to what was written so far.

    def my_rule(step):                       # a rule of one's own
        return 0.5 * step.missing
"""

import inspect
from dataclasses import dataclass

import torch

from .errors import HyperError
from .settings import meant, shown


@dataclass(frozen=True)
class Step:
    """What a rule may look at: target, start and now are (d_out, E) at the last edited layer.

    target: wanted there. start: found there on the unedited model. now: found there after the
    layers before this one were edited. index: 0 for the first edited layer, n layers in all.
    """

    target: torch.Tensor
    start: torch.Tensor
    now: torch.Tensor
    index: int
    n: int

    @property
    def missing(self):
        """target - now."""
        return self.target - self.now

    @property
    def left(self):
        """Layers still to edit, this one included."""
        return self.n - self.index


def spread(step):
    """(target - now) / layers left: MEMIT's rule (MEMIT paper, eq. 20; eq:memit-spread)."""
    return step.missing / step.left


def last(step):
    """All of it at the last layer, nothing before: editing a single layer."""
    return step.missing if step.left == 1 else torch.zeros_like(step.target)


def root(step):
    """(target - now) / sqrt(layers left): more in the early layers (the square root of PMET)."""
    return step.missing / step.left**0.5


def even(step):
    """(target - start) / n: equal shares decided beforehand, blind to what was written so far."""
    return (step.target - step.start) / step.n


RULES = {"spread": spread, "last": last, "root": root, "even": even}


def rule(name):
    """The rule of that name, or `name` itself if it is a function of one argument; else
    HyperError."""
    if isinstance(name, str) and name in RULES:
        return RULES[name]
    if not callable(name):
        raise HyperError(
            f"unknown distribution {shown(name)}; choose from {', '.join(RULES)} or a function"
            f"{meant(name, RULES)}"
        )
    try:
        inspect.signature(name).bind(None)
    except TypeError as error:
        raise HyperError(f"a distribution is a function of one Step: {error}") from None
    except ValueError:  # written in C, without a signature: what it gives is tested
        pass
    return name


def apportion(name, step):
    """The residual R (d_out, E) that the rule `name` gives the layer of this Step; HyperError if
    a function of the user's gives something else."""
    R, like = rule(name)(step), step.target
    if not isinstance(R, torch.Tensor) or R.is_complex() or R.shape != like.shape:
        found = f"shape {tuple(R.shape)}" if isinstance(R, torch.Tensor) else shown(R)
        raise HyperError(
            f"the distribution gave {found}; it must give a tensor {tuple(like.shape)}, as the "
            "target is"
        )
    if not torch.isfinite(R).all():
        raise HyperError("the distribution gave NaN or infinite numbers")
    return R.to(like)
