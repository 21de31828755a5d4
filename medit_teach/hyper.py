"""Hyper-parameters: one dataclass a method, with the papers' values for the models they used.

Each method is a way to solve (which closed form), a place for the target (site) and a few switches
that say which of the original codes' conventions hold. Our defaults use one key everywhere; the
originals' choices stay reachable by name, and the tests compare them with the original outputs.
"""

import warnings
from dataclasses import dataclass, fields, replace

from . import objective
from .distribution import rule
from .errors import HyperError
from .keys import AVERAGES, context_weights
from .models import card
from .values import Targets, check_site

CONTEXTS = (
    "",
    "The meeting ended early. ",
    "It was a quiet morning. ",
    "Therefore we waited. ",
    "Because it rained, they left. ",
    "I read about it yesterday. ",
)


@dataclass(frozen=True)
class Hyper:
    """What all methods share. Symbols in brackets are those of the ROME and MEMIT papers."""

    layers: tuple = ()
    """Layers to edit, ascending [R, the set of critical layers]; ROME uses one [l*]."""
    site: str = "block"
    """Where the target lives: "value", the MLP output [v*], or "block", the block output [z]."""
    contexts: tuple = CONTEXTS
    """Texts put in front of the prompt [x_j]; the first is "", the bare prompt."""
    average: str = "half"
    """Weights of the contexts in the key [k*]: "bare", "uniform" (ROME) or "half" (MEMIT)."""
    start_average: str | None = None
    """Contexts of v0, the start of the target; None: as `average`. The originals use "bare"."""
    now_average: str | None = None
    """Contexts of the present value that the residual subtracts; None: as `average`. The original
    MEMIT uses "bare", so its residual and its key belong to different inputs."""
    distribution: object = "spread"
    """Name of a rule in medit_teach.distribution, or a function of a Step."""
    steps: int = 20
    """Evaluations of the loss in the search for the target; steps - 1 updates are made."""
    lr: float = 0.5
    """Adam's learning rate."""
    weight_decay: float = 0.5
    """Weight of the decay term on delta."""
    decay: str = "original"
    """"original": ||delta|| / ||v0||^2 as in the papers' code; "relative": (||delta|| / ||v0||)^2,
    which does not depend on the scale of the residual stream."""
    kl_factor: float = 0.0625
    """Weight of the KL term [lambda in ROME eq. 4]."""
    kl_position: str = "subject"
    """Where in "{subject} is a" the KL is taken: "subject", its last token (the originals), or
    "end", the last token of the sentence."""
    clamp: float = 0.75
    """Largest ||delta|| / ||v0||."""
    early_stop: float = 0.05
    """A fact stops when its loss falls below this."""

    one_by_one = False  # a batch is solved together, unless a method says otherwise
    needs = "soft"  # which preservation the solver wants: "soft" (C0^-1), "hard" (P), None
    trained = False  # True: no solver, `train` finds the change by gradients (baselines)
    beside = False  # True: changes no weights, `make` gives its own kind of Edit (baselines)
    shared = True  # False: a model's preset for "all" methods does not concern this one

    def __post_init__(self):
        set_ = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        layers = self.layers if isinstance(self.layers, (tuple, list, range)) else (self.layers,)
        set_("layers", tuple(sorted(set(layers))))
        set_("contexts", tuple(self.contexts))
        for name in ("start_average", "now_average"):
            set_(name, getattr(self, name) or self.average)
            if getattr(self, name) not in AVERAGES:
                raise HyperError(f"{name} must be one of {', '.join(AVERAGES)}")
        check_site(self.site)
        rule(self.distribution)
        context_weights(self.contexts, self.average)
        for name in ("steps", "lr", "clamp"):
            if not getattr(self, name) > 0:
                raise HyperError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("weight_decay", "kl_factor", "early_stop", "lam", "ridge", "L2"):
            value = getattr(self, name, 0)
            if isinstance(value, (int, float)) and not value >= 0:
                raise HyperError(f"{name} must not be negative, got {value}")
        for name, allowed in (
            ("decay", ("original", "relative")),
            ("kl_position", ("subject", "end")),
        ):
            if getattr(self, name) not in allowed:
                raise HyperError(f"{name} must be one of {', '.join(allowed)}")

    def settle(self, model):
        """These hyper-parameters with layers for `model`, where none are given."""
        return self if self.layers else replace(self, layers=_guess(self, model.config))

    def preserve(self, statistics, layer):
        """The factored preservation that `solve` wants, from Statistics."""
        return statistics.soft(layer)

    def solve(self, R, K, preserve, kept=None):
        """objective.Solution for residual R (d_out, E), keys K (d_in, E)."""
        raise NotImplementedError


@dataclass(frozen=True)
class ROME(Hyper):
    """Rank-one model editing (arXiv:2202.05262): one layer, one fact at a time, exact."""

    site: str = "value"
    average: str = "uniform"
    clamp: float = 4.0
    divide_by: str = "key"
    """"key": the same key everywhere (as r-ROME). "bare": the original code's denominator, the
    bare prompt's key, while the numerator has the mean key."""

    one_by_one = True

    def __post_init__(self):
        super().__post_init__()
        if len(self.layers) > 1:
            raise HyperError(f"ROME edits one layer, got {list(self.layers)}")
        if self.divide_by not in ("key", "bare"):
            raise HyperError("divide_by must be 'key' or 'bare'")

    def solve(self, R, K, preserve, kept=None, bare=None):
        if kept is not None:
            return objective.emmet(R, K, preserve, kept=kept)
        return objective.rome(R, K, preserve, divide_by=bare)

    @classmethod
    def original(cls, **fields):
        """The original code: mean key in the numerator, bare key in denominator and residual."""
        return cls(**{"start_average": "bare", "now_average": "bare", "divide_by": "bare"} | fields)

    @classmethod
    def r_rome(cls, **fields):
        """r-ROME (arXiv:2403.07175): mean key on both sides; v0 of the bare prompt."""
        return cls(**{"start_average": "bare"} | fields)

    @classmethod
    def p_rome(cls, **fields):
        """p-ROME (arXiv:2403.07175): the bare prompt's key everywhere."""
        return cls(**{"average": "bare"} | fields)


@dataclass(frozen=True)
class MEMIT(Hyper):
    """Mass-editing memory (arXiv:2210.07229): least squares, a batch at once, several layers."""

    lam: float = 15000.0
    """Weight of preservation [lambda]; multiplies the mean second moment C0."""

    def solve(self, R, K, preserve, kept=None):
        return objective.memit(R, K, preserve, self.lam, kept)

    @classmethod
    def original(cls, **fields):
        """The original code: v0 and residual of the bare prompt, key averaged over contexts."""
        return cls(**{"start_average": "bare", "now_average": "bare"} | fields)


@dataclass(frozen=True)
class EMMET(Hyper):
    """Equality-constrained mass editing (arXiv:2403.14236): every fact exactly, a batch at once."""

    ridge: float | str = "least"
    """Added to K^T C0^-1 K. 0: exact or an error. "least": 0 if the system can be solved as it is,
    else the smallest ridge that brings its condition number to 1e10. With a ridge the method is
    MEMIT with lam = ridge; the result says which ridge was used."""
    ridge_of_one: float | str | None = None
    """Ridge for a batch of one fact; None: the same. The published code uses none there."""

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.ridge, str) and self.ridge != "least":
            raise HyperError(f"ridge must be a number or 'least', not {self.ridge!r}")

    def solve(self, R, K, preserve, kept=None):
        ridge = self.ridge
        if K.shape[1] == 1 and self.ridge_of_one is not None:
            ridge = self.ridge_of_one
        if ridge == "least":
            ridge = objective.least_ridge(K, preserve, kept=kept)
        return objective.emmet(R, K, preserve, ridge, kept)

    @classmethod
    def original(cls, lam, eps=0.1, **fields):
        """The published code: C0 scaled by lam, eps added for batches larger than one.

        That is ridge = lam * eps: MEMIT's objective with another weight.
        """
        own = {"ridge": lam * eps, "ridge_of_one": 0.0}
        return cls(**{"start_average": "bare", "now_average": "bare"} | own | fields)


@dataclass(frozen=True)
class AlphaEdit(Hyper):
    """Null-space constrained editing (arXiv:2410.02355): updates live where C0 is (almost) zero."""

    L2: float = 10.0
    """Weight of ||Delta||^2."""
    threshold: float | None = 0.02
    """Eigenvalues of C0 below this count as null (absolute, as published) ..."""
    energy: float | None = None
    """... or, free of scale: the share of tr(C0) that null directions may hold (threshold=None)."""

    needs = "hard"

    def preserve(self, statistics, layer):
        threshold = None if self.energy is not None else self.threshold
        return statistics.hard(layer, threshold, self.energy)

    def solve(self, R, K, preserve, kept=None):
        return objective.alphaedit(R, K, preserve, self.L2, kept=kept)


@dataclass(frozen=True)
class NullSpace(AlphaEdit):
    """Equality inside the null space of C0: exact, when the batch fits into it."""

    L2: float = 0.0

    def solve(self, R, K, preserve, kept=None):
        return objective.nullspace(R, K, preserve, kept=kept)


METHODS = {
    "rome": ROME,
    "memit": MEMIT,
    "emmet": EMMET,
    "alphaedit": AlphaEdit,
    "nullspace": NullSpace,
}

# Values of the papers' code, keyed by (model_type, layers, width): the parameter files of the ROME,
# MEMIT and AlphaEdit repositories and, where they have none, of EasyEdit's (GPT-2 medium and large,
# Llama-2 and its EMMET). EMMET's ridge is the code's lam * 0.1; its authors' code adds none for one
# fact (ridge_of_one), EasyEdit's, of which Llama-2's values are, adds it always. The ROME files for
# Llama leave C0 out (the identity in its place); here C0 is used, as the paper's formula has it.
_XL, _J = ("gpt2", 48, 1600), ("gptj", 28, 4096)
_MEDIUM, _LARGE, _LLAMA = ("gpt2", 24, 1024), ("gpt2", 36, 1280), ("llama", 32, 4096)
_LLAMA3 = (*_LLAMA, 128256)  # Llama-3-8B: told from Llama-2-7B by its vocabulary
_4_TO_8 = {"layers": tuple(range(4, 9)), "steps": 25}
_ROME_7B = {"layers": (5,), "steps": 25, "weight_decay": 1e-3}
PRESETS = {
    (_XL, "rome"): {"layers": (17,), "steps": 20},
    (_XL, "memit"): {"layers": tuple(range(13, 18)), "steps": 20, "lam": 20000.0},
    (_XL, "emmet"): {"layers": (17,), "steps": 20, "ridge": 100.0, "ridge_of_one": 0.0},
    (_XL, "alphaedit"): {"layers": tuple(range(13, 18)), "steps": 20},
    (_J, "rome"): {"layers": (5,), "steps": 20},
    (_J, "memit"): {"layers": tuple(range(3, 9)), "steps": 25, "lam": 15000.0},
    (_J, "emmet"): {"layers": (5,), "steps": 25, "ridge": 0.1, "ridge_of_one": 0.0},
    (_J, "alphaedit"): {"layers": tuple(range(3, 9)), "steps": 25},
    (_MEDIUM, "rome"): {"layers": (8,), "steps": 20, "clamp": 3.0},
    (_LARGE, "rome"): {"layers": (12,), "steps": 20},
    (_LLAMA, "rome"): _ROME_7B,
    (_LLAMA, "memit"): _4_TO_8 | {"clamp": 4.0, "weight_decay": 1e-3, "lam": 15000.0},
    (_LLAMA, "emmet"): _4_TO_8 | {"clamp": 4.0, "weight_decay": 1e-3, "ridge": 0.1},
    (_LLAMA3, "rome"): _ROME_7B,
    (_LLAMA3, "memit"): _4_TO_8 | {"lr": 0.1, "lam": 15000.0},
    (_LLAMA3, "alphaedit"): _4_TO_8 | {"lr": 0.1},
}
PRESETS |= {(size, "nullspace"): PRESETS[size, "alphaedit"] for size in (_XL, _J, _LLAMA3)}


def hyper(method, model, **overrides):
    """The hyper-parameters of `method` ("rome", "memit", ... or a Hyper) for `model`.

    Order: the method's defaults, the preset for this model (an embedded model carries its own),
    then overrides. Without a preset of this method, the layers and the search for the target are
    those of the model's MEMIT preset (for one fact at a time and for training: the layer of its
    ROME preset); without that and without layers, the layers are a guess. Both with a warning.
    HyperError for an unknown method or field.
    """
    if isinstance(method, Hyper):
        found = replace(method, **_known(type(method), overrides))
    else:
        cls = METHODS.get(str(method).lower())
        if cls is None:
            raise HyperError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
        name = str(method).lower()
        config = model.config
        size = (config.model_type, config.num_hidden_layers, config.hidden_size)
        exact = (*size, getattr(config, "vocab_size", None))
        size = exact if any(exact == known for known, _ in PRESETS) else size
        preset = PRESETS.get((size, name)) or _borrowed(cls, name, size, overrides.get("layers"))
        own = card(model).get("preset", {})
        preset = preset | (own.get("all", {}) if cls.shared else {}) | own.get(name, {})
        found = cls(**preset | _known(cls, overrides))
    return found.settle(model)


def _borrowed(cls, name, size, layers):
    """What the size's preset of the closest method says of layers and search; {} if it has none."""
    like = "rome" if cls.one_by_one or cls.trained else "memit"
    of_search = Targets.OPTIMISATION if cls.needs else ()
    preset = PRESETS.get((size, like), {})
    preset = {k: v for k, v in preset.items() if k == "layers" or k in of_search}
    if preset and layers is None:
        warnings.warn(
            f"no preset for this {size[0]} model and {name}; editing {list(preset['layers'])}, as "
            f"its {like.upper()} preset does. Give layers=[...] to choose",
            stacklevel=3,
        )
    return preset


def _guess(h, config):
    """Layers for a model without a preset: the relative depth of GPT-2 XL's. Says so."""
    like = PRESETS[_XL, "rome" if h.one_by_one or h.trained else "memit"]["layers"]
    n = config.num_hidden_layers
    layers = tuple(sorted({int(layer * n / _XL[1]) for layer in like}))
    warnings.warn(
        f"no preset for this {config.model_type} model of {n} layers; editing {list(layers)}, the "
        "relative depth of GPT-2 XL's preset. Give layers=[...] to choose",
        stacklevel=4,
    )
    return layers


def _known(cls, values):
    names = [f.name for f in fields(cls)]
    for name in values:
        if name not in names:
            raise HyperError(
                f"{cls.__name__} has no hyper-parameter {name!r}; it has {', '.join(names)}"
            )
    return {k: v for k, v in values.items() if v is not None}
