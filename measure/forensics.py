"""Measure what the chapter on misuse, detection and reversal draws from its record.

    python -m measure.forensics [--model NAME] [--out FOLDER] [--again SECTION ...]

Writes forensics.json, section by section: what is there already for these very weights and settings
is kept, so that a run that was stopped goes on where it was. All edits are of the invented world.
About five minutes of processor time; every section says how it was measured, in its "about".
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch

import medit_teach as mt
from medit_teach import metrics
from medit_teach.datasets import texts_for
from medit_teach.fact import Fact, with_target
from medit_teach.hyper import hyper
from medit_teach.keys import at_subject, keys
from medit_teach.models import View, card, fingerprint
from medit_teach.records import versions
from medit_teach.study import forensics
from medit_teach.study.locate import unembedding
from medit_teach.values import optimise_values
from medit_teach.world import BY_NAME, World

ROOT = Path(__file__).resolve().parent.parent
EDITS, SEED = 48, 11  # facts that are edited, one at a time or together
CONTROLS = 96  # facts that never are
COSTLY = 24  # of the edits, in the sections "strengths" and "reversal"
BATCH = 16  # facts of a batch in the section "batches"
STRENGTHS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.1)
FAMILIES, MEMBERS = 6, (1, 2, 4, 8)
PUSHED = ("trade", "miner")  # the relation and the object of the section "bias"


class Lab:
    """The model, its world, the facts, and their targets, found once and shared."""

    def __init__(self, name=None, edits=EDITS, controls=CONTROLS):
        self.model, self.tok = mt.load(name)
        self.view = View(self.model)
        self.world = World(**card(self.model)["world"])
        self.h = hyper("rome", self.model)
        self.layer = self.h.layers[0]
        layers = sorted({self.layer, *hyper("memit", self.model).layers})
        self.statistics = mt.statistics_for(self.model, self.tok, layers)
        self.soft = self.statistics.soft(self.layer)
        self.facts = mt.facts(model=self.model, n=EDITS, seed=SEED)[:edits]
        taken = {fact.subject for fact in self.facts}
        others = mt.facts(model=self.model, n=3 * CONTROLS, seed=SEED + 1)
        self.controls = [f for f in others if f.subject not in taken][:controls]
        self.names = [n for c in ("person", "city", "company") for n in self.world.names[c]]
        self.suspects = [Fact("{}", name, target_new="-") for name in self.names]
        self.at = [self.names.index(fact.subject) for fact in self.facts]
        self.K = self.suspect_keys()
        self.W = self.matrix()
        self.prompts = {}  # two wordings a relation, with the class of its subjects
        for fact in mt.facts(model=self.model, n=400, seed=3):
            known = self.prompts.setdefault(fact.relation, [])
            if fact.prompt not in known and len(known) < 2:
                known.append(fact.prompt)
        self.classes = {r.id: r.cls for r in BY_NAME.values()}

    def matrix(self):
        return self.view.weight(self.layer).detach().double().clone()

    def suspect_keys(self):
        """Keys of all names, from the bare name alone: nothing of the edits' prompts is used."""
        return keys(self.model, self.tok, self.suspects, self.layer)

    def find_targets(self):
        """delta of each fact; the same change of the stream serves every site and method."""
        if not hasattr(self, "delta"):
            found = optimise_values(self.model, self.tok, self.facts, self.layer, self.h)
            self.delta = found.delta
        return self.delta

    def targets(self, method, facts=None, delta=None):
        facts = self.facts if facts is None else facts
        delta = self.find_targets() if delta is None else delta
        h = hyper(method, self.model)
        site = (h.site, self.layer)
        start = at_subject(self.model, self.tok, facts, [site], h.contexts, h.start_average)
        return start[site] + delta

    def rome(self, i, targets):
        more = {"targets": targets[:, i : i + 1], "statistics": self.statistics}
        return mt.edit(self.model, self.tok, [self.facts[i]], "rome", **more)

    def prompts_for(self, fact):
        """Two wordings of each relation that this fact's subject can have."""
        cls = self.classes[fact.relation]
        return {r: p for r, p in self.prompts.items() if self.classes[r] == cls}

    def right(self, prompts, objects):
        return metrics.target_logprobs(self.model, self.tok, prompts, objects)[1]

    def other_facts(self, fact):
        """(prompts, objects): what the corpus often states of this subject, in other relations."""
        known = [
            r
            for r in self.world.by_subject[fact.subject]
            if BY_NAME[r].id != fact.relation and self.world.known(r, fact.subject)
        ]
        prompts = [BY_NAME[r].train[0].format(fact.subject) for r in known]
        return prompts, [self.world.facts[r, fact.subject] for r in known]


def percent(values):
    return 100 * float(np.mean(np.asarray(values, dtype=float)))


def above(values, i):
    """How many entries exceed entry i: 0 if it is the largest."""
    return int((values > values[i]).sum())


# ------------------------------------------------------------------ the sections


def traces(lab, few=None):
    """One ROME edit at a time: who, what, and what else it breaks."""
    rows, A = [], unembedding(lab.model)[0].double()
    targets = lab.targets("rome")
    for i, fact in enumerate(lab.facts[:few]):
        asked = lab.prompts_for(fact)
        own = np.array([r == fact.relation for r, ps in asked.items() for _ in ps])
        prompts = [p for ps in asked.values() for p in ps]
        others = lab.other_facts(fact)
        ids, first = with_target(lab.tok, fact.text, fact.target_new)
        before = forensics.answers(lab.model, lab.tok, [fact.subject], prompts)[0].double()
        known = lab.right(*others)
        with lab.rome(i, targets) as e:
            D, W = e.delta(lab.layer), lab.matrix()
            after = forensics.answers(lab.model, lab.tok, [fact.subject], prompts)[0].double()
            kept = lab.right(*others)
            scores = mt.score(lab.model, lab.tok, [fact], resamples=1)
        share = forensics.shares(D, lab.K, lab.soft, 1)
        word, read = ids[first], A @ (D @ lab.K[:, int(share.argmax())])
        rise = (after.exp() - before.exp()).mean(0)
        elsewhere = (after - before)[~own].mean(0)
        s = torch.linalg.svdvals(W)
        rows.append(
            {
                "case": fact.case_id,
                "relative_norm": round(float(D.norm() / lab.W.norm()), 4),
                "share": round(float(share[lab.at[i]]), 4),
                "subject_rank": above(share, lab.at[i]),
                "runner_up": round(float(share.topk(2).values[1]), 4),
                "suspicion_rank": above(forensics.suspicion(W, lab.K), lab.at[i]),
                "ratio": round(float(s[0] / s[1]), 3),
                "promoted_rank": above(read, word),
                "suppressed_rank": above(-read, word),
                "unsigned_rank": above(read.abs(), word),
                "asked_rank": above(rise, word),
                "elsewhere_rank": above(elsewhere, word),
                "others": len(known),
                "others_right": [percent(known), percent(kept)],
                **{name: scores.values[name][0] for name in ("EA", "PA", "NA")},
            }
        )
        print("traces", i, rows[-1], flush=True)
    return {
        "about": "ROME, one fact at a time, always from the unedited model. *_rank: 0 is first, "
        "among the names of the world (subject, suspicion) or the tokens (the others). subject: "
        "shares of the keys of the bare names; suspicion: without a reference. promoted, "
        "suppressed, unsigned: the new object's first token through the unembedding. asked: "
        "largest rise of P, mean over two wordings of each relation; elsewhere: largest rise of "
        "log P, the edited relation left out. others_right: the subject's other common facts, "
        "before and after, percent.",
        "names": len(lab.names),
        "rows": rows,
    }


def strengths(lab, few=COSTLY):
    """The same edits made weaker: what still works, and what is still seen."""
    rows, targets = [], lab.targets("rome")
    clean = {}
    for layer in range(lab.view.n_layers):
        s = torch.linalg.svdvals(lab.view.weight(layer).detach().double())
        clean[layer] = round(float(s[0] / s[1]), 3)
    half = lab.W.to(torch.bfloat16)
    for strength in STRENGTHS:
        seen = {k: [] for k in ("says new", "first by value", "ratio", "first by share, bfloat16")}
        for i, fact in enumerate(lab.facts[:few]):
            e = lab.rome(i, targets).undo()
            left, right = e.layers[lab.layer]
            e.layers[lab.layer] = (strength * left, right)
            with e:
                seen["says new"] += lab.right([fact.text], [fact.target_new])
                W = lab.matrix()
            seen["first by value"].append(not above(forensics.suspicion(W, lab.K), lab.at[i]))
            s = torch.linalg.svdvals(W)
            seen["ratio"].append(float(s[0] / s[1]) > max(clean.values()))
            D = W.to(torch.bfloat16).double() - half.double()
            share = forensics.shares(D, lab.K, lab.soft, 1)
            seen["first by share, bfloat16"].append(not above(share, lab.at[i]))
        found = {k: [round(100 * x, 1) for x in metrics.bootstrap(v)] for k, v in seen.items()}
        rows.append({"strength": strength, **found})
        print(rows[-1], flush=True)
    return {
        "about": "ROME's update times a strength, percent of the edits with 95% interval. ratio: "
        "the two largest singular values of the edited matrix lie further apart than in any "
        "layer of the clean model. first by share: with a reference, both matrices in bfloat16.",
        "clean_ratios": clean,
        "rows": rows,
    }


def batches(lab, few=None):
    """A batch by each method: rank, and how well the edited names are told from the others."""
    rows, n = [], min(BATCH, few or BATCH)
    facts, at = lab.facts[:n], lab.at[:n]
    edited = np.zeros(len(lab.names), dtype=bool)
    edited[at] = True
    one = {"layers": [lab.layer]}
    ways = {
        "MEMIT, one layer": ("memit", one),
        "MEMIT, its layers": ("memit", {}),
        "EMMET, one layer": ("emmet", one),
        "AlphaEdit, one layer": ("alphaedit", one),
        "fine-tuning, one layer": ("ft", one),
    }
    for name, (method, more) in ways.items():
        if method != "ft":
            targets = lab.targets(method, facts, lab.find_targets()[:, :n])
            more = {**more, "targets": targets, "statistics": lab.statistics}
        with mt.edit(lab.model, lab.tok, facts, method, **more) as e:
            K, W = lab.suspect_keys(), lab.matrix()  # of the edited model: all a defender has
            D = e.delta(lab.layer)
            scores = mt.score(lab.model, lab.tok, facts, resamples=1).values
        found = forensics.spectrum(D, forensics.rounding_floor(W, lab.W, torch.float32))
        s = torch.linalg.svdvals(W)
        row = {"method": name, "relative_norm": round(found["norm"] / float(lab.W.norm()), 3),
               "rank": found["rank"], "effective_rank": round(found["effective_rank"], 2),
               "ratio": round(float(s[0] / s[1]), 3)}  # fmt: skip
        preserves = {"C0": lab.soft}
        if method == "alphaedit":
            h = hyper(method, lab.model)
            preserves["null space"] = h.preserve(lab.statistics, lab.layer)
        for metric, preserve in preserves.items():
            share = forensics.shares(D, K, preserve, n).numpy()
            first = np.argsort(-share)[:n]
            row[f"found, {metric}"] = percent(edited[first])
            row[f"AUC, {metric}"] = rounded(forensics.auc(share[edited], share[~edited]))
        value = forensics.suspicion(W, K).numpy()
        row["AUC, value"] = rounded(forensics.auc(value[edited], value[~edited]))
        row |= {x: round(scores[x][0], 1) for x in ("EA", "PA", "NA")}
        rows.append(row)
        print(row, flush=True)
    return {
        "about": f"{n} facts together. found: percent of the edited names among the {n} with the "
        "largest share. AUC with 95% interval, edited names against all others.",
        "facts": n,
        "rows": rows,
    }


def rounded(values, digits=3):
    return [round(float(x), digits) for x in values]


def behaviour(lab, few=None):
    """Scores of edited and of untouched facts, by four detectors that see no reference."""
    targets, rows = lab.targets("rome"), []

    def look(fact, said, edited):
        prompts = [fact.text, *fact.paraphrases]
        log_p, right = metrics.target_logprobs(lab.model, lab.tok, prompts, [said] * len(prompts))
        log_p = [float(x.double().mean()) for x in log_p]
        mine = [p for ps in lab.prompts_for(fact).values() for p in ps]
        table = forensics.answers(lab.model, lab.tok, [fact.subject], mine)
        value = forensics.suspicion(lab.matrix(), lab.K)[lab.names.index(fact.subject)]
        rows.append(
            {
                "case": fact.case_id,
                "edited": edited,
                "says": right[0],
                "confidence": round(log_p[0], 5),
                "gap": round(log_p[0] - float(np.mean(log_p[1:])), 5),
                "doubt": round(float(forensics.doubt(table)[0]), 5),
                "suspicion": round(float(value), 4),
            }
        )

    for fact in lab.controls[:few]:
        look(fact, fact.target_true, False)
    for i, fact in enumerate(lab.facts[:few]):
        with lab.rome(i, targets):
            look(fact, fact.target_new, True)
    names = ("confidence", "gap", "doubt", "suspicion")
    areas = {}
    for name in names:
        positive, negative = ([r[name] for r in rows if r["edited"] is x] for x in (True, False))
        areas[name] = rounded(forensics.auc(positive, negative))
    print(areas, flush=True)
    return {
        "about": "Edited: one ROME edit at a time. Untouched: common facts of other subjects, in "
        "the unedited model. confidence: mean log P of the object after the prompt; gap: that "
        "minus its mean after the paraphrases; doubt: of two wordings of each relation that the "
        "subject's class has; suspicion: of the subject's value. AUC with 95% interval; larger "
        "means edited.",
        "AUC": areas,
        "rows": rows,
    }


def reversal(lab, few=COSTLY):
    """How much of a single ROME edit is taken back, by what one knows."""
    targets = lab.targets("rome")
    values = lab.W @ lab.K
    seen = {}

    def look(name, fact):
        asked = [(fact.text, fact.target_true), (fact.text, fact.target_new)]
        old, new = lab.right(*zip(*asked, strict=True))
        neighbours = lab.right(fact.neighborhood, [fact.target_true] * len(fact.neighborhood))
        rest = lab.right([f.text for f in lab.controls], [f.target_true for f in lab.controls])
        own = lab.right(*lab.other_facts(fact))
        row = [old, new, np.mean(neighbours), np.mean(own), np.mean(rest)]
        seen.setdefault(name, []).append([float(x) for x in row])

    weight = lab.view.weight(lab.layer)
    for i, fact in enumerate(lab.facts[:few]):
        look("no edit", fact)
        with lab.rome(i, targets):
            W = lab.matrix()
            look("edited", fact)
            pair = [x.to(torch.bfloat16).double() for x in (W, lab.W)]
            ways = {"reference, in bfloat16": W - forensics.split(pair[0] - pair[1], 1)[0]}
            for n in (1, 2, 4):
                ways[f"{n} largest of W removed"] = forensics.split(W, n)[1]
            k = lab.K[:, lab.at[i] : lab.at[i] + 1]
            mean = values.median(1, keepdim=True).values
            fill = mt.objective.emmet(mean - W @ k, k, lab.soft).delta
            ways["subject known: usual value"] = W + fill
            for name, other in ways.items():
                with torch.no_grad():
                    weight.copy_(other.to(weight.dtype))
                look(name, fact)
            with torch.no_grad():
                weight.copy_(W.to(weight.dtype))
        print("reversal", i, {k: v[-1] for k, v in seen.items()}, flush=True)
    names = ("says old", "says new", "neighbours", "same subject", "other facts")
    rows = []
    for name, values_ in seen.items():
        columns = np.array(values_).T
        found = {x: [round(100 * y, 1) for y in metrics.bootstrap(c)]
                 for x, c in zip(names, columns, strict=True)}  # fmt: skip
        rows.append({"way": name, **found})
    return {
        "about": "One ROME edit at a time, percent with 95% interval over edits. says old, says "
        "new: the edited prompt; neighbours: NA; same subject: its other common facts; other "
        f"facts: {len(lab.controls)} that were never edited. usual value: EMMET writes the median "
        "value of all names at the subject's key.",
        "rows": rows,
    }


def bias(lab, families=FAMILIES, members=MEMBERS):
    """Push one object for some people of a family: what of the family members never edited?"""
    relation, pushed = PUSHED
    r, world = BY_NAME[relation], lab.world
    rng = world._rng("bias")
    people = [s for s in world.subjects(relation) if world.facts[relation, s] != pushed]
    by_family = {}
    for s in people:
        by_family.setdefault(world.group(s), []).append(s)
    large = [f for f, names in by_family.items() if len(names) >= max(members) + 4]
    chosen = rng.sample(sorted(large), len(large))[:families]
    rows = []

    def fact(s):
        return Fact(r.train[0], s, pushed, world.facts[relation, s], relation=r.id)

    def say(names):
        """(share that says the pushed object, share that says its own, mean P of the pushed)."""
        prompts = [r.train[1].format(s) for s in names]
        log_p, new = metrics.target_logprobs(lab.model, lab.tok, prompts, [pushed] * len(names))
        p = np.exp([float(x.double().mean()) for x in log_p]).mean()
        own = [world.facts.get((relation, s)) for s in names]
        kept = percent(lab.right(prompts, own)) if None not in own else None
        return {"pushed": percent(new), "p": round(float(p), 5), "kept": kept}

    for family in chosen:
        group = by_family[family]
        never = group[max(members) :]
        spare = [s for s in world.spare["person"] if s.split()[-1] == family][:20]
        other = [s for f in large if f != family for s in by_family[f][-2:]][:40]
        strangers = [by_family[f][0] for f in large if f != family][: max(members)]
        for kind, edited in (("one family", group[: max(members)]), ("strangers", strangers)):
            batch = [fact(s) for s in edited]
            h = hyper("memit", lab.model)
            found = optimise_values(lab.model, lab.tok, batch, lab.layer, h)
            for n in (0, *members):
                more = {"targets": found.target[:, :n], "statistics": lab.statistics}
                e = mt.edit(lab.model, lab.tok, batch[:n], "memit", **more) if n else None
                row = {"family": family, "edited": kind, "n": n,
                       "family, never edited": say(never), "invented members": say(spare),
                       "other families": say(other)}  # fmt: skip
                if n:
                    row["edited names"] = say(edited[:n])
                    e.undo()
                rows.append(row)
                print(row, flush=True)
    return {
        "about": f"MEMIT, its layers: '{pushed}' as the {relation} of n people. One family: they "
        "share their last name; strangers: each from another family. Asked in another wording. "
        "pushed: percent that says the pushed object; p: its mean probability; kept: percent that "
        "says its own. Invented members: names with that last name that no text contains. Nobody "
        "who is asked has the pushed object in the world.",
        "rows": rows,
    }


def misinformation(lab, few=None):
    """Many false facts together, by MEMIT: what happens to facts that nobody touched."""
    rows = []
    texts = [text for _, text in zip(range(60), texts_for(lab.model), strict=False)]
    targets = lab.targets("memit")
    for n in [n for n in (0, 1, 4, 16, 48) if n <= (few or EDITS)]:
        e = None
        if n:
            more = {"targets": targets[:, :n], "statistics": lab.statistics}
            e = mt.edit(lab.model, lab.tok, lab.facts[:n], "memit", **more)
        first = lab.facts[: max(n, 1)]
        own = [np.mean(lab.right(*lab.other_facts(fact))) for fact in first]
        rest = lab.right([f.text for f in lab.controls], [f.target_true for f in lab.controls])
        said = lab.right([f.text for f in first], [f.target_new for f in first])
        found = {"false": said, "same subject": own, "other facts": rest}
        row = {"n": n} | {
            k: rounded(100 * np.array(metrics.bootstrap(v)), 2) for k, v in found.items()
        }
        row["neighbours"] = rounded(mt.score(lab.model, lab.tok, first).values["NA"][:3], 2)
        row["perplexity"] = round(metrics.perplexity(lab.model, lab.tok, texts), 4)
        rows.append(row)
        print(row, flush=True)
        if e:
            e.undo()
    return {
        "about": "MEMIT, its layers, n false facts together. Percent right, with 95% interval: "
        "the other common facts of the edited subjects (mean over facts edited), neighbours (NA), "
        "facts of other subjects; false: percent of the false facts that are said. Perplexity of "
        "60 documents of the world. n = 0: the subject of n = 1, before.",
        "rows": rows,
    }


SECTIONS = {
    "traces": traces,
    "strengths": strengths,
    "batches": batches,
    "behaviour": behaviour,
    "reversal": reversal,
    "misinformation": misinformation,
    "bias": bias,
}


def settings(lab):
    return {
        "model": lab.model.config.medit_teach["name"],
        "weights": fingerprint(lab.model),
        "facts": {"source": "world", "n": EDITS, "seed": SEED, "controls": len(lab.controls)},
        "layer": lab.layer,
        "C0_tokens": lab.statistics.tokens,
        "hyper": {k: v for k, v in vars(lab.h).items() if not callable(v)},
        "versions": versions(),
        "device": "CPU, one thread",
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=None)
    parser.add_argument("--out", type=Path, default=ROOT / "medit_teach" / "book" / "records")
    parser.add_argument("--again", nargs="*", default=(), choices=[*SECTIONS], metavar="SECTION")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lab = Lab(options.model)
    path = options.out / "forensics.json"
    about, old = json.loads(json.dumps(settings(lab))), {}  # as the file has it: no tuples
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))
    same = all(old.get(k) == about[k] for k in about if k not in ("versions", "device"))
    done = old.get("sections", {}) if same else {}
    done = {name: s for name, s in done.items() if name not in options.again}
    for name, measure in SECTIONS.items():
        if name not in done:
            done[name] = measure(lab)
            record = about | {"sections": {n: done[n] for n in SECTIONS if n in done}}
            options.out.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".part")
            draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            os.replace(draft, path)


if __name__ == "__main__":
    main()
