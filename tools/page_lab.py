"""Make the data that the page lab (book/lab.md) loads: the embedded model, its C0, its world.

    python tools/page_lab.py              the files in _build/lab; nothing to do if they are fresh
    python tools/page_lab.py --targets    first book/_lab/targets.safetensors, for the batch

The book's build calls `build` and copies the files to `_static/lab`. Each is a script that hands a
header and packed numbers to the page, so that it works from a folder without a server. A number
has 16 bits (half), or the leading 17 to 32 of a float32; all are deflated and put in base 85.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import zlib
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "book" / "_lab"
FOLDER = ROOT / "_build" / "lab"
TARGETS = SOURCES / "targets.safetensors"
MODEL = "tiny-gptj"
LAYERS = {1: 22, 3: 24, 5: 23, 7: 16}  # layers to choose from: bits of each number of C0^-1
C0_TOKENS = 20_000
BATCH_LAYER = 3
BATCH = 512  # prepared facts
BYSTANDERS = 32  # questions about subjects that no edit of the batch is about
TEXTS, TEXT_TOKENS = 4, 40  # ordinary text for the perplexity
LONGEST = 16  # tokens of a new object: a longer one takes a phone minutes


def build(folder: Path = FOLDER) -> Path:
    """The data files in `folder`, made anew only if model, world, targets or this file changed."""
    stamp = folder / "made-from.txt"
    now = _made_from()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == now:
        return folder
    import medit_teach as mt

    folder.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    model, tok = mt.load(MODEL)
    for name, (header, arrays) in _files(model, tok).items():
        (folder / f"{name}.js").write_text(pack(name, header, arrays), encoding="ascii")
    stamp.write_text(now, encoding="utf-8")
    return folder


def pack(name: str, header: dict, arrays: dict) -> str:
    """A script of one call. arrays: {name: (numbers, bits a number)}."""
    planes, rows = [], []
    for key, (numbers, bits) in arrays.items():
        flat, size = np.ascontiguousarray(numbers).reshape(-1), (bits + 7) // 8
        if bits == 16:
            words = flat.astype(">f2")
        else:
            words = flat.astype(np.float32).view(np.uint32).astype(np.uint64)
            words = (words + ((1 << (32 - bits)) >> 1)) >> (32 - bits) << (32 - bits)  # to nearest
            words = words.astype(">u4")
        raw = words.view(np.uint8).reshape(flat.size, -1)[:, :size]
        planes.append(np.ascontiguousarray(raw.T).tobytes())  # first bytes first: packs better
        rows.append([key, flat.size, size])
    text = ""
    if rows:
        packed = zlib.compress(b"".join(planes), 9)
        header = header | {"arrays": rows, "packed": len(packed)}
        text = base64.b85encode(packed + bytes(-len(packed) % 4)).decode()
    return f'labData("{name}", {json.dumps(header, separators=(",", ":"))}, "{text}");\n'


def _made_from() -> str:
    """A hash of all that the files depend on."""
    from medit_teach import world
    from medit_teach.models import EMBEDDED

    own = [Path(__file__), TARGETS, *sorted(Path(world.__file__).parent.glob("*.py"))]
    paths = [*own, *sorted((EMBEDDED / MODEL).iterdir())]
    whole = hashlib.blake2b(digest_size=16)
    for path in paths:
        whole.update(path.read_bytes())
    return whole.hexdigest()


def statistics(model, tok):
    """C0 of the layers to choose from: from the library's cache, else collected."""
    import medit_teach as mt

    return mt.statistics_for(model, tok, list(LAYERS), tokens=C0_TOKENS)


def _files(model, tok) -> dict:
    """{file: (header, {array: (numbers, bits)})}, one file after the other."""
    from medit_teach.hyper import hyper
    from medit_teach.models import card
    from medit_teach.world import World

    h = hyper("memit", model)
    world = World(**card(model)["world"])
    found = statistics(model, tok)
    out = {"model": _model(model), "world": (_world(world, tok, h), {})}
    for layer, bits in LAYERS.items():
        out[f"c0-{layer}"] = _inverse(found, layer, bits)
    out["batch"] = _batch(model, tok, h, world)
    return out


def _model(model):
    c = model.config
    shape = {
        "layers": c.n_layer, "heads": c.n_head, "width": c.n_embd,
        "inner": c.n_inner or 4 * c.n_embd, "rotary": c.rotary_dim,
        "vocabulary": c.vocab_size, "positions": c.n_positions, "eps": c.layer_norm_epsilon,
    }  # fmt: skip
    arrays = {}
    for name, p in model.state_dict().items():
        x = p.float().numpy()
        if not np.array_equal(x.astype(np.float16).astype(np.float32), x):
            raise SystemExit(f"{name} is not exact in half precision")
        arrays[name] = (x, 16)
    return {"shape": shape}, arrays


def _world(world, tok, h):
    """Facts to choose from, the tokenizer, and what the search for a target needs."""
    from medit_teach.keys import context_weights
    from medit_teach.world import BY_NAME, CATEGORIES

    if (h.decay, h.kl_position, h.site) != ("original", "subject", "block"):
        raise SystemExit("the page searches the target in one way; these settings want another")
    bpe = json.loads(tok.backend_tokenizer.to_str())["model"]
    vocabulary = sorted(bpe["vocab"], key=bpe["vocab"].get)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in bpe["merges"]]
    relations = []
    for name in (*CATEGORIES, "chair"):
        r = BY_NAME[name]
        objects = world.objects[name]
        place = {o: i for i, o in enumerate(objects)}
        of = [place.get(world.facts.get((name, s)), -1) for s in world.names[r.cls]]
        known = "".join("01"[world.known(name, s)] for s in world.names[r.cls])
        relations.append({
            "name": name, "of": r.cls, "prompts": r.train, "paraphrases": r.heldout,
            "objects": objects, "facts": of, "known": known,
        })  # fmt: skip
    fields = ("contexts", "steps", "lr", "weight_decay", "kl_factor", "clamp", "early_stop", "lam")
    hyper = {name: getattr(h, name) for name in fields}
    hyper["longest"] = LONGEST
    hyper["weights"] = context_weights(h.contexts, h.average).tolist()
    return {
        "tokenizer": {"vocabulary": vocabulary, "merges": merges},
        "names": {cls: world.names[cls] for cls in ("person", "city", "company")},
        "editable": {
            cls: "".join("01"[s in world.editable] for s in world.names[cls])
            for cls in ("person", "city", "company")
        },
        "relations": relations,
        "sentence": "A dog slept under the table.",
        "layers": list(LAYERS),
        "batch": {"layer": BATCH_LAYER, "facts": BATCH},
        "hyper": hyper,
    }


def _inverse(statistics, layer, bits):
    """C0^-1 as its lower triangle, scaled to a diagonal of ones."""
    import torch

    inverse = torch.cholesky_inverse(statistics.soft(layer).L).numpy()
    scale = np.sqrt(np.diagonal(inverse))
    triangle = (inverse / scale[:, None] / scale)[np.tril_indices(len(scale))]
    return {"layer": layer}, {"triangle": (triangle, bits), "scale": (scale, 32)}


def batch_facts():
    """The prepared facts: those of the lab on batch size."""
    import medit_teach as mt

    return mt.facts("world", n=BATCH)


def _mark(model, facts, h) -> str:
    """What the stored targets belong to."""
    from medit_teach.values import Targets

    told = [Targets(model, None).kind(h), [[f.prompt, f.subject, f.target_new] for f in facts]]
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()


def batch_hyper(model):
    """MEMIT's settings at the one layer of the batch."""
    from medit_teach.hyper import hyper

    return hyper("memit", model, layers=(BATCH_LAYER,))


def batch_deltas(model):
    """The stored targets minus their starts, (E, d_out) float16."""
    from safetensors import safe_open

    with safe_open(TARGETS, "np") as file:
        if file.metadata()["mark"] != _mark(model, batch_facts(), batch_hyper(model)):
            raise SystemExit(
                f"{TARGETS.relative_to(ROOT)} belongs to other weights, facts or settings; run "
                "python tools/page_lab.py --targets"
            )
        return file.get_tensor("delta")


def make_targets() -> None:
    """Optimise the targets of the batch (minutes) and store them in half precision."""
    from safetensors.numpy import save_file
    from tqdm import tqdm

    import medit_teach as mt
    from medit_teach.values import optimise_values

    model, tok = mt.load(MODEL)
    facts, h = batch_facts(), batch_hyper(model)
    with tqdm(total=len(facts), unit="fact") as bar:
        found = optimise_values(model, tok, facts, BATCH_LAYER, h, progress=bar.update)
    delta = np.ascontiguousarray(found.delta.T.numpy().astype(np.float16))
    save_file({"delta": delta}, TARGETS, metadata={"mark": _mark(model, facts, h)})


def _batch(model, tok, h, world):
    from medit_teach.fact import encode
    from medit_teach.keys import keys
    from medit_teach.world import Corpus

    facts = batch_facts()
    K = keys(model, tok, facts, BATCH_LAYER, h.contexts, h.average).T.numpy()  # (E, d_in)
    edited = {f.subject for f in facts}
    strangers = [
        (f, s)
        for f in facts
        for s in f.neighborhood[:1]
        if not any(s == f.prompt.replace("{}", name) for name in edited)
    ]
    chosen = [strangers[i * len(strangers) // BYSTANDERS] for i in range(BYSTANDERS)]
    texts = [
        text[: encode(tok, text)[1][:TEXT_TOKENS][-1][1]]
        for text in Corpus(world).texts(TEXTS, seed=2)
    ]
    header = {
        "layer": BATCH_LAYER,
        "facts": [{"text": f.text, "object": f.target_new} for f in facts],
        "neighbours": [[question, f.target_true] for f, question in chosen],
        "texts": texts,
    }
    return header, {"keys": (K, 24), "deltas": (batch_deltas(model), 16)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--targets", action="store_true", help="optimise the batch's targets anew")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the files go; _build/lab")
    options = parser.parse_args(argv)
    if options.targets:
        make_targets()
    for path in sorted(build(options.out).glob("*.js")):
        print(f"{path.stat().st_size / 1e6:6.2f} MB  {path.name}")


if __name__ == "__main__":
    main()
