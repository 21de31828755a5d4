"""Measure what the chapter on keys, values and C0 draws from records.

    python -m measure.statistics [--model NAME] [--facts 32] [--out FOLDER]

Writes c0-tokens.json (how an edit fares whose C0 comes from few tokens, with and without
shrinkage) and values-terms.json (what each term of the search for the target does). One fact is
edited at a time, and undone. Minutes on a CPU.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

import medit_teach as mt
from medit_teach import metrics, objective
from medit_teach.datasets import texts_for
from medit_teach.fact import encode, pad
from medit_teach.hooks import watch
from medit_teach.hyper import hyper
from medit_teach.keys import keys
from medit_teach.models import View, card, fingerprint
from medit_teach.records import versions
from medit_teach.statistics import Statistics
from medit_teach.values import optimise_values
from medit_teach.world import BY_NAME, Corpus, World

ROOT = Path(__file__).resolve().parent.parent
TOKENS = (0.5, 1, 1.25, 1.5, 2, 3, 4, 8, 16, 32, 64)  # in multiples of d_in
SCORED = (0.5, 1, 1.25, 1.5, 2, 4, 16, 64)  # those at which edits are made and scored
ALPHAS = (0.0, 0.01, 0.1)
REFERENCE = 130  # tokens of the reference, in multiples of d_in
KEPT = ("ES", "PS", "NS", "EM", "PM", "NM")
FIRST = 4  # facts whose numbers are kept one by one, for the test
VARIANTS = {
    "all terms": {},
    "without the KL term": {"kl_factor": 0.0},
    "KL 50 times as strong": {"kl_factor": 3.0},
    "without the decay term": {"weight_decay": 0.0},
    "... and no early stop": {"weight_decay": 0.0, "early_stop": 0.0},
    "a tight clamp, 2": {"clamp": 2.0},
    "bare prompt only": {"contexts": ("",)},
    "5 steps": {"steps": 5},
}


def token_keys(model, tok, texts, layer, tokens):
    """K0 (d_in, tokens) float32: the keys at `layer` of the first tokens of texts."""
    view, parts, left = View(model), [], tokens
    for text in texts:
        ids = encode(tok, text)[0][:left]
        with torch.no_grad(), watch({"down": view.down(layer)}, stop=True) as seen:
            model(**pad([ids], tok, view.device), use_cache=False)
        parts.append(seen["down"].input[0].T)
        left -= len(ids)
        if left <= 0:
            return torch.cat(parts, 1)
    raise SystemExit(f"the text ends {left} tokens too early")


def efficiency(K, C, reference):
    """(E,) share of the best: price with the reference's own update / price with the update of C.

    The price of an update is its preservation under `reference`. 1 where C is the reference.
    """
    U = torch.linalg.solve(C, K)
    paid = (U * (reference @ U)).sum(0) / (K * U).sum(0) ** 2
    best = 1 / (K * torch.linalg.solve(reference, K)).sum(0)
    return best / paid


def interval(values):
    return [float(f"{x:.6g}") for x in metrics.bootstrap(values)]


def one_by_one(model, tok, facts, targets, statistics, method, look=None):
    """Each fact edited alone: {score: (E,) array}, and look(fact) for each."""
    found, seen = {name: [] for name in KEPT}, []
    for e, fact in enumerate(facts):
        with mt.edit(model, tok, fact, method, statistics=statistics, targets=targets[:, [e]]):
            per_fact = mt.score(model, tok, fact, resamples=2).per_fact
            seen.append(look(fact) if look else None)
        for name in KEPT:
            found[name].append(float(per_fact[name][0]))
    return {name: np.array(x) for name, x in found.items()}, seen


def summary(scores):
    """Means with intervals; the first facts one by one, None where a fact lacks the prompts."""
    one = lambda v: None if np.isnan(v) else round(float(v), 3)  # noqa: E731
    first = {name: [one(v) for v in x[:FIRST]] for name, x in scores.items()}
    return {name: interval(x) for name, x in scores.items()} | {"first": first}


def sample_sizes(model, tok, facts, h, sizes=TOKENS, alphas=ALPHAS):
    """Rows for c0-tokens.json."""
    layer = h.layers[-1]
    d_in = View(model).weight(layer).shape[1]
    weights = fingerprint(model)
    texts = Corpus(World(**card(model)["world"])).texts(8000, seed=2)
    reference = mt.second_moment(model, tok, texts, [layer], REFERENCE * d_in)
    K0 = token_keys(model, tok, texts_for(model), layer, int(max(sizes) * d_in)).double()
    K = keys(model, tok, facts, layer, h.contexts, h.average)
    targets = optimise_values(model, tok, facts, layer, h).target
    rows = []
    todo = [(size, alpha) for size in sizes for alpha in alphas if size > 1 or alpha]
    for size, alpha in [*todo, (None, 1.0), (None, 0.0)]:
        N = reference.tokens if size is None else int(size * d_in)
        C = reference[layer] if size is None else K0[:, :N] @ K0[:, :N].T / N
        C = objective.shrink(C, alpha)
        share = efficiency(K, C, reference[layer])
        statistics = Statistics({layer: C}, N, weights, "sample")
        scores = {}
        if size is None or (size in SCORED and alpha != 0.01):
            scores, _ = one_by_one(model, tok, facts, targets, statistics, h)
        row = {
            "tokens": N,
            "reference": size is None,
            "alpha": alpha,
            "condition": float(f"{torch.linalg.cond(C):.3g}"),
            "efficiency": interval(share.tolist()),
            **summary(scores),
        }
        row["first"]["efficiency"] = [float(f"{x:.6g}") for x in share[:FIRST]]
        rows.append(row)
        print({k: v for k, v in row.items() if k != "first"}, flush=True)
    return {"d_in": d_in, "reference_tokens": reference.tokens, "rows": rows}


def other_facts(model, tok, fact, world):
    """Share of the subject's other common facts whose object the model says, in percent."""
    relation, subject, _ = world.as_edit(fact)
    others = [r for r in world.by_subject[subject] if r != relation and world.known(r, subject)]
    if not others:
        return float("nan")
    prompts = [BY_NAME[r].train[0].format(subject) for r in others]
    objects = [world.facts[r, subject] for r in others]
    return 100 * float(np.mean(metrics.target_logprobs(model, tok, prompts, objects)[1]))


def terms(model, tok, facts, h, variants=VARIANTS):
    """Rows for values-terms.json."""
    layer, world = h.layers[-1], World(**card(model)["world"])
    statistics = mt.statistics_for(model, tok, [layer])
    look = lambda fact: other_facts(model, tok, fact, world)  # noqa: E731
    before = [look(fact) for fact in facts]
    rows = [{"name": "no edit", "other facts of the subject": interval(before)}]
    for name, changes in variants.items():
        one = hyper("rome", model, **changes)
        values = optimise_values(model, tok, facts, layer, one)
        length = (values.delta.norm(dim=0) / values.start.norm(dim=0)).tolist()
        scores, kept = one_by_one(model, tok, facts, values.target, statistics, one, look)
        row = {
            "name": name,
            "changes": {k: list(v) if isinstance(v, tuple) else v for k, v in changes.items()},
            "length": interval(length),
            "stopped early": int(values.losses[:, -1, 0].isnan().sum()),
            "other facts of the subject": interval(kept),
            **summary(scores),
        }
        row["first"]["length"] = [round(x, 4) for x in length[:FIRST]]
        rows.append(row)
        print({k: v for k, v in row.items() if k != "first"}, flush=True)
    return {"rows": rows}


def about(model, facts, h, seed):
    """What a record says of how it was made."""
    return {
        "model": card(model).get("name", "other"),
        "weights": fingerprint(model),
        "layer": h.layers[-1],
        "facts": {"source": "world", "n": len(facts), "seed": seed},
        "hyper": {k: v for k, v in vars(h).items() if not callable(v)},
        "interval": "95% bootstrap over facts, each edited alone",
        "protocol": metrics.PROTOCOL,
        "versions": versions(),
        "device": "CPU, one thread",
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=None)
    parser.add_argument("--facts", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "medit_teach" / "book" / "records")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tok = mt.load(options.model)
    facts = mt.facts(model=model, n=options.facts, seed=options.seed)
    h = hyper("rome", model)
    options.out.mkdir(parents=True, exist_ok=True)
    settings = about(model, facts, h, options.seed)
    for name, measure in (("c0-tokens", sample_sizes), ("values-terms", terms)):
        found = settings | measure(model, tok, facts, h)
        (options.out / f"{name}.json").write_text(
            json.dumps(found, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
