"""What an edit will cost, before it starts: GiB from shapes, minutes from a few timed steps.

print(memory("gpt-j-6b", "memit", dtype=torch.float16))    # needs no weights
print(plan("gpt-j-6b", dtype=torch.float16, room=free("cuda")))    # and how it fits this GPU
rates = measure(model, tok, facts, texts, "memit")         # some steps on this very machine
print(rates.minutes(1000))
"""

import math
import time
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from .. import metrics, models, objective
from ..errors import HyperError, ModelError
from ..fact import as_facts
from ..hooks import watch
from ..hyper import hyper
from ..keys import at_subject
from ..models import View
from ..running import text_config
from ..settings import check, dtype_of, number, setting, shown, whole
from ..statistics import ROWS, second_moment
from ..values import _rows, optimise_values

GIB = 2**30
BATCH = 4096  # tokens that second_moment reads at once
FEW = 1024  # the same where room is scarce
MOST = 10**9  # of what is counted: facts, tokens
SPARE = GIB // 2  # what a plan leaves to an allocator's losses
SHAPES = {  # name: what its config.json says
    "gpt2-xl": dict(model_type="gpt2", n_layer=48, n_embd=1600, n_head=25, n_positions=1024,
                    vocab_size=50257),
    "gpt-j-6b": dict(model_type="gptj", n_layer=28, n_embd=4096, n_head=16, n_positions=2048,
                     rotary_dim=64, vocab_size=50400, tie_word_embeddings=False),
}  # fmt: skip


def skeleton(name, dtype=torch.float32):
    """A model of this shape without weights: its tensors have sizes, but take no memory.

    name: a key of SHAPES (an owner may stand in front), an embedded model, a local folder or a hub
    name (only its config.json is read), a config of transformers, or a dict of config fields with
    model_type. ModelError if the name is none of these.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

    dtype, asked = dtype_of("dtype", dtype, ModelError), name
    if isinstance(name, (str, Path)):
        name = _config(str(name))
    if not isinstance(name, (dict, PreTrainedConfig)):
        raise ModelError(f"a shape is a name, a config, or a dict of its fields, not {shown(name)}")
    try:
        config = AutoConfig.for_model(**name) if isinstance(name, dict) else name
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    except Exception as error:  # of transformers, of many kinds
        raise ModelError(f"no model has the shape {shown(asked)}: {error}") from error
    model.tie_weights()  # which transformers 5.0 leaves out on "meta"
    return model.requires_grad_(False).eval()


def _config(name):
    """The config, or its fields, that a model's name stands for."""
    from transformers import AutoConfig

    folder, known = models.EMBEDDED / name, SHAPES.get(name.rpartition("/")[2].lower())
    if known and not Path(name).is_dir():
        return known
    try:
        if folder.is_dir() or Path(name).is_dir() or models.reachable():
            return AutoConfig.from_pretrained(
                folder if folder.is_dir() else name, trust_remote_code=False
            )
        return AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises any kind for a damaged file
        raise ModelError(
            f"unknown shape {name!r}; known are {', '.join(SHAPES)}, a model's folder or hub name, "
            "or a config"
        ) from error


@dataclass(frozen=True)
class Lengths:
    """The sequences of one fact: `rows` of them (contexts, and the KL sentence), each with `before`
    tokens before the subject's last one and `after` from there on; `read` positions are given to
    the head. The defaults are those of the middle one of 20 chunks of 32 CounterFact facts, with
    the default contexts and GPT-2's tokenizer."""

    rows: int = setting(7, low=1)
    before: int = setting(17, low=0)
    after: int = setting(7, low=1)
    read: int = setting(7, low=1)

    def __post_init__(self):
        check(self)


def lengths(tok, facts, h):
    """Lengths of `facts`, the longest of each (a chunk is padded to them)."""
    facts = as_facts(facts)
    found = _rows(tok, facts, h)
    position, n = found["position"].tolist(), len(facts)
    return Lengths(
        rows=-(-len(found["ids"]) // n),
        before=max(position),
        after=max(len(ids) - p for ids, p in zip(found["ids"], position, strict=True)),
        read=-(-(len(found["row"]) + len(found["kl_row"])) // n),
    )


# ------------------------------------------------------------------ memory


@dataclass(frozen=True)
class Memory:
    """Bytes that an edit needs, part by part, and together in each phase (they follow each other).

    weights: all parameters. C0: the second moments that are held at one time; reading: a batch of
    keys on its way into them. states: attention's keys and values of all tokens of a chunk; graph:
    what the search for v* keeps for its backward pass; head: logits and their gradients. undo: a
    copy of each edited matrix; factors: what a solver makes of C0; solve: the largest temporary
    matrices of one update. on_host: once collected, C0, its factor and the solve are in the
    machine's memory, not in the GPU's.
    """

    weights: int
    C0: int
    reading: int
    states: int
    graph: int
    head: int
    undo: int
    factors: int
    solve: int
    on_host: bool = False

    def held(self, phase):
        """{part: bytes} on the device of the model in a phase: "C0", "v*" or "update"."""
        C0 = {} if self.on_host else {"C0": self.C0}
        solve = {} if self.on_host else {"solve": self.factors + self.solve}
        more = {
            "C0": {"C0": self.C0, "reading": self.reading},
            "v*": C0 | {"search": max(self.states, self.graph + self.head)},
            "update": C0 | solve | {"undo": self.undo},
        }
        return {"weights": self.weights} | more[phase]

    @property
    def phases(self):
        """{phase: bytes on the device of the model}."""
        return {phase: sum(self.held(phase).values()) for phase in ("C0", "v*", "update")}

    @property
    def peak(self):
        """Bytes on the device of the model in the largest phase."""
        return max(self.phases.values())

    @property
    def host(self):
        """Bytes of the machine's own memory for C0 and the solve (0 unless on_host)."""
        return (self.C0 + self.factors + self.solve) if self.on_host else 0

    def __str__(self):
        parts = [field.name for field in fields(self) if field.type is int]
        lines = [f"{name:8}{getattr(self, name) / GIB:8.2f} GiB" for name in parts]
        return "\n".join([*lines, f"{'peak':8}{self.peak / GIB:8.2f} GiB"])


def memory(model, method="memit", dtype=None, chunk=32, n=1000, lengths=None, one_at_a_time=False,
           batch_tokens=BATCH, **overrides):  # fmt: skip
    """Memory for editing `n` facts at once, `chunk` of them optimised together.

    model: what `skeleton` takes, or a model (its weights are not read). dtype: of the weights
    (default float32, or the model's). lengths: Lengths of the facts. one_at_a_time, batch_tokens:
    as second_moment is called; with the first, one C0 in memory, on the host. The large tensors
    alone, without what an allocator loses and what a GPU's runtime takes: leave some room.
    HyperError for a method that changes no weights.

        C0       8 d_in^2 bytes a layer (float64)           factors  the same again
        reading  batch_tokens keys as they come and in float64, some rows of a sum
        states   3 x keys and values of each token, each row and each layer of the model
        graph    counted: the tensors that autograd keeps, on a skeleton of the model
        head     read x vocabulary x (20 + bytes of a weight)
        solve    8 d_in^2 (three times that for eigenvectors), or 2 x 8 d_in d_out + 6 x 8 d_in n
    """
    for name, value in (("chunk", chunk), ("n", n), ("batch_tokens", batch_tokens)):
        whole(name, value, 1, MOST)
    if not isinstance(lengths, (Lengths, type(None))):
        raise HyperError(f"lengths must be Lengths, not {shown(lengths)}")
    if isinstance(model, torch.nn.Module):
        dtype = model.dtype if dtype is None else dtype
        model = model.config
    shape = skeleton(model, torch.float32 if dtype is None else dtype)
    view, h = View(shape), hyper(method, shape, **overrides)
    if h.beside:
        raise HyperError(f"{method} changes no matrix of the model: there is nothing to count")
    size, lengths = shape.dtype.itemsize, lengths or Lengths(rows=len(h.contexts) + 1)
    d_out, d_in = view.weight(h.layers[0]).shape
    held = 1 if one_at_a_time else len(h.layers)
    graph, cached = _graph(view, h.layers[-1], lengths, chunk)
    square = 8 * d_in**2 if h.needs else 0
    return Memory(
        weights=size * sum(p.numel() for p in shape.parameters()),
        C0=held * square,
        reading=(8 * min(d_in, ROWS) + batch_tokens * (8 + size)) * d_in if h.needs else 0,
        undo=size * len(h.layers) * d_in * d_out,
        factors=held * square,
        states=chunk * lengths.rows * cached * 3 * (lengths.before + lengths.after),
        graph=graph + chunk * lengths.rows * cached * lengths.before,
        head=chunk * lengths.read * view.vocabulary * (20 + size),
        solve=max(square * (3 if h.needs == "hard" else 1), 16 * d_in * d_out + 48 * d_in * n),
        on_host=one_at_a_time,
    )


def _graph(view, layer, lengths, chunk):
    """(bytes that one step keeps for its backward pass, bytes that attention keeps for a token)."""
    config, dtype = text_config(view.model), view.model.dtype
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rows = chunk * lengths.rows
    past = torch.empty(rows, heads, lengths.before, width, device="meta", dtype=dtype)
    ids = torch.zeros(rows, lengths.after, device="meta", dtype=torch.long)
    kept, own = {}, {p.untyped_storage()._cdata for p in view.model.parameters()}

    def pack(x):
        storage = x.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no other takes its place
        return x

    start = {"v*": lambda hidden: hidden.detach().requires_grad_()}
    with watch({"v*": view.block(layer)}, replace=start):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            view.run({"input_ids": ids}, view.cache([(past, past)] * view.n_layers))
    return sum(map(len, kept.values())), 2 * heads * width * view.n_layers * dtype.itemsize


# ------------------------------------------------------------------ what fits


@dataclass(frozen=True)
class Plan:
    """How to edit in the memory that there is: `chunk` facts optimised together; the second moments
    all at once, or one_at_a_time from the disk; `batch_tokens` of text read together. `bill`: the
    Memory of that. `fits`: False if even the smallest plan, this one, does not."""

    chunk: int
    one_at_a_time: bool
    batch_tokens: int
    bill: Memory
    fits: bool

    def __str__(self):
        C0 = "one C0 at a time, from the disk" if self.one_at_a_time else "all C0 at once"
        fits = "" if self.fits else "\nThis is more than is free: take half precision, or less."
        return f"{self.bill}\n{self.chunk} facts together, {C0}{fits}"


def plan(model, method="memit", dtype=None, room=None, host=None, most=64, one_at_a_time=False,
         **asked):  # fmt: skip
    """The Plan with the most facts together, a power of two up to `most`, whose bill leaves half a
    GiB of `room`. One C0 at a time, with smaller batches of text, only where all do not fit (or
    one_at_a_time).

    model, method, dtype and **asked: as for memory. room, host: bytes that are free on the device,
    and in the machine's own memory (`free`); None sets no limit.
    """

    most = whole("most", most, 1, MOST)
    room = number("room", room, low=0, none=True)
    host = number("host", host, low=0, none=True)

    def bill(chunk, one):
        how = {"one_at_a_time": one, "batch_tokens": FEW if one else BATCH}
        found = memory(model, method, dtype, chunk, **how, **asked)
        fits = all(
            limit is None or needed + SPARE <= limit
            for needed, limit in ((found.peak, room), (found.host, host if one else None))
        )
        return Plan(chunk, bill=found, fits=fits, **how)

    for one in (True,) if one_at_a_time else (False, True):
        least = bill(1, one)
        if not least.fits:
            continue
        chunk = most
        while chunk > 1:
            found = bill(chunk, one)
            if found.fits:
                return found
            chunk //= 2
        return least
    return least


def free(device="cpu"):
    """Bytes that nothing uses now: of a GPU, or of the machine's own memory (Linux; else None)."""
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"no device {shown(device)}: {error}") from None
    if kind == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else None


# ------------------------------------------------------------------ minutes


@dataclass(frozen=True)
class Rates:
    """Seconds, measured on this machine: `start` and `step` of the search for a chunk of v*, `keys`
    of a chunk, `read` a token for one layer's C0, `factor` a C0, `score` a fact."""

    chunk: int
    start: float
    step: float
    keys: float
    read: float
    factor: float
    score: float
    steps: int
    layers: int

    def minutes(self, n, tokens=0, scored=0):
        """{phase: minutes} for `n` facts, C0 from `tokens` tokens, and `scored` facts scored.

        v*: ceil(n / chunk) x (start + steps x step); early stopping makes it shorter.
        """
        chunks = math.ceil(n / self.chunk)
        seconds = {
            "C0": self.layers * tokens * self.read,
            "v*": chunks * (self.start + self.steps * self.step),
            "update": self.layers * (self.factor + (chunks + 1) * self.keys),
            "scores": scored * self.score,
        }
        return {phase: s / 60 for phase, s in seconds.items()}


def measure(model, tok, facts, texts, method="memit", chunk=None, one_at_a_time=False,
            batch_tokens=BATCH, **overrides):  # fmt: skip
    """Rates of this model on its device, from a few steps: seconds on a GPU, more on a CPU.

    facts: a few, `chunk` of them are optimised together (default: all). texts: some ordinary
    ones. one_at_a_time, batch_tokens: as C0 will be collected (with the first it is factored on
    the host). No weight is changed. On one thread of a CPU the seconds are those of the processor,
    as an idle machine's clock would show them.
    """
    facts, view = as_facts(facts), View(model)
    h = hyper(method, model, **overrides)
    chunk = len(facts) if chunk is None else min(whole("chunk", chunk, 1), len(facts))
    some, layer = facts[:chunk], h.layers[-1]
    d_in = view.weight(layer).shape[1]

    alone = view.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter

    def seconds(work):
        _wait(view.device)
        began = clock()
        work()
        _wait(view.device)
        return clock() - began

    def values(steps):
        asked = {"steps": steps, "early_stop": 0.0}
        optimise_values(model, tok, some, layer, hyper(h, model, **asked), chunk)

    values(1)  # the first call on a device is slow
    one, four = seconds(lambda: values(1)), seconds(lambda: values(4))
    step = max(four - one, 0.0) / 3
    tokens = max(d_in, 2048)
    wanted = [("key", layer), (h.site, layer)]
    m = min(d_in, 1024)
    where = torch.device("cpu") if one_at_a_time else view.device
    X = torch.randn(m, 2 * m, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spd = (X @ X.T / (2 * m)).to(where)
    solver = (lambda: objective.null_space(spd, energy=0.5)) if h.needs == "hard" else (
        lambda: objective.factor(spd))  # fmt: skip
    return Rates(
        chunk=chunk,
        start=max(one - step, 0.0),
        step=step,
        keys=seconds(lambda: at_subject(model, tok, some, wanted, h.contexts, h.average)),
        read=seconds(lambda: second_moment(model, tok, texts, [layer], tokens, batch_tokens))
        / tokens,
        factor=seconds(solver) * (d_in / m) ** 3,
        score=seconds(lambda: metrics.score(model, tok, some[:4], resamples=1)) / len(some[:4]),
        steps=h.steps,
        layers=len(h.layers),
    )


def _wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spoken(minutes):
    """A rough time in words: "less than a minute", "about 12 minutes", "about 3 hours"."""
    if minutes < 1:
        return "less than a minute"
    if minutes < 90:
        return f"about {minutes:.0f} minute{'s' * (round(minutes) > 1)}"
    return f"about {minutes / 60:.0f} hours"
