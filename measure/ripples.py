"""Measure what the chapter on ripples draws from records: what follows from an edit, and what not.

    python -m measure.ripples [--relations NAME ...] [--out FILE]

Writes ripples.jsonl: a first line of settings, then one line a relation, with the answers to every
question under every method. A relation that is in the file is not measured again. A few minutes on
a CPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import medit_teach as mt
from medit_teach.fact import Fact
from medit_teach.hyper import hyper
from medit_teach.methods.in_context import statement
from medit_teach.study import experiments, ripples
from medit_teach.values import optimise_values
from medit_teach.world import BY_NAME, World

from .batches import ROOT, about
from .sequence import read, store

# relation: (edits drawn at random, edits of subjects for whom the model composes a fact)
EDITS = {
    "chair": (32, 0), "partner": (24, 0), "employer": (30, 30), "headquarters": (24, 0),
    "country": (16, 0),
}  # fmt: skip
ROME = {"site": "block", "clamp": 3.0, "average": "half"}  # its solve, with MEMIT's targets
FT = {"contexts": ("",), "lr": 3e-3}  # all facts right within its 50 steps
FREE = 40  # tokens of free text


def fact_of(world, relation, subject, new=None):
    """The world's record for (relation, subject) as a Fact; new: another new object."""
    record = world.record(relation, subject)
    if new is not None:
        record["requested_rewrite"]["target_new"] = {"str": new}
    return Fact.from_record(record)


def composers(model, tok, world, relation):
    """Editable subjects for whom an answer that no text states is right: composed, or guessed."""
    asked = [
        q
        for q in world.questions("two-hop")
        if q.path[0] == relation and not q.stated and q.subject in world.editable
    ]
    pairs = [(q.prompts[0], q.answer) for q in asked]
    said = mt.metrics.target_logprobs(model, tok, *zip(*pairs, strict=True))[1]
    return list(dict.fromkeys(q.subject for q, ok in zip(asked, said, strict=True) if ok))


def chosen(model, tok, world, relation):
    """The facts to edit, of different subjects; new objects differ too where they must."""
    plain, composing = EDITS[relation]
    subjects = world.subjects(relation)
    if relation == "headquarters":  # companies that employ somebody
        subjects = [s for s in subjects if world.by_object.get(("employer", s))]
    if relation == "country":  # cities that companies are in
        subjects = [s for s in subjects if world.by_object.get(("headquarters", s))]
    rng = world._rng("ripples", relation)
    picked = rng.sample(subjects, plain)
    if composing:
        rest = [s for s in composers(model, tok, world, relation) if s not in picked]
        picked += rng.sample([s for s in rest if s in set(subjects)], composing)
    return [fact_of(world, relation, s) for s in picked]


def mirrored(world, facts):
    """For a relation with an inverse: the same facts told the other way round."""
    out = []
    for fact in facts:
        relation, subject, new = world.as_edit(fact)
        r = BY_NAME[relation]
        back = relation if r.symmetric else r.inverse
        prompt = BY_NAME[back].train[0]
        old = world.facts.get((back, new))
        out.append(Fact(prompt, new, subject, old, relation=BY_NAME[back].id))
    return out


def told(facts):
    """front(question) for answers(): the fact of the question's edit, as a sentence."""
    return lambda q: statement(facts[q.edit])


def told_links(world, facts):
    """The fact, and behind it the other links of the path, all as sentences."""

    def front(q):
        relation, subject, new = world.as_edit(facts[q.edit])
        after = world.changed((relation, subject, new))
        out, at = [], q.subject
        for step in q.path:
            to = after.get((step, at))
            if to is None:
                break
            if (step, at) != (relation, subject):
                out.append(f"{BY_NAME[step].train[0].format(at)} {to}.")
            at = to
        return " ".join([statement(facts[q.edit]), *(out if len(q.path) > 1 else ())])

    return front


def measure(model, tok, world, relation, statistics, facts=None, methods=None):
    """The record of one relation: its questions, and the answers under every method."""
    facts = facts or chosen(model, tok, world, relation)
    asked = ripples.questions(world, facts)
    h = hyper("memit", model)
    targets = optimise_values(model, tok, facts, h.layers[-1], h).target
    back = (
        mirrored(world, facts) if BY_NAME[relation].symmetric or BY_NAME[relation].inverse else []
    )
    shared = {"statistics": statistics, "targets": targets}
    runs = {
        "unedited": None,
        "ROME": lambda: mt.edit(model, tok, facts, "rome", **shared, **ROME),
        "MEMIT": lambda: mt.edit(model, tok, facts, "memit", **shared),
        "FT": lambda: mt.edit(model, tok, facts, "ft", **FT),
        "prompt": told(facts),
        "prompt with links": told_links(world, facts),
    }
    if back:
        runs["MEMIT both ways"] = lambda: mt.edit(
            model, tok, facts + back, "memit", statistics=statistics
        )
    record = {
        "relation": relation, "facts": len(facts), "composing from": EDITS[relation][0],
        "edits": [[f.subject, f.target_true, f.target_new] for f in facts],
        "edit": [q.edit for q in asked], "kind": [q.kind for q in asked],
        "path": ["/".join(q.path) for q in asked], "stated": [int(q.stated) for q in asked],
        "moves": [int(q.old != q.new) + 2 * (q.new is None) + 4 * (q.old is None) for q in asked],
        "says": {}, "prefers": {}, "free": {},
    }  # fmt: skip
    for name, make in runs.items():
        if methods and name not in methods:
            continue
        if make is None or name.startswith("prompt"):
            said, prefers = ripples.answers(model, tok, asked, make)
        else:
            with make():
                said, prefers = ripples.answers(model, tok, asked)
                if name == "MEMIT" and relation in ("employer", "chair"):
                    record["free"][name] = free(model, tok, facts)
        if name in ("unedited", "prompt") and relation in ("employer", "chair"):
            record["free"][name] = free(model, tok, facts, make and statement)
        record["says"][name] = said
        record["prefers"][name] = "".join("-" if x != x else str(int(x)) for x in prefers)
    return record


def free(model, tok, facts, front=None):
    """What free text about each subject mentions: "n" the new object, "o" the old, "b", "-"."""
    prompts = [(f"{front(f)} " if front else "") + f.generation[0] for f in facts]
    out = ""
    for fact, prompt, text in zip(
        facts, prompts, mt.metrics.generate(model, tok, prompts, FREE), strict=True
    ):
        text = text[len(prompt) :]
        new, old = fact.target_new in text, fact.target_true in text
        out += "b" if new and old else "n" if new else "o" if old else "-"
    return out


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--relations", nargs="*", default=list(EDITS), choices=list(EDITS))
    parser.add_argument("--out", type=Path, default=ROOT / "medit_teach/book/records/ripples.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tok = mt.load("tiny-gptj")
    world = World(**model.config.medit_teach["world"])
    h = hyper("memit", model)
    statistics = mt.statistics_for(model, tok, h.layers)
    settings = about(model, [], h, statistics.tokens) | {
        "facts": EDITS, "ROME": ROME, "free tokens": FREE,
        "FT": {k: v for k, v in vars(hyper("ft", model, **FT)).items()},
    }  # fmt: skip
    with experiments.writing(options.out, frozenset()):
        known, rows = read(options.out)
        if known and known["weights"] != settings["weights"]:
            parser.error(f"{options.out} was measured on another model; remove it or give --out")
        for relation in options.relations:
            if any(row["relation"] == relation for row in rows):
                continue
            rows.append(measure(model, tok, world, relation, statistics))
            store(options.out, settings, rows)
            print(f"{relation}: {len(rows[-1]['kind'])} questions", flush=True)


if __name__ == "__main__":
    main()
