"""edit(): from facts to an Edit, which can be applied, undone bit for bit, saved and loaded."""

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from . import weights
from .datasets import texts_for
from .distribution import Step, apportion
from .errors import MeditError, ModelError, StatisticsError
from .fact import Fact, as_facts, encode
from .guard import alone, held, or_else, plain
from .hyper import hyper
from .keys import at_subject
from .memory import ran_out
from .models import View, check_finite, fingerprint, tensor_hash
from .processes import ALONE
from .running import exact, home, unwrapped
from .settings import whole
from .statistics import Statistics, second_moment
from .values import optimise_values

C0_TOKENS = 50_000  # for C0, or C0_PER_DIMENSION times d_in where that is more (c0-tokens.json)
C0_PER_DIMENSION = 16
FORMAT = 2  # of edit.json; 1, which had no number, did not name the hash of the tensors
LARGEST = 2**28  # bytes of edit.json that are read
SHOWN = {  # what an Edit prints of its diagnostics
    "relative_norm": "|Delta|/|W| {:.2g}",
    "ridge": "ridge {:.3g}",
    "condition_C0": "cond(C0) {:.1e}",
    "unwritten": "unwritten residual {:.1%}",
    "steps": "{} steps",
    "entries": "{} entries",
}


class Edit:
    """A low-rank change of some MLP down-projections: W <- W + left right^T.

    layers: {layer: (left (d_out, r), right (d_in, r))} float64. keys: {layer: (d_in, E)} the keys
    that were written, so that a later edit can keep them. method, hyper (dict), facts, values and
    diagnostics {layer: dict} say how it was made. `applied` tells whether the model has it now.

    As a context manager it undoes itself on exit, unless it was committed. Methods that leave the
    weights alone have their own kinds (medit_teach.methods): no layers, and another way to change
    what the model answers.

    While it can be undone it holds a copy of each matrix that it changed; `commit` frees them.
    """

    beside = False  # True: a kind that changes no weights

    def __init__(self, method, hyper, facts, before):
        self.method, self.hyper, self.facts = method, hyper, list(facts)
        self.before = before  # fingerprint of the weights it was made for; None: any
        self.layers, self.keys, self.diagnostics = {}, {}, {}
        self.values = []  # one medit_teach.values.Values for each solve, not saved
        self.model, self.committed = None, False
        self._saved, self._was, self._written = {}, {}, {}

    @property
    def applied(self):
        """Whether `model` has it now: whether it is one of edits_of(model)."""
        return self.model is not None and any(e is self for e in edits_of(self.model))

    # -------------------------------------------------------------- apply, undo, commit

    def apply(self, model=None, force=False):
        """Write the change into `model` (default: the model it was made on or applied to last).

        MeditError, with nothing changed, if it is applied already, or if the model's weights are
        not those it was made for (force=True skips that check, never the check of shapes).
        """
        if self.applied:
            raise MeditError("this edit is applied already; undo it first")
        model = model if model is not None else self.model
        if model is None:
            raise MeditError("this edit was loaded from disk: say which model, edit.apply(model)")
        with changing(model) as view:
            self._check(view)
            if not force and self.before and fingerprint(view.model) != self.before:
                raise MeditError(
                    "this edit was made for other weights than the model has now; undo later "
                    "edits, load the original model, or pass force=True"
                )
            self._open(view.model)
            with or_else(self._restore), held():
                self._attach(view)
                for layer in self.layers:
                    self._write(layer)
                self._close()
        return self

    def undo(self):
        """Put the former weights back, bit for bit. MeditError if they changed in between.

        Ctrl-C does not cut it short: it is raised afterwards.
        """
        if not self.applied:
            raise MeditError("this edit is not applied; there is nothing to undo")
        with held(), changing(self.model) as view:
            self._undoable(view)
            with or_else(self._restore):
                self._restore()
        return self

    def commit(self):
        """Keep the edit for good: it cannot be undone any more, and its copy of the former weights
        is freed. MeditError while an earlier edit of the same matrix can still be undone.

        It stays in edits_of(model), can be saved, and its keys can be remembered.
        """
        if not self.applied:
            raise MeditError("this edit is not applied; there is nothing to commit")
        with changing(self.model):
            stack = edits_of(self.model)
            for e in stack[: next(i for i, e in enumerate(stack) if e is self)]:
                if not e.committed and set(e.layers) & set(self.layers):
                    raise MeditError(
                        "an earlier edit of the same matrix can still be undone; commit it first "
                        "(medit_teach.edits_of(model) lists them)"
                    )
            self.committed = True
            self._saved = {}
        return self

    def __enter__(self):
        return self if self.applied else self.apply()

    def __exit__(self, kind, error, trace):
        """Undo. After an error in the block the later edits go first, and the error stays the one
        that is seen: a note says what could not be put back."""
        with held():
            if not self.applied or self.committed:
                return
            if error is None:
                self.undo()
                return
            stack = edits_of(self.model)
            later = stack[1 + next(i for i, e in enumerate(stack) if e is self) :]
            try:
                for e in reversed(later):
                    e.undo()
                self.undo()
            except MeditError as reason:
                error.add_note(f"medit_teach could not undo the edit: {reason}")
            else:
                if later:
                    error.add_note(f"medit_teach undid {len(later)} later edits too")

    def _check(self, view):
        """MeditError unless the factors fit the matrices of this model."""
        for layer, (left, right) in self.layers.items():
            shape = tuple(view.weight(layer).shape)
            if shape != (len(left), len(right)):
                raise MeditError(
                    f"this edit changes a {len(left)} x {len(right)} matrix in layer {layer}; the "
                    f"model's is {shape}: it was made for another model"
                )
            if left.shape[1:] != right.shape[1:] or left.ndim != 2:
                raise MeditError(
                    f"the factors of layer {layer} have shapes {tuple(left.shape)} and "
                    f"{tuple(right.shape)}; they need as many columns"
                )

    def _undoable(self, view):
        """MeditError, which says what state the model is in, unless undo can give back each bit."""
        if self.committed:
            raise MeditError(
                "this edit is committed: its copy of the former weights is freed; the model keeps "
                "it. Load the model again to be without it"
            )
        stack = edits_of(self.model)
        later = stack[1 + next(i for i, e in enumerate(stack) if e is self) :]
        for layer, saved in self._saved.items():
            now = view.parameter(layer)
            if tensor_hash(now) in (self._written[layer], self._was[layer]):
                continue  # the latter: an undo was cut short
            above = [e for e in later if layer in e.layers]
            if any(e.committed for e in above):
                why = "a later edit of it is committed, so neither can be undone"
            elif above:
                why = "undo later edits first (last in, first out)"
            else:
                kind, former = (str(x.dtype).removeprefix("torch.") for x in (now, saved))
                why = (
                    f"they were {former} and are {kind}" if kind != former else
                    "something other than an edit wrote into them"
                )  # fmt: skip
                why = f"from outside: {why}. Put them back as the edit left them, or load the model"
            raise MeditError(
                f"the weights of layer {layer} changed after this edit was applied; {why}. Nothing "
                "was undone: the model has this edit, and what came after it"
            )

    def _open(self, model):
        """Begin: nothing of `model` is changed yet."""
        self.model, self._saved, self._was, self._written = model, {}, {}, {}

    def _attach(self, view):
        """What a kind puts beside the weights; `_detach` takes it away, and bears to be called
        twice."""

    def _detach(self):
        pass

    def _keep(self, layer):
        """A copy of the matrix as it was, once."""
        if layer not in self._saved:
            stored = View(self.model).parameter(layer)
            self._was[layer] = tensor_hash(stored)
            self._saved[layer] = stored.detach().clone()

    def _write(self, layer):
        self._keep(layer)
        view = View(self.model)
        old = self._saved[layer].T if view.architecture.transposed else self._saved[layer]
        left, right = (x.to(home(old.device)) for x in self.layers[layer])
        wanted = exact(old) + left @ right.T
        new = wanted.to(old.dtype)
        if not torch.isfinite(new).all():
            kind = str(old.dtype).removeprefix("torch.")
            raise MeditError(
                f"the edited weights of layer {layer} reach {float(wanted.abs().max()):.3g}, which "
                f"{kind} cannot hold; load the model with dtype=torch.bfloat16 or torch.float32, "
                "or write less (a larger lam, fewer facts, a smaller clamp)"
            )
        with torch.no_grad():
            view.weight(layer).copy_(new)
        torch.clear_autocast_cache()  # else a caller's autocast goes on with the old weights

    def _add(self, layer, left, right):
        """Widen the factors of `layer` by more columns and write them."""
        if layer in self.layers:
            left = torch.cat([self.layers[layer][0], left], 1)
            right = torch.cat([self.layers[layer][1], right], 1)
        self.layers[layer] = (left.contiguous(), right.contiguous())
        self._write(layer)

    def _close(self):
        """The last step: once it is listed it is applied."""
        view = View(self.model)
        self._written = {layer: tensor_hash(view.parameter(layer)) for layer in self._saved}
        self.after = fingerprint(self.model)
        edits_of(self.model).append(self)

    def _restore(self):
        """The model as before `_open`. Cut short, it can be called again; so it can when done."""
        with held(), torch.no_grad():
            view = View(self.model)
            for layer, saved in self._saved.items():
                view.parameter(layer).copy_(saved)
            torch.clear_autocast_cache()
            self._detach()
            stack = edits_of(self.model)
            stack[:] = [e for e in stack if e is not self]
            self._saved = {}

    def asked(self, prompt):
        """The question that the model gets for `prompt` while this edit is applied: as it is."""
        return prompt

    # -------------------------------------------------------------- looking, saving, loading

    def delta(self, layer):
        """Delta (d_out, d_in) of one layer, float64."""
        left, right = self.layers[layer]
        return left @ right.T

    def __repr__(self):
        state = "applied" if self.applied else "not applied"
        if self.applied and self.committed:
            state = "committed: it cannot be undone"
        if self.applied and not self.beside and self._written == self._was:
            state += "; nothing was written, every weight has the bits it had"
        n = len(self.facts)
        lines = [f"Edit by {self.method}: {n} fact{'s' * (n != 1)}, {state}"]
        for layer, d in self.diagnostics.items():
            shown = [text.format(d[name]) for name, text in SHOWN.items() if name in d]
            lines.append(f"  layer {layer}: {', '.join(shown)}")
        return "\n".join(lines)

    def save(self, folder):
        """Factors and keys in edit.safetensors, the rest in edit.json. Returns the folder.

        The folder may hold other files, and an older edit: killed at any moment, it holds the older
        one or this one, whole. MeditError if it cannot be written. One process at a time.
        """
        tensors = self._more()
        for layer, (left, right) in self.layers.items():
            tensors |= {f"left.{layer}": left.cpu(), f"right.{layer}": right.cpu()}
            tensors[f"keys.{layer}"] = self.keys.get(layer, right[:, :0]).cpu()
        tensors = {name: x.detach().contiguous() for name, x in tensors.items()}
        about = {
            "format": FORMAT,
            "tensors": _digest(tensors),
            "kind": type(self).__name__,
            "method": self.method,
            "hyper": self.hyper,
            "facts": [fact.to_record() for fact in self.facts],
            "before": self.before,
            "diagnostics": self.diagnostics,
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
        }
        try:
            folder = Path(folder)
            new = folder / f"edit.{about['tensors']}.safetensors"
            text = json.dumps(about, indent=1)
            folder.mkdir(parents=True, exist_ok=True)
            _put(new, lambda draft: save_file(tensors, draft))
            _put(folder / "edit.json", lambda draft: Path(draft).write_text(text, encoding="utf-8"))
            os.replace(new, folder / "edit.safetensors")  # before this, load takes `new`
            for path in folder.iterdir():  # what saves that were killed have left
                if re.fullmatch(r"edit\.[0-9a-f]{32}\.safetensors|\.edit\.draft\.\d+", path.name):
                    path.unlink(missing_ok=True)
        except (OSError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
            raise MeditError(f"cannot save the edit in {folder}: {_line(error)}") from error
        return folder

    @classmethod
    def load(cls, folder):
        """An Edit that `save` wrote, not applied yet: edit.apply(model).

        MeditError, in one line, for anything else, and for files that were changed or mixed.
        """
        try:
            return _loaded(Path(folder))
        except Exception as error:  # missing, not JSON, not safetensors, or not what save writes
            raise MeditError(f"{folder} holds no saved edit: {_line(error)}") from error

    def _more(self):
        """What this kind saves besides factors and keys, as tensors by name."""
        return {}

    def _take(self, tensors):
        """Back from disk: take out of `tensors` what `_more` gave; MeditError if it is not that."""


def edits_of(model):
    """The edits that `model` carries now, oldest first."""
    model = unwrapped(model)
    if not hasattr(model, "_medit_edits"):
        model._medit_edits = []
    return model._medit_edits


@contextmanager
def changing(model):
    """The View of `model`, to change it: by one thread, in torch's plain modes.

    ModelError for weights that were made under inference mode: gradients cannot pass them.
    """
    with plain():
        inside = unwrapped(model)
        parameters = getattr(inside, "named_parameters", list)()
        made = next((n for n, p in parameters if p.is_inference()), None)
        if made:
            raise ModelError(
                f"{made} was made under torch.inference_mode, and cannot be changed nor searched "
                "through outside it; load or cast the model outside that mode"
            )
        view = View(model)
        with alone(view.model):
            yield view


# ------------------------------------------------------------------ the folder of a saved edit


def _put(path, write):
    """The file `path`, whole or not at all. write: called with the name of a draft."""
    draft = path.with_name(f".edit.draft.{os.getpid()}")
    try:
        write(str(draft))
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _digest(tensors):
    """Hash (hex) of names and contents."""
    total = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        total.update(f"{name} {tensor_hash(tensors[name])}".encode())
    return total.hexdigest()


def _loaded(folder):
    """The Edit in `folder`; an error of any kind if there is none."""
    about = _about(folder / "edit.json")
    tensors = _tensors(folder, about.get("tensors"))
    facts = [Fact.from_record(r, f"fact {i}") for i, r in enumerate(about["facts"])]
    if not facts:
        raise MeditError("edit.json names no facts")
    kinds = {kind.__name__: kind for kind in (Edit, *Edit.__subclasses__())}
    kind = about.get("kind", "Edit")
    if kind not in kinds:
        raise MeditError(f"edit.json names an unknown kind of edit, {kind[:40]!r}")
    edit = kinds[kind](about["method"], about["hyper"], facts, about["before"])
    edit._take(tensors)
    layers = sorted(int(name.split(".")[1]) for name in tensors if name.startswith("left."))
    parts = {f"{part}.{layer}" for part in ("left", "right", "keys") for layer in layers}
    if set(tensors) != parts:
        odd = sorted(set(tensors) ^ parts)[0]
        raise MeditError(f"the tensor {odd!r} is missing, or belongs to nothing")
    for layer in layers:
        left, right, keys = (tensors[f"{part}.{layer}"] for part in ("left", "right", "keys"))
        need("left", left, (None, None))
        need("right", right, (None, left.shape[1]))
        need("keys", keys, (len(right), None))
        edit.layers[layer], edit.keys[layer] = (left, right), keys
    for layer, told in about["diagnostics"].items():
        if any(not isinstance(told[name], (int, float)) for name in SHOWN if name in told):
            raise MeditError(f"the diagnostics of layer {layer} are not numbers")
        edit.diagnostics[int(layer)] = told
    return edit


def _about(path):
    """What edit.json says, its fields of the right types."""
    if path.stat().st_size > LARGEST or not path.is_file():
        raise MeditError(f"{path.name} is no file of at most {LARGEST / 2**20:.0f} MiB")
    about = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(about, dict):
        raise MeditError(f"{path.name} holds {type(about).__name__}, not an object with fields")
    fields = {"kind": str, "method": str, "hyper": dict, "facts": list, "diagnostics": dict}
    fields |= {"before": (str, type(None))}
    for name, kind in fields.items():
        if not isinstance(about.get(name, "Edit" if name == "kind" else 0), kind):
            raise MeditError(f"{path.name}: the field {name!r} is missing, or of the wrong type")
    if about.get("format", 1) not in (1, FORMAT):
        raise MeditError(
            f"{path.name} has the format {str(about['format'])[:20]}, this version reads up to "
            f"{FORMAT}; update medit_teach"
        )
    return about


def _tensors(folder, told):
    """The tensors with the hash `told` (None, an old format: those that are there)."""
    names = ["edit.safetensors"]
    if told is not None:
        if not re.fullmatch("[0-9a-f]{32}", str(told)):
            raise MeditError("edit.json: the field 'tensors' is no hash")
        names.insert(0, f"edit.{told}.safetensors")  # there if a save was killed at its last step
    for path in (folder / name for name in names):
        if not path.is_file():
            continue
        tensors = load_file(str(path))
        for name, x in tensors.items():
            if x.dtype not in (torch.float64, torch.float32, torch.int64):
                raise MeditError(f"the tensor {name!r} has the type {x.dtype}")
        if told in (None, _digest(tensors)):
            return tensors
    raise MeditError("edit.safetensors is missing, or does not belong to edit.json, or was changed")


def need(name, x, shape, dtype=torch.float64):
    """MeditError unless the tensor x has this dtype and shape (None: any) and is finite."""
    fits = x.ndim == len(shape) and all(b in (None, a) for a, b in zip(x.shape, shape, strict=True))
    if not fits or x.dtype != dtype:
        kinds = [str(kind).removeprefix("torch.") for kind in (x.dtype, dtype)]
        wanted = " x ".join("any" if n is None else str(n) for n in shape)
        raise MeditError(f"{name} is {kinds[0]} {tuple(x.shape)}, not {kinds[1]} {wanted}")
    if not torch.isfinite(x).all():
        raise MeditError(f"{name} contains NaN or infinite numbers")


def _line(error):
    """An error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({Path(error.filename or '').name})".removesuffix(" ()")
    words = " ".join(str(error).split())[:300]
    return words if isinstance(error, MeditError) else f"{type(error).__name__}: {words}"


# ------------------------------------------------------------------ making an edit


def statistics_for(
    model, tok, layers, texts=None, tokens=None, progress=False, processes=ALONE,
    one_at_a_time=False,
):  # fmt: skip
    """C0 for `layers`: what was collected for this model before, else collected (and cached) now.

    What was collected before serves if `texts` is not named and `tokens` is the same or not named.
    texts: default the text that belongs to the model (medit_teach.datasets.texts_for), unless a C0
    ships for it (medit_teach.weights). tokens:
    default C0_TOKENS, or C0_PER_DIMENSION for each key dimension if that is more. While the
    model carries edits, the C0 of its unedited weights is used where that is known. processes,
    one_at_a_time: as in second_moment.
    """
    view = View(model)
    model, layers = view.model, view.layers(layers, StatisticsError)
    known = getattr(model, "_medit_statistics", None)
    tokens = whole("tokens", tokens, 1, none=True, error=StatisticsError)
    asked = texts is None and tokens in (None, known and known.tokens)
    fits = known and asked and known.weights in _bases(model) and set(layers) <= set(known.C0)
    if all(processes.gathered(bool(fits))):
        return known
    if texts is None and tokens is None and not os.environ.get("MEDIT_TEXT"):
        found = [weights.shipped(w, layers) for w in _bases(model)]
        if found := next(filter(None, found), None):  # the real model brings its own
            model._medit_statistics = found
            return found
    texts = texts_for(model) if texts is None else texts
    d_in = max(view.weight(layer).shape[1] for layer in layers)
    tokens = tokens or max(C0_TOKENS, C0_PER_DIMENSION * d_in)
    found = second_moment(
        model, tok, texts, layers, tokens, cache=True, progress=progress, processes=processes,
        one_at_a_time=one_at_a_time,
    )  # fmt: skip
    model._medit_statistics = found
    return found


def _bases(model):
    """Fingerprints whose C0 may serve this model: its own, and that before its present edits."""
    now, stack = fingerprint(model), [e for e in edits_of(model) if e.before]
    return {now, stack[0].before} if stack and stack[-1].after == now else {now}


def edit(
    model,
    tok,
    facts,
    method="memit",
    layers=None,
    statistics=None,
    targets=None,
    remember=(),
    progress=False,
    **overrides,
):
    """Write `facts` into `model`; returns the Edit, already applied.

        with edit(model, tok, facts, method="emmet", layers=[3]) as e:   # undone on exit
            ...

    facts: Fact, CounterFact record, or a list of them. method: "rome", "memit", "emmet",
    "alphaedit", "nullspace", one of medit_teach.methods ("ft", "mend", "grace", "prompt", "ike",
    which use neither statistics nor targets), or a medit_teach.hyper.Hyper. layers and **overrides
    replace fields of its hyper-parameters.
    statistics: Statistics, or where they are kept (a folder, "owner/name" on the hub); default:
    collected from the model's own text, cached. targets:
    (d_out, E) or Values, to use instead of optimising (shared between methods).
    remember: earlier Edits whose keys take part with residual 0 (editing in sequence).

    On any error, and on Ctrl-C, the model is left as it was, bit for bit. The caller's no_grad,
    inference mode and autocast do not count inside. Another thread that edits the same model waits.
    """
    facts = as_facts(facts)
    with changing(model) as view:
        model = view.model
        h = hyper(method, model, layers=layers, **overrides)
        for layer in h.layers:
            view.block(layer)
        check_finite(view, h.layers)
        for fact in facts:
            encode(tok, fact.text)  # a tokenizer without offsets is found before any work
        if h.trained or h.beside:
            given = {"statistics": statistics, "targets": targets, "remember": remember}
            for name, value in given.items():
                if value is not None and not (isinstance(value, (list, tuple)) and not value):
                    raise MeditError(f"{type(h).__name__} makes no use of {name}=; leave it out")
        else:
            remember = _remembered(remember, view, h.layers)
        if h.needs:
            statistics = _statistics(statistics, view, tok, h.layers, progress)
        if h.beside:
            return h.make(model, tok, facts, h.record(), progress).apply(model)
        targets = _targets(targets, view, h.layers, len(facts))
        result = Edit(type(h).__name__, h.record(), facts, fingerprint(model))
        result._open(model)
        try:
            with or_else(result._restore):
                _find(result, view, tok, h, statistics, targets, remember, progress)
                with held():
                    result._close()
        except Exception as error:
            if ran_out(error):
                raise MeditError(
                    "out of memory; the model is as it was. Load it in half precision or over "
                    "several devices, or read C0 from the disk one layer at a time "
                    "(Statistics.load)"
                ) from error
            raise
        return result


def _statistics(statistics, view, tok, layers, progress):
    """Statistics of these weights, from whatever the caller gave; StatisticsError else."""
    if isinstance(statistics, (str, Path)):
        statistics = Statistics.load(statistics, layers)
    if statistics is None:
        statistics = statistics_for(view.model, tok, layers, progress=progress)
    if not isinstance(statistics, Statistics):
        raise StatisticsError(
            f"statistics must be Statistics, or where they are kept, not {_shown(statistics)}"
        )
    known = statistics.weights in _bases(view.model)
    statistics.check(view, layers, statistics.weights if known else None)
    return statistics


def _targets(targets, view, layers, E):
    """The targets that the caller gave, as a tensor (d_out, E); None: none."""
    if targets is None:
        return None
    targets, d_out = getattr(targets, "target", targets), len(view.weight(layers[-1]))
    wanted = f"targets must be finite real numbers, {d_out} (d_out) a column, one column a fact"
    try:
        T = targets if isinstance(targets, torch.Tensor) else torch.as_tensor(np.array(targets))
        T = T.detach()
        real = not T.is_complex() and T.dtype != torch.bool and bool(torch.isfinite(T).all())
    except (TypeError, ValueError, RuntimeError) as error:
        raise MeditError(f"{wanted}; got {_shown(targets)}") from error
    if T.shape != (d_out, E):
        columns = f": {T.shape[1]} columns for {E} facts" if T.ndim == 2 else ""
        raise MeditError(f"{wanted}; got the shape {tuple(T.shape)}{columns}")
    if not real:
        raise MeditError(f"{wanted}; got {str(T.dtype).removeprefix('torch.')} with other entries")
    return T


def _remembered(remember, view, layers):
    """The earlier edits that the caller gave, one or several, as a list; MeditError for others."""
    if isinstance(remember, Edit):
        remember = [remember]
    if remember is None or isinstance(remember, (str, dict)) or not isinstance(remember, Iterable):
        remember = [] if remember is None else [remember]
    remember = list(remember)
    for i, e in enumerate(remember):
        keys = getattr(e, "keys", None)
        if not isinstance(keys, dict) or getattr(e, "beside", False):
            raise MeditError(
                f"remember takes earlier edits of weights; number {i} is {_shown(e)}, which has no "
                "keys"
            )
        if keys and not set(keys) & set(layers):  # no keys at all: it wrote nothing
            raise MeditError(
                f"remember: edit {i} has keys of layers {sorted(keys)}, none of {list(layers)}"
            )
        for layer in set(keys) & set(layers):
            d_in = view.weight(layer).shape[1]
            need(f"remember: the key of edit {i} in layer {layer}", keys[layer], (d_in, None))
    return remember


def _shown(x):
    """A value of the wrong kind in an error's line."""
    words = " ".join(repr(x).split())
    return (
        f"{type(x).__name__} {words}" if len(words) <= 60 else f"{type(x).__name__} {words[:57]}..."
    )


def _find(result, view, tok, h, statistics, targets, remember, progress):
    """Write the facts of `result` into the model, all of them or one after the other."""
    facts = result.facts
    with _bar(len(facts), progress) as bar:
        groups = [[i] for i in range(len(facts))] if h.one_by_one else [range(len(facts))]
        for group in groups:
            chosen = [facts[i] for i in group]
            given = None if targets is None else targets[:, list(group)]
            if h.trained:
                _train(result, view, tok, chosen, h, bar)
                continue
            _solve_group(result, view, tok, chosen, h, statistics, given, remember, bar)


def _solve_group(result, view, tok, facts, h, statistics, target, remember, bar):
    """Find the target of these facts at the last layer, then write it layer by layer."""
    model, site = view.model, (h.site, h.layers[-1])
    if target is None:
        found = optimise_values(model, tok, facts, h.layers[-1], h, progress=bar)
        result.values.append(found)
        target, start = found.target, found.start
    else:
        start = at_subject(model, tok, facts, [site], h.contexts, h.start_average)[site]
        target = target.to(start)
    for index, layer in enumerate(h.layers):
        key = ("key", layer)
        K = at_subject(model, tok, facts, [key, site], h.contexts, h.average)
        now = K[site]
        if h.now_average != h.average:
            now = at_subject(model, tok, facts, [site], h.contexts, h.now_average)[site]
        K = K[key]
        R = apportion(h.distribution, Step(target, start, now, index, len(h.layers)))
        R = view.as_value(h.site, layer, R)
        if not R.any():
            continue
        more = {}
        if getattr(h, "divide_by", "key") == "bare":
            more["bare"] = at_subject(model, tok, facts, [key], h.contexts, "bare")[key]
        if h.needs:  # solved where C0 lies
            where = statistics.device(layer)
            K, R = K.to(where), R.to(where)
            more = {name: x.to(K) for name, x in more.items()}
        kept = [e.keys[layer].to(K) for e in remember if layer in e.keys]
        kept = torch.cat(kept, 1) if kept else None
        solution = h.solve(R, K, h.preserve(statistics, layer), kept=kept, **more)
        result._add(layer, solution.left, solution.right)
        result.keys[layer] = torch.cat([result.keys.get(layer, K[:, :0]).to(K), K], 1)
        result.diagnostics[layer] = {
            "ridge": solution.ridge,
            "condition_C0": solution.condition_C0,
            "condition_gram": solution.condition_gram,
            "dimensions": solution.dimensions,
            "relative_norm": float(result.delta(layer).norm()) / float(result._saved[layer].norm()),
            "unwritten": float((R - solution.delta @ K).norm() / R.norm()),
            "notes": list(solution.notes),
        }


def _train(result, view, tok, facts, h, bar):
    """A change that gradients find instead of a solver: h.train gives its factors."""
    sites = [("key", layer) for layer in h.layers]
    keys = at_subject(view.model, tok, facts, sites, h.contexts, h.average)
    for layer in h.layers:
        result._keep(layer)
    changes, report = h.train(view, tok, facts)
    for layer, (left, right) in changes.items():
        result.keys[layer] = keys["key", layer]
        result._add(layer, left, right)
        relative = float(result.delta(layer).norm() / exact(result._saved[layer]).norm())
        result.diagnostics[layer] = {"relative_norm": relative, **report}
    if bar:
        bar(len(facts))


class _bar:
    """A tqdm bar in facts, or nothing."""

    def __init__(self, total, show):
        self.total, self.show = total, show

    def __enter__(self):
        if not self.show:
            return None
        from tqdm.auto import tqdm

        self.bar = tqdm(desc="targets", total=self.total, unit="fact")
        return self.bar.update

    def __exit__(self, *error):
        if self.show:
            self.bar.close()
