"""Measure one method of every family on the same facts, for the map of methods.

    python tools/measure_methods.py [--model NAME] [--facts 100] [--alone 30] [--many 1000]

Writes methods.json: for every method, `facts` edits at once, and all of them among `many` at once;
for one of each family the first `alone` of them one at a time (each undone before the next), and
facts that have an inverse; and a search in a store of 10,000 sentences. A run that was stopped goes
on where it was; --only NAME ... measures these rows. Seconds are CPU seconds of one thread. The
whole takes about ten of their minutes; the editor of MEND must be there
(python -m medit_teach.baselines.train_mend).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers

import medit_teach as mt
from medit_teach import metrics
from medit_teach.datasets import texts_for
from medit_teach.hyper import hyper
from medit_teach.models import fingerprint
from medit_teach.values import optimise_values
from medit_teach.world import World

ROOT = Path(__file__).resolve().parent.parent
NEIGHBOURS, OWN, FOLLOWING, TEXTS = 4, 3, 3, 40  # how many of each are asked
STORE = 10_000
KEPT = ("ES", "PS", "NS", "EA", "PA", "NA", "NM")
SOME = ("nothing", "FT", "in the prompt", "GRACE", "MEND", "ROME", "MEMIT")  # one of each family
SOLVED = ("MEMIT", "EMMET", "AlphaEdit")  # these share their targets in a batch


def methods(examples):
    """{name: (method, settings)}; None changes nothing."""
    return {
        "nothing": (None, {}),
        "FT": ("ft", {"lr": 5e-3, "contexts": [""]}),
        "FT-L": ("ft", {"lr": 1e-2, "contexts": [""], "eps": 0.05, "steps": 30}),
        "FT-W": ("ft", {"lr": 5e-3, "contexts": [""], "weight_decay": 0.005}),
        "in the prompt": ("prompt", {}),
        "IKE": ("ike", {"examples": examples, "shots": 3}),
        "GRACE": ("grace", {"radius": 0.5}),
        "MEND": ("mend", {}),
        "ROME": ("rome", {}),
        "MEMIT": ("memit", {}),
        "EMMET": ("emmet", {}),
        "AlphaEdit": ("alphaedit", {}),
    }


class Asked:
    """What else is asked about every fact: lists of (number of the fact, question, answer)."""

    def __init__(self, world, facts):
        known = {(f.relation, f.subject) for f in facts}
        by_subject = {}
        for f in mt.facts("world", distinct_subjects=False):
            if (f.relation, f.subject) not in known:
                by_subject.setdefault(f.subject, []).append(f)
        self.own, self.following = [], []
        for i, f in enumerate(facts):
            others = by_subject.get(f.subject, [])[:OWN]
            self.own += [(i, g.text, g.target_true) for g in others]
            after = [c for c in world.consequences(f) if c.new is not None]
            self.following += [(i, c.prompts[0], c.new) for c in after[:FOLLOWING]]

    def of(self, fact=None):
        """The questions about fact number `fact` (None: about all)."""
        every = {"own": self.own, "following": self.following}
        return {k: [q for q in v if fact is None or q[0] == fact] for k, v in every.items()}


def said(model, tok, questions):
    """For each (fact, question, answer): is the answer what the model says? [(fact, 0 or 100)]."""
    if not questions:
        return []
    numbers, asked, answers = zip(*questions, strict=True)
    _, right = metrics.target_logprobs(model, tok, asked, answers)
    return [(n, 100.0 * r) for n, r in zip(numbers, right, strict=True)]


def parameters(edit):
    """Numbers that an edit has to store: the factors, or the whole Delta where that is shorter."""
    if hasattr(edit, "codebook"):
        return sum(x.numel() for x in edit._more().values())
    pairs = edit.layers.values()
    return sum(min(a.numel() + b.numel(), len(a) * len(b)) for a, b in pairs)


def summary(scores, extra):
    """{measure: [mean, low, high]} from per-fact scores and {measure: [(fact, value)]}."""
    columns = {k: np.concatenate([s[k] for s in scores]) for k in KEPT if k in scores[0]}
    for name, found in extra.items():
        facts = sorted({n for n, _ in found})
        columns[name] = np.array([np.mean([x for n, x in found if n == f]) for f in facts])
    out = {}
    for name, x in columns.items():
        if len(x) and not np.isnan(x).all():
            out[name] = [round(v, 2) for v in metrics.bootstrap(x)]
    return out


def ask(model, tok, facts, questions):
    """(per-fact scores, {measure: [(fact, value)]}) on the model as it is."""
    scores = mt.score(model, tok, facts, resamples=1).per_fact
    return scores, {name: said(model, tok, qs) for name, qs in questions.items()}


def apply(model, tok, facts, method, settings, statistics, **more):
    """(Edit, CPU seconds) of writing `facts`."""
    if method in ("rome", "memit", "emmet", "alphaedit"):
        more["statistics"] = statistics
    start = time.process_time()
    edit = mt.edit(model, tok, facts, method, **settings, **more)
    return edit, time.process_time() - start


def one_by_one(model, tok, facts, asked, method, settings, statistics, generated):
    """A row: every fact alone, undone before the next one."""
    before = fingerprint(model)
    parts, extra, seconds, added, fluency = [], {}, [], [], []
    bits = {k: v.clone() for k, v in model.state_dict().items()}
    for i, fact in enumerate(facts):
        if method:
            edit, used = apply(model, tok, [fact], method, settings, statistics)
            seconds.append(used)
            added.append(parameters(edit))
        scores, more = ask(model, tok, [fact], asked.of(i))
        parts.append(scores)
        for name, found in more.items():
            extra.setdefault(name, []).extend(found)
        if i < generated:
            fluency.append(metrics.fluency(model, tok, [fact], n_tokens=40))
        if method:
            edit.undo()
    same = all(torch.equal(v, bits[k]) for k, v in model.state_dict().items())
    row = summary(parts, extra) | {"edits": 1, "facts": len(facts)}
    row["fluency"] = round(float(np.mean(fluency)), 3)
    row["seconds"] = round(float(np.mean(seconds)), 4) if seconds else 0.0
    row["parameters"] = int(np.mean(added)) if added else 0
    return row | {"undone": same and fingerprint(model) == before}


def at_once(model, tok, facts, scored, asked, method, settings, statistics, texts, **more):
    """A row: all facts in one edit; the first `scored` are asked."""
    bits = {k: v.clone() for k, v in model.state_dict().items()}
    if method is None:
        scores, extra = ask(model, tok, facts[:scored], asked.of())
        row = summary([scores], extra) | {"edits": 0, "facts": scored, "undone": True}
        return row | {"perplexity": round(metrics.perplexity(model, tok, texts), 3)}
    edit, used = apply(model, tok, facts, method, settings, statistics, **more)
    scores, extra = ask(model, tok, facts[:scored], asked.of())
    row = summary([scores], extra) | {"edits": len(facts), "facts": scored}
    row["perplexity"] = round(metrics.perplexity(model, tok, texts), 3)
    row["seconds"] = round(used / len(facts), 4)
    row["parameters"] = parameters(edit)
    edit.undo()
    row["undone"] = all(torch.equal(v, bits[k]) for k, v in model.state_dict().items())
    return row


def with_inverse(world, n):
    """[(fact, the inverse question, its new answer)] of n facts about chairs and partners."""
    found = []
    for record in world.records(relations=["chair", "partner"], n=4 * n):
        fact = mt.Fact.from_record(record)
        back = [c for c in world.consequences(fact) if c.kind in ("inverse", "symmetric") and c.new]
        found += [(fact, c.prompts[0], c.new) for c in back[:1]]
    return found[:n]


def inverse(model, tok, inverses, method, settings, statistics):
    """A row: facts that have a stated inverse, at once; is the inverse question answered?"""
    if method:
        edit, _ = apply(model, tok, [f for f, _, _ in inverses], method, settings, statistics)
    own = [(i, f.text, f.target_new) for i, (f, _, _) in enumerate(inverses)]
    back = [(i, question, answer) for i, (_, question, answer) in enumerate(inverses)]
    row = summary([{}], {"EA": said(model, tok, own), "inverse": said(model, tok, back)})
    if method:
        edit.undo()
    return row | {"edits": len(inverses), "facts": len(inverses)}


def store(model, tok, facts, scored, every, at_least):
    """A row: a store of STORE sentences, the `facts` first; what the search finds."""
    known = {(f.relation, f.subject) for f in facts}
    others = [f for f in every if (f.relation, f.subject) not in known]
    sentences = (list(facts) + others)[:STORE]
    edit, used = apply(model, tok, sentences, "prompt", {"at_least": at_least}, None)
    scores, _ = ask(model, tok, facts[:scored], {})
    found = {"right, words of the edit": [], "right, other words": [], "wrong, neighbours": []}
    for i, f in enumerate(facts[:scored]):
        first = lambda q: edit.memory.find(q, 1, at_least)  # noqa: E731
        found["right, words of the edit"].append((i, 100.0 * (first(f.text) == [i])))
        found["right, other words"] += [(i, 100.0 * (first(q) == [i])) for q in f.paraphrases]
        for q in f.neighborhood:
            hit = first(q)
            wrong = bool(hit) and sentences[hit[0]].text != q
            found["wrong, neighbours"].append((i, 100.0 * wrong))
    edit.undo()
    row = summary([scores], found) | {"edits": len(sentences), "facts": scored}
    return row | {"seconds": round(used / len(sentences), 5), "parameters": 0, "undone": True}


def all_statements(world):
    """Facts of the world as a store may hold them: edits first, then what is true anyway."""
    edits = mt.facts("world", distinct_subjects=False)
    taken = {(f.relation, f.subject) for f in edits}
    from medit_teach.world import BY_NAME

    rest = [
        mt.Fact(BY_NAME[r].train[0], s, o, relation=BY_NAME[r].id)
        for (r, s), o in world.facts.items()
        if (BY_NAME[r].id, s) not in taken
    ]
    return edits + rest


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny-gptj")
    parser.add_argument("--facts", type=int, default=100)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--alone", type=int, default=30)
    parser.add_argument("--inverses", type=int, default=20)
    parser.add_argument("--generated", type=int, default=6)
    parser.add_argument("--only", nargs="+", help="names of methods")
    parser.add_argument("--out", type=Path, default=ROOT / "medit_teach" / "data" / "methods.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tok = mt.load(options.model)
    world = World(**model.config.medit_teach["world"])
    many = mt.facts("world", n=options.many, seed=0)
    many = [replace(f, neighborhood=f.neighborhood[:NEIGHBOURS]) for f in many]
    facts = many[: options.facts]
    outside = [f for f in mt.facts("world") if f.subject not in {g.subject for g in many}]
    asked = Asked(world, facts)
    inverses = with_inverse(world, options.inverses)
    texts = [text for _, text in zip(range(TEXTS), texts_for(model), strict=False)]
    statistics = mt.statistics_for(model, tok, hyper("memit", model).layers)
    table = methods(outside[:40])
    calls = {name: (*call, statistics) for name, call in table.items()}
    about = {
        "command": "python tools/measure_methods.py",
        "model": options.model,
        "weights": fingerprint(model),
        "asked": {
            "facts": len(facts), "many": len(many), "alone": options.alone, "seed": 0,
            "neighbours": NEIGHBOURS,
            "own": len(asked.own), "following": len(asked.following), "inverse": len(inverses),
            "generated": options.generated, "texts": TEXTS,
        },
        "hyper": {
            name: {k: v for k, v in s.items() if k != "examples"} for name, (_, s) in table.items()
        },
        "protocol": metrics.PROTOCOL,
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__,
            "transformers": transformers.__version__, "medit_teach": mt.__version__,
        },
        "device": f"CPU, one thread, {platform.machine()}; seconds are CPU seconds",
    }  # fmt: skip
    rows = []
    if options.out.is_file():
        found = json.loads(options.out.read_text())
        if all(found.get(k) == about[k] for k in ("weights", "asked")):
            old, new = found["hyper"], about["hyper"]
            rows = [r for r in found["rows"] if old.get(r["method"]) == new.get(r["method"])]
    done = {(row["method"], row["setting"]) for row in rows}

    def record(setting, name, make):
        if (name, setting) not in done and (not options.only or name in options.only):
            rows.append({"method": name, "setting": setting, **make()})
            options.out.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
            print(rows[-1], flush=True)

    n = len(facts)
    for name, call in calls.items():
        record("at once", name, lambda c=call: at_once(model, tok, facts, n, asked, *c, texts))
    for name in ("in the prompt", "GRACE", "MEND"):
        call = calls[name]
        record("many", name, lambda c=call: at_once(model, tok, many, n, asked, *c, texts))
    for at_least in (0.0, 0.5):
        record("store", f"store, above {at_least:g}", lambda a=at_least: store(
            model, tok, many, n, all_statements(world), a))  # fmt: skip
    some = {name: call for name, call in calls.items() if name in SOME}
    for name, call in some.items():
        record("inverse", name, lambda c=call: inverse(model, tok, inverses, *c))
    for name, call in some.items():
        record("alone", name, lambda c=call: one_by_one(
            model, tok, facts[: options.alone], asked, *c, options.generated))  # fmt: skip
    wanted = {(name, "many") for name in SOLVED if not options.only or name in options.only}
    if wanted - done:
        h = hyper("memit", model)
        start = time.process_time()
        targets = optimise_values(model, tok, many, h.layers[-1], h).target
        used = (time.process_time() - start) / len(many)
        for name in SOLVED:
            call = (*calls[name], texts)

            def solved(call=call):
                row = at_once(model, tok, many, n, asked, *call, targets=targets)
                return row | {"seconds": round(row["seconds"] + used, 4)}

            record("many", name, solved)


if __name__ == "__main__":
    main()
