"""Make the C0 that ships for SmolLM2: the layers of its presets, halves of symmetric matrices.

    python -m measure.real_c0 --text wikitext-2-valid.txt [--tokens 50000] [--out FILE]

The text is WikiText-2's validation split, one paragraph a line; lines of at most 200 characters
(headings, blank lines) are left out. Takes about a minute of one core.
"""

import argparse
from pathlib import Path

import torch

import medit_teach as mt
from medit_teach import weights
from medit_teach.hyper import hyper


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--out", type=Path, default=weights.SHIPPED)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tok = mt.load("smollm2")
    lines = options.text.read_text(encoding="utf-8").split("\n")
    layers = sorted({x for name in ("rome", "memit") for x in hyper(name, model).layers})
    found = mt.second_moment(model, tok, [x for x in lines if len(x) > 200], layers, options.tokens)
    weights.ship(found, options.out)
    back = weights.shipped(found.weights, layers, options.out)
    for layer in layers:
        C, D = found[layer], back[layer]
        apart = torch.linalg.eigvals(torch.linalg.solve(C, D)).real
        low, high = float(apart.min()), float(apart.max())
        print(f"layer {layer}: generalised eigenvalues of the stored C0 {low:.4f} to {high:.4f}")


if __name__ == "__main__":
    main()
