"""edit(): from facts to an Edit, which can be applied, undone bit for bit, saved and loaded."""

import json
import platform
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .datasets import texts_for
from .distribution import Step, apportion
from .errors import MeditError, StatisticsError
from .fact import Fact, as_facts, encode
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

    As a context manager it undoes itself on exit. Methods that leave the weights alone have their
    own kinds (medit_teach.methods): no layers, and another way to change what the model answers.
    """

    def __init__(self, method, hyper, facts, before):
        self.method, self.hyper, self.facts = method, hyper, list(facts)
        self.before = before  # fingerprint of the weights it was made for; None: any
        self.layers, self.keys, self.diagnostics = {}, {}, {}
        self.values = []  # one medit_teach.values.Values for each solve, not saved
        self.model, self.applied = None, False
        self._saved, self._written = {}, {}

    # -------------------------------------------------------------- apply and undo

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
        view = View(model)
        for layer, (left, right) in self.layers.items():
            if view.weight(layer).shape != (len(left), len(right)):
                raise MeditError(
                    f"this edit changes a {len(left)} x {len(right)} matrix in layer {layer}; the "
                    f"model's is {tuple(view.weight(layer).shape)}: it was made for another model"
                )
        if not force and self.before and fingerprint(model) != self.before:
            raise MeditError(
                "this edit was made for other weights than the model has now; undo later edits, "
                "load the original model, or pass force=True"
            )
        self._open(unwrapped(model))
        try:
            for layer in self.layers:
                self._write(layer)
            self._close()
        except BaseException:
            self._restore()
            raise
        return self

    def undo(self):
        """Put the former weights back, bit for bit. MeditError if they changed in between."""
        if not self.applied:
            raise MeditError("this edit is not applied; there is nothing to undo")
        view = View(self.model)
        for layer, written in self._written.items():
            fine = {written, tensor_hash(self._saved[layer])}  # the latter: an undo was cut short
            if tensor_hash(view.parameter(layer)) not in fine:
                raise MeditError(
                    f"the weights of layer {layer} changed after this edit was applied; "
                    "undo later edits first (last in, first out)"
                )
        self._restore()
        stack = edits_of(self.model)
        stack[:] = [e for e in stack if e is not self]
        return self

    def __enter__(self):
        return self if self.applied else self.apply()

    def __exit__(self, *error):
        if self.applied:
            self.undo()

    def _open(self, model):
        self.model, self._saved = model, {}

    def _write(self, layer):
        view = View(self.model)
        stored = view.parameter(layer)
        if layer not in self._saved:
            self._saved[layer] = stored.detach().clone()
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

    def _add(self, layer, left, right):
        """Widen the factors of `layer` by more columns and write them."""
        if layer in self.layers:
            left = torch.cat([self.layers[layer][0], left], 1)
            right = torch.cat([self.layers[layer][1], right], 1)
        self.layers[layer] = (left.contiguous(), right.contiguous())
        self._write(layer)

    def _close(self):
        view = View(self.model)
        self._written = {layer: tensor_hash(view.parameter(layer)) for layer in self.layers}
        self.after = fingerprint(self.model)
        self.applied = True
        edits_of(self.model).append(self)

    def _restore(self):
        view = View(self.model)
        with torch.no_grad():
            for layer, saved in self._saved.items():
                view.parameter(layer).copy_(saved)
        self._saved, self._written, self.applied = {}, {}, False

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
        n = len(self.facts)
        lines = [f"Edit by {self.method}: {n} fact{'s' * (n != 1)}, {state}"]
        for layer, d in self.diagnostics.items():
            shown = [text.format(d[name]) for name, text in SHOWN.items() if name in d]
            lines.append(f"  layer {layer}: {', '.join(shown)}")
        return "\n".join(lines)

    def save(self, folder):
        """Factors and keys in edit.safetensors, the rest in edit.json. Returns the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = self._more()
        for layer, (left, right) in self.layers.items():
            tensors |= {f"left.{layer}": left.cpu(), f"right.{layer}": right.cpu()}
            tensors[f"keys.{layer}"] = self.keys[layer].cpu().contiguous()
        save_file(tensors, str(folder / "edit.safetensors"))
        about = {
            "kind": type(self).__name__,
            "method": self.method,
            "hyper": self.hyper,
            "facts": [fact.to_record() for fact in self.facts],
            "before": self.before,
            "diagnostics": self.diagnostics,
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
        }
        (folder / "edit.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder):
        """An Edit that `save` wrote, not applied yet: edit.apply(model)."""
        folder = Path(folder)
        try:
            about = json.loads((folder / "edit.json").read_text(encoding="utf-8"))
            tensors = load_file(str(folder / "edit.safetensors"))
        except Exception as error:  # missing, not JSON, or not safetensors
            raise MeditError(f"{folder} holds no saved edit: {error}") from error
        facts = [Fact.from_record(r, f"fact {i}") for i, r in enumerate(about["facts"])]
        kinds = {kind.__name__: kind for kind in (Edit, *Edit.__subclasses__())}
        kind = kinds[about.get("kind", "Edit")]
        edit = kind(about["method"], about["hyper"], facts, about["before"])
        edit._take(tensors)
        edit.diagnostics = {int(k): v for k, v in about["diagnostics"].items()}
        for layer in sorted(int(k.split(".")[1]) for k in tensors if k.startswith("left.")):
            edit.layers[layer] = (tensors[f"left.{layer}"], tensors[f"right.{layer}"])
            edit.keys[layer] = tensors[f"keys.{layer}"]
        return edit

    def _more(self):
        """What this kind saves besides factors and keys, as tensors by name."""
        return {}

    def _take(self, tensors):
        """Back from disk: what `_more` gave."""


def edits_of(model):
    """The edits that `model` carries now, oldest first."""
    model = unwrapped(model)
    if not hasattr(model, "_medit_edits"):
        model._medit_edits = []
    return model._medit_edits


def statistics_for(
    model, tok, layers, texts=None, tokens=None, progress=False, processes=ALONE,
    one_at_a_time=False,
):  # fmt: skip
    """C0 for `layers`: what was collected for this model before, else collected (and cached) now.

    What was collected before serves if `texts` is not named and `tokens` is the same or not named.
    texts: default the text that belongs to the model (medit_teach.datasets.texts_for). tokens:
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

    On any error, and on Ctrl-C, the model is left as it was, bit for bit.
    """
    facts, view, given = as_facts(facts), View(model), model
    model = view.model
    h = hyper(method, model, layers=layers, **overrides)
    for layer in h.layers:
        view.block(layer)
    check_finite(view, h.layers)
    for fact in facts:
        encode(tok, fact.text)  # a tokenizer without offsets is found before any work
    if h.needs:
        if isinstance(statistics, (str, Path)):
            statistics = Statistics.load(statistics, h.layers)
        if statistics is None:
            statistics = statistics_for(model, tok, h.layers, progress=progress)
        known = statistics.weights in _bases(model)
        statistics.check(view, h.layers, statistics.weights if known else None)
    targets = getattr(targets, "target", targets)
    if targets is not None and targets.shape[1] != len(facts):
        raise MeditError(f"targets has {targets.shape[1]} columns for {len(facts)} facts")
    if h.beside:
        return h.make(model, tok, facts, h.record(), progress).apply(given)
    result = Edit(type(h).__name__, h.record(), facts, fingerprint(model))
    result._open(model)
    try:
        with _bar(len(facts), progress) as bar:
            groups = [[i] for i in range(len(facts))] if h.one_by_one else [range(len(facts))]
            for group in groups:
                chosen = [facts[i] for i in group]
                given = None if targets is None else targets[:, list(group)]
                if h.trained:
                    _train(result, view, tok, chosen, h, bar)
                    continue
                _solve_group(result, view, tok, chosen, h, statistics, given, remember, bar)
        result._close()
    except BaseException as error:
        result._restore()
        if ran_out(error):
            raise MeditError(
                "out of memory; the model is as it was. Load it in half precision or over several "
                "devices, or read C0 from the disk one layer at a time (Statistics.load)"
            ) from error
        raise
    return result


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
        result._saved[layer] = view.parameter(layer).detach().clone()
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
