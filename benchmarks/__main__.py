"""The library against the textbook path, on the shape of GPT-2 small: `make bench`.

    python -m benchmarks --out bench.json           GPT-2 small's shape, one thread and two
    python -m benchmarks --small --out bench.json   a small shape: tries everything in a minute

Random weights (seeded), the facts and the tokenizer of the invented world. Both paths run in one
process, one after the other; early stop is off on both sides. The textbook path is timed at two
sizes and extrapolated where the library's batch is larger; the row says what was measured. One
thread: seconds are CPU seconds of the process, which other work on the machine hardly changes; more
threads: wall-clock seconds.
"""

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

import medit_teach as mt
from medit_teach import metrics, objective, values
from medit_teach.hyper import MEMIT
from medit_teach.models import View, fingerprint
from medit_teach.world import LEADING, Corpus, World

from . import machine, plain

GPT2_SMALL = dict(layers=12, width=768, heads=12, vocabulary=50257)
SMALL = dict(layers=6, width=48, heads=4, vocabulary=2000)
GOALS = {"values": 7, "keys": 5, "statistics": 2.5, "update": 10, "scores": 4, "memit": 6}
CONTEXTS = ("", *(f"{sentence} " for sentence in LEADING[:5]))  # 6, and the KL sentence: 7 rows


def shape(layers, width, heads, vocabulary, seed=0):
    """A GPT-2 model of this shape with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    size = dict(n_layer=layers, n_embd=width, n_head=heads, vocab_size=vocabulary)
    size |= dict(bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(GPT2Config(**size)).eval()


class Clock:
    """seconds(function) -> (seconds, result): CPU seconds on one thread, else wall clock."""

    def __init__(self, threads):
        self.now = time.process_time if threads == 1 else time.perf_counter

    def __call__(self, function):
        start = self.now()
        result = function()
        return self.now() - start, result


def relative(a, b):
    return float((a - b).norm() / b.norm())


class Bench:
    """The rows of the table on one model: {step: (what, seconds plain, seconds library, ...)}."""

    def __init__(self, model, tok, facts, texts, sizes, threads):
        self.model, self.tok, self.facts, self.texts = model, tok, facts, texts
        self.sizes, self.clock = sizes, Clock(threads)
        n = View(model).n_layers
        self.layers = list(range(max(0, n // 2 - 3), n // 2 + 2))
        how = dict(contexts=CONTEXTS, steps=20, lr=0.01, early_stop=0.0, lam=100.0)
        self.h = MEMIT.original(layers=self.layers, **how)

    def row(self, step, what, slow, fast, difference, **more):
        return {"step": step, "what": what, "plain": slow, "library": fast, "ratio": slow / fast,
                "goal": GOALS[step], "difference": difference, **more}  # fmt: skip

    def tokens(self):
        """Mean number of tokens with the object: of the facts that the textbook edits, of all."""
        length = [len(self.tok(f"{f.text} {f.target_new}")["input_ids"]) for f in self.facts]
        few, all_ = self.sizes["edits"][1], self.sizes["batch"]
        return {n: sum(length[:n]) / n for n in (few, all_)}

    def step_of_plain(self):
        """One step of the textbook v* over a plain forward and backward of the same sequences."""
        fact, layer = self.facts[0], self.layers[-1]
        once = plain.forward_backward(self.model, self.tok, fact, layer, self.h)
        once()
        bare = min(self.clock(once)[0] for _ in range(5))
        few = replace(self.h, steps=6)
        run = lambda h: self.clock(lambda: plain.value(self.model, self.tok, fact, layer, h))[0]  # noqa: E731
        one = replace(self.h, steps=1)
        return min((run(few) - run(one)) / 5 for _ in range(3)) / bare

    def values(self):
        layer, (few, many) = self.layers[-1], self.sizes["edits"]
        facts = self.facts[:many]
        each = [self.clock(lambda f=f: plain.value(self.model, self.tok, f, layer, self.h))
                for f in facts]  # fmt: skip
        slow = self.one_by_one = [s for s, _ in each]
        fast, found = self.clock(
            lambda: values.optimise_values(self.model, self.tok, facts, layer, self.h)
        )
        plain_targets = self.targets = torch.stack([target for _, (target, _) in each], 1)
        return self.row(
            "values", f"{many} edits, 20 steps, 7 sequences", sum(slow), fast,
            relative(found.target, plain_targets),
            linear=sum(slow) / many / (sum(slow[:few]) / few),
        )  # fmt: skip

    def keys(self):
        layer, facts = self.layers[-1], self.facts[: self.sizes["keys"]]
        slow, one = self.clock(lambda: torch.stack(
            [plain.key(self.model, self.tok, f, layer, CONTEXTS) for f in facts], 1))  # fmt: skip
        fast, many = self.clock(
            lambda: mt.keys.keys(self.model, self.tok, facts, layer, CONTEXTS, "half")
        )
        return self.row("keys", f"{len(facts)} edits, 6 contexts", slow, fast, relative(many, one))

    def statistics(self):
        texts = self.texts[: self.sizes["texts"]]
        tokens = sum(len(self.tok(t)["input_ids"]) for t in texts)
        by_layer = lambda: {  # noqa: E731
            x: plain.second_moment(self.model, self.tok, texts, x) for x in self.layers
        }
        slow, C = self.clock(by_layer)
        fast, self.C0 = self.clock(
            lambda: mt.second_moment(self.model, self.tok, texts, self.layers, tokens=tokens)
        )
        worst = max(relative(self.C0[x], C[x]) for x in self.layers)
        return self.row(
            "statistics", f"{len(self.layers)} layers, {tokens} tokens", slow, fast, worst
        )

    def update(self):
        d, E = View(self.model).weight(0).shape[1], self.sizes["E"]
        g = torch.Generator().manual_seed(0)
        X, K, R = (torch.randn(n, m, dtype=torch.float64, generator=g)
                   for n, m in ((d, 2 * d), (d, E), (64, E)))  # fmt: skip
        C0, lams = X @ X.T / (2 * d), [10.0**i for i in range(-4, 6)]

        def ours():
            factor = objective.factor(C0)
            return [objective.memit(R, K, factor, lam).delta for lam in lams]

        slow, one = self.clock(lambda: [plain.update(R, K, C0, lam) for lam in lams])
        fast, two = self.clock(ours)
        worst = max(relative(a, b) for a, b in zip(two, one, strict=True))
        return self.row("update", f"10 lams on one C0, d {d}, E {E}", slow, fast, worst)

    def scores(self):
        few, many = self.sizes["records"]
        total = self.sizes["scored"]
        facts = self.facts[:many]
        each = [self.clock(lambda f=f: plain.scores(self.model, self.tok, f)) for f in facts]
        slow = [s for s, _ in each]
        fast, found = self.clock(lambda: metrics.score(self.model, self.tok, self.facts[:total]))
        differ = [
            abs(a - b) > 1e-6
            for i, (_, three) in enumerate(each)
            for a, b in zip(three, (found.per_fact[n][i] for n in ("ES", "PS", "NS")), strict=True)
            if a == a
        ]
        return self.row(
            "scores", f"{total} records; plain: {many}, extrapolated", sum(slow) / many * total,
            fast, sum(differ) / len(differ), linear=sum(slow) / many / (sum(slow[:few]) / few),
        )  # fmt: skip

    def memit(self):
        """A whole batch; the textbook path at two sizes: their difference is the cost of more.

        Its v* are those of the row `values`, with the seconds that they took there.
        """
        (few, many), total = self.sizes["edits"], self.sizes["batch"]
        weights = {x: View(self.model).parameter(x).detach().clone() for x in self.layers}

        def textbook(n):
            try:
                return plain.memit(
                    self.model,
                    self.tok,
                    self.facts[:n],
                    self.layers,
                    self.C0,
                    self.h,
                    targets=self.targets[:, :n],
                )
            finally:
                with torch.no_grad():
                    for layer, W in weights.items():
                        View(self.model).parameter(layer).copy_(W)

        def library(n):
            with mt.edit(self.model, self.tok, self.facts[:n], self.h, statistics=self.C0) as e:
                return {layer: e.delta(layer) for layer in self.layers}

        peaks = {}
        slow_few = self.clock(lambda: textbook(few))[0] + sum(self.one_by_one[:few])
        machine.reset_host_peak()
        slow_many, theirs = self.clock(lambda: textbook(many))
        peaks["plain"] = machine.host_peak()
        slow_many += sum(self.one_by_one)
        each = (slow_many - slow_few) / (many - few)
        same = library(many)
        self.C0._factors.clear()
        machine.reset_host_peak()
        fast = self.clock(lambda: library(total))[0]
        peaks["library"] = machine.host_peak()
        worst = max(relative(same[x], theirs[x]) for x in self.layers)
        return self.row(
            "memit", f"{total} edits, {len(self.layers)} layers; plain: {few} and {many}, "
            "extrapolated", slow_few + each * (total - few), fast, worst,
            plain_each=each, linear=slow_many / many / (slow_few / few), peak_GiB=peaks,
        )  # fmt: skip

    def growth(self):
        """How the library's seconds grow: {what: {"at": numbers, "seconds": ..., "power": ...}}.

        power: the slope between logarithms, 1 for proportional.
        """
        layer, facts, few = self.layers[-1], self.facts, self.sizes["grow"]
        texts = self.texts[: self.sizes["texts"] // 2 + 1]
        tokens = sum(len(self.tok(t)["input_ids"]) for t in texts)
        g = torch.Generator().manual_seed(0)
        factors = {}

        def update(d, E):
            if d not in factors:
                X = torch.randn(d, 2 * d, dtype=torch.float64, generator=g)
                factors[d] = X @ X.T / (2 * d)
            R, K = (torch.randn(n, E, dtype=torch.float64, generator=g) for n in (64, d))
            return lambda: objective.memit(R, K, factors[d], 1.0).delta

        def given(n):
            z = torch.randn(View(self.model).weight(0).shape[0], len(facts[:16])).double()
            C0 = {x: torch.eye(d, dtype=torch.float64) for x in self.layers[-n:]}
            C0 = mt.Statistics(C0, 1, fingerprint(self.model), "none")
            h = replace(self.h, layers=self.layers[-n:])
            return lambda: mt.edit(
                self.model, self.tok, facts[:16], h, statistics=C0, targets=z
            ).undo()

        d = View(self.model).weight(0).shape[1]
        runs = {
            "v* against edits": {E: lambda E=E: values.optimise_values(
                self.model, self.tok, facts[:E], layer, self.h) for E in few},
            "keys against edits": {E: lambda E=E: mt.keys.keys(
                self.model, self.tok, facts[:E], layer, CONTEXTS, "half") for E in (16, 32, 64)},
            "C0 against layers": {n: lambda n=n: mt.second_moment(
                self.model, self.tok, texts, self.layers[-n:], tokens=tokens) for n in (1, 3, 5)},
            "MEMIT but its v* against layers": {n: given(n) for n in (1, 3, 5)},
            "scores against records": {n: lambda n=n: metrics.score(
                self.model, self.tok, facts[:n]) for n in self.sizes["grow_records"]},
            "update against d_in": {x: update(x, 64) for x in (d // 4, d // 2, d)},
            "update against edits": {E: update(d, E) for E in (16, 64, 256)},
        }  # fmt: skip
        found = {}
        for what, of in runs.items():
            seconds = [self.clock(run)[0] for run in of.values()]
            at = list(of)
            power = (math.log(seconds[-1]) - math.log(seconds[0])) / math.log(at[-1] / at[0])
            found[what] = {"at": at, "seconds": seconds, "power": power}
        return found


def _cells(row):
    linear = f"{row['linear']:.2f}" if "linear" in row else ""
    return f"{row['plain']:.1f} / {row['library']:.1f} | {linear} | {row['ratio']:.1f}"


def table(records):
    """Markdown table of records: a line a step, three columns a number of threads.

    linear: what one item costs the textbook path at its second size, by the cost at the first.
    """
    rows = {(row["step"], row["threads"]): row for x in records for row in x["rows"]}
    threads = sorted({n for _, n in rows})
    head = "".join(
        f" {n} thread{'s' * (n > 1)}: seconds | linear | times faster |" for n in threads
    )
    lines = [f"| step | measured | at least |{head}", "|" + "---|" * (3 + 3 * len(threads))]
    for step in ROWS:
        of = [rows.get((step, n)) for n in threads]
        if first := next(filter(None, of), None):
            cells = (_cells(x) if x else "| |" for x in of)
            cells = " | ".join([NAMES[step], first["what"], f"{first['goal']:g}", *cells])
            lines.append(f"| {cells} |")
    return "\n".join(lines)


NAMES = {"values": "$v^*$", "keys": "keys", "statistics": "$C_0$", "update": "update",
         "scores": "ES, PS, NS", "memit": "MEMIT"}  # fmt: skip
FULL = dict(
    grow=(2, 4, 8),
    grow_records=(10, 20, 40),
    edits=(4, 8),
    keys=64,
    texts=16,
    E=64,
    records=(50, 100),
    scored=1000,
    batch=256,
)
FEW = dict(
    grow=(1, 2),
    grow_records=(1, 2),
    edits=(2, 3),
    keys=6,
    texts=60,
    E=16,
    records=(3, 6),
    scored=12,
    batch=8,
)
ROWS = ("values", "keys", "statistics", "update", "scores", "memit")


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--small", action="store_true", help="a small shape and few facts")
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--out", help="where to keep the results as JSON")
    parser.add_argument("--table", nargs="+", metavar="RECORD", help="measure nothing; show these")
    args = parser.parse_args(argv)
    if args.table:
        return print(table([json.loads(Path(name).read_text()) for name in args.table]))
    sizes = FEW if args.small else FULL
    model = shape(**(SMALL if args.small else GPT2_SMALL))
    tok = mt.load("tiny-gptj")[1]
    facts = mt.facts("world", n=max(sizes["scored"], sizes["batch"]), seed=0)
    texts = Corpus(World()).texts(sizes["texts"] * (1 if args.small else 12), seed=1)
    texts = ["\n".join(texts[i :: sizes["texts"]]) for i in range(sizes["texts"])]
    before, rows, began = torch.get_num_threads(), [], time.perf_counter()
    needed = {*args.rows, *(["values", "statistics"] if "memit" in args.rows else [])}
    wanted = [row for row in ROWS if row in needed]
    print(f"{'step':11}{'threads':>8}{'plain s':>10}{'library s':>11}{'ratio':>8}{'goal':>7}  what")
    try:
        for threads in args.threads:
            torch.set_num_threads(threads)
            bench = Bench(model, tok, facts, texts, sizes, threads)
            step = bench.step_of_plain()
            for name in wanted:
                row = {"threads": threads, **getattr(bench, name)()}
                rows.append(row)
                print(f"{name:11}{threads:8}{row['plain']:10.2f}{row['library']:11.2f}"
                      f"{row['ratio']:8.1f}{row['goal']:7}  {row['what']}; "
                      f"differs by {row['difference']:.0e}", flush=True)  # fmt: skip
            print(f"a step of the plain v*: {step:.2f} x a plain forward and backward")
        torch.set_num_threads(args.threads[0])
        whole = set(wanted) == set(ROWS)
        grows = Bench(model, tok, facts, texts, sizes, args.threads[0]).growth() if whole else {}
        for what, found in grows.items():
            took = ", ".join(
                f"{x}: {s:.2f} s" for x, s in zip(found["at"], found["seconds"], strict=True)
            )
            print(f"{what}: power {found['power']:.2f} ({took})")
    finally:
        torch.set_num_threads(before)
    record = {
        "command": " ".join(["python -m benchmarks", *(sys.argv[1:] if argv is None else argv)]),
        **machine.head(), "threads": args.threads, "seconds": time.perf_counter() - began,
        "shape": SMALL if args.small else GPT2_SMALL, "hyper": asdict(bench.h), "sizes": sizes,
        "tokens": bench.tokens(), "rows": rows, "step_of_plain": step, "growth": grows,
    }  # fmt: skip
    if args.out:
        Path(args.out).write_text(json.dumps(record, indent=1) + "\n")
        print(f"kept in {args.out}")
    return record


if __name__ == "__main__":
    main()
