"""Sweeps: many edits declared once, measured, and written down one by one; a killed one goes on.

    sweep = Sweep("ridges", methods=[Method("memit"), Method("emmet", {"ridge": 100.0})],
                  sizes=[16, 64], seeds=[0, 1])
    rows = run(sweep, "ridges.jsonl")              # or: medit-teach sweep ridges.toml
    [row["ES"] for row in read("ridges.jsonl", label="memit", size=[16, 64])]

A cell is one method, one number of facts, one selection of facts and one seed. Its record is one
line of JSON: what was asked, all hyper-parameters, the hash of the model's weights, versions, and
what was measured. Records that are there are not made again.
"""

import argparse
import hashlib
import json
import os
import random
import re
import sys
import time
import tomllib
import warnings
from codecs import BOM_UTF8
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import import_module
from inspect import signature
from itertools import islice, product
from pathlib import Path
from types import FunctionType

import numpy as np
import torch
from filelock import FileLock, Timeout

from .. import datasets, kept, metrics
from ..edits import edit, statistics_for
from ..errors import HyperError, MeditError, SingularError
from ..fact import without_edited_neighbors
from ..hyper import METHODS, _known, hyper
from ..models import View, card, fingerprint, load
from ..options import Parser
from ..processes import ALONE, LAUNCH, joined
from ..records import versions
from ..running import exact
from ..values import Targets
from ..world import Corpus, World

MOST = 10**9  # facts, tokens or texts that a sweep may ask for
READ = 4  # groups of a cell after which the slow measures are taken; they are averaged
TIMES = ("seconds",)  # fields of a record that another run of the same cell changes
FIELDS = frozenset({"key", "size", "per_fact"})  # every record of a sweep has them
KINDS = {"key": str, "label": str, "size": int, "per_fact": dict}  # where a record has them


# ------------------------------------------------------------------ declaring


def _typed(made, what, **entries):
    """Lists of a dataclass become tuples; MeditError names a field that is not of its type.

    entries: the type of what a list holds, by the name of the field.
    """

    def check(value, kind, name):
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            called = str(getattr(kind, "__name__", kind)).replace("tuple", "list")
            raise MeditError(f"{what}: {name}: expected {called}, found {value!r}")

    for f in fields(made):
        value = getattr(made, f.name)
        value = tuple(value) if isinstance(value, (list, range)) else value
        check(value, f.type, f.name)
        for entry in value or () if f.name in entries else ():
            check(entry, entries[f.name], f.name)
        object.__setattr__(made, f.name, value)


@dataclass(frozen=True)
class Facts:
    """Which facts: all relations, one, or a mix that takes one fact of each in turn.

    The seed of a cell draws their order; a batch of n facts is the first n, so that batches of all
    sizes share their facts. No subject comes twice.
    """

    relations: tuple = ()
    """Names or ids of relations; () stands for all, as they come."""
    label: str | None = None
    source: str | None = None
    """As in medit_teach.facts: "world", "counterfact", a file; None: what belongs to the model."""

    def __post_init__(self):
        if isinstance(self.relations, str):
            object.__setattr__(self, "relations", (self.relations,))
        _typed(self, "facts", relations=str)
        object.__setattr__(self, "label", self.label or " + ".join(self.relations) or "all")

    def draw(self, n, seed, model=None):
        """n facts in the order of `seed`; FactError if there are not so many."""
        if not self.relations:
            return datasets.facts(self.source, None, n, seed, model=model)
        pools = []
        for relation in self.relations:
            pool = datasets.facts(self.source, relation, distinct_subjects=False, model=model)
            random.Random(f"{relation}/{seed}").shuffle(pool)
            pools.append(iter(pool))
        found, taken = [], set()
        for i in range(n):
            fact = next((f for f in pools[i % len(pools)] if f.subject not in taken), None)
            if fact is None:
                raise MeditError(f"asked for {n} facts of {self.label}, there are {len(found)}")
            found.append(fact)
            taken.add(fact.subject)
        return found


@dataclass(frozen=True)
class Method:
    """How facts are written. method: a name of medit_teach.hyper.METHODS, or "none" (no edit)."""

    method: str
    hyper: dict = field(default_factory=dict)
    """Hyper-parameters that differ from the model's preset (layers among them)."""
    label: str | None = None
    step: int | None = None
    """Facts in one call of edit(): None all, 1 one after another, 16 batches in sequence."""
    remember: bool = False
    """Earlier steps' keys are kept with residual 0."""
    anew: bool = False
    """Targets are optimised on the edited model; else once, on the unedited one, and shared."""
    sizes: tuple | None = None
    """Numbers of facts, if not the sweep's."""

    def __post_init__(self):
        _typed(self, "methods", sizes=int)
        if self.method != "none":
            if self.method.lower() not in METHODS:
                known = ", ".join(["none", *METHODS])
                raise HyperError(f"methods: unknown method {self.method!r}; choose from {known}")
            _known(METHODS[self.method.lower()], self.hyper)
        object.__setattr__(self, "label", self.label or self.method)


@dataclass(frozen=True)
class Sweep:
    """All cells: facts x seeds x sizes x methods.

    A cell of size n writes as many disjoint groups of n facts as are needed for `scored` facts,
    each group into the unedited model, and scores them all together: 128 single edits are one cell
    of size 1. Of a group that is larger than `scored`, that many are drawn to be scored. methods,
    facts: Method and Facts, or dicts of their fields.
    """

    name: str
    methods: tuple
    sizes: tuple = (64,)
    facts: tuple = (Facts(),)
    seeds: tuple = (0,)
    model: str | None = None
    measures: tuple = ("scores", "perplexity", "update")
    """Names in MEASURES, of functions given to run(), or "package.module:function" of a module that
    is imported (in a file: of this package, for a file runs no code; see load_sweep)."""
    scored: int = 128
    keep: tuple = ("ES", "PS", "NS")
    """Measures whose value for each fact goes into the record, for intervals on differences."""
    tokens: int = 50_000
    """Tokens of text for C0."""
    texts: int = 60
    """Held-out texts for the perplexity."""

    def __post_init__(self):
        what = f"sweep {self.name}"
        _typed(self, what, sizes=int, seeds=int, measures=str, keep=str)
        kept.plain_name(self.name, "a sweep's name")
        for name, kind in (("methods", Method), ("facts", Facts)):
            made = tuple(_make(kind, x, name) for x in getattr(self, name))
            object.__setattr__(self, name, made)
        for name in ("methods", "facts", "sizes", "seeds", "measures"):
            if not getattr(self, name):
                raise MeditError(f"{what}: {name} is empty")
        counts = [("scored", self.scored), *(("sizes", n) for n in self.sizes)]
        for m in self.methods:
            counts += [("sizes of a method", n) for n in m.sizes or ()]
            counts += [("step", m.step)] if m.step is not None else []
        for name, n in counts:
            if not 1 <= n <= MOST:
                raise MeditError(f"{what}: {name}: {n} is not a number of facts")
        for name in ("tokens", "texts"):
            if not 1 <= getattr(self, name) <= MOST:
                raise MeditError(f"{what}: {name} must be positive, not {getattr(self, name)}")


def _make(kind, values, what):
    """kind(**values), or `values` if it is one already; MeditError for an unknown field."""
    if isinstance(values, kind):
        return values
    if not isinstance(values, dict):
        raise MeditError(f"{what}: expected fields and values, found {values!r}")
    known = [f.name for f in fields(kind)]
    for name in values:
        if name not in known:
            raise MeditError(f"{what}: unknown field {name!r}; there are {', '.join(known)}")
    try:
        return kind(**values)
    except TypeError as error:  # a field is missing
        raise MeditError(f"{what}: {str(error).split('() ')[-1]}") from None


def load_sweep(path, allow=()):
    """A Sweep from a TOML or JSON file with its fields. allow: measures "module:function" that it
    may name although they are from outside this package."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise MeditError(f"cannot read the sweep {path}: {kept.reason(error)}") from error
    try:
        sweep = _make(Sweep, values, f"the sweep {path}")
    except MeditError as error:
        told = "" if str(path) in str(error) else f"the sweep {path}: "
        raise type(error)(f"{told}{error}") from None
    for name in sweep.measures:
        if ":" in name and name not in allow and not _ours(name):
            raise MeditError(
                f"the sweep {path}: measures: {name!r} is code from outside this package, which a "
                f"file cannot ask for; if you trust it: --allow {name} (in Python: load_sweep(..., "
                "allow=[...]), and the function to run(measures={...}))"
            )
    return sweep


# ------------------------------------------------------------------ measuring


@dataclass
class State:
    """What a measure sees: the model as it is edited now, and how it came to be so."""

    model: object
    tok: object
    facts: list  # the facts of this group, in the order in which they were written
    scored: list  # those to be scored
    edits: list  # the Edits that wrote them, oldest first; [] for "none"
    group: int  # number of this group within its cell, from 0
    hyper: object  # None for "none"
    bench: object  # what cells share: statistics, targets, texts


def scores(state):
    """ES, PS, NS, margins and accuracies of medit_teach.metrics.score, one value a fact."""
    return metrics.score(state.model, state.tok, state.scored, resamples=1).per_fact


def untouched(state):
    """As `scores`, but without neighbours whose own fact of this relation is edited.

    The larger a batch of one relation, the more of its neighbours are edited themselves; that they
    lost their old object is no damage then. A fact that has no other neighbour has no NS, NM, NA.
    """
    facts = without_edited_neighbors(state.scored, state.facts)
    return metrics.score(state.model, state.tok, facts, resamples=1).per_fact


def perplexity(state):
    """Perplexity of held-out texts (medit_teach.metrics.perplexity)."""
    if state.group >= READ:
        return {}
    texts = state.bench.texts
    return {"perplexity": metrics.perplexity(state.model, state.tok, texts)}


def update(state):
    """The change itself, as far as the method has such a thing.

    relative_norm: ||sum of Delta|| / ||W||, Frobenius, all edited layers together. unwritten: share
    of the residual that the last solve left at the last layer. ridge: the largest that was really
    used. condition_solved: the largest condition number of a system that was solved,
    as the solver estimates it (some percent low).
    condition_gram: that of G = K^T C0^-1 K (AlphaEdit: K^T P K), all keys of the group, the largest
    over the layers; None where there are more keys than directions, for G is singular then.
    """
    if not state.edits or not state.edits[0].layers or state.group >= READ:
        return {}
    view, change, whole = View(state.model), 0.0, 0.0
    first = state.edits[0]
    for layer in first.layers:
        Delta = sum(e.delta(layer) for e in state.edits)
        W = exact(view.weight(layer).detach())
        change, whole = change + float((Delta**2).sum()), whole + float(((W - Delta) ** 2).sum())
    found = {"relative_norm": (change / whole) ** 0.5}
    solved = [d for e in state.edits for d in e.diagnostics.values() if "ridge" in d]
    if solved:
        found["unwritten"] = solved[-1]["unwritten"]
        found["ridge"] = max(d["ridge"] for d in solved)
        found["condition_solved"] = max(d["condition_gram"] for d in solved)
        grams = [_gram(state, layer) for layer in first.layers]
        found["condition_gram"] = None if None in grams else max(grams)
    return found


def _gram(state, layer):
    K = torch.cat([e.keys[layer] for e in state.edits], 1)
    Z = state.hyper.preserve(state.bench.statistics, layer).whiten(K)
    values = torch.linalg.eigvalsh(Z.T @ Z)
    small = Z.shape[1] > Z.shape[0] or values[0] <= 1e-14 * values[-1]
    return None if small else float(values[-1] / values[0])


MEASURES = {"scores": scores, "untouched": untouched, "perplexity": perplexity, "update": update}
COLUMNS = {"scores": tuple(metrics.SCORES), "untouched": tuple(metrics.SCORES)}  # they give


def _measure(name, own):
    """The function called `name`; MeditError if there is none. A name alone runs no code: "module:
    function" is a measure only of this package, or of a module that the caller has imported."""
    if name in own or name in MEASURES:
        return own.get(name) or MEASURES[name]
    module, colon, _ = name.partition(":")
    if not colon:
        raise MeditError(f"unknown measure {name!r}; there are {', '.join([*own, *MEASURES])}")
    if not _ours(name) and module not in sys.modules:
        raise MeditError(
            f"measure {name!r}: the module is not imported; import it first, or give the function "
            "to run(measures={...})"
        )
    return imported(name)


def imported(name):
    """The measure "module:function", its module imported; MeditError unless the function is written
    there and takes `state` alone."""
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise MeditError(f"measure {name!r}: {error}") from error
    written_there = isinstance(found, FunctionType) and found.__module__ == module
    if not written_there or list(signature(found).parameters) != ["state"]:
        raise MeditError(f"measure {name!r} is no function measure(state) of that module")
    return found


def _ours(name):
    """Whether "module:function" names a module of this package."""
    return re.fullmatch(rf"{__package__}(\.[a-z]\w*)+:\w+", name) is not None


def held_out(model, n):
    """n texts that C0 was not made of: the world's, drawn anew, else texts_for's after 2,000."""
    if "world" in card(model):
        made = Corpus(World(**card(model)["world"])).texts(2 * n, seed=2)
        return [text for text in made if len(text.split()) > 6][:n]
    return list(islice(datasets.texts_for(model), 2000 + n))[-n:]


# ------------------------------------------------------------------ running


@dataclass
class Bench:
    """What the cells of a sweep share."""

    model: object
    tok: object
    targets: Targets
    statistics: object
    texts: list


@dataclass
class Cell:
    asked: dict  # what the record says of it besides the measurements
    method: Method
    hyper: object
    facts: list
    size: int
    scored: int
    keep: tuple  # measures whose lists go into the record

    @property
    def groups(self):
        """[(facts, those that are scored)]: disjoint groups of `size` facts."""
        n = self.size
        groups = [self.facts[i : i + n] for i in range(0, len(self.facts), n)]
        some = sorted(random.Random(0).sample(range(n), min(n, self.scored)))
        return [(group, [group[i] for i in some]) for group in groups]

    @property
    def work(self):
        """About proportional to the time it takes: solves, facts written, facts scored."""
        groups = self.groups
        return 5 * len(groups) + len(self.facts) + 3 * sum(len(scored) for _, scored in groups)


def plan(sweep, model, tok, own=None):
    """The cells of `sweep` in order; MeditError for anything in it that cannot be run."""
    for name in sweep.measures:
        _measure(name, own or {})
    weights, cells = fingerprint(model), []
    settled = [None if m.method == "none" else _hyper(sweep, m, model) for m in sweep.methods]
    for h in filter(None, settled):
        for layer in h.layers:
            View(model).block(layer)
    sizes = {n for m in sweep.methods for n in m.sizes or sweep.sizes}
    most = max(n * max(1, sweep.scored // n) for n in sizes)
    for chosen, seed in product(sweep.facts, sweep.seeds):
        pool = chosen.draw(most, seed, model)
        for m, h in zip(sweep.methods, settled, strict=True):
            for n in m.sizes or sweep.sizes:
                asked = {
                    "sweep": sweep.name, "label": m.label, "facts": asdict(chosen), "seed": seed,
                    "size": n, "method": m.method, "hyper": h.record() if h else {},
                    "step": m.step, "remember": m.remember, "anew": m.anew,
                    "measures": list(sweep.measures), "scored": sweep.scored,
                    "tokens": sweep.tokens, "texts": sweep.texts,
                    "model": card(model).get("name") or model.config.name_or_path, "hash": weights,
                }  # fmt: skip
                named = ("sweep", "label", "model")  # names may change, the work is the same
                rest = {k: v for k, v in asked.items() if k not in named}
                rest["hyper"] = h.plain() if h else {}
                key = hashlib.blake2b(json.dumps(rest).encode(), digest_size=8).hexdigest()
                mine = pool[: n * max(1, sweep.scored // n)]
                cells.append(Cell({"key": key, **asked}, m, h, mine, n, sweep.scored, sweep.keep))
    keys = [cell.asked["key"] for cell in cells]
    twice = next((c.asked["label"] for c in cells if keys.count(c.asked["key"]) > 1), None)
    if twice:
        raise MeditError(f"sweep {sweep.name}: {twice!r} asks for the same cell as another one")
    return cells


def _hyper(sweep, m, model):
    """The hyper-parameters of a Method; HyperError names it for a value of a wrong kind."""
    try:
        return hyper(m.method, model, **m.hyper)
    except (TypeError, AttributeError, ValueError) as error:
        if isinstance(error, MeditError):
            raise
        raise HyperError(
            f"sweep {sweep.name}: methods: {m.label}: a hyper-parameter is of a wrong kind: "
            f"{kept.reason(error)}"
        ) from error


def run(sweep, path, progress=True, measures=None, device=None, loaded=None, processes=ALONE):
    """Make the records of `sweep` that `path` (JSON lines) lacks; returns all of its records.

    measures: {name: function of a State} that gives {name: a number, or one value a scored fact};
    a list becomes its mean and 95% bootstrap interval [value, low, high], a number stays one (the
    mean over the groups). progress: a bar with the time left and a line for each finished cell.
    loaded: (model, tok), instead of loading sweep.model. Targets are kept beside the records.
    A record that lacks a list of sweep.keep, or a score that this version measures, is made again,
    with the lists that it had.
    processes: each optimises its share of the targets and runs its share of the cells; all write
    into the one file `path`, which all must see. The bar then counts the first one's share.
    MeditError, before any work, for what `plan` refuses, for a file that another run has open, and
    for a place that cannot be written.
    """
    path, own, progress = Path(path), measures or {}, progress and processes.main
    model, tok = loaded or load(sweep.model, device=processes.device or device)
    cells = plan(sweep, model, tok, own)
    done = _by_key(read(path) if os.path.isfile(path) else [])
    todo = _missing(cells, done)
    if progress:
        for cell in cells:
            if cell not in todo:
                print(line(done[cell.asked["key"]]))
    if any(processes.gathered(bool(todo))):
        # one run at a time: the first process keeps the others' runs out for all of its own
        with writing(path) if processes.main else nullcontext():
            if processes.main:
                done = _by_key(read(path) if os.path.isfile(path) else [])
            done = processes.gathered(done)[0]
            todo = _missing(cells, done)
            for cell in todo:
                old = done.get(cell.asked["key"], {})
                cell.keep = tuple(
                    dict.fromkeys([*cell.keep, *old.get("per_fact", ()), *old.get("keep", ())])
                )
            _run(sweep, model, tok, todo, path, own, progress, processes)
        done = _by_key(read(path))
    if lost := [cell for cell in cells if cell.asked["key"] not in done]:
        raise MeditError(
            f"{len(lost)} records of other processes are not in {path}; all must see one folder"
        )
    rows = [done[cell.asked["key"]] for cell in cells]
    _uneven(rows)
    return rows


def _by_key(rows):
    return {row["key"]: row for row in rows}


def _missing(cells, done):
    """The cells without a record, or whose record lacks a list that was measured and is wanted, or
    was made before such a list, or a column of its measures, was asked for."""

    def whole(row, cell):
        lacking = [name for name in cell.keep if name not in row["per_fact"]]
        asked = row.get("keep", lacking)  # earlier versions did not write it down
        given = [x for m in cell.asked["measures"] for x in COLUMNS.get(m, ())]
        new = set(given) - set(row.get("columns", given)) if row.get("error") is None else ()
        later = any(isinstance(row.get(name), list) or name not in asked for name in lacking)
        return not new and not later

    rows = [(cell, done.get(cell.asked["key"])) for cell in cells]
    return [cell for cell, row in rows if row is None or not whole(row, cell)]


def _uneven(rows):
    """Warn of records of one label that lack a column which others of it have."""
    known = {}
    for row in rows:
        if row.get("error") is None and "columns" in row:
            known.setdefault(row.get("label"), []).append(set(row["columns"]))
    for label, each in known.items():
        if lost := set().union(*each) - set.intersection(*each):
            n = sum(not lost <= columns for columns in each)
            kept.warn(
                f"{n} of {len(each)} records of {label!r} lack {', '.join(sorted(lost))}, which "
                "the others have: remove their lines, and they are made again"
            )


def _run(sweep, model, tok, cells, path, own, progress, processes):
    from tqdm.auto import tqdm

    measures = [_measure(name, own) for name in sweep.measures]
    used = [cell.hyper for cell in cells if cell.hyper]
    layers = sorted({x for h in used if h.needs for x in h.layers})
    statistics = None
    if layers:
        statistics = statistics_for(model, tok, layers, tokens=sweep.tokens, processes=processes)
    texts = held_out(model, sweep.texts) if "perplexity" in sweep.measures else []
    targets = Targets(model, tok, path.with_suffix(".targets"))
    bench = Bench(model, tok, targets, statistics, texts)
    missing = {}  # kind of targets: the hyper-parameters, the facts
    for cell in cells:
        if cell.hyper and cell.hyper.needs and not cell.method.anew:
            facts = missing.setdefault(targets.kind(cell.hyper), (cell.hyper, {}))[1]
            facts |= dict.fromkeys(cell.facts)
    total = sum(len(targets.missing(facts, h)) for h, facts in missing.values())
    with tqdm(total=total, disable=not progress,
              desc="targets", unit="fact") as bar:  # fmt: skip
        for h, facts in missing.values():
            targets(list(facts), h, progress=bar.update, processes=processes)
    one_at_a_time = nullcontext()
    if processes.count > 1:
        one_at_a_time = FileLock(f"{path}.line.lock")
        cells = processes.share(sorted(cells, key=lambda cell: -cell.work))
    work = [cell.work for cell in cells]
    with tqdm(total=sum(work), disable=not progress, desc=sweep.name, unit="") as bar:
        for cell, cost in zip(cells, work, strict=True):
            record = _record(cell, bench, measures)
            with kept.named(path), one_at_a_time:
                _append(path, record)
            if progress:
                tqdm.write(line(record))
            bar.update(cost)
    processes.wait()


def _record(cell, bench, measures):
    """The record of one cell; where a system has no solution, the reason stands in `error`."""
    began, lists, numbers = time.time(), {}, {}
    record = cell.asked | {"versions": versions(), "device": str(bench.model.device),
                           "groups": len(cell.groups), "error": None}  # fmt: skip
    try:
        for i, (facts, scored) in enumerate(cell.groups):
            with ExitStack() as stack:
                edits = _write(cell, bench, facts, stack) if cell.hyper else []
                state = State(bench.model, bench.tok, facts, scored, edits, i, cell.hyper, bench)
                for measure in measures:
                    for name, value in measure(state).items():
                        a_list = isinstance(value, (list, np.ndarray))
                        (lists if a_list else numbers).setdefault(name, []).append(value)
    except SingularError as error:
        lists, numbers, record["error"] = {}, {}, str(error)
    lists = {name: np.concatenate(values).astype(float) for name, values in lists.items()}
    by_length = {}
    for name, values in lists.items():
        by_length.setdefault(len(values), {})[name] = values
    for together in by_length.values():
        found = metrics.summary(together)
        record |= {k: [_number(x) for x in v[:3]] for k, v in found.items() if v[3]}
    for name, values in numbers.items():
        record[name] = None if None in values else _number(np.mean(values), 6)
    if taken := {*lists, *numbers} & {*KINDS, "columns", "keep", "error", "seconds", kept.CHECK}:
        raise MeditError(f"a measure gives {min(taken)!r}, a field that every record needs")
    record |= {"columns": sorted({*lists, *numbers}), "keep": list(cell.keep)}
    per_fact = {k: [_number(x, 4) for x in lists[k]] for k in cell.keep if k in lists}
    return record | {"per_fact": per_fact, "seconds": round(time.time() - began, 2)}


def _write(cell, bench, facts, stack):
    """Write `facts` step by step; the edits, which `stack` undoes in reverse."""
    edits, step = [], cell.method.step or len(facts)
    for i in range(0, len(facts), step):
        part = facts[i : i + step]
        shared = cell.hyper.needs and not cell.method.anew
        made = edit(
            bench.model, bench.tok, part, cell.hyper,
            statistics=bench.statistics if cell.hyper.needs else None,
            targets=bench.targets(part, cell.hyper) if shared else None,
            remember=edits if cell.method.remember else (),
        )  # fmt: skip
        edits.append(stack.enter_context(made))
    return edits


def _number(x, digits=5):
    """A float with few digits, whole numbers as int; None for NaN."""
    if x is None or np.isnan(x):
        return None
    short = float(f"{x:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e9 else short


# ------------------------------------------------------------------ records


def _append(path, record):
    """One line more, with the hash of its content, on the disk when this returns; MeditError where
    the disk refuses."""
    with kept.named(path), open(path, "ab") as file:
        file.write(json.dumps(kept.seal(record)).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def writing(path, needed=FIELDS):
    """Inside, this process alone writes the records `path`, which are repaired first.

    MeditError if another process is doing so already, and if they cannot be written.
    """
    path = Path(path)
    with kept.named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(f"{path}.lock").acquire(timeout=0)
        except Timeout:
            raise MeditError(f"another process is writing {path}; wait for it or stop it") from None
    with lock:
        kept.ready(path)
        repair(path, needed)
        yield


def _lines(path, needed):
    """[(record or None, the line as bytes)] of a file of records; None: it is damaged."""
    out = []
    try:
        lines = Path(path).read_bytes().removeprefix(BOM_UTF8).splitlines(keepends=True)
    except OSError as error:
        raise MeditError(f"cannot read the records {path}: {kept.reason(error)}") from error
    for raw in lines:
        try:
            record = kept.opened(raw)
            whole = raw.endswith(b"\n") and needed <= set(record)
            whole = whole and all(isinstance(record.get(x, y()), y) for x, y in KINDS.items())
        except kept.Damaged:
            whole = False
        out.append((record if whole else None, raw))
    return out


def repair(path, needed=FIELDS):
    """Move damaged lines of `path` to PATH.damaged; a last line cut short by a kill is dropped."""
    path = Path(path)
    if not os.path.isfile(path):
        return
    lines = _lines(path, needed)
    damaged = [raw for record, raw in lines if record is None and raw.endswith(b"\n")]
    if all(record for record, _ in lines):
        return
    with kept.named(path):
        if damaged:
            with open(f"{path}.damaged", "ab") as file:
                file.writelines(damaged)
        whole = b"".join(raw for record, raw in lines if record)
        kept.write_whole(path, lambda draft: Path(draft).write_bytes(whole))


def read(path, needed=FIELDS, **where):
    """The records of a file, as dicts; damaged lines are named in a warning and left out.

    needed: fields without which a line counts as damaged. Of two records with one key the later
    stands, at the place of the earlier.
    where: read(path, label="memit", size=[16, 64]) keeps those whose fields have these values.
    """
    path, found = Path(path), {}
    if not os.path.isfile(path):
        raise MeditError(f"there are no records {path}")
    lines = _lines(path, needed)
    for number, (record, raw) in enumerate(lines, 1):
        if record is not None:
            found[record.get("key", number)] = record
        elif raw.endswith(b"\n"):
            warnings.warn(
                f"{path}, line {number} is damaged and not used: {raw[:60]!r}", stacklevel=2
            )
    rows = list(found.values())
    for name, value in where.items():
        allowed = value if isinstance(value, (list, tuple, set)) else [value]
        rows = [row for row in rows if row.get(name) in allowed]
    return rows


def line(record):
    """One line of the table that a sweep shows."""
    start = f"{record.get('label', ''):28} {record['size']:>5} facts, seed {record.get('seed')}"
    if record.get("error"):
        return f"{start}: {record['error'][:80]}"
    shown = [(k, v[0] if isinstance(v, list) else v) for k, v in record.items()
             if k in ("S", "ES", "PS", "NS", "perplexity")]  # fmt: skip
    return f"{start}  " + "  ".join(f"{k} {v:.1f}" for k, v in shown if v is not None)


def main(argv=None):
    parser = Parser(
        prog="medit-teach sweep", description="Run a sweep, or what is missing of it.",
        epilog=f"on several GPUs:\n  {LAUNCH} sweep ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("file", help="TOML or JSON with the fields of a Sweep")
    parser.add_argument(
        "--out", type="new file", help="the records, JSON lines (default: NAME.jsonl)"
    )
    parser.add_argument("--device", help="cpu (default), cuda, ...")
    parser.add_argument("--seeds", type="seed", nargs="+", help="instead of the file's")
    parser.add_argument("--scored", type="count", help="facts scored in a cell, not the file's")
    parser.add_argument("--quiet", action="store_true", help="no progress, no table")
    parser.add_argument(
        "--allow", nargs="+", default=[], metavar="MODULE:FUNCTION",
        help="measures from outside this package that the file may name: this code is run",
    )  # fmt: skip
    args = parser.parse_args(argv)
    sweep = load_sweep(args.file, args.allow)
    given = {"seeds": args.seeds, "scored": args.scored}
    sweep = replace(sweep, **{k: v for k, v in given.items() if v is not None})
    out = args.out or f"{sweep.name}.jsonl"
    own = {name: imported(name) for name in args.allow}
    with joined() as processes:
        rows = run(sweep, out, not args.quiet, own, args.device, processes=processes)
        if not args.quiet:
            print(f"{len(rows)} records: {out}")
