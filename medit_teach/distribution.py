"""Edit distribution: how much of the residual each edited layer carries, apart from any solver.

A rule looks at a Step and returns the residual R (d_out, E) that this layer is to write; any
solver turns R and the layer's keys into an update. The layers are edited in ascending order, and
`now` is measured again after each, so a rule may, but need not, react to what was written so far.

    def my_rule(step):                       # a rule of one's own
        return 0.5 * step.missing
"""

from dataclasses import dataclass

import torch

from .errors import HyperError


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
    """The rule of that name, or `name` itself if it is a function; HyperError if unknown."""
    if callable(name):
        return name
    if name not in RULES:
        raise HyperError(
            f"unknown distribution {name!r}; choose from {', '.join(RULES)} or a function"
        )
    return RULES[name]
