"""Loading a model: whole folders, incomplete ones, devices that there are or not."""

import json
import shutil
import time

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import medit_teach as mt
from medit_teach import models
from medit_teach.errors import ModelError

from .helpers import tiny_model, tiny_tokenizer
from .test_families import TEXTS


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder of one weights file, folder of several)."""
    tok = tiny_tokenizer()
    model = tiny_model("gptj", tok, layers=2, d=16)
    folders = []
    for name, size in (("one", "1GB"), ("several", "20KB")):
        folders.append(tmp_path_factory.mktemp(name))
        model.save_pretrained(folders[-1], max_shard_size=size)
        tok.save_pretrained(folders[-1])
    assert len(list(folders[1].glob("model-*"))) > 2
    return folders


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "model")


def test_whole_folders(saved):
    one, several = (mt.load(folder)[0] for folder in saved)
    assert models.fingerprint(one) == models.fingerprint(several)
    half, _ = mt.load(saved[0], dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16


def test_weights_types_by_name_and_revisions(folder, monkeypatch):
    half, _ = mt.load(folder, dtype="float16")
    assert half.dtype == torch.float16
    with pytest.raises(ModelError, match="unknown dtype 'half'; choose from float32, bfloat16"):
        mt.load(folder, dtype="half")
    with pytest.raises(ModelError, match="is a folder here: only a hub name has a revision 'old'"):
        mt.load(folder, revision="old")
    asked = []
    for name in ("AutoTokenizer", "AutoModelForCausalLM"):
        real = getattr(transformers, name).from_pretrained

        def hub(source, revision, real=real, **kwargs):  # "someone/model" is the folder here
            asked.append((source, revision))
            return real(folder, **kwargs)

        monkeypatch.setattr(f"transformers.{name}.from_pretrained", hub)
    model, _ = mt.load("someone/model", revision="float16")
    assert asked == [("someone/model", "float16")] * 2 and model.dtype == torch.float32


def test_a_map_of_transformers_own_making(folder, monkeypatch):
    """device_map="auto", on a machine without a GPU over the CPU alone: loaded, edited, undone."""
    from transformers.integrations import accelerate

    made, real = [], accelerate.infer_auto_device_map
    auto = lambda *a, **k: made.append(real(*a, **k)) or made[-1]  # noqa: E731
    monkeypatch.setattr(accelerate, "infer_auto_device_map", auto)
    model, tok = mt.load(folder, device_map="auto")
    assert made and (torch.cuda.is_available() or set(made[0].values()) == {"cpu"})
    plain, _ = mt.load(folder, device=str(model.device))
    assert models.fingerprint(model) == models.fingerprint(plain)
    C0 = mt.second_moment(model, tok, TEXTS, [0, 1], tokens=1500)
    fact = mt.Fact("The king of {} is", "Rome", "old", "new")
    deltas = []
    for each in (model, plain, mt.load(folder, device="auto")[0]):
        with mt.edit(each, tok, fact, "memit", layers=[0, 1], statistics=C0, lam=0.1, steps=3) as e:
            deltas.append(e.delta(1))
            assert models.fingerprint(each) != C0.weights
        assert models.fingerprint(each) == C0.weights
    assert torch.equal(deltas[0], deltas[1]) and torch.equal(deltas[0], deltas[2])


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("config.json", "is incomplete: no config.json"),
        ("model.safetensors", r"no the weights \(model.safetensors or pytorch_model.bin\)"),
        ("tokenizer.json", r"no the tokenizer \(tokenizer.json or vocab.json\+merges.txt or"),
    ],
)
def test_a_missing_file_is_named(folder, lost, message):
    (folder / lost).unlink()
    with pytest.raises(ModelError, match=message):
        mt.load(folder)


def test_a_missing_shard_is_named(saved, tmp_path):
    folder = shutil.copytree(saved[1], tmp_path / "model")
    lost = sorted(folder.glob("model-*"))[1]
    lost.unlink()
    with pytest.raises(ModelError, match=f"is incomplete: no {lost.name}"):
        mt.load(folder)


@pytest.mark.parametrize("keep", [0, -100])
def test_a_file_cut_short_is_named(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged or cut short"):
        mt.load(folder)


def test_weights_that_would_be_random_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    lost = "transformer.h.1.mlp.fc_out.weight"
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"are incomplete: {lost} and 0 more"):
        mt.load(folder)


def test_a_config_of_another_size_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_layer": 3}))
    with pytest.raises(ModelError, match=r"transformer\.h\.2\.\S+ and \d+ more"):
        mt.load(folder)


def test_no_such_folder(tmp_path):
    with pytest.raises(ModelError, match="there is no such folder"):
        mt.load(tmp_path / "nothing")


def test_devices(folder):
    model, _ = mt.load(folder, device="cpu")
    assert model.device.type == "cpu"
    model, _ = mt.load(folder, device_map={"": "cpu"})
    mt.models.View(model)
    with pytest.raises(ModelError, match="give device or device_map, not both"):
        mt.load(folder, device="cpu", device_map="auto")
    with pytest.raises(ModelError, match="no device 'nonsense' here"):
        mt.load(folder, device="nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match=r"no device 'cuda' here: .*CUDA"):
            mt.load(folder, device="cuda")


def test_a_layer_kept_on_the_disk_is_refused(folder, tmp_path):
    from accelerate import disk_offload

    model, tok = mt.load(folder)
    disk_offload(model, tmp_path / "offload", execution_device=torch.device("cpu"))
    model.hf_device_map = {"": "disk"}
    with pytest.raises(ModelError, match=r"wte\.weight is not in memory: the device map put it"):
        mt.edit(model, tok, mt.Fact("{} is", "Rome", "old"), "rome", layers=[1])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_out_of_memory(folder, monkeypatch, error):
    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", full)
    with pytest.raises(ModelError, match=r"does not fit: load it with dtype=torch\.float16"):
        mt.load(folder)


@pytest.mark.parametrize("how", ["gptq", "awq", "bitsandbytes", "torchao", "compressed-tensors"])
def test_a_quantised_model_is_named(folder, how):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": how, "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=rf"is quantised \({how}\): its packed matrices cannot"):
        mt.load(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '{"model": 3}', "\x00\x01"])
def test_damaged_files_are_one_line(folder, name, text):
    (folder / name).write_text(text)
    try:  # a tokenizer needs no settings beside its file
        mt.load(folder)
    except ModelError as error:
        assert "\n" not in str(error) and folder.name in str(error)
    else:
        assert name == "tokenizer_config.json"


@pytest.mark.parametrize(
    "change", [dict(model_type="nothing"), dict(model_type=3), dict(n_embd="x")]
)
def test_a_config_of_no_known_model(folder, change):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError) as error:
        mt.load(folder)
    assert "\n" not in str(error.value)


def test_a_damaged_index_is_named(saved, tmp_path):
    folder = shutil.copytree(saved[1], tmp_path / "model")
    for text in ("", "[]", "{}", '{"weight_map": 3}'):
        (folder / "model.safetensors.index.json").write_text(text)
        with pytest.raises(ModelError, match=r"index\.json' is damaged"):
            mt.load(folder)


@pytest.mark.parametrize("what", ["AutoModelForCausalLM", "AutoConfig", "AutoTokenizer"])
def test_code_that_comes_with_a_model_is_not_run_and_nothing_is_asked(folder, monkeypatch, what):
    """Said to be a model, a config or a tokenizer of its own; the code would leave a mark."""
    mark = folder / "ran"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w').write('')\nraise SystemExit(3)\n")
    config = json.loads((folder / "config.json").read_text())
    if what == "AutoTokenizer":
        about = json.loads((folder / "tokenizer_config.json").read_text())
        about |= {"tokenizer_class": "Own", "auto_map": {what: ["own.Own", "own.Own"]}}
        (folder / "tokenizer_config.json").write_text(json.dumps(about))
    else:
        config |= {"model_type": "own", "auto_map": {what: "own.Own", "AutoConfig": "own.Own"}}
        (folder / "config.json").write_text(json.dumps(config))

    def ask(*_):
        raise AssertionError("something was asked")

    monkeypatch.setattr("builtins.input", ask)
    if what == "AutoTokenizer":  # tokenizer.json is enough
        mt.load(folder)
    else:
        with pytest.raises(ModelError, match=r"code of its own, which is not run.*you trust it"):
            mt.load(folder)
    assert not mark.exists()


def test_without_a_network_a_hub_name_is_answered_at_once(monkeypatch):
    """Offline mode is off, and the hub's address does not exist; a cached model is still found."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://localhost:9")
    began = time.monotonic()
    assert not models.reachable()
    with pytest.raises(ModelError, match=r"the hub cannot be reached, and its cache here does not"):
        mt.load("someone/no-such-model")
    assert time.monotonic() - began < 10
