"""Measure one method of every family on the same facts, for the map of methods.

    python -m measure.methods [--only NAME ...] [--settings SETTING ...] [--out FILE]

Writes methods.json, row by row. For every method

    at once   100 facts in one edit
    many      the same 100 as the first of 1,000 in one edit

for one of each family

    alone     the first 30 facts one at a time, each undone before the next
    inverse   20 facts that have an inverse, in one edit

and for the fact in the prompt `store`: the 100 among 10,000 edits, which a search has to tell
apart. A run that was stopped goes on where it was, and two may write into one file; rows of other
weights, questions or settings are measured again. Seconds are CPU seconds of one thread; the whole
takes about half an hour of them. The editor of MEND must be there
(python -m medit_teach.methods.train_mend).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

import medit_teach as mt
from medit_teach import metrics
from medit_teach.datasets import texts_for
from medit_teach.hyper import hyper
from medit_teach.models import fingerprint
from medit_teach.records import versions
from medit_teach.values import optimise_values
from medit_teach.world import BY_NAME, World

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "medit_teach" / "book" / "records"
FACTS, MANY, ALONE, STORE, INVERSES = 100, 1000, 30, 10_000, 20  # facts of the settings
NEIGHBOURS, OWN, FOLLOWING = 4, 3, 3  # questions about a fact, at most
TEXTS, TOKENS = 40, 100  # texts of the perplexity; tokens of a text whose fluency is measured
KEPT = ("ES", "PS", "NS", "EA", "PA", "NA", "NM")
SOLVED = ("MEMIT", "EMMET", "AlphaEdit")  # in a batch these share their targets
SOME = ("nothing", "in the prompt", "GRACE", "FT", "MEND", "ROME", "MEMIT")  # one of each family
AT_LEAST = (0.0, 0.5)  # similarities from which the store answers


def methods(examples):
    """{name: (method, settings)}; None changes nothing."""
    return {
        "nothing": (None, {}),
        "in the prompt": ("prompt", {}),
        "IKE": ("ike", {"examples": examples, "shots": 3}),
        "GRACE": ("grace", {"radius": 0.5}),
        "FT": ("ft", {"lr": 5e-3, "contexts": [""]}),
        "FT-L": ("ft", {"lr": 1e-2, "contexts": [""], "eps": 0.05, "steps": 30}),
        "FT-W": ("ft", {"lr": 5e-3, "contexts": [""], "weight_decay": 0.005}),
        "MEND": ("mend", {}),
        "ROME": ("rome", {}),
        "MEMIT": ("memit", {}),
        "EMMET": ("emmet", {}),
        "AlphaEdit": ("alphaedit", {}),
    }


class Bench:
    """The model, the facts, and everything that is asked about them."""

    def __init__(self, name="tiny-gptj"):
        self.model, self.tok = mt.load(name)
        self.world = World(**self.model.config.medit_teach["world"])
        many = mt.facts("world", n=MANY, seed=0)
        self.many = [replace(f, neighborhood=f.neighborhood[:NEIGHBOURS]) for f in many]
        self.facts = self.many[:FACTS]
        edited = {f.subject for f in many}
        self.edits = mt.facts("world", distinct_subjects=False)
        outside = [f for f in mt.facts("world") if f.subject not in edited]
        self.methods = methods(outside[:40])
        self.own, self.following = self.questions()
        self.inverses = with_inverse(self.world, INVERSES)
        self.texts = [t for _, t in zip(range(TEXTS), texts_for(self.model), strict=False)]
        self.statistics = mt.statistics_for(self.model, self.tok, hyper("memit", self.model).layers)
        self.targets = cache(self._targets)

    def questions(self):
        """(own, following): what else is asked, [(number of the fact, question, answer)]."""
        by_subject, own, following = {}, [], []
        known = {(f.relation, f.subject) for f in self.facts}
        for f in self.edits:
            if (f.relation, f.subject) not in known:
                by_subject.setdefault(f.subject, []).append(f)
        for i, f in enumerate(self.facts):
            own += [(i, g.text, g.target_true) for g in by_subject.get(f.subject, [])[:OWN]]
            after = [c for c in self.world.consequences(f) if c.new is not None]
            following += [(i, c.prompts[0], c.new) for c in after[:FOLLOWING]]
        return own, following

    def _targets(self, n):
        """(targets of the first n facts for all of SOLVED, CPU seconds a fact)."""
        h, start = hyper("memit", self.model), time.process_time()
        found = optimise_values(self.model, self.tok, self.many[:n], h.layers[-1], h)
        return found.target, (time.process_time() - start) / n

    def write(self, name, facts, share=False):
        """(Edit or None, CPU seconds a fact) of writing `facts`."""
        (method, settings), more, extra = self.methods[name], {}, 0.0
        if method is None:
            return None, 0.0
        if method in ("rome", "memit", "emmet", "alphaedit"):
            more["statistics"] = self.statistics
        if share and name in SOLVED:
            more["targets"], extra = self.targets(len(facts))
        start = time.process_time()
        edit = mt.edit(self.model, self.tok, facts, method, **settings, **more)
        return edit, (time.process_time() - start) / len(facts) + extra

    def said(self, questions):
        """For each (fact, question, answer): is that answer said? [(fact, 0 or 100)]."""
        if not questions:
            return []
        numbers, asked, answers = zip(*questions, strict=True)
        _, right = metrics.target_logprobs(self.model, self.tok, asked, answers)
        return [(n, 100.0 * r) for n, r in zip(numbers, right, strict=True)]

    def look(self):
        """To the bit: the weights, and log P of the old objects on the prompts of the facts."""
        asked = [f.text for f in self.facts], [f.target_true for f in self.facts]
        answers = torch.cat(metrics.target_logprobs(self.model, self.tok, *asked)[0])
        return {k: v.clone() for k, v in self.model.state_dict().items()} | {"answers": answers}

    def undo(self, edit, before):
        """Undo `edit`; are weights and answers what they were, to the bit?"""
        if edit:
            edit.undo()
        return all(torch.equal(v, before[k]) for k, v in self.look().items())

    # ---------------------------------------------------------------- the settings

    def at_once(self, name, facts=None):
        """Facts in one edit; the default are those that are asked."""
        facts = self.facts if facts is None else facts
        before = self.look()
        edit, seconds = self.write(name, facts, share=True)
        scores = mt.score(self.model, self.tok, self.facts, resamples=1).per_fact
        row = summary(
            [scores], {"own": self.said(self.own), "following": self.said(self.following)}
        )
        row |= {"edits": len(facts) if edit else 0, "facts": len(self.facts)}
        if facts is self.facts:
            row["fluency"] = self.fluency()
        row["perplexity"] = round(metrics.perplexity(self.model, self.tok, self.texts), 3)
        row |= {"seconds": round(seconds, 4), "parameters": parameters(edit)}
        if edit and "steps" in (told := next(iter(edit.diagnostics.values()), {})):
            row["steps"] = told["steps"]
        return row | {"undone": self.undo(edit, before)}

    def fluency(self):
        """[mean, low, high] of the n-gram entropy of one generated text a fact, in bits."""
        asked = [f.generation[0] for f in self.facts]
        texts = metrics.generate(self.model, self.tok, asked, TOKENS)
        return [round(x, 3) for x in metrics.bootstrap([metrics.ngram_entropy(t) for t in texts])]

    def many_at_once(self, name):
        return self.at_once(name, self.many)

    def alone(self, name):
        """Every fact alone, undone before the next one."""
        before, parts, own, following, used, stored = self.look(), [], [], [], [], []
        for i, fact in enumerate(self.facts[:ALONE]):
            edit, seconds = self.write(name, [fact])
            used.append(seconds), stored.append(parameters(edit))
            parts.append(mt.score(self.model, self.tok, [fact], resamples=1).per_fact)
            own += self.said([q for q in self.own if q[0] == i])
            following += self.said([q for q in self.following if q[0] == i])
            if edit:
                edit.undo()
        row = summary(parts, {"own": own, "following": following})
        row |= {"edits": 0 if self.methods[name][0] is None else 1, "facts": len(parts)}
        row |= {"seconds": round(float(np.mean(used)), 4), "parameters": int(np.mean(stored))}
        return row | {"undone": self.undo(None, before)}

    def inverse(self, name):
        """Facts that have a stated inverse, at once; is the inverse question answered?"""
        before = self.look()
        edit, _ = self.write(name, [f for f, _, _ in self.inverses])
        own = [(i, f.text, f.target_new) for i, (f, _, _) in enumerate(self.inverses)]
        back = [(i, question, answer) for i, (_, question, answer) in enumerate(self.inverses)]
        row = summary([], {"EA": self.said(own), "inverse": self.said(back)})
        row |= {"edits": len(own) if edit else 0, "facts": len(own)}
        return row | {"undone": self.undo(edit, before)}

    def store(self, at_least, ask_the_model=True):
        """The facts among STORE edits in the prompt: what the search finds, what the model says."""
        sentences = self.sentences()
        before = self.look()
        start = time.process_time()
        edit = mt.edit(self.model, self.tok, sentences, "prompt", at_least=at_least)
        used = time.process_time() - start
        scores = []
        if ask_the_model:
            scores = [mt.score(self.model, self.tok, self.facts, resamples=1).per_fact]
        found = {}
        start = time.process_time()
        for i, f in enumerate(self.facts):
            asks = {"words of the edit": [f.text], "other words": f.paraphrases}
            for what, questions in (asks | {"neighbours": f.neighborhood}).items():
                for q in questions:
                    hit = edit.memory.find(q, 1, at_least)
                    right = hit == ([] if what == "neighbours" else [i])
                    found.setdefault(f"right, {what}", []).append((i, 100.0 * right))
                    found.setdefault(f"wrong, {what}", []).append(
                        (i, 100.0 * (bool(hit) and not right))
                    )
        asked = sum(map(len, found.values())) / 2
        row = summary(scores, found) | {"edits": len(sentences), "facts": len(self.facts)}
        row["seconds"] = round(used / len(sentences), 5)
        row["seconds a question"] = round((time.process_time() - start) / asked, 5)
        return row | {"parameters": 0, "undone": self.undo(edit, before)}

    def sentences(self):
        """STORE edits: ours, the world's others, then true facts with another object.

        Nothing is in it that a neighbour's question asks, so no sentence is right for those.
        """
        left_out = {q for f in self.facts for q in f.neighborhood}
        found = {(f.relation, f.subject): f for f in self.many}
        for f in self.edits:
            found.setdefault((f.relation, f.subject), f)
        objects = {}
        for (r, _), o in self.world.facts.items():
            objects.setdefault(r, set()).add(o)
        objects = {r: sorted(names) for r, names in objects.items()}
        for (r, s), o in self.world.facts.items():
            relation, names = BY_NAME[r], objects[r]
            other = names[(names.index(o) + 1) % len(names)]
            fact = mt.Fact(relation.train[0], s, other, o, relation=relation.id)
            if other != o:
                found.setdefault((relation.id, s), fact)
        return [f for f in found.values() if f.text not in left_out][:STORE]


def parameters(edit):
    """Numbers that an edit has to store: the factors, or the whole Delta where that is shorter."""
    if edit is None:
        return 0
    if hasattr(edit, "codebook"):
        return sum(x.numel() for x in edit._more().values())
    pairs = edit.layers.values()
    return sum(min(a.numel() + b.numel(), len(a) * len(b)) for a, b in pairs)


def summary(scores, extra):
    """{measure: [mean, low, high]} from per-fact scores and {measure: [(fact, value)]}."""
    columns = {k: np.concatenate([s[k] for s in scores]) for k in KEPT if scores}
    for name, found in extra.items():
        facts = sorted({n for n, _ in found})
        columns[name] = np.array([np.mean([x for n, x in found if n == f]) for f in facts])
    out = {}
    for name, x in columns.items():
        if len(x) and not np.isnan(x).all():
            out[name] = [round(v, 2) for v in metrics.bootstrap(x)]
    return out


def with_inverse(world, n):
    """[(fact, the inverse question, its new answer)] of n facts about chairs and partners."""
    found = []
    for record in world.records(relations=["chair", "partner"], n=4 * n):
        fact = mt.Fact.from_record(record)
        back = [c for c in world.consequences(fact) if c.kind in ("inverse", "symmetric") and c.new]
        found += [(fact, c.prompts[0], c.new) for c in back[:1]]
    return found[:n]


def about(bench, model):
    """What the record says of itself: enough to make it again, and to see that it is another."""
    table = {}
    for name, (method, settings) in bench.methods.items():
        fields = vars(hyper(method, bench.model, **settings)) if method else {}
        table[name] = {k: getattr(v, "__name__", v) for k, v in fields.items() if k != "examples"}
    found = {
        "command": "python -m measure.methods",
        "model": model,
        "weights": fingerprint(bench.model),
        "asked": {
            "facts": len(bench.facts), "many": len(bench.many), "seed": 0,
            "neighbours": sum(len(f.neighborhood) for f in bench.facts),
            "own": len(bench.own), "following": len(bench.following),
            "facts with following": len({n for n, _, _ in bench.following}),
            "inverse": len(bench.inverses), "texts": TEXTS, "tokens": TOKENS,
        },
        "hyper": table,
        "protocol": metrics.PROTOCOL,
        "versions": versions(),
        "device": f"CPU, one thread, {platform.machine()}; seconds are CPU seconds",
    }  # fmt: skip
    return json.loads(json.dumps(found))  # as it is read from the file: lists, no tuples


def rows_kept(path, now):
    """Rows of the record that need not be measured again."""
    if not path.is_file():
        return []
    old = json.loads(path.read_text(encoding="utf-8"))
    if any(old.get(k) != now[k] for k in ("weights", "asked")):
        return []
    same = {name for name, fields in now["hyper"].items() if old["hyper"].get(name) == fields}
    return [r for r in old["rows"] if r["method"] in same]


SETTINGS = {
    "at once": Bench.at_once,
    "many": Bench.many_at_once,
    "alone": Bench.alone,
    "inverse": Bench.inverse,
}


def wanted():
    """What identifies each row of the record, in the order in which they are measured."""
    rows = [{"method": m, "setting": s} for s in SETTINGS for m in methods(())]
    rows = [r for r in rows if r["setting"] in ("at once", "many") or r["method"] in SOME]
    rows.remove({"method": "nothing", "setting": "many"})
    store = {"method": "in the prompt", "setting": "store"}
    return rows + [store | {"at_least": x} for x in AT_LEAST]


def measure(bench, which):
    if which["setting"] == "store":
        return which | bench.store(which["at_least"])
    return which | SETTINGS[which["setting"]](bench, which["method"])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny-gptj")
    parser.add_argument("--only", nargs="+", choices=[*methods(())], metavar="NAME")
    parser.add_argument("--settings", nargs="+", choices=[*SETTINGS, "store"], metavar="SETTING")
    parser.add_argument("--out", type=Path, default=RECORDS / "methods.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.model)
    now = about(bench, options.model)
    for which in wanted():
        if options.only and which["method"] not in options.only:
            continue
        if options.settings and which["setting"] not in options.settings:
            continue
        if any(which.items() <= row.items() for row in rows_kept(options.out, now)):
            continue
        row = measure(bench, which)
        rows = [*rows_kept(options.out, now), row]  # another run may have added some meanwhile
        rows = [r for w in wanted() for r in rows if w.items() <= r.items()]
        draft = options.out.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(now | {"rows": rows}, indent=1) + "\n", encoding="utf-8")
        os.replace(draft, options.out)
        print(row, flush=True)


if __name__ == "__main__":
    main()
