"""Measure what the chapters on EMMET and on edit distribution draw from records.

    python -m measure.batches [--model NAME] [--largest 700] [--out FOLDER]

Writes emmet-batches.json (one layer; batches of growing size; several ridges) and
distribution.json (all layers of the preset; rules x solvers for 256 facts). The targets are
optimised once and shared, since they depend neither on the batch nor on the solver. Minutes on a
CPU; every number comes with its settings.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import medit_teach as mt
from medit_teach import metrics
from medit_teach.datasets import texts_for
from medit_teach.hyper import hyper
from medit_teach.keys import at_subject
from medit_teach.models import fingerprint
from medit_teach.objective import preservation
from medit_teach.records import versions
from medit_teach.values import optimise_values

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "medit_teach" / "book" / "records"
SIZES = (1, 4, 16, 64, 256, 512, 700)
SCORED = 128  # facts of a batch that are scored (they are in random order)
RIDGES = ("least", 300.0, 2000.0)
RULES = ("spread", "last", "even", "root")
SOLVERS = ("memit", "emmet", "alphaedit")
KEPT = ("S", "ES", "PS", "NS", "NM", "EA", "PA", "NA")


def about(model, facts, h, tokens):
    """What a record says of how it was made."""
    return {
        "model": model.config.medit_teach["name"] if mt.is_embedded(model) else "other",
        "weights": fingerprint(model),
        "facts": {"source": "world", "n": len(facts), "seed": 1, "scored": SCORED},
        "C0_tokens": tokens,
        "hyper": {k: v for k, v in vars(h).items() if not callable(v)},
        "protocol": metrics.PROTOCOL,
        "versions": versions(),
        "device": "CPU, one thread",
    }


def measure(model, tok, facts, texts):
    """Scores of the first facts now: {name: [value, low, high]}, and the perplexity of `texts`."""
    values = mt.score(model, tok, facts[:SCORED]).values
    found = {name: [round(x, 2) for x in values[name][:3]] for name in KEPT}
    return found | {"perplexity": round(metrics.perplexity(model, tok, texts), 4)}


def batches(model, tok, facts, targets, layer, statistics, texts, sizes):
    """Rows for emmet-batches.json: one layer, ridge by size.

    unwritten: what the mean keys miss of the residual. bare: what the bare prompts miss of it.
    """
    rows, h = [], hyper("emmet", model, layers=[layer])
    site = ("block", layer)

    def state(n, average):
        return at_subject(model, tok, facts[:n], [site], h.contexts, average)[site]

    first = min(SCORED, sizes[-1])
    start, wanted = state(first, "bare"), targets[:, :first] - state(first, h.start_average)
    for n in sizes:
        for ridge in RIDGES:
            chosen = {"statistics": statistics, "targets": targets[:, :n]}
            more = {"layers": [layer], "ridge": ridge}
            with mt.edit(model, tok, facts[:n], "emmet", **chosen, **more) as e:
                found = measure(model, tok, facts[:n], texts)
                m = min(n, first)
                missed = wanted[:, :m] - (state(m, "bare") - start[:, :m])
            d = e.diagnostics[layer]
            keep = ("ridge", "condition_gram", "relative_norm", "unwritten")
            d = {name: float(f"{d[name]:.6g}") for name in keep}
            d["bare"] = float(f"{missed.norm() / wanted[:, :m].norm():.4g}")
            rows.append({"batch": n, "asked": ridge, **d, **found})
            print(rows[-1], flush=True)
    return rows


def distributions(model, tok, facts, targets, layers, statistics, texts, n):
    """Rows for distribution.json: rules x solvers, for one batch of n facts."""
    rows = []
    for rule in RULES:
        for solver in SOLVERS:
            chosen = {"statistics": statistics, "targets": targets[:, :n]}
            more = {"layers": layers, "distribution": rule}
            with mt.edit(model, tok, facts[:n], solver, **chosen, **more) as e:
                found = measure(model, tok, facts[:n], texts)
            norm = sum(d["relative_norm"] ** 2 for d in e.diagnostics.values()) ** 0.5
            cost = sum(float(preservation(e.delta(x), statistics[x])) for x in e.layers)
            row = {"batch": n, "rule": rule, "solver": solver}
            rows.append(row | {"norm": round(norm, 5), "cost": float(f"{cost:.6g}")} | found)
            print(rows[-1], flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=None)
    parser.add_argument("--largest", type=int, default=max(SIZES))
    parser.add_argument("--out", type=Path, default=ROOT / "medit_teach" / "book" / "records")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tok = mt.load(options.model)
    sizes = [n for n in SIZES if n <= options.largest]
    facts = mt.facts(model=model, n=sizes[-1], seed=1)
    layers, tokens = hyper("memit", model).layers, 50_000
    statistics = mt.statistics_for(model, tok, layers, tokens=tokens)
    texts = [text for _, text in zip(range(60), texts_for(model), strict=False)]
    h = hyper("emmet", model, layers=[layers[-1]])
    targets = optimise_values(model, tok, facts, layers[-1], h).target
    settings = about(model, facts, h, tokens) | {"before": measure(model, tok, facts, texts)}
    options.out.mkdir(parents=True, exist_ok=True)

    def write(name, more, rows):
        path = options.out / name
        path.write_text(
            json.dumps(settings | more | {"rows": rows}, indent=1) + "\n", encoding="utf-8"
        )

    call = (model, tok, facts, targets)
    rows = batches(*call, layers[-1], statistics, texts, sizes)
    write("emmet-batches.json", {"layer": layers[-1]}, rows)
    some = min(256, sizes[-1])
    rows = distributions(*call, layers, statistics, texts, some)
    solvers = {name: {k: v for k, v in vars(hyper(name, model)).items()} for name in SOLVERS}
    write("distribution.json", {"layers": list(layers), "solvers": solvers}, rows)


if __name__ == "__main__":
    main()
