"""What editing costs on a GPU, on the shapes of GPT-2 XL and GPT-J with random weights.

    python -m benchmarks.gpu --out benchmarks/gpu.json                  both shapes, all batches
    python -m benchmarks.gpu --shapes gpt2-xl --cap 15 --out t4.json    no more than 15 GiB
    python -m benchmarks.gpu --small --device cpu                       tries the script

For each shape: seconds and GiB per edit for batches of 1, 16, 256 and 1,024, split into targets
(v*) and the rest; C0 per million tokens; what 10,000 edits would take at the largest batch's pace;
the largest difference of one edit's Delta between GPU and CPU. The record is written after every
measurement, and a later call with the same --out goes on where it stopped.
"""

import argparse
import json
import platform
import resource
import time
from pathlib import Path

import torch

import medit_teach as mt
from medit_teach.hyper import MEMIT
from medit_teach.models import View
from medit_teach.values import optimise_values
from medit_teach.world import World

SHAPES = {  # (class, its configuration, layers to edit, weights' type)
    "gpt2-xl": ("gpt2", dict(n_layer=48, n_embd=1600, n_head=25, vocab_size=50257),
                range(13, 18), torch.float32),
    "gpt-j-6b": ("gptj", dict(n_layer=28, n_embd=4096, n_head=16, rotary_dim=64,
                              vocab_size=50400, tie_word_embeddings=False),
                 range(3, 9), torch.float16),
}  # fmt: skip
SMALL = {
    "gpt2-small-test": ("gpt2", dict(n_layer=4, n_embd=32, n_head=2, vocab_size=2000),
                        range(1, 3), torch.float32),
    "gptj-small-test": ("gptj", dict(n_layer=4, n_embd=32, n_head=2, rotary_dim=8,
                                     vocab_size=2000, tie_word_embeddings=False),
                        range(1, 3), torch.float32),
}  # fmt: skip
BATCHES = (1, 16, 256, 1024)
GIB = 2**30


def shape(kind, config, dtype, device, seed=0):
    """A model of this shape with random weights, made on the device: no copy in host RAM."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, bos_token_id=0, eos_token_id=0, n_positions=1024, **config)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config).eval()
    finally:
        torch.set_default_dtype(before)


class Meter:
    """seconds and peak GiB of a block: with Meter(device) as m: ...; m.seconds, m.gib."""

    def __init__(self, device):
        self.cuda = torch.device(device).type == "cuda"

    def __enter__(self):
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self.start = time.perf_counter()
        return self

    def __exit__(self, *error):
        if self.cuda:
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.start
        self.gib = torch.cuda.max_memory_allocated() / GIB if self.cuda else None


def measure(name, spec, args, record, keep):
    """Fill record (dict) for one shape; entries that are there already are not measured again."""
    kind, config, layers, dtype = spec
    model = shape(kind, config, dtype, args.device)
    tok, layers = mt.load("tiny-gptj")[1], list(layers)
    facts = mt.facts("world", n=max(args.batches), seed=0)
    h = MEMIT(layers=layers, steps=20, lr=0.01, early_stop=0.0, lam=15000.0)
    record.setdefault("parameters", sum(p.numel() for p in model.parameters()))
    record.setdefault("dtype", str(dtype).removeprefix("torch."))
    d_in = View(model).weight(layers[0]).shape[1]
    tokens = args.tokens or 3 * d_in
    with Meter(args.device) as m:
        statistics = mt.second_moment(
            model, tok, World().texts(tokens // 8, seed=1), layers, tokens, cache=args.cache
        )
    if "C0" not in record:
        record["C0"] = {"tokens": statistics.tokens, "layers": len(layers), "seconds": m.seconds,
                        "seconds per million tokens": m.seconds / statistics.tokens * 1e6,
                        "GiB": m.gib}  # fmt: skip
        keep()
    for n in args.batches:
        if str(n) in record.setdefault("batches", {}):
            continue
        try:
            with Meter(args.device) as m:
                found = optimise_values(model, tok, facts[:n], layers[-1], h, args.chunk)
            with Meter(args.device) as rest:
                mt.edit(model, tok, facts[:n], h, statistics=statistics, targets=found).undo()
            total = m.seconds + rest.seconds
            record["batches"][str(n)] = {
                "seconds": total, "seconds per edit": total / n, "seconds of targets": m.seconds,
                "GiB": max(m.gib or 0, rest.gib or 0),
            }  # fmt: skip
        except torch.cuda.OutOfMemoryError as error:
            record["batches"][str(n)] = {"out of memory": str(error).split(".")[0]}
            torch.cuda.empty_cache()
        keep()
        print(name, n, record["batches"][str(n)], flush=True)
    best = [x for x in record["batches"].values() if "seconds per edit" in x]
    if best:
        record["minutes for 10,000 edits"] = best[-1]["seconds per edit"] * 10_000 / 60
    record["host peak GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if torch.device(args.device).type == "cuda" and "GPU against CPU" not in record:
        with mt.edit(model, tok, facts[:1], h, statistics=statistics) as e:
            there = {layer: e.delta(layer).cpu() for layer in layers}
        model.to("cpu", torch.float32)
        with mt.edit(model, tok, facts[:1], h, statistics=statistics) as e:
            record["GPU against CPU"] = max(
                float((e.delta(x) - there[x]).norm() / e.delta(x).norm()) for x in layers
            )
    keep()


def main(argv=None):
    about = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=about)
    parser.add_argument("--shapes", nargs="*", help="which (default: all)")
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try the script")
    parser.add_argument("--batches", nargs="*", type=int, default=list(BATCHES))
    parser.add_argument("--chunk", type=int, default=64, help="facts optimised together")
    parser.add_argument("--tokens", type=int, help="for C0 (3 x the key dimension)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cap", type=float, help="allow at most so many GiB of GPU memory")
    parser.add_argument("--cache", help="folder for C0")
    parser.add_argument("--out", help="the record, as JSON")
    args = parser.parse_args(argv)
    cuda = torch.device(args.device).type == "cuda"
    if cuda and not torch.cuda.is_available():
        parser.error("there is no GPU here; --small --device cpu tries the script")
    if args.cap and cuda:
        whole = torch.cuda.get_device_properties(args.device).total_memory / GIB
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.cap / whole))
    known = SMALL if args.small else SHAPES
    out = Path(args.out) if args.out else None
    record = json.loads(out.read_text()) if out and out.is_file() else {}
    record |= {"device": torch.cuda.get_device_name() if cuda else platform.machine(),
               "cap GiB": args.cap, "torch": torch.__version__}  # fmt: skip

    def keep():
        if out:
            out.write_text(json.dumps(record, indent=1) + "\n")

    for name in args.shapes or known:
        if name not in known:
            parser.error(f"unknown shape {name!r}; choose from {', '.join(known)}")
        measure(name, known[name], args, record.setdefault("shapes", {}).setdefault(name, {}), keep)
    print(json.dumps(record, indent=1))
    return record


if __name__ == "__main__":
    main()
