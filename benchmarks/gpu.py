"""What editing costs on a GPU, on the shapes of GPT-2 XL and GPT-J with random weights.

    python -m benchmarks.gpu --out gpu.json               both shapes, all batches
    python -m benchmarks.gpu --cap 15 --out t4.json       the same in the memory of a T4
    python -m benchmarks.gpu --small --device cpu         tries the script

For each shape: the weights are written to the disk in shards and loaded back onto the device
(seconds, and the most memory the machine itself needed); C0 per million tokens; seconds and GiB per
edit for batches of 1, 16, 256 and 1,024, split into targets (v*) and the update; what 10,000 edits
would take, by the straight line through the two largest batches; how far the edit on the GPU is
from the edit on the CPU, with the same targets and with targets of its own; and whether the goals
are met. How many facts go together, and whether C0 is kept whole or one layer at a time, is planned
for each shape by medit_teach.study.budget, whose bill stands beside what was measured. C0 is read
from 3 tokens for each dimension of a key: enough for seconds, few for an edit. The record is
written after every measurement, and a later call with the same --out goes on where it stopped.
"""

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

import medit_teach as mt
from medit_teach.hyper import MEMIT
from medit_teach.memory import ran_out
from medit_teach.models import View
from medit_teach.study import budget
from medit_teach.values import optimise_values
from medit_teach.world import Corpus, World

from . import machine
from .machine import GIB, host_peak, reset_host_peak

SHAPES = {  # (configuration, layers to edit, weights' type)
    "gpt2-xl": (budget.SHAPES["gpt2-xl"], range(13, 18), torch.float32),
    "gpt-j-6b": (budget.SHAPES["gpt-j-6b"], range(3, 9), torch.float16),
}
_TINY = dict(n_layer=4, n_embd=32, n_head=2, n_positions=1024, vocab_size=2000)
SMALL = {
    "gpt2-small-test": (dict(model_type="gpt2", **_TINY), range(1, 3), torch.float32),
    "gptj-small-test": (
        dict(model_type="gptj", rotary_dim=8, tie_word_embeddings=False, **_TINY),
        range(1, 3), torch.float32,
    ),
}  # fmt: skip
BATCHES = (1, 16, 256, 1024)
MANY = 10_000
HOST = 12  # GiB of its own memory that a free Colab machine has, about
MINUTES = 20  # for MANY edits of GPT-J on an H200: the goal


def shape(config, dtype, device, seed=0):
    """A model of this shape with random weights, made on the device: no copy in host RAM."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(**config, bos_token_id=0, eos_token_id=0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


class Meter:
    """seconds and peak GiB of a block, on the GPU and in the machine's own memory.

    with Meter(device) as m: ...; m.seconds, m.gib (None on a CPU), m.host (None where the system
    does not tell).
    """

    def __init__(self, device):
        self.cuda = torch.device(device).type == "cuda"

    def __enter__(self):
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        reset_host_peak()
        self.start = time.perf_counter()
        return self

    def __exit__(self, *error):
        if self.cuda:
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.start
        self.gib = torch.cuda.max_memory_allocated() / GIB if self.cuda else None
        self.host = host_peak()


def load(spec, tok, args):
    """The model, written to the disk in shards and read back; what the reading took."""
    config, _, dtype = spec
    folder = Path(tempfile.mkdtemp(dir=args.scratch))
    try:
        model = shape(config, dtype, args.device)
        model.save_pretrained(folder, max_shard_size="50KB" if args.small else "1GB")
        tok.save_pretrained(folder)
        del model
        if torch.device(args.device).type == "cuda":
            torch.cuda.empty_cache()
        shards = len(list(folder.glob("*.safetensors")))
        with Meter(args.device) as m:
            model, _ = mt.load(str(folder), dtype=dtype, device=args.device)
    finally:
        shutil.rmtree(folder)
    return model, {"shards": shards, "seconds": m.seconds, "GiB": m.gib, "host peak GiB": m.host}


def measure(name, spec, args, record, keep):
    """Fill record (dict) for one shape; entries that are there already are not measured again."""
    _, layers, dtype = spec
    tok, layers = mt.load("tiny-gptj")[1], list(layers)
    model, loading = load(spec, tok, args)
    record.setdefault("loading", loading)
    facts = mt.facts("world", n=max(args.batches), seed=0)
    h = MEMIT(layers=layers, steps=20, lr=0.01, early_stop=0.0, lam=15000.0)
    lengths = budget.lengths(tok, facts[:64], h)
    plan = budget.plan(
        model, h, room=args.room, n=max(args.batches), lengths=lengths,
        one_at_a_time=args.one_at_a_time,
    )  # fmt: skip
    chunk = args.chunk or plan.chunk
    how = {"one_at_a_time": plan.one_at_a_time, "batch_tokens": plan.batch_tokens}
    record.setdefault("parameters", sum(p.numel() for p in model.parameters()))
    record |= {"dtype": str(dtype).removeprefix("torch."),
               "rows of a fact": lengths.rows, "tokens of a row": lengths.before + lengths.after,
               "steps": h.steps, "layers": layers, "chunk": chunk, "planned to fit": plan.fits,
               "one at a time": plan.one_at_a_time,
               "tokens at once": plan.batch_tokens}  # fmt: skip
    tokens = args.tokens or 3 * View(model).weight(layers[0]).shape[1]
    texts = Corpus(World()).texts(tokens // 8, seed=1)
    cache = args.cache or tempfile.mkdtemp(dir=args.scratch)
    with Meter(args.device) as m:
        statistics = mt.second_moment(model, tok, texts, layers, tokens, cache=cache, **how)
    if "C0" not in record:
        record["C0"] = {"tokens": statistics.tokens, "layers": len(layers), "seconds": m.seconds,
                        "seconds per million tokens": m.seconds / statistics.tokens * 1e6,
                        "GiB": m.gib, "host peak GiB": m.host}  # fmt: skip
        keep()
    for n in args.batches:
        if str(n) in record.setdefault("batches", {}):
            continue
        bill = budget.memory(model, h, chunk=min(n, chunk), n=n, lengths=lengths, **how)
        try:
            with Meter(args.device) as m:
                found = optimise_values(model, tok, facts[:n], layers[-1], h, chunk)
            with Meter(args.device) as rest:
                mt.edit(model, tok, facts[:n], h, statistics=statistics, targets=found).undo()
            total = m.seconds + rest.seconds
            record["batches"][str(n)] = {
                "seconds": total, "seconds per edit": total / n, "seconds of targets": m.seconds,
                "GiB": max(m.gib or 0, rest.gib or 0), "GiB of targets": m.gib,
                "host peak GiB": max(m.host or 0, rest.host or 0),
                "GiB by the bill": bill.peak / GIB, "host GiB by the bill": bill.host / GIB,
            }  # fmt: skip
        except (torch.OutOfMemoryError, mt.MeditError) as error:
            if not ran_out(error.__cause__ or error):
                raise
            record["batches"][str(n)] = {"out of memory": str(error).split(".")[0]}
            torch.cuda.empty_cache()
        keep()
        print(name, n, record["batches"][str(n)], flush=True)
    record["minutes for 10,000 edits"] = minutes(record["batches"], MANY)
    peaks = [record["loading"], record["C0"], *record["batches"].values()]
    told = [x["host peak GiB"] for x in peaks if x.get("host peak GiB") is not None]
    record["host peak GiB"] = max(told, default=None)
    record["goals"] = goals(record)
    keep()
    if torch.device(args.device).type == "cuda" and not args.no_cpu:
        if "facts" not in record.get("GPU against CPU", {}):
            record["GPU against CPU"] = lacking(model, budget.free()) or agreement(
                model, tok, facts, h, statistics
            )
        print(name, "GPU against CPU", record["GPU against CPU"], flush=True)
        keep()


def goals(record):
    """{goal: True, False, or None where it was not measured} of one shape's record."""
    host, minutes_, found = (record.get(x) for x in ("host peak GiB", "minutes for 10,000 edits",
                                                     "batches"))  # fmt: skip
    return {
        "everything fits": bool(found) and all("seconds" in x for x in found.values()),
        f"host peak below {HOST} GiB": None if host is None else host < HOST,
        f"10,000 edits below {MINUTES} minutes": None if minutes_ is None else minutes_ < MINUTES,
    }


def lacking(model, free):
    """{"skipped": why} if a host with `free` bytes cannot hold the model in float32, else None."""
    needed = 4 * sum(p.numel() for p in model.parameters()) * 1.25  # and the edit beside it
    if free is None or needed < free:
        return None
    return {"skipped": f"in float32 on the CPU it needs {needed / GIB:.1f} GiB of the machine's "
                       f"memory, {free / GIB:.1f} GiB are free"}  # fmt: skip


def minutes(batches, n):
    """For n edits, by the straight line through the two largest batches that fit; None without."""
    fit = sorted((int(k), x["seconds"]) for k, x in batches.items() if "seconds" in x)
    if not fit:
        return None
    (n1, t1), (n2, t2) = ([(0, 0.0), *fit])[-2:]
    return (t2 + (t2 - t1) / (n2 - n1) * (n - n2)) / 60


def agreement(model, tok, facts, h, statistics, n=4):
    """Largest relative difference of Delta over the layers: made on the GPU, and on the CPU in
    float32 from the same weights. "same targets": both get the GPU's; "own": each searches."""
    found = {"GPU": optimise_values(model, tok, facts[:n], h.layers[-1], h)}

    def deltas_with(C0, targets):
        with mt.edit(model, tok, facts[:n], h, statistics=C0, targets=targets) as e:
            return [e.delta(layer).cpu() for layer in h.layers]

    there = deltas_with(statistics, found["GPU"])
    model.to("cpu", torch.float32)
    host = statistics  # its C0 may be on the disk, for the CPU already
    if statistics.device(h.layers[0]).type != "cpu":
        C0 = {layer: statistics[layer].cpu() for layer in h.layers}
        host = mt.Statistics(C0, statistics.tokens, statistics.weights, statistics.text)
    host.weights = mt.models.fingerprint(model)
    found["CPU"] = optimise_values(model, tok, facts[:n], h.layers[-1], h)
    given = found["GPU"].target.cpu()
    deltas = {"same targets": deltas_with(host, given), "own": deltas_with(host, found["CPU"])}
    worst = lambda here: max(  # noqa: E731
        float((a - b).norm() / b.norm()) for a, b in zip(there, here, strict=True)
    )
    return {"facts": n, **{name: worst(here) for name, here in deltas.items()}}


def about(args):
    """Where and how: what a reader needs to judge the numbers."""
    cuda = torch.device(args.device).type == "cuda"
    command = " ".join(["python -m benchmarks.gpu", *args.asked])
    found = {"command": command, **machine.head(), "cap GiB": args.cap}
    found["weights"] = "random, seed 0"
    if cuda:
        card = torch.cuda.get_device_properties(args.device)
        found["device"] = {"name": card.name, "GiB": card.total_memory / GIB,
                           "cuda": torch.version.cuda}  # fmt: skip
        found["TF32"] = torch.backends.cuda.matmul.allow_tf32
    else:
        found["device"] = {"name": platform.machine()}
    return found


def main(argv=None):
    told = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=told)
    parser.add_argument("--shapes", nargs="*", help="which (default: all)")
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try the script")
    parser.add_argument("--batches", nargs="*", type=int, default=list(BATCHES))
    parser.add_argument(
        "--chunk", type=int, help="facts optimised together (as planned, at most 64)"
    )
    parser.add_argument("--tokens", type=int, help="for C0 (3 x the key dimension)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cap", type=float, help="allow at most so many GiB of GPU memory")
    parser.add_argument("--one-at-a-time", action="store_true",
                        help="C0 from the disk, solved on the CPU, also where all fit")  # fmt: skip
    parser.add_argument("--no-cpu", action="store_true", help="no comparison with the CPU's edit")
    parser.add_argument("--cache", help="folder for C0")
    parser.add_argument("--scratch", help="folder for the weights' shards (the system's)")
    parser.add_argument("--out", help="the record, as JSON")
    args = parser.parse_args(argv)
    args.asked = sys.argv[1:] if argv is None else argv
    cuda = torch.device(args.device).type == "cuda"
    if cuda and not torch.cuda.is_available():
        parser.error("there is no GPU here; --small --device cpu tries the script")
    known = SMALL if args.small else SHAPES
    for name in args.shapes or ():
        if name not in known:
            parser.error(f"unknown shape {name!r}; choose from {', '.join(known)}")
    out = Path(args.out) if args.out else None
    record = json.loads(out.read_text()) if out and out.is_file() else {}

    def keep():
        if out:
            out.write_text(json.dumps(record, indent=1) + "\n")

    args.room = args.cap and args.cap * GIB
    if cuda:
        whole = torch.cuda.get_device_properties(args.device).total_memory
        args.room = min(args.room or whole, budget.free(args.device))
        torch.cuda.set_per_process_memory_fraction(args.room / whole)
    record |= {**about(args), "shapes": record.get("shapes", {})}
    for name in args.shapes or known:
        found = record["shapes"].setdefault(name, {})
        try:
            measure(name, known[name], args, found, keep)
        except (torch.OutOfMemoryError, mt.MeditError) as error:  # before any edit
            if not ran_out(error.__cause__ or error):
                raise
            found["out of memory"] = str(error).split(".")[0]
            keep()
        if cuda:
            torch.cuda.empty_cache()
    print(json.dumps(record, indent=1))
    return record


if __name__ == "__main__":
    main()
