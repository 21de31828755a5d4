"""Do the embedded models behave as the course says? One table, with intervals and verdicts.

    medit-teach check-models tiny-gptj            one embedded model; it goes on after a kill
    medit-teach check-models --quick              all of them, fewer facts, no large batches
    medit-teach check-models --table RECORD...    the tables of the datasheet

Every row of a model uses the one preset in its config.json. Numbers are percent unless the row says
otherwise; intervals are 95% bootstrap over facts (questions, texts). A `must` fails when its value
misses the bound; with --quick, where samples are small, when its whole interval does. An `aim` is
only reported.
"""

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from .. import datasets, kept, metrics, objective
from ..edits import edit, statistics_for
from ..errors import MeditError, SingularError
from ..fact import without_edited_neighbors
from ..hyper import hyper
from ..models import View, card, embedded, fingerprint, load
from ..options import Parser
from ..records import versions
from ..statistics import Statistics
from ..study.locate import trace_many
from ..values import Targets
from ..world import BY_NAME, CATEGORIES, RELATIONS, Corpus, World

MUST, AIM, SEEN = "must", "aim", ""
MEASURES = {  # measure: (kind, name, bound for tiny-gptj, bound for tiny-gpt2)
    "recall": (MUST, "recall, held-out templates behind a leading sentence", ">= 98", ">= 97"),
    "trace.subject": (MUST, "tracing: peak at the last subject token (0 to 1)", ">= 0.6", ">= 0.5"),
    "trace.other": (MUST, "tracing: peak at other subject tokens", "<= 0.1", "<= 0.1"),
    "trace.earlier": (MUST, "tracing: layers from that peak to the last token's", ">= 1", ">= 1"),
    "rome.ES": (MUST, "ROME, {single} single edits: ES", ">= 99", ">= 98"),
    "rome.PS": (MUST, "ROME, {single} single edits: PS", ">= 98", ">= 95"),
    "rome.loss": (MUST, "ROME, {single} single edits: loss of NS", "<= 2", "<= 4"),
    "sweep.late": (MUST, "ROME by layer: S in the last two, the larger", "< 50", "< 50"),
    "memit.ES": (MUST, "MEMIT, {batch} subjects: ES", ">= 98", ">= 95"),
    "memit.PS": (MUST, "MEMIT, {batch} subjects: PS", ">= 97", ">= 93"),
    "memit.kept": (MUST, "MEMIT, {batch} subjects: neighbour accuracy kept", ">= 88", ">= 80"),
    "emmet.S": (MUST, "EMMET, least ridge, {pair} edits: S below MEMIT's by", ">= 3", "> 0"),
    "emmet.perplexity": (MUST, "EMMET, least ridge, {pair} edits: perplexity, times MEMIT's",
                         ">= 1.2", "> 1"),
    "ft.NS": (MUST, "fine-tuning one matrix, 16 edits: NS below ROME's by", ">= 8", ">= 15"),
    "large.ES": (AIM, "MEMIT, {large} subjects: ES", ">= 93", ">= 88"),
    "large.PS": (AIM, "MEMIT, {large} subjects: PS", ">= 92", ">= 85"),
    "neighbours": (AIM, "neighbour accuracy before any edit", "75 to 95", "75 to 95"),
    "context.ES": (AIM, "contrary statement in the prompt: P[new] > P[true]", ">= 90", ">= 90"),
    "context.said": (AIM, "contrary statement in the prompt: said", ">= 75", ">= 75"),
    "context.beside": (SEEN, "own fact kept beside a statement about another", None, None),
    "inverse": (AIM, "stated inverse, before any edit", ">= 90", ">= 90"),
    "twohop.never": (AIM, "two hops, never stated together", ">= 60", ">= 60"),
    "twohop.stated": (AIM, "two hops, stated together", ">= 85", ">= 85"),
    "categories": (AIM, "{category} edits of one relation: best minus worst, S or NS",
                   ">= 8", ">= 8"),
}  # fmt: skip
SHRINK = 1e-4  # objective.shrink's alpha where C0 is singular
SETTINGS = {  # first part of a measure's key: (method, the fields of its preset that count)
    "rome": ("ROME", ("layers", "steps", "clamp")),
    "memit": ("MEMIT", ("layers", "lam", "steps", "clamp")),
    "emmet": ("EMMET", ("layers", "steps", "clamp")),
    "ft": ("fine-tuning", ("layers", "steps")),
}
MODELS = ("tiny-gptj", "tiny-gpt2")  # the models that have bounds; others are only reported
CONTROL_ROWS = ("recall", "tracing", "rome", "sweep")


@dataclass(frozen=True)
class Sizes:
    """How much each row measures; 0 leaves a row out."""

    recall: int = 600
    trace: int = 100
    single: int = 50
    sweep: bool = True  # every layer, else the preset's and the last two
    batch: int = 256
    pair: int = 512
    large: int = 1024
    groups: int = 4  # of 16 facts, for fine-tuning
    rates: tuple = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    category: int = 300
    context: int = 400
    questions: int = 500
    tokens: int = 100_000  # for C0
    texts: int = 200  # for perplexity


QUICK = Sizes(
    recall=150, trace=12, single=12, sweep=False, batch=48, pair=0, large=0, groups=1,
    rates=(1e-3, 3e-3, 1e-2), category=0, context=60, questions=60, tokens=15_000, texts=40,
)  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """One number of the table: value [low, high] from n facts, its bound, and the verdict."""

    key: str
    kind: str
    name: str
    value: float
    low: float
    high: float
    n: int
    bound: str | None
    passed: bool | None
    seconds: float

    def __str__(self):
        verdict = {None: "", True: "ok", False: "FAILS" if self.kind == MUST else "below"}
        digits = 2 if max(abs(self.value), abs(self.high)) < 5 else 1
        value, low, high = (f"{x:z.{digits}f}" for x in (self.value, self.low, self.high))
        return (
            f"{self.kind:4}  {self.name:60}{value:>7}  {low:>6} to {high:>6}  {self.bound or '':9}"
            f"{verdict[self.passed]:6}n {self.n:<5}{self.seconds:5.0f} s"
        )


@dataclass
class Bench:
    """One model, and what its rows share: facts, C0, targets, scores before any edit."""

    model: object
    tok: object
    sizes: Sizes = field(default_factory=Sizes)
    seed: int = 0
    details: dict = field(default_factory=dict)
    folder: Path | None = None  # where targets are kept
    _before: dict = field(default_factory=dict)

    @cached_property
    def world(self):
        return World(**card(self.model)["world"])

    @cached_property
    def pool(self):
        """All facts that may be edited (common facts), in an order drawn with the seed."""
        found = datasets.facts("world", distinct_subjects=False, model=self.model)
        random.Random(f"acceptance/{self.seed}").shuffle(found)
        return found

    @cached_property
    def mixed(self):
        """One fact a subject, of all relations: every batch is a beginning of this list."""
        return distinct(self.pool)

    @cached_property
    def C0(self):
        n = View(self.model).n_layers
        layers = range(n)
        if not self.sizes.sweep:
            used = [x for m in ("rome", "memit") for x in hyper(m, self.model).layers]
            layers = sorted({*used, n - 2, n - 1})
        found = statistics_for(self.model, self.tok, layers, tokens=self.sizes.tokens)
        moments, shrunk = dict(found.C0), []
        for layer in layers:
            try:
                found.soft(layer)
            except SingularError:  # GPT-J's layer 0: its keys depend on the token alone
                moments[layer] = objective.shrink(moments[layer], SHRINK)
                shrunk.append(layer)
        self.details["C0"] = {"tokens": found.tokens, "shrunk": shrunk, "alpha": SHRINK}
        return Statistics(moments, found.tokens, found.weights, found.text)

    def before(self, n):
        """Scores of the unedited model for the first n of `mixed`, each scored once."""
        if (known := len(self._before.get("ES", ()))) < n:
            more = self.score(self.mixed[known:n])
            self._before = {
                k: np.concatenate([self._before.get(k, []), x]) for k, x in more.items()
            }
        return {k: x[:n] for k, x in self._before.items()}

    def score(self, facts):
        """{"ES": (n,), "PS": ..., ...} now; NaN where a fact lacks the prompts."""
        return metrics.score(self.model, self.tok, facts, resamples=1).per_fact

    @cached_property
    def targets(self):
        """targets(facts, h): (d_out, E), each optimised once."""
        return Targets(self.model, self.tok, self.folder)

    def edit(self, facts, method, **fields):
        h = hyper(method, self.model, **fields)
        given = dict(statistics=self.C0, targets=self.targets(facts, h)) if h.needs else {}
        return edit(self.model, self.tok, facts, h, **given)

    def singles(self, facts, layer):
        """Scores of single ROME edits at `layer`: {"ES": (n,), ...}."""
        found = []
        self.targets(facts, hyper("rome", self.model, layers=[layer]))  # all at once: faster
        for fact in facts:
            with self.edit([fact], "rome", layers=[layer]):
                found.append(self.score([fact]))
        return {name: np.concatenate([x[name] for x in found]) for name in found[0]}

    def said(self, prompts, answers):
        """For each prompt 100 if every token of the answer is the likeliest one, else 0."""
        right = metrics.target_logprobs(self.model, self.tok, prompts, answers)[1]
        return 100 * np.array(right, float)

    def interval(self, columns, function=lambda x: x):
        """(value, low, high, n): function(means of the columns (n, k)) and its 95% interval.

        Rows are drawn again 1,000 times; NaN entries are left out.
        """
        columns = np.stack([np.asarray(x, float) for x in columns], 1)
        n = len(columns)
        draw = np.random.default_rng(self.seed).multinomial(n, np.full(n, 1 / n), size=1000)
        times = np.concatenate([np.ones((1, n)), draw])
        with np.errstate(invalid="ignore"):
            means = (times @ np.nan_to_num(columns)) / (times @ ~np.isnan(columns))
        value, *drawn = function(*means.T)
        return float(value), *map(float, np.nanquantile(drawn, [0.025, 0.975])), n


def distinct(facts):
    """The first fact of each subject."""
    found = {}
    for f in facts:
        found.setdefault(f.subject, f)
    return list(found.values())


def S_of(*means):
    """Harmonic mean of ES, PS, NS (arrays); 0 where one is 0."""
    with np.errstate(divide="ignore"):
        return 3 / sum(1 / np.asarray(x, float) for x in means)


def columns(scores, names=("ES", "PS", "NS")):
    return [scores[name] for name in names]


# ------------------------------------------------------------------ the rows: {measure: interval}


def recall(b):
    facts = b.pool[: b.sizes.recall]
    asked = [(text, f.target_true) for f in facts for text in f.paraphrases]
    right = b.said(*zip(*asked, strict=True))
    ends = np.cumsum([len(f.paraphrases) for f in facts])[:-1]
    yield "recall", b.interval([[x.mean() for x in np.split(right, ends)]])


def tracing(b):
    """Indirect effects: P(answer) with a state restored minus P(answer) with the noise alone.

    The last token's effect only grows with depth, so its peak is taken where it first comes within
    5% of its largest value.
    """
    found = trace_many(b.model, b.tok, b.mixed[: b.sizes.trace], seed=b.seed)
    effect = found["per_fact"] - found["corrupted"][:, None, None]  # (facts, places, layers)
    places = list(found["places"])
    first, middle, last_subject, last = (
        effect[:, places.index(name)]
        for name in ("first subject token", "middle subject tokens", "last subject token",
                     "last token")
    )  # fmt: skip
    n = effect.shape[2]
    b.details["tracing"] = {
        "curves": {name: _list(np.nanmean(effect[:, i], 0)) for i, name in enumerate(places)
                   if not np.isnan(effect[:, i]).all()},
        "clean": float(found["clean"].mean()), "corrupted": float(found["corrupted"].mean()),
    }  # fmt: skip
    yield "trace.subject", b.interval(last_subject.T, lambda *m: np.max(m, 0))
    yield "trace.other", b.interval([*first.T, *middle.T], lambda *m: np.nanmax(m, 0))

    def layers_between(*m):
        subject, end = np.array(m[:n]), np.array(m[n:])
        return (end >= 0.95 * end.max(0)).argmax(0) - subject.argmax(0)

    yield "trace.earlier", b.interval([*last_subject.T, *last.T], layers_between)


def rome(b):
    facts = b.mixed[: b.sizes.single]
    after = b.singles(facts, hyper("rome", b.model).layers[0])
    b.details["rome"] = {"S": float(S_of(*(np.nanmean(x) for x in columns(after))))}
    yield "rome.ES", b.interval([after["ES"]])
    yield "rome.PS", b.interval([after["PS"]])
    pair = [b.before(len(facts))["NS"], after["NS"]]
    yield "rome.loss", b.interval(pair, lambda before, now: before - now)


def sweep(b):
    facts, n = b.mixed[: b.sizes.single], View(b.model).n_layers
    layers = range(n) if b.sizes.sweep else [n - 2, n - 1]
    found = {layer: b.singles(facts, layer) for layer in layers}
    b.details["sweep"] = {
        str(layer): dict(zip(("S", "low", "high", "n"), b.interval(columns(x), S_of), strict=True))
        for layer, x in found.items()
    }
    late = [*columns(found[n - 2]), *columns(found[n - 1])]
    yield "sweep.late", b.interval(late, lambda *m: np.maximum(S_of(*m[:3]), S_of(*m[3:])))


def memit(b):
    n = min(b.sizes.batch, len(b.mixed))
    with b.edit(b.mixed[:n], "memit"):
        after = b.score(b.mixed[:n])
    b.details["memit"] = _means(after)
    yield "memit.ES", b.interval([after["ES"]])
    yield "memit.PS", b.interval([after["PS"]])
    pair = [after["NA"], b.before(n)["NA"]]
    yield "memit.kept", b.interval(pair, lambda now, was: 100 * now / np.maximum(was, 1e-9))


def emmet(b):
    facts = b.mixed[: b.sizes.pair]
    drawn = Corpus(b.world).texts(2 * b.sizes.texts, seed=2)
    texts = [t for t in drawn if len(b.tok(t)["input_ids"]) > 9]
    texts = texts[: b.sizes.texts]
    count = np.array([len(b.tok(t)["input_ids"]) - 1 for t in texts])

    def read():  # the negative log-likelihood of each text
        return np.log([metrics.perplexity(b.model, b.tok, t) for t in texts]) * count

    base = read()
    with b.edit(facts, "memit"):
        soft, soft_nll = b.score(facts), read()
    with b.edit(facts, "emmet", ridge="least") as e:
        hard, hard_nll = b.score(facts), read()
        ridges = [d["ridge"] for d in e.diagnostics.values()]
    perplexity = lambda nll: float(np.exp(nll.sum() / count.sum()))  # noqa: E731
    b.details["emmet"] = {
        "perplexity before": perplexity(base), "ridges": ridges,
        "MEMIT": _means(soft) | {"perplexity": perplexity(soft_nll)},
        "EMMET": _means(hard) | {"perplexity": perplexity(hard_nll)},
    }  # fmt: skip
    both = [*columns(soft), *columns(hard)]
    yield "emmet.S", b.interval(both, lambda *m: S_of(*m[:3]) - S_of(*m[3:]))
    ratio = lambda hard, soft, n: np.exp((hard - soft) / n)  # noqa: E731
    yield "emmet.perplexity", b.interval([hard_nll, soft_nll, count], ratio)


def finetuning(b):
    """FT at the learning rate with the best S, against ROME: same facts, same matrix, 16 a time."""
    layers = hyper("rome", b.model).layers
    groups = [b.mixed[16 * i : 16 * i + 16] for i in range(b.sizes.groups)]

    def over_groups(method, **fields):
        found, steps = [], []
        for facts in groups:
            h = hyper(method, b.model, layers=layers, **fields)
            C0 = b.C0 if h.needs else None
            with edit(b.model, b.tok, facts, h, statistics=C0) as e:
                found.append(b.score(facts))
                steps += [d["steps"] for d in e.diagnostics.values() if "steps" in d]
        return {name: np.concatenate([x[name] for x in found]) for name in found[0]}, steps

    tried = {rate: over_groups("ft", lr=rate) for rate in b.sizes.rates}
    S = {rate: float(S_of(*map(np.nanmean, columns(x)))) for rate, (x, _) in tried.items()}
    best = max(S, key=S.get)
    own, _ = over_groups("rome")
    b.details["fine-tuning"] = {
        "grid": {str(r): {**_means(x), "steps": n} for r, (x, n) in tried.items()},
        "learning rate": best, "ROME": _means(own),
    }  # fmt: skip
    yield "ft.NS", b.interval([own["NS"], tried[best][0]["NS"]], lambda rome, ft: rome - ft)


def large(b):
    facts = b.mixed[: b.sizes.large]
    with b.edit(facts, "memit"):
        after = b.score(facts)
    b.details["large"] = _means(after)
    yield "large.ES", b.interval([after["ES"]])
    yield "large.PS", b.interval([after["PS"]])


def neighbours(b):
    n = min(max(b.sizes.large, b.sizes.batch), len(b.mixed))
    yield "neighbours", b.interval([b.before(n)["NA"]])


def context(b):
    """Prompt: the fact's own prompt with the new object, then a held-out template asks again."""
    rng, facts = random.Random(f"context/{b.seed}"), b.mixed[: b.sizes.context]
    names = {r.id: r for r in RELATIONS}
    asked = [rng.choice(names[f.relation].heldout).format(f.subject) for f in facts]
    told = [f"{f.text} {f.target_new}. {q}" for f, q in zip(facts, asked, strict=True)]
    logp = {}
    for which in ("target_new", "target_true"):
        parts = metrics.target_logprobs(b.model, b.tok, told, [getattr(f, which) for f in facts])
        logp[which] = np.array([float(x.mean()) for x in parts[0]])
    yield "context.ES", b.interval([100.0 * (logp["target_new"] > logp["target_true"])])
    yield "context.said", b.interval([b.said(told, [f.target_new for f in facts])])
    others = [rng.choice(b.world.subjects(names[f.relation].name)) for f in facts]
    beside = [
        f"{f.prompt.replace('{}', o)} {f.target_new}. {q}"
        for f, o, q in zip(facts, others, asked, strict=True)
        if o != f.subject
    ]
    true = [f.target_true for f, o in zip(facts, others, strict=True) if o != f.subject]
    yield "context.beside", b.interval([b.said(beside, true)])


def sampled_questions(b, rng):
    """(measure, questions) in turn; every single fact on their paths is common in the corpus."""
    for key, kind, stated in (
        ("inverse", "inverse", True), ("twohop.never", "two-hop", False),
        ("twohop.stated", "two-hop", True),
    ):  # fmt: skip
        found = [q for q in b.world.questions(kind) if q.stated == stated and q.answer]
        yield key, rng.sample(found, min(b.sizes.questions, len(found)))


def guessing(found):
    """Percent of questions that one gets right by always giving their path's commonest answer."""
    count = Counter((q.path, q.answer) for q in found)
    best = {path: max(n for (p, _), n in count.items() if p == path) for path, _ in count}
    return 100 * sum(best.values()) / len(found)


def questions(b):
    """Inverse and two-hop questions, before any edit."""
    rng = random.Random(f"questions/{b.seed}")
    by_path, guess = b.details["questions"], b.details["guessing"] = {}, {}
    for key, found in sampled_questions(b, rng):
        guess[key] = guessing(found)
        right = b.said([rng.choice(q.prompts) for q in found], [q.answer for q in found])
        for path in sorted({q.path for q in found}):
            of = [x for q, x in zip(found, right, strict=True) if q.path == path]
            by_path[f"{key}: {' of '.join(reversed(path))}"] = [float(np.mean(of)), len(of)]
        yield key, b.interval([right])


def categories(b):
    """MEMIT on one relation at a time. The value is the larger of the spreads of S and of NS.

    A neighbour that is edited itself is no neighbour here; a fact without another has no NS.
    """
    found, n = {}, b.sizes.category
    for name in CATEGORIES:
        mine = [f for f in b.mixed + b.pool if f.relation == BY_NAME[name].id]
        facts = distinct(mine)[:n]
        if len(facts) == n:
            with b.edit(facts, "memit"):
                found[name] = b.score(without_edited_neighbors(facts, facts))
    if len(found) < 2:
        raise MeditError(f"this world has too few facts for {n} edits of one relation")
    b.details["categories"] = {
        name: _means(x) | {"facts with NS": int((~np.isnan(x["NS"])).sum())}
        for name, x in found.items()
    }

    def spread(*m):
        parts = [m[i : i + 3] for i in range(0, len(m), 3)]
        S, NS = np.array([S_of(*p) for p in parts]), np.array([p[2] for p in parts])
        return np.maximum(np.ptp(S, 0), np.ptp(NS, 0))

    yield (
        "categories",
        b.interval([x for scores in found.values() for x in columns(scores)], spread),
    )


# name: (function, the field of Sizes that turns it on)
ROWS = {
    "recall": (recall, "recall"), "tracing": (tracing, "trace"), "rome": (rome, "single"),
    "sweep": (sweep, "single"), "memit": (memit, "batch"), "emmet": (emmet, "pair"),
    "finetuning": (finetuning, "groups"), "large": (large, "large"),
    "neighbours": (neighbours, "batch"), "context": (context, "context"),
    "questions": (questions, "questions"), "categories": (categories, "category"),
}  # fmt: skip


def _means(scores):
    """Mean of every score, and S, as JSON numbers."""
    found = {name: float(np.nanmean(x)) for name, x in scores.items() if not np.isnan(x).all()}
    return {"S": float(S_of(*(found.get(name, np.nan) for name in ("ES", "PS", "NS"))))} | found


def _list(x):
    return [round(float(v), 4) for v in x]


# ------------------------------------------------------------------ table and record


def verdict(bound, value, low, high, quick):
    """Whether the value keeps to the bound (quick: whether any part of its interval does)."""
    if bound is None:
        return None
    if not quick:
        low = high = value
    what, limit = bound.replace(" to ", " ").split()
    if what not in (">=", ">", "<=", "<"):  # a range
        return high >= float(what) and low <= float(limit)
    limit = float(limit)
    return {">=": high >= limit, ">": high > limit, "<=": low <= limit, "<": low < limit}[what]


def check(model, tok, quick=False, seed=0, rows=None, show=print, keep=lambda found: None,
          found=None, folder=None):  # fmt: skip
    """Measure one embedded model: a dict for the record, its measures shown as they are made.

    rows: names out of ROWS; default all (for a model without bounds, the control's rows).
    keep: called after every row with the dict as it is by then. found: such a dict of an earlier
    call for the same model, sizes and seed; its rows are kept, not measured again.
    folder: where optimised targets are kept, for a later call.
    """
    if "world" not in card(model):
        raise MeditError("check-models needs an embedded model; this one has no world")
    sizes, name = QUICK if quick else Sizes(), card(model).get("name", "?")
    b = Bench(model, tok, sizes, seed, folder=folder)
    unbounded = name not in MODELS
    rows = rows or (CONTROL_ROWS if unbounded else tuple(ROWS))
    if unknown := set(rows) - set(ROWS):
        raise MeditError(f"unknown row {min(unknown)!r}; choose from {', '.join(ROWS)}")
    rows = [row for row in rows if getattr(sizes, ROWS[row][1])]
    if not rows:
        raise MeditError("a quick run leaves these rows out")
    found = found or {"rows": [], "seconds": 0, "measures": [], "details": {}}
    b.details.update(found["details"])
    about = {"model": name, "hash": fingerprint(model), "preset": card(model).get("preset", {})}
    for row in rows:
        if row in found["rows"]:
            continue
        start = began = time.time()
        new = []
        for key, (value, low, high, n) in ROWS[row][0](b):
            kind, label, *bounds = MEASURES[key]
            bound = None if unbounded else bounds[MODELS.index(name)]
            new.append(Measure(
                key, SEEN if unbounded else kind, label.format(**asdict(sizes)), value, low, high,
                n, bound, verdict(bound, value, low, high, quick), time.time() - began,
            ))  # fmt: skip
            show(str(new[-1]))
            began = time.time()
        measures = [*found["measures"], *map(asdict, new)]
        measures.sort(key=lambda m: list(MEASURES).index(m["key"]))
        failed = [m["key"] for m in measures if m["kind"] == MUST and not m["passed"]]
        found = about | {
            "rows": [r for r in ROWS if r in (*found["rows"], row)], "passed": not failed,
            "failed": failed, "seconds": found["seconds"] + round(time.time() - start, 1),
            "measures": measures, "details": b.details,
        }  # fmt: skip
        keep(found)
    return found


def _place(found):
    """Models with bounds first, in their order."""
    return [*MODELS, found["model"]].index(found["model"])


def table(models):
    """Markdown table of dicts of `check` (a record's "models"): a line a measure, a column a model.

    In bold what misses its bound.
    """
    named = {x["model"]: {m["key"]: m for m in x["measures"]} for x in models}
    lines = ["| measure | bound | " + " | ".join(named) + " |", "|" + "---|" * (2 + len(named))]
    for key in MEASURES:
        of = [measures.get(key) for measures in named.values()]
        if not any(of):
            continue
        cells, bounds = [], [m["bound"] for m in of if m and m["bound"]]
        for m in of:
            digits = 2 if m and max(abs(m["value"]), abs(m["high"])) < 5 else 1
            said = m and "{:z.{d}f} ({:z.{d}f} to {:z.{d}f})".format(
                m["value"], m["low"], m["high"], d=digits
            )
            cells.append("" if not m else f"**{said}**" if m["passed"] is False else said)
        kind, label = MEASURES[key][0], next(m["name"] for m in of if m)
        bound = "; ".join(dict.fromkeys(bounds)) + (" (aim)" if kind == AIM and bounds else "")
        lines.append("| " + " | ".join([label, bound, *cells]) + " |")
    return "\n".join(lines)


def presets(models):
    """A line of Markdown for each dict of `check`: the preset that its rows were measured with."""
    lines = []
    for x in models:
        preset, parts = x["preset"], []
        rows = {m["key"].split(".")[0] for m in x["measures"]}
        for row, (name, fields) in SETTINGS.items():
            if row in rows:
                own = preset.get("all", {}) | preset.get(row, {})
                told = [f"{f} {_short(own[f])}" for f in fields if f in own]
                parts.append(f"{name}: {', '.join(told)}")
        lines.append(f"- Preset of `{x['model']}`. {'; '.join(parts)}.")
    return "\n".join(lines)


def rates(models):
    """Markdown table of the row of fine-tuning: S, and NS below ROME's, at every learning rate."""
    found = [(x["model"], x["details"]["fine-tuning"]) for x in models
             if "fine-tuning" in x.get("details", {})]  # fmt: skip
    if not found:
        return ""
    heads = "".join(f" {name}: S | {name}: NS below ROME's |" for name, _ in found)
    lines = [f"| learning rate |{heads}", "|" + "---|" * (1 + 2 * len(found))]
    for rate in dict.fromkeys(rate for _, ft in found for rate in ft["grid"]):
        line = f"| {rate} |"
        for _, ft in found:
            x, chosen = ft["grid"][rate], float(rate) == ft["learning rate"]
            line += f" {x['S']:.2f}{' (chosen)' * chosen} | {ft['ROME']['NS'] - x['NS']:.1f} |"
        lines.append(line)
    return "\n".join(lines)


def _short(value):
    """A value of a preset in words: 3, 2000, or "1, 2, 3"."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else f"{value:g}"


def _earlier(path, record):
    """{hash: dict of `check`} from a record that measured the same (a killed run left it). One that
    measured otherwise is renamed to PATH.earlier, a damaged one set aside."""
    if not os.path.exists(path):
        return {}
    with kept.named(path):
        try:
            old = kept.opened(path.read_bytes())
            needed = {"hash", "preset", "rows", "seconds", "measures", "details"}
            if not all(needed <= set(x) for x in old["models"]):
                raise kept.Damaged("a model's measures are not whole")
        except (kept.Damaged, KeyError, TypeError) as error:
            kept.set_aside(path, error)
            return {}
        same = ("seed", "quick", "versions", "device", "sizes")
        differ = [x for x in same if old.get(x) != json.loads(json.dumps(record[x]))]
        if differ:
            name = kept.rename(path, "earlier")
            print(f"{path} is of a run with other {', '.join(differ)}: it is now {name}")
            return {}
    return {x["hash"]: x for x in old["models"]}


def main(argv=None):
    parser = Parser(
        prog="medit-teach check-models", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "names", nargs="*", help="embedded models or folders (default: all); with --table, records"
    )
    parser.add_argument("--quick", action="store_true", help="fewer facts, no large batches")
    parser.add_argument(
        "--out", default="check-models.json", type="new file",
        help="the record (%(default)s); rows that it has already are not measured again. Optimised "
        "targets are kept beside it, in a folder .targets",
    )  # fmt: skip
    parser.add_argument("--seed", type="seed", default=0, help="seed of the facts (%(default)s)")
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), help="only these rows")
    parser.add_argument("--device", help="cpu (default), cuda, ...")
    parser.add_argument("--table", action="store_true", help="measure nothing; show these records")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    if args.table:
        try:
            found = [x for n in args.names for x in kept.opened(Path(n).read_bytes())["models"]]
            found.sort(key=_place)
            print(*filter(None, (part(found) for part in (table, presets, rates))), sep="\n\n")
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise MeditError(f"not a record of check-models: {error}") from error
        return 0
    names = args.names or embedded()
    if not names:
        raise MeditError("there is no embedded model here; name a folder, or train one first")
    record = {
        "command": " ".join(["medit-teach check-models", *argv]),
        "seed": args.seed, "quick": args.quick, "versions": versions(),
        "device": args.device or "cpu", "threads": torch.get_num_threads(),
        "sizes": asdict(QUICK if args.quick else Sizes()), "models": [],
    }  # fmt: skip
    kept.ready(args.out)
    earlier = _earlier(Path(args.out), record)
    for name in names:
        model, tok = load(name, device=args.device)
        shape = f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters"
        print(f"\n{name}: {shape}, {args.device or 'cpu'}, {torch.get_num_threads()} threads")
        for method, fields in card(model).get("preset", {}).items():
            print(f"  preset {method}: {json.dumps(fields)}")
        done = tuple(record["models"])

        def keep(found, done=done):
            record["models"] = [*done, found]
            kept.write_text(args.out, json.dumps(kept.seal(record), indent=1) + "\n")

        show = lambda line: print(line, flush=True)  # noqa: E731
        before = earlier.get(fingerprint(model))
        if before and before["preset"] != card(model).get("preset", {}):
            before = None
        if before:
            print(f"  from {args.out}, not measured again: {', '.join(before['rows'])}")
        folder = Path(args.out).with_suffix(".targets")
        found = check(model, tok, args.quick, args.seed, args.rows, show, keep, before, folder)
        keep(found)
        failed = ", ".join(found["failed"]) or "none"
        print(f"{name}: musts that fail: {failed}; {found['seconds'] / 60:.1f} minutes")
    print(f"record: {args.out}")
    return 0 if all(found["passed"] for found in record["models"]) else 1
