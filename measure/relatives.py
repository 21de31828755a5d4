"""Measure the single points of the chapter on the completed table: each solver on 64 facts.

    python -m measure.relatives [--model NAME] [--out FILE]

Writes relatives.json. ENCORE, PRUNE and RECT are the functions of the published solutions
(book/solutions/14-two-by-two.md). A solver that is in the file is not measured again. Half a minute
on a CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path

import torch

import medit_teach as mt
from medit_teach import metrics, objective
from medit_teach.hyper import hyper
from medit_teach.keys import at_subject
from medit_teach.models import View, fingerprint
from medit_teach.statistics import write_whole
from medit_teach.study import experiments
from medit_teach.values import optimise_values

from .batches import RECORDS, ROOT, about

FACTS = {"n": 64, "seed": 1}
ALPHA, SHARE = 2.0, 0.4  # PRUNE's base of the logarithm, RECT's share of entries
KEPT = ("S", "ES", "PS", "NS", "NM", "EA", "PA", "NA")


def solutions():
    """What the python blocks of the page of solutions define."""
    page = ROOT / "book" / "solutions" / "14-two-by-two.md"
    found = {"torch": torch, "math": math, "objective": objective}
    for block in re.findall(
        r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S
    ):
        exec(block, found)
    return found


def updates(R, K, statistics, layer, W, lam):
    """{name: Delta} of all solvers on one layer."""
    C0, soft, relative = statistics[layer], statistics.soft(layer), solutions()
    memit = objective.memit(R, K, soft, lam).delta
    lam_n = lam * float(torch.linalg.eigvalsh(C0).median())
    quarter = statistics.hard(layer, threshold=_line(C0, len(C0) // 4))
    return {
        "MEMIT": memit,
        "EMMET": objective.emmet(R, K, soft).delta,
        "AlphaEdit, a quarter": objective.alphaedit(R, K, quarter, 1.0).delta,
        "equality, a quarter": objective.nullspace(R, K, quarter).delta,
        "ENCORE": relative["encore"](R, K, C0, lam, lam_n),
        "PRUNE": relative["prune"](memit, W, ALPHA),
        "RECT": relative["rect"](memit, W, SHARE),
    }


def _line(C0, p):
    """A threshold with p eigenvalues of C0 below it."""
    s = torch.linalg.eigvalsh(C0)
    return float((s[p - 1] + s[p]) / 2)


def measure(model, tok, names=None, known=None, keep=None):
    """(settings, {name: row}) for all solvers, or those in `names`; the model is left as it was.

    known: rows that are there already. keep: called with both after each row.
    """
    h = hyper("memit", model)
    layer = h.layers[-1]
    h = hyper("memit", model, layers=[layer])
    facts = mt.facts(model=model, **FACTS)
    statistics = mt.statistics_for(model, tok, [layer])
    R = optimise_values(model, tok, facts, layer, h).delta
    site = ("key", layer)
    K = at_subject(model, tok, facts, [site], h.contexts, h.average)[site]
    weight, C0 = View(model).weight(layer), statistics[layer]
    before, W = weight.detach().clone(), weight.detach().double()
    texts = experiments.held_out(model, 60)  # C0 is not made of them
    settings = about(model, facts, h, statistics.tokens) | {"layer": layer, "facts": FACTS}
    settings |= {"alpha": ALPHA, "share": SHARE}
    points = dict(known or {})
    for name, Delta in updates(R, K, statistics, layer, W.clone(), h.lam).items():
        if (names and name not in names) or name in points:
            continue
        left = objective.memorization(Delta, R, K) / (R**2).sum()
        row = {
            "price": float(f"{objective.preservation(Delta, C0):.6g}"),
            "left": float(f"{left:.6g}"),
            "norm": float(f"{Delta.norm() / before.double().norm():.4g}"),
        }
        try:
            with torch.no_grad():
                weight.copy_((before.double() + Delta).to(before.dtype))
            values = mt.score(model, tok, facts).values
            row |= {k: round(values[k][0], 2) for k in KEPT}
            row["perplexity"] = round(metrics.perplexity(model, tok, texts), 4)
        finally:
            with torch.no_grad():
                weight.copy_(before)
        points[name] = row
        print(name, row, flush=True)
        if keep:
            keep(settings, points)
    return settings, points


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=None)
    parser.add_argument("--out", type=Path, default=RECORDS / "relatives.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tok = mt.load(options.model)
    known = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    if known and known["weights"] != fingerprint(model):
        parser.error(f"{options.out} was measured on another model; remove it or give --out")

    def keep(settings, points):
        text = json.dumps(settings | {"points": points}, indent=1) + "\n"
        write_whole(options.out, lambda draft: Path(draft).write_text(text, encoding="utf-8"))

    measure(model, tok, known=known.get("points"), keep=keep)


if __name__ == "__main__":
    main()
