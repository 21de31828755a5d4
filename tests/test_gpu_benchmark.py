"""The GPU benchmark, tried on tiny shapes of a CPU: every measurement is there, and makes sense."""

import json

import pytest
import torch

import medit_teach as mt
from benchmarks import gpu
from medit_teach.hyper import MEMIT

CALL = ["--small", "--device", "cpu", "--batches", "1", "3", "--tokens", "1500", "--chunk", "2"]


def test_a_record_with_one_layer_at_a_time(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    shape = ["--shapes", "gptj-small-test", "--one-at-a-time", "--cache", str(tmp_path / "C0")]
    gpu.main([*CALL, *shape, "--scratch", str(tmp_path), "--out", str(out)])
    record = json.loads(out.read_text())
    assert record["command"].startswith("python -m benchmarks.gpu --small --device cpu")
    assert {"commit", "date", "versions", "cap GiB", "weights", "host", "device"} < set(record)
    found = record["shapes"]["gptj-small-test"]
    assert found["loading"]["shards"] > 1 and found["loading"]["seconds"] > 0
    assert found["C0"]["seconds per million tokens"] > 0 and found["one at a time"]
    assert len(list((tmp_path / "C0").rglob("C0-*.safetensors"))) == 2
    three = found["batches"]["3"]
    assert three["seconds"] == pytest.approx(3 * three["seconds per edit"])
    assert three["seconds"] > three["seconds of targets"] and three["GiB by the bill"] > 0
    assert found["minutes for 10,000 edits"] > 0
    assert not list(tmp_path.glob("tmp*"))  # the shards are gone
    capsys.readouterr()


def test_the_line_to_many_edits():
    batches = {"1": {"seconds": 5.0}, "16": {"seconds": 20.0}, "256": {"seconds": 260.0},
               "1024": {"out of memory": "no"}}  # fmt: skip
    assert gpu.minutes(batches, 10_000) == pytest.approx((260 + (10_000 - 256)) / 60)
    assert gpu.minutes({"16": {"seconds": 32.0}}, 160) == pytest.approx(320 / 60)
    assert gpu.minutes({"1": {"out of memory": "no"}}, 10) is None


def test_the_chunk_that_fits_a_card():
    assert gpu.fitting(gpu.SHAPES["gpt2-xl"], False, 15) == 16
    assert gpu.fitting(gpu.SHAPES["gpt-j-6b"], True, 15) == 8
    assert gpu.fitting(gpu.SHAPES["gpt2-xl"], False, 130) == 64


def test_the_host_peak_counts_anew():
    if gpu.host_peak() is None:
        pytest.skip("this system does not tell a process its peak")
    with gpu.Meter("cpu") as large:
        torch.ones(2**26).sum()  # 256 MiB
    with gpu.Meter("cpu") as small:
        pass
    assert large.seconds > 0 and large.gib is None and large.host > small.host - 0.01
    if small.host < large.host:  # the peak can be reset here
        assert large.host - small.host > 0.2


def test_two_devices_compared_on_one():
    tok = mt.load("tiny-gptj")[1]
    config, layers, _ = gpu.SMALL["gptj-small-test"]
    facts = mt.facts("world", n=4, seed=0)
    h = MEMIT(layers=list(layers), steps=3, lr=0.01, lam=10.0)
    texts = gpu.World().texts(200, seed=1)
    for dtype, low, high in ((torch.float32, 0, 1e-5), (torch.bfloat16, 1e-4, 0.5)):
        model = gpu.shape(config, dtype, "cpu")
        C0 = mt.second_moment(model, tok, texts, h.layers, 1500)
        found = gpu.agreement(model, tok, facts, h, C0)
        assert set(found) == {"facts", "same targets", "own"}
        assert low <= found["same targets"] < high and low <= found["own"] < 2


def test_no_gpu_is_told(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(SystemExit):
        gpu.main(["--shapes", "gpt2-xl"])
    assert "there is no GPU here; --small --device cpu" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gpu.main(["--small", "--device", "cpu", "--shapes", "gpt5"])
    assert "unknown shape 'gpt5'" in capsys.readouterr().err
