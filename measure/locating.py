"""Measure what the chapter on locating draws from a record: tracing and editing, layer by layer.

    python -m measure.locating [--model NAME] [--facts 40] [--out FOLDER]
    python -m measure.locating --model tiny-gptj-plain --file locating-control.json

Writes locating.json, or the file that is named. For each fact that the model knows: the indirect
effects of causal tracing at the subject's last token in every layer, and the scores of a ROME edit
of that one fact in every layer. Minutes on a CPU.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import medit_teach as mt
from medit_teach.hyper import hyper
from medit_teach.metrics import target_logprobs
from medit_teach.models import View, fingerprint
from medit_teach.records import versions
from medit_teach.study import locate
from medit_teach.values import optimise_values

ROOT = Path(__file__).resolve().parent.parent
SEED, SAMPLES, TOKENS, SHRINK = 1, 5, 20_000, 0.01
WINDOWS = {"state": 1, "mlp": 3}


def known(model, tok, facts):
    """The facts whose target_true the model says."""
    prompts, answers = [f.text for f in facts], [f.target_true for f in facts]
    right = target_logprobs(model, tok, prompts, answers)[1]
    return [f for f, yes in zip(facts, right, strict=True) if yes]


def preset(model):
    """The hyper-parameters of ROME for this model, but for the layer, as JSON can hold them."""
    fields = asdict(hyper("rome", model))
    del fields["layers"]
    return json.loads(json.dumps(fields))


def p_new(model, tok, fact):
    """P(target_new): exp of the mean log-probability of its tokens."""
    return float(target_logprobs(model, tok, [fact.text], [fact.target_new])[0][0].mean().exp())


def trace(model, tok, facts):
    """{kind: (facts, layers)}: indirect effects at the subject's last token."""
    place, out = locate.PLACES.index("last subject token"), {}
    for kind, window in WINDOWS.items():
        found = locate.trace_many(model, tok, facts, kind, window=window, samples=SAMPLES)
        out[kind] = found["per_fact"][:, place] - found["corrupted"][:, None]
    return out


def sweep(model, tok, facts, statistics, layers):
    """{score: (facts, layers)}: each fact edited alone, by ROME, at each layer."""
    out = {name: np.empty((len(facts), len(layers))) for name in ("rewrite", "ES", "PS", "NS")}
    for column, layer in enumerate(layers):
        method = hyper("rome", model, layers=[layer])
        targets = optimise_values(model, tok, facts, layer, method).target
        for i, fact in enumerate(facts):
            before = p_new(model, tok, fact)
            with mt.edit(model, tok, fact, method, statistics=statistics, targets=targets[:, [i]]):
                out["rewrite"][i, column] = (p_new(model, tok, fact) - before) / (1 - before)
                scores = mt.score(model, tok, fact, resamples=2)
            for name in ("ES", "PS", "NS"):
                out[name][i, column] = getattr(scores, name)
        print(f"layer {layer}: rewrite score {out['rewrite'][:, column].mean():.2f}", flush=True)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=None)
    parser.add_argument("--facts", type=int, default=40, help="facts drawn; those known are used")
    parser.add_argument("--file", default="locating.json", help="name of the record")
    parser.add_argument("--out", type=Path, default=ROOT / "medit_teach" / "book" / "records")
    options = parser.parse_args()
    model, tok = mt.load(options.model)
    layers = list(range(View(model).n_layers))
    facts = known(model, tok, mt.facts(model=model, n=options.facts, seed=SEED))
    effects = trace(model, tok, facts)
    statistics = mt.statistics_for(model, tok, layers, tokens=TOKENS).shrunk(SHRINK)
    scores = sweep(model, tok, facts, statistics, layers)
    rounded = {name: np.round(x, 4).tolist() for name, x in scores.items()}
    rounded |= {f"tracing_{name}": np.round(x, 4).tolist() for name, x in effects.items()}
    record = {
        "model": options.model or "tiny-gptj",
        "fingerprint": fingerprint(model),
        "facts": [f.text for f in facts],
        "drawn": {"n": options.facts, "seed": SEED},
        "method": "rome, one fact at a time, one layer at a time; the model's preset otherwise",
        "hyper": preset(model),
        "C0": {"tokens": TOKENS, "shrink": SHRINK},
        "tracing": {"windows": WINDOWS, "samples": SAMPLES, "noise": 3.0, "seed": 0},
        "versions": versions(),
        "device": "cpu",
        "layers": layers,
        "values": rounded,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / options.file).write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
