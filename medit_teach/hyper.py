"""Hyper-parameters: one dataclass a method, with the papers' values for the models they used.

Each method is a way to solve (which closed form), a place for the target (site) and a few switches
that say which of the original codes' conventions hold. Our defaults use one key everywhere; the
originals' choices stay reachable by name, and the tests compare them with the original outputs.
"""

import warnings
from dataclasses import asdict, dataclass, fields, replace

from . import objective
from .distribution import rule
from .errors import HyperError
from .keys import AVERAGES, context_weights
from .models import card
from .running import text_config
from .settings import check, layer_numbers, meant, one_of, setting, several, shown
from .values import Targets

MOST_STEPS = 100_000
FOLLOW = ("start_average", "now_average")  # None: as `average`
CONTEXTS = (
    "",
    "The meeting ended early. ",
    "It was a quiet morning. ",
    "Therefore we waited. ",
    "Because it rained, they left. ",
    "I read about it yesterday. ",
)


def _texts(contexts):
    """Contexts as a tuple of texts; HyperError for anything else, and for one with a "{}"."""
    found = several("contexts", contexts, 'a list of texts, the first of them ""', HyperError)
    for text in found:
        if "{}" in one_of("a context", text):
            raise HyperError(
                f"a context is a text in front of the prompt: {shown(text)} must not have a {{}}"
            )
    context_weights(found, "bare")
    return found


def _rule(distribution):
    rule(distribution)
    return distribution


@dataclass(frozen=True)
class Hyper:
    """What all methods share. Symbols in brackets are those of the ROME and MEMIT papers.

    What a field may be is declared beside it; HyperError for anything else.
    """

    layers: tuple = setting((), made=layer_numbers)
    """Layers to edit, ascending [R, the set of critical layers]; ROME uses one [l*]."""
    site: str = setting("block", choices=("value", "block"))
    """Where the target lives: "value", the MLP output [v*], or "block", the block output [z]."""
    contexts: tuple = setting(CONTEXTS, made=_texts)
    """Texts put in front of the prompt [x_j]; the first is "", the bare prompt."""
    average: str = setting("half", choices=AVERAGES)
    """Weights of the contexts in the key [k*]: "bare", "uniform" (ROME) or "half" (MEMIT)."""
    start_average: str | None = setting(None, choices=AVERAGES)
    """Contexts of v0, the start of the target; None: as `average`. The originals use "bare"."""
    now_average: str | None = setting(None, choices=AVERAGES)
    """Contexts of the present value that the residual subtracts; None: as `average`. The original
    MEMIT uses "bare", so its residual and its key belong to different inputs."""
    distribution: object = setting("spread", made=_rule)
    """Name of a rule in medit_teach.distribution, or a function of a Step."""
    steps: int = setting(20, above=0, high=MOST_STEPS)
    """Evaluations of the loss in the search for the target; steps - 1 updates are made."""
    lr: float = setting(0.5, above=0)
    """Adam's learning rate."""
    weight_decay: float = setting(0.5, low=0)
    """Weight of the decay term on delta."""
    decay: str = setting("original", choices=("original", "relative"))
    """"original": ||delta|| / ||v0||^2 as in the papers' code; "relative": (||delta|| / ||v0||)^2,
    which does not depend on the scale of the residual stream."""
    kl_factor: float = setting(0.0625, low=0)
    """Weight of the KL term [lambda in ROME eq. 4]."""
    kl_position: str = setting("subject", choices=("subject", "end"))
    """Where in "{subject} is a" the KL is taken: "subject", its last token (the originals), or
    "end", the last token of the sentence."""
    clamp: float = setting(0.75, above=0)
    """Largest ||delta|| / ||v0||."""
    early_stop: float = setting(0.05, low=0)
    """A fact stops when its loss falls below this."""

    one_by_one = False  # a batch is solved together, unless a method says otherwise
    needs = "soft"  # which preservation the solver wants: "soft" (C0^-1), "hard" (P), None
    trained = False  # True: no solver, `train` finds the change by gradients (baselines)
    beside = False  # True: changes no weights, `make` gives its own kind of Edit (baselines)
    shared = True  # False: a model's preset for "all" methods does not concern this one

    instead = ()  # pairs of fields of which one counts: who says the one takes back the other

    def __post_init__(self):
        check(self)
        for name in FOLLOW:
            object.__setattr__(self, name, getattr(self, name) or self.average)

    def settle(self, model):
        """These hyper-parameters with layers for `model`, where none are given."""
        return self if self.layers else replace(self, layers=_guess(self, text_config(model)))

    def plain(self):
        """All fields by name, as JSON can hold them."""
        return {k: _name(v) if callable(v) else v for k, v in asdict(self).items()}

    def record(self):
        """The same, but None for what does not count beside another field: as an Edit has it."""
        return self.plain()

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
    divide_by: str = setting("key", choices=("key", "bare"))
    """"key": the same key everywhere (as r-ROME). "bare": the original code's denominator, the
    bare prompt's key, while the numerator has the mean key."""

    one_by_one = True

    def __post_init__(self):
        super().__post_init__()
        if len(self.layers) > 1:
            raise HyperError(f"ROME edits one layer, got {list(self.layers)}")

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

    lam: float = setting(15000.0, above=0)
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

    ridge: float | str = setting("least", low=0, words=("least",))
    """Added to K^T C0^-1 K. 0: exact or an error. "least": 0 if the system can be solved as it is,
    else the smallest ridge that brings its condition number to 1e10. With a ridge the method is
    MEMIT with lam = ridge; the result says which ridge was used."""
    ridge_of_one: float | str | None = setting(None, low=0, words=("least",))
    """Ridge for a batch of one fact; None: the same. The published code uses none there."""

    instead = (("ridge", "ridge_of_one"),)

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

    L2: float = setting(10.0, above=0)
    """Weight of ||Delta||^2."""
    threshold: float | None = setting(0.02, above=0)
    """Eigenvalues of C0 below this count as null (absolute, as published) ..."""
    energy: float | None = setting(None, low=0, below=1)
    """... or, free of scale: the share of tr(C0) that null directions may hold. Where it is given
    it counts, and no threshold does."""

    needs = "hard"
    instead = (("threshold", "energy"), ("energy", "threshold"))

    def __post_init__(self):
        super().__post_init__()
        if self.energy is None and self.threshold is None:
            raise HyperError("give a threshold or an energy: which directions of C0 are null?")
        if self.energy is not None and self.threshold not in (None, AlphaEdit.threshold):
            raise HyperError(
                f"give a threshold or an energy, not both ({self.threshold} and {self.energy})"
            )

    def record(self):
        return super().record() | ({} if self.energy is None else {"threshold": None})

    def preserve(self, statistics, layer):
        threshold = None if self.energy is not None else self.threshold
        return statistics.hard(layer, threshold, self.energy)

    def solve(self, R, K, preserve, kept=None):
        return objective.alphaedit(R, K, preserve, self.L2, kept=kept)


@dataclass(frozen=True)
class NullSpace(AlphaEdit):
    """Equality inside the null space of C0: exact, when the batch fits into it."""

    L2: float = setting(0.0, low=0, high=0)
    """None: its equality is exact."""

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
# SmolLM2-135M has no published values: these are a first choice, from edits of 12 and of 42 facts.
_XL, _J = ("gpt2", 48, 1600), ("gptj", 28, 4096)
_MEDIUM, _LARGE, _LLAMA = ("gpt2", 24, 1024), ("gpt2", 36, 1280), ("llama", 32, 4096)
_LLAMA3 = (*_LLAMA, 128256)  # Llama-3-8B: Llama-2-7B has the same numbers of layers and widths
_SMOL = ("llama", 30, 576)  # SmolLM2-135M, base or instruct
_GPT = range(50257, 51201)  # GPT-2's vocabulary, padded (GPT-J: 50,400) or with added tokens
_4_TO_8 = {"layers": tuple(range(4, 9)), "steps": 25}
_4_TO_6 = {"layers": (4, 5, 6), "steps": 20, "clamp": 4.0}
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
    (_SMOL, "rome"): {"layers": (5,), "steps": 20},
    (_SMOL, "memit"): _4_TO_6 | {"lam": 3000.0},
    (_SMOL, "emmet"): _4_TO_6,
    (_SMOL, "alphaedit"): _4_TO_6 | {"threshold": None, "energy": 0.02, "L2": 1.0},
}
KNOWN = {  # by what each of these models is known: its fine-tuned kin may have added some tokens
    _XL: ("GPT-2 XL", dict(num_attention_heads=(25,), n_inner=(6400,), vocab_size=_GPT)),
    _MEDIUM: ("GPT-2 medium", dict(num_attention_heads=(16,), n_inner=(4096,), vocab_size=_GPT)),
    _LARGE: ("GPT-2 large", dict(num_attention_heads=(20,), n_inner=(5120,), vocab_size=_GPT)),
    _J: ("GPT-J-6B", dict(num_attention_heads=(16,), rotary_dim=(64,), n_inner=(16384,),
                          vocab_size=_GPT)),
    _LLAMA: ("Llama-2-7B", dict(num_attention_heads=(32,), num_key_value_heads=(32,),
                                intermediate_size=(11008,), rope_theta=(10000,),
                                vocab_size=range(32000, 32769))),
    _LLAMA3: ("Llama-3-8B", dict(num_attention_heads=(32,), num_key_value_heads=(8,),
                                 intermediate_size=(14336,), rope_theta=(500000,),
                                 vocab_size=range(128256, 129281))),
    _SMOL: ("SmolLM2-135M", dict(num_attention_heads=(9,), num_key_value_heads=(3,),
                                 intermediate_size=(1536,), rope_theta=(100000,),
                                 vocab_size=range(49152, 49665))),
}  # fmt: skip
PRESETS |= {
    (size, "nullspace"): {k: v for k, v in PRESETS[size, "alphaedit"].items() if k != "L2"}
    for size in (_XL, _J, _LLAMA3, _SMOL)
}


def hyper(method, model, /, **overrides):
    """The hyper-parameters of `method` ("rome", "memit", ... or a Hyper) for `model`.

    Order: the method's defaults, the preset for this model (an embedded model carries its own),
    then overrides, None included (layers=None: the preset's). Of two fields of which one counts
    the given one does: threshold=... takes back the energy of a preset (see `instead`). Without a
    preset of this method, the layers and the search for the target are those of the model's MEMIT
    preset (for one fact at a time and for training: the layer of its ROME preset); without that
    and without layers, the layers are a guess. Both with a warning.
    HyperError for an unknown method or field.
    """
    if isinstance(method, Hyper):
        cls, given = type(method), {f.name: getattr(method, f.name) for f in fields(method)}
        for name in FOLLOW:  # what was as `average` is as `average` still
            given[name] = None if given[name] == given["average"] else given[name]
    else:
        name = str(method).lower()
        cls = METHODS.get(name)
        if cls is None:
            raise HyperError(
                f"unknown method {shown(method)}; choose from {', '.join(METHODS)}"
                f"{meant(name, METHODS)}"
            )
        size, _ = _recognised(text_config(model))
        given = PRESETS.get((size, name)) or _borrowed(cls, name, size, overrides.get("layers"))
        own = card(model).get("preset", {})
        given = given | (own.get("all", {}) if cls.shared else {}) | own.get(name, {})
    return cls(**_overridden(cls, given, overrides)).settle(model)


def _overridden(cls, given, said):
    """The values `given` (of a preset, or of another Hyper) with what the caller said."""
    said = _known(cls, said)
    named = {name for name, value in said.items() if value is not None}
    for one, other in cls.instead:
        if {one, other} <= named and (other, one) in cls.instead:
            raise HyperError(f"give {one} or {other}, not both")
        if one in named and other not in said:
            given = {k: v for k, v in given.items() if k != other}
    return given | said


def _recognised(config):
    """(the key in PRESETS of the model that this is, or None; why it is not one of its shape)."""
    shape = (config.model_type, config.num_hidden_layers, config.hidden_size)
    why = ""
    for size, (name, wanted) in KNOWN.items():
        found = {field: _said(config, field) for field in wanted}
        other = [f"{k} {v}" for k, v in found.items() if v is not None and v not in wanted[k]]
        if size[:3] == shape and not other:
            return size, ""
        if size[:3] == shape:
            why += f" (of the shape of {name}, but with {', '.join(other)})"
    return None, why


def _said(config, field):
    """What the config says of a field; rope_theta has moved between versions of transformers."""
    rope = getattr(config, "rope_parameters", None) or {}
    return getattr(config, field, None) if field not in rope else rope[field]


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
        f"no preset for this {config.model_type} model of {n} layers{_recognised(config)[1]}; "
        f"editing {list(layers)}, the relative depth of GPT-2 XL's preset. Give layers=[...] to "
        "choose",
        stacklevel=4,
    )
    return layers


def _known(cls, values):
    """The fields of `cls` that the caller gave; HyperError for one that it has not."""
    names = [f.name for f in fields(cls)]
    for name in values:
        if name not in names:
            raise HyperError(
                f"{cls.__name__} has no hyper-parameter {name!r}{meant(name, names)}; "
                f"it has {', '.join(names)}"
            )
    layers = values.get("layers", ())
    if layers is not None and "layers" in values and layer_numbers(layers) == ():
        raise HyperError("layers is empty; leave it out, or None, for the layers of the preset")
    return {k: v for k, v in values.items() if not (k == "layers" and v is None)}


def _name(function):
    """What a function is called in a record."""
    return getattr(function, "__name__", type(function).__name__)
