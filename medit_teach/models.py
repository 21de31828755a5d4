"""Where each architecture keeps its layers and its MLP down-projection; loading a model."""

import hashlib
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import torch

from .errors import HyperError, ModelError
from .hooks import first, watch
from .memory import ran_out
from .running import LM, PROBE, alike, exact, known_of, looking, unwrapped
from .settings import layer_numbers

EMBEDDED = Path(__file__).parent / "tiny" / "models"
DEFAULT = "tiny-gptj"
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # of an editable matrix
DTYPES = ("float32", "bfloat16", "float16")  # that load takes by name
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # or several files, named by an index
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))


@dataclass(frozen=True)
class Architecture:
    """The parts of a decoder, as attribute paths.

    blocks: the list of decoder blocks, from the model. mlp, attention, down: from a block; down is
    the matrix that is edited, the MLP's last one (in a gated MLP its input, the key, is the gated
    activation). transposed: its weight is stored (d_in, d_out), as GPT-2's Conv1D does.
    embedding: the token embedding; norm: the norm before the head. after: what is done to down's
    output before it is added to the residual stream, from a block: a norm (Gemma 2's
    post_feedforward_layernorm) or a number (Granite's residual_multiplier); "" for nothing. View
    tries all this out on each model, and refuses one that works otherwise.

    Not declared: the head, which is the model's get_output_embeddings(), tied to the embedding or
    not; and whether a text begins with a BOS, which the tokenizer decides. A family that is not in
    ARCHITECTURES is added by ARCHITECTURES[config.model_type] = Architecture(...).
    """

    blocks: str
    mlp: str
    attention: str
    down: str
    embedding: str
    norm: str
    transposed: bool = False
    after: str = ""


ARCHITECTURES = {
    "gpt2": Architecture(
        blocks="transformer.h",
        mlp="mlp",
        attention="attn",
        down="mlp.c_proj",
        embedding="transformer.wte",
        norm="transformer.ln_f",
        transposed=True,
    ),
    "gptj": Architecture(
        blocks="transformer.h",
        mlp="mlp",
        attention="attn",
        down="mlp.fc_out",
        embedding="transformer.wte",
        norm="transformer.ln_f",
    ),
    "gpt_neox": Architecture(  # Pythia, GPT-NeoX
        blocks="gpt_neox.layers",
        mlp="mlp",
        attention="attention",
        down="mlp.dense_4h_to_h",
        embedding="gpt_neox.embed_in",
        norm="gpt_neox.final_layer_norm",
    ),
    "opt": Architecture(  # has no module for the whole MLP: its output is fc2's
        blocks="model.decoder.layers",
        mlp="fc2",
        attention="self_attn",
        down="fc2",
        embedding="model.decoder.embed_tokens",
        norm="model.decoder.final_layer_norm",
    ),
}
ARCHITECTURES |= dict.fromkeys(  # one form: gated MLP, RMSNorm
    ("llama", "mistral", "qwen2"),
    Architecture(
        blocks="model.layers",
        mlp="mlp",
        attention="self_attn",
        down="mlp.down_proj",
        embedding="model.embed_tokens",
        norm="model.norm",
    ),
)


class View(LM):
    """A model seen through its architecture: view.down(3), view.weight(3), view.logits(hidden)."""

    def __init__(self, model, architecture=None):
        """architecture: an Architecture, for a family that ARCHITECTURES does not hold."""
        model = unwrapped(model)
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        architecture = architecture or ARCHITECTURES.get(kind)
        if architecture is None:
            raise ModelError(
                f"unsupported architecture {kind!r}; known are {', '.join(sorted(ARCHITECTURES))}. "
                f"Declare it: medit_teach.models.ARCHITECTURES[{kind!r}] = Architecture("
                "blocks=..., mlp=..., attention=..., down=..., embedding=..., norm=...)"
            )
        super().__init__(model)
        if not getattr(model.config, "do_layer_norm_before", True):  # opt-350m
            raise ModelError(
                f"this {kind} model normalises a block's output after the MLP; its edits would "
                "need other targets. Use a size that normalises before"
            )
        placed = model.named_parameters() if hasattr(model, "hf_device_map") else ()
        away = next((name for name, p in placed if p.is_meta), None)
        if away:
            raise ModelError(
                f"{away} is not in memory: the device map put it on the disk or in the host's RAM. "
                "Load in half precision, over more devices, or with a map that holds it all"
            )
        self.architecture = architecture
        self.blocks = self._part(model, "blocks")
        self.n_layers = len(self.blocks)
        self.embedding = self._part(model, "embedding")
        self.norm = self._part(model, "norm")
        tried = known_of(model).setdefault("tried", [])
        if architecture not in tried and self._try():
            tried.append(architecture)

    def _part(self, root, name):
        """root's submodule at the declared path; ModelError if it has none."""
        path = getattr(self.architecture, name)
        try:
            return root.get_submodule(path)
        except AttributeError as error:
            raise ModelError(
                f"{type(root).__name__} has no part {path!r}, declared as {name}: {error}"
            ) from None

    def block(self, layer):
        """Decoder block `layer`; ModelError if there is none."""
        (layer,) = layer_numbers(layer)
        if not 0 <= layer < self.n_layers:
            raise ModelError(
                f"layer {layer} is out of range: the model has 0 to {self.n_layers - 1}"
            )
        return self.blocks[layer]

    def layers(self, layers, error=HyperError):
        """A tuple of layers that the model has, ascending, from what `layer_numbers` takes."""
        layers = layer_numbers(layers, error)
        for layer in layers:
            self.block(layer)
        if not layers:
            raise error("no layer was given; give layers=[...]")
        return layers

    def mlp(self, layer):
        """The whole MLP of block `layer` (OPT has none: its last matrix)."""
        return self._part(self.block(layer), "mlp")

    def attention(self, layer):
        """The attention module of block `layer`."""
        return self._part(self.block(layer), "attention")

    def down(self, layer):
        """The MLP's down-projection: its input is a key, its output a value."""
        return self._part(self.block(layer), "down")

    def parameter(self, layer):
        """The stored weight of down(layer), in whichever orientation it is stored."""
        return self.down(layer).weight

    def weight(self, layer):
        """W (d_out, d_in): a view of the stored weight, so that value = W key + bias."""
        stored = self.parameter(layer)
        return stored.T if self.architecture.transposed else stored

    def bias(self, layer):
        """b (d_out,) or None."""
        return getattr(self.down(layer), "bias", None)

    def after(self, layer):
        """What is done to down's output before it is added: a module, a number, or None."""
        path = self.architecture.after
        try:
            return attrgetter(path)(self.block(layer)) if path else None
        except AttributeError as error:
            raise ModelError(f"a block has no {path!r}, declared as after: {error}") from None

    def arrives(self, layer, value, step):
        """By how much a block's output moves when down's, `value`, moves by `step` (..., d_out)."""
        after = self.after(layer)
        if isinstance(after, torch.nn.Module):
            return after(value + step) - after(value)
        return step if after is None else after * step

    def as_value(self, site, layer, residual):
        """The residual (d_out, E) at `site` as one of down's output.

        ModelError at site "block", if a norm stands between: then none has the same effect on all.
        """
        after = self.after(layer) if site == "block" else None
        if isinstance(after, torch.nn.Module):
            raise ModelError(
                f"this {self.model.config.model_type} model normalises what its MLP gives, and a "
                'target for a block\'s output may be out of reach: edit one layer with site="value"'
            )
        return residual if after is None else residual / after

    def _try(self):
        """Try the declaration out in two short passes; ModelError, with the reason, if it is not
        so. True if that was possible: not on a skeleton, nor with weights that are not finite."""
        layers = range(self.n_layers)
        for layer in layers:
            self._plain_matrix(layer)
        if len({id(self.parameter(layer)) for layer in layers}) < self.n_layers:
            raise ModelError(
                "several layers share one matrix: an edit of one would change them all"
            )
        if any(p.is_meta for p in self.model.parameters()):
            return False
        parts = {("block", i): self.block(i) for i in layers}
        parts |= {("down", i): self.down(i) for i in layers}
        with looking(self.model):
            with watch(parts) as seen:
                own = self.model(**self.probe()).logits
            if not torch.isfinite(own).all():
                return False
            for layer in layers:
                before = seen["block", layer - 1].output if layer else seen["block", 0].input
                self._try_block(layer, before, seen["block", layer], seen["down", layer])
            if not alike(self.logits(seen["block", self.n_layers - 1].output), own):
                raise ModelError(
                    f"norm and head on what the last block gives are not the logits of this "
                    f"{self.model.config.model_type} model; look at blocks= and norm="
                )
        return True

    def _plain_matrix(self, layer):
        down = self.down(layer)
        weight = getattr(down, "_parameters", {}).get("weight")
        if type(weight) is not torch.nn.Parameter or weight.dtype not in FLOATS or weight.ndim != 2:
            raise ModelError(
                f"the MLP down-projection of layer {layer} is a {type(down).__name__} without a "
                "plain matrix of weights (quantised, adapted or packed), and cannot be edited; "
                "load the full-precision weights, or merge the adapter (model.merge_and_unload())"
            )

    def _try_block(self, layer, before, block, down):
        """Layer by itself: down gives W k + b, and a step of that arrives as declared, at its token
        alone. before: what the last block gave; block, down: what was seen of this one."""
        kind = self.model.config.model_type
        if block.input is None or not alike(block.input, before):
            raise ModelError(f"in this {kind} model something is done between blocks {layer - 1} "
                             f"and {layer}; look at blocks=")  # fmt: skip
        if down.input is None or down.input.numel() != PROBE * self.weight(layer).shape[1]:
            raise ModelError(
                f"not every token goes through down of layer {layer} once (a mixture of experts?): "
                "such a layer cannot be edited"
            )
        key, value, out = (x.reshape(PROBE, -1) for x in (down.input, down.output, block.output))
        eps = torch.finfo(value.dtype).eps
        bias = self.bias(layer)
        made = exact(key) @ exact(self.weight(layer)).T
        made = made if bias is None else made + exact(bias)
        if (made - exact(value)).norm() > max(0.01, 8 * eps) * exact(value).norm():
            raise ModelError(
                f"down of layer {layer} does not give W k + b (an adapter, a hook, or transposed= "
                "is wrong): it cannot be edited"
            )
        size = torch.tensor([0, 1, 0, 2.5, 0])[:, None]  # how far each token's value is moved
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)) * size
        scale = torch.maximum(*(x.to(value.device).float().square().mean(1).sqrt()
                                for x in (value, out)))[:, None]  # fmt: skip
        step = (noise.to(value.device) * scale).to(value.dtype)
        add = {"down": lambda x: x + step.view_as(x)}
        with watch({"down": self.down(layer)}, add):
            moved = first(self.block(layer)(*block.args, **block.kwargs)).reshape(PROBE, -1)
        wanted = exact(self.arrives(layer, value, step).to(out.device))
        error = (exact(moved) - exact(out) - wanted).norm(dim=1)
        floor = eps * exact(out).norm(dim=1) + max(1e-3, 8 * eps) * wanted.norm(dim=1)
        if (error > floor).any():
            share = float(error.max() / wanted.norm(dim=1).max())
            raise ModelError(
                f"a block of this {kind} model does not add what down gives "
                f"{'as after= says' if self.architecture.after else 'as it is'} (layer {layer}: a "
                f"step of it arrives changed by {share:.0%}), so its edits would miss their "
                "targets. Declare the norm or the number in between as after=..., or do not "
                "declare the family"
            )

    def logits(self, hidden):
        """Final norm and head on block outputs `hidden` (..., d_out) -> (..., vocabulary)."""
        return self.head(self.norm(hidden))


def load(name=None, dtype=None, device=None, device_map=None, revision=None):
    """Model and tokenizer by name: (model, tok), in evaluation mode.

    name: an embedded model ("tiny-gptj", ...), a real one that comes as a package ("smollm2", see
    medit_teach.weights), a local folder, a GGUF file, or a hub name ("gpt2-xl"); None means the
    environment variable MEDIT_MODEL, else "tiny-gptj".
    dtype: a torch dtype or one of DTYPES, default the one its config names. device: "cpu", ...
    device_map: instead of device, spread over several: "auto", or {part: device} (transformers
    and accelerate place the parts; each edit and each C0 then lies where its layer is).
    device="auto" is the same as device_map="auto".
    revision: branch, tag or commit of a hub repository ("float16" of "EleutherAI/gpt-j-6b").
    Raises ModelError, in one line, when the model cannot be found, does not fit, is quantised, or
    is not whole: the message names the file, or the weights, that are missing. Code that comes with
    a model is never run. Without a network only the hub's cache is looked at.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from . import weights

    name = str(name or os.environ.get("MEDIT_MODEL") or DEFAULT)
    folder = EMBEDDED / name
    source = folder if folder.is_dir() else Path(name).expanduser()
    one_file = name in weights.PACKAGED or name.lower().endswith(".gguf")
    if source.is_dir():
        _whole(source)
    elif source.is_absolute() and not one_file:
        raise ModelError(f"cannot load {name!r}: there is no such folder")
    if source.is_dir() and revision is not None:
        raise ModelError(f"{name!r} is a folder here: only a hub name has a revision {revision!r}")
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise ModelError(f"unknown dtype {dtype!r}; choose from {', '.join(DTYPES)}")
        dtype = getattr(torch, dtype)
    if device == "auto":
        device, device_map = None, device_map or "auto"
    if device_map is None:
        device_map = None if device in (None, "cpu") else {"": device}
    elif device is not None:
        raise ModelError("give device or device_map, not both")
    _available(device_map)
    if one_file and not source.is_dir():
        return _from_one_file(name, dtype, device_map, revision)
    kwargs = {"dtype": dtype, "device_map": device_map, "revision": revision}
    kwargs["output_loading_info"] = True
    where = {"trust_remote_code": False}
    if not source.is_dir() and not reachable():
        where["local_files_only"] = True
    source = str(source) if source.is_dir() else name
    try:
        with _silent(folder.is_dir()):
            tok = AutoTokenizer.from_pretrained(source, revision=revision or "main", **where)
            kwargs = {k: v for k, v in kwargs.items() if v is not None}
            model, info = AutoModelForCausalLM.from_pretrained(source, **kwargs, **where)
    except SafetensorError as error:
        broken = ", ".join(p.name for p in Path(source).glob("*.safetensors") if _broken(p))
        raise ModelError(
            f"cannot load {name!r}: {broken or 'its weights file'} is damaged or cut short "
            f"({error}); copy it again"
        ) from error
    except Exception as error:  # transformers and tokenizers raise any kind for a damaged file
        if ran_out(error):
            raise ModelError(
                f"{name!r} does not fit: load it with dtype=torch.float16 or torch.bfloat16, over "
                'several devices with device_map="auto", or take a smaller model'
            ) from error
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{name!r} comes with code of its own, which is not run. If you trust it, load "
                "it yourself (AutoModelForCausalLM and AutoTokenizer.from_pretrained(..., "
                "trust_remote_code=True)) and give model and tokenizer to medit_teach"
            ) from error
        reason = one_line(error)
        if isinstance(error, OSError) and where.get("local_files_only"):
            reason = "the hub cannot be reached, and its cache here does not hold it"
        raise ModelError(
            f"cannot load {name!r}: {reason}. Embedded models need no network: "
            f"{', '.join(embedded())}; a local folder needs config.json, weights and tokenizer"
        ) from error
    lacking = sorted(set(info["missing_keys"]) & {name for name, _ in model.named_parameters()})
    if lacking:
        raise ModelError(
            f"the weights of {name!r} are incomplete: {lacking[0]} and {len(lacking) - 1} more are "
            "missing, and would be random; copy the model again, or mend its config.json"
        )
    _not_quantised(name, model.config.to_dict())
    return model.eval(), tok


def reachable():
    """Whether the hub answers: one question, without the half minute of tries of its client."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # whatever the client raises without a network
        return False
    return True


def one_line(error):
    """The first line of what an error says, or its name."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def _not_quantised(name, config):
    how = config.get("quantization_config")
    if how:
        method = how.get("quant_method", "") if isinstance(how, dict) else type(how).__name__
        raise ModelError(
            f"{name!r} is quantised ({method}): its packed matrices cannot be edited. Load the "
            "full-precision weights"
        )


def _from_one_file(name, dtype, device_map, revision):
    from . import weights

    if revision is not None:
        raise ModelError(f"{name!r} is one file, and has no revision {revision!r}")
    if device_map is not None and (not isinstance(device_map, dict) or set(device_map) != {""}):
        raise ModelError(f"{name!r} is loaded onto one device: give device, not device_map")
    model, tok = weights.load(name, dtype)
    return model.to(device_map[""]) if device_map else model, tok


def _whole(folder):
    """ModelError that names the missing file, unless `folder` holds config, weights, tokenizer."""
    there = {path.name for path in folder.iterdir()}
    if "config.json" in there:
        try:
            config = dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        except (ValueError, TypeError, OSError) as error:
            raise ModelError(
                f"{str(folder / 'config.json')!r} is damaged ({one_line(error)}); copy it again"
            ) from error
        _not_quantised(str(folder), config)
    indices = [f"{name}.index.json" for name in WEIGHTS if f"{name}.index.json" in there]
    missing = sorted({"config.json"} - there)
    if indices and not there & set(WEIGHTS):
        try:
            shards = json.loads((folder / indices[0]).read_text(encoding="utf-8"))
            shards = set(shards["weight_map"].values())
        except (ValueError, TypeError, LookupError, AttributeError, OSError) as error:
            raise ModelError(
                f"{str(folder / indices[0])!r} is damaged ({one_line(error)}); copy it again"
            ) from error
        missing += sorted(shards - there)
    elif not there & set(WEIGHTS):
        missing.append(f"the weights ({' or '.join(WEIGHTS)})")
    if not any(there.issuperset(names) for names in TOKENIZERS):
        missing.append(f"the tokenizer ({' or '.join('+'.join(names) for names in TOKENIZERS)})")
    if missing:
        raise ModelError(
            f"the model folder {str(folder)!r} is incomplete: no {', no '.join(missing)}"
        )


def _broken(path):
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt"):
            return False
    except SafetensorError:
        return True


def _available(device_map):
    """ModelError if a device is asked for that this machine, or this torch, does not have."""
    for device in device_map.values() if isinstance(device_map, dict) else ():
        try:
            torch.empty(0, device=device if device != "disk" else "cpu")
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ModelError(f"no device {str(device)!r} here: {one_line(error)}") from None


@contextmanager
def _silent(yes):
    """No progress bars of transformers inside, if `yes`."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if yes:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if yes and shown:
            logging.enable_progress_bar()


def embedded():
    """Names of the models that ship with the package."""
    return sorted(p.name for p in EMBEDDED.iterdir() if p.is_dir()) if EMBEDDED.is_dir() else []


def card(model):
    """What an embedded model's config.json says of itself ({} for any other model)."""
    return getattr(unwrapped(model).config, "medit_teach", None) or {}


def is_embedded(model):
    """True for the models that ship with the package: only about them the book states outcomes."""
    return bool(card(model))


def check_finite(view, layers):
    """ModelError if the matrix of any of `layers` holds NaN or infinite numbers."""
    for layer in layers:
        if not torch.isfinite(view.parameter(layer)).all():
            raise ModelError(
                f"the MLP down-projection of layer {layer} contains NaN or infinite weights; "
                "load the model again"
            )


def why_not_finite(model):
    """Why a model gives NaN or infinite numbers, and what to do (a sentence for an error)."""
    model = unwrapped(model)
    broken = next((n for n, p in model.named_parameters() if not torch.isfinite(p).all()), None)
    if broken:
        return f"the model has NaN or infinite weights ({broken}); load it again"
    if model.dtype == torch.float16:
        return (
            "float16 overflowed (it holds no number above 65,504); load the model with "
            "dtype=torch.bfloat16 or torch.float32"
        )
    return "the weights are finite, but too large for their type; load it with dtype=torch.float32"


def fingerprint(model):
    """Hash of all weights (hex). A tensor is hashed again only when it has changed."""
    total = hashlib.blake2b(digest_size=16)
    for name, p in unwrapped(model).named_parameters():
        total.update(f"{name} {tensor_hash(p)}".encode())
    return total.hexdigest()


def tensor_hash(p):
    """Hash of a parameter's dtype, shape and bits (hex), kept on it until it changes.

    Changes are seen by its address, its version counter, and a sample of its entries (which also
    catches writes through .data, for they leave the counter alone).
    """
    flat = p.detach().reshape(-1)
    sample = flat[:: max(1, len(flat) // 64)].float().cpu().numpy().tobytes()
    version = None if p.is_inference() else p._version  # such a tensor counts no changes
    state = (p.data_ptr(), version, sample)
    known = getattr(p, "_medit_hash", None)
    if known is None or known[0] != state:
        digest = hashlib.blake2b(f"{p.dtype} {tuple(p.shape)}".encode(), digest_size=16)
        digest.update(flat.cpu().contiguous().view(torch.uint8).numpy())
        known = p._medit_hash = (state, digest.hexdigest())
    return known[1]
