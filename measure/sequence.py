"""Measure what the chapter on editing in sequence draws from records.

    python -m measure.sequence [--model NAME] [--runs NAME ...] [--out FILE]

Writes sequence.jsonl: a first line of settings, then one line for each run and number of edits. A
run that is in the file is not repeated, so a killed measurement goes on where it stopped. About ten
minutes on a CPU.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import medit_teach as mt
from medit_teach import metrics
from medit_teach.hyper import hyper
from medit_teach.keys import at_subject
from medit_teach.models import View
from medit_teach.objective import preservation
from medit_teach.statistics import write_whole
from medit_teach.study import experiments
from medit_teach.values import optimise_values

from .batches import KEPT, RECORDS, about

SIZES = (32, 64, 128, 256, 512)
GROUP = 32  # facts in the first group and in the last
SAMPLE = 64  # facts, evenly spread over the sequence
BARE = {"start_average": "bare"}
RUNS = {  # name: method, its hyper-parameters, facts a solve, keys kept, targets found anew, edits
    "exact, no memory": ("emmet", {"ridge": 0.0}, 1, False, False, 512),
    "exact, keys kept": ("emmet", {"ridge": 0.0}, 16, True, False, 512),
    "soft, no memory": ("memit", {}, 1, False, False, 512),
    "soft, keys kept": ("memit", {}, 16, True, False, 512),
    "alphaedit, no memory": ("alphaedit", {}, 1, False, False, 512),
    "alphaedit, keys kept": ("alphaedit", {}, 16, True, False, 512),
    "soft, no memory, batches of 64": ("memit", {}, 64, False, False, 512),
    "soft, keys kept, targets anew": ("memit", {}, 16, True, True, 256),
    "r-ROME": ("rome", BARE, 16, False, True, 128),
    "ROME, two keys": (
        "rome",
        {**BARE, "now_average": "bare", "divide_by": "bare"},
        16,
        False,
        True,
        128,
    ),
}


class Bench:
    """The model, its facts, keys and targets at one layer; everything that all runs share."""

    def __init__(self, model, tok, n, layer=None):
        self.model, self.tok, self.view = model, tok, View(model)
        self.facts = mt.facts(model=model, n=700, seed=1)[:n]
        self.layer = hyper("memit", model).layers[-1] if layer is None else layer
        self.hyper = hyper("memit", model, layers=[self.layer])
        self.statistics = mt.statistics_for(model, tok, [self.layer])
        self.values = optimise_values(model, tok, self.facts, self.layer, self.hyper)
        self.keys, self.before = self.state()
        self.W = self.view.weight(self.layer).detach().double().clone()
        self.texts = experiments.held_out(model, 60)  # C0 is not made of them

    def state(self):
        """Keys and block outputs of all facts now, (d_in, n) and (d_out, n)."""
        wanted = [("key", self.layer), ("block", self.layer)]
        h = self.hyper
        found = at_subject(self.model, self.tok, self.facts, wanted, h.contexts, h.average)
        return found[wanted[0]], found[wanted[1]]

    def measure(self, n):
        """Numbers after n edits. missing: shares of the first residual, by the shared targets."""
        Delta = self.view.weight(self.layer).detach().double() - self.W
        R = self.values.delta[:, :n]
        left = (R - Delta @ self.keys[:, :n]).norm(dim=0) / R.norm(dim=0)
        C0 = self.statistics[self.layer]
        row = {
            "edits": n,
            "norm": float(f"{Delta.norm() / self.W.norm():.4g}"),
            "price": float(f"{preservation(Delta, C0):.4g}"),
            "missing_first": round(float(left[:GROUP].mean()), 4),
            "missing_all": round(float(left.mean()), 4),
            "perplexity": round(metrics.perplexity(self.model, self.tok, self.texts), 4),
        }
        spread = [self.facts[i * n // SAMPLE] for i in range(SAMPLE)] if n > SAMPLE else None
        groups = {"first": self.facts[:GROUP], "last": self.facts[n - GROUP : n], "all": spread}
        for name, facts in groups.items():
            values = mt.score(self.model, self.tok, facts or self.facts[:n]).values
            row[name] = {k: [round(x, 2) for x in values[k][:3]] for k in KEPT}
        return row

    def sequence(self, name, edits=None):
        """Rows of one run, at each of SIZES up to `edits`; the model is as before afterwards."""
        method, more, step, kept, anew, most = RUNS[name]
        most = min(edits or most, most, len(self.facts))
        done, rows = [], []
        try:
            for i in range(0, most, step):
                e = mt.edit(
                    self.model,
                    self.tok,
                    self.facts[i : i + step],
                    method,
                    layers=[self.layer],
                    statistics=self.statistics,
                    targets=None if anew else self.values.target[:, i : i + step],
                    remember=done if kept else (),
                    **more,
                )
                done.append(e)
                if i + step in SIZES:
                    condition = e.diagnostics[self.layer]["condition_gram"]
                    row = {"run": name} | self.measure(i + step)
                    rows.append(row | {"condition_gram": float(f"{condition:.4g}")})
                    print(json.dumps(rows[-1]), flush=True)
        finally:
            for e in reversed(done):
                e.undo()
        return rows


def read(path):
    """(settings, rows) of a record file; damaged lines are named. (None, []): there is none."""
    found = experiments.read(path, frozenset()) if path.is_file() else []
    settings = [row for row in found if "weights" in row]
    return settings[0] if settings else None, [row for row in found if "weights" not in row]


def store(path, settings, rows):
    """Write a record file: all of it or nothing."""
    text = "".join(json.dumps(row) + "\n" for row in [settings, *rows])
    write_whole(path, lambda draft: Path(draft).write_text(text, encoding="utf-8"))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=None)
    parser.add_argument("--runs", nargs="*", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--out", type=Path, default=RECORDS / "sequence.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(*mt.load(options.model), SIZES[-1])
    settings = about(bench.model, bench.facts, bench.hyper, bench.statistics.tokens)
    scores = mt.score(bench.model, bench.tok, bench.facts[:SAMPLE]).values
    settings["layer"] = bench.layer
    settings["before"] = {k: [round(x, 2) for x in scores[k][:3]] for k in KEPT} | {
        "perplexity": round(metrics.perplexity(bench.model, bench.tok, bench.texts), 4)
    }
    settings["runs"] = {
        name: {
            "method": method,
            "facts a solve": step,
            "keys kept": kept,
            "targets anew": anew,
            "hyper": {
                k: v
                for k, v in vars(hyper(method, bench.model, layers=[bench.layer], **more)).items()
                if not callable(v)
            },
        }
        for name, (method, more, step, kept, anew, _) in RUNS.items()
    }
    with experiments.writing(options.out, frozenset()):
        known, rows = read(options.out)
        if known and known["weights"] != settings["weights"]:
            parser.error(f"{options.out} was measured on another model; remove it or give --out")
        for name in options.runs:
            step, most = RUNS[name][2], RUNS[name][-1]
            sizes = [n for n in SIZES if n <= most and n % step == 0]
            if [row["edits"] for row in rows if row["run"] == name] == sizes:
                continue
            rows = [row for row in rows if row["run"] != name] + bench.sequence(name)
            store(options.out, settings, rows)


if __name__ == "__main__":
    main()
