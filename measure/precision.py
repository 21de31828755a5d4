"""Measure what half precision costs: one MEMIT edit with the weights in each of three types.

    python -m measure.precision [--model NAME] [--out FILE]

Writes precision.json and prints its rows. The solves are in float64 in all of them; what differs is
how the model computes and how its weights are stored. Half a minute on a CPU.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import medit_teach as mt
from medit_teach.datasets import texts_for
from medit_teach.hyper import hyper
from medit_teach.models import View, fingerprint
from medit_teach.statistics import write_whole

from .batches import RECORDS, about

FACTS = {"n": 16, "seed": 2}
TOKENS = 20_000  # for C0
TYPES = ("float32", "bfloat16", "float16")
SCORES = ("ES", "PS", "NS", "EM", "NM")


def edited(name, kind, draw, tokens):
    """One edit of the model with its weights in the type `kind`: tensors, scores, undone or not."""
    model, tok = mt.load(name, dtype=getattr(torch, kind))
    before = fingerprint(model)
    h, facts = hyper("memit", model), mt.facts(model=model, **draw)
    statistics = mt.second_moment(model, tok, texts_for(model), h.layers, tokens)
    view = View(model)
    W = {layer: view.weight(layer).detach().double().clone() for layer in h.layers}
    with mt.edit(model, tok, facts, h, statistics=statistics) as e:
        scores = mt.score(model, tok, facts)
        Delta = {layer: e.delta(layer) for layer in h.layers}
        stored = {x: view.weight(x).detach().double() - W[x] - Delta[x] for x in h.layers}
    C0 = {layer: statistics[layer] for layer in h.layers}
    tensors = {"keys": e.keys, "C0": C0, "Delta": Delta, "stored": stored}
    settings = about(model, facts, h, statistics.tokens) | {"facts": draw}
    undone = fingerprint(model) == before
    return tensors, {k: round(scores.values[k][0], 2) for k in SCORES}, undone, settings


def measure(name=None, kinds=TYPES, draw=FACTS, tokens=TOKENS):
    """(settings, {type: row}): relative errors against float32, and scores. draw: which facts."""
    exact, scores, undone, settings = edited(name, "float32", draw, tokens)
    rows = {}
    for kind in kinds:
        if kind == "float32":
            found = exact
        else:
            found, scores, undone, _ = edited(name, kind, draw, tokens)
        row = {}
        for part in ("keys", "C0", "Delta"):
            row[part] = max(_far(found[part][x], exact[part][x]) for x in found[part])
        row["stored"] = max(
            float(found["stored"][x].norm() / found["Delta"][x].norm()) for x in found["stored"]
        )
        row = {part: float(f"{value:.3g}") for part, value in row.items()}
        rows[kind] = row | scores | {"undone": undone}
        print(kind, rows[kind], flush=True)
    return settings, rows


def _far(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=None)
    parser.add_argument("--out", type=Path, default=RECORDS / "precision.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings, rows = measure(options.model)
    text = json.dumps(settings | {"types": rows}, indent=1) + "\n"
    write_whole(options.out, lambda draft: Path(draft).write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
