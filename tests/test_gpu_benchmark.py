"""The GPU benchmark, tried on tiny shapes of a CPU: every measurement is there, and makes sense."""

import json

import pytest
import torch

import medit_teach as mt
from benchmarks import gpu
from medit_teach.hyper import MEMIT
from medit_teach.study import budget

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
    assert found["minutes for 10,000 edits"] > 0 and found["chunk"] == 2
    assert found["goals"]["everything fits"] is True
    assert found["goals"]["host peak below 12 GiB"] in (True, None)
    assert not list(tmp_path.glob("tmp*"))  # the shards are gone
    capsys.readouterr()


def test_the_line_to_many_edits():
    batches = {"1": {"seconds": 5.0}, "16": {"seconds": 20.0}, "256": {"seconds": 260.0},
               "1024": {"out of memory": "no"}}  # fmt: skip
    assert gpu.minutes(batches, 10_000) == pytest.approx((260 + (10_000 - 256)) / 60)
    assert gpu.minutes({"16": {"seconds": 32.0}}, 160) == pytest.approx(320 / 60)
    assert gpu.minutes({"1": {"out of memory": "no"}}, 10) is None


def test_a_cap_decides_for_each_shape_how_c0_is_kept(tmp_path, capsys):
    config, layers, dtype = gpu.SMALL["gptj-small-test"]
    h = MEMIT(layers=list(layers))
    whole = budget.memory(config, h, dtype, chunk=1, n=1).peak
    parts = budget.memory(
        config, h, dtype, chunk=1, n=1, one_at_a_time=True, batch_tokens=budget.FEW
    ).peak
    assert parts < 0.8 * whole
    call = ["--small", "--device", "cpu", "--shapes", "gptj-small-test", "--batches", "1",
            "--tokens", "600", "--scratch", str(tmp_path)]  # fmt: skip
    for room, one in ((0.9 * whole, True), (1.1 * whole, False)):
        cap = (room + budget.SPARE) / budget.GIB
        found = gpu.main([*call, "--cap", str(cap)])["shapes"]["gptj-small-test"]
        assert found["one at a time"] is one and found["planned to fit"] and found["chunk"] >= 1
        assert found["batches"]["1"]["seconds"] > 0
    capsys.readouterr()


def test_goals_are_told_as_verdicts():
    fits = {"1": {"seconds": 5.0}}
    good = {"host peak GiB": 7.5, "minutes for 10,000 edits": 12.0, "batches": fits}
    assert set(gpu.goals(good).values()) == {True}
    bad = {"host peak GiB": 12.5, "minutes for 10,000 edits": 21.0}
    bad["batches"] = fits | {"256": {"out of memory": "no"}}
    assert set(gpu.goals(bad).values()) == {False}
    assert list(gpu.goals({}).values()) == [False, None, None]


def test_a_host_too_small_for_the_comparison_is_told():
    model = gpu.shape(gpu.SMALL["gptj-small-test"][0], torch.float16, "cpu")
    assert gpu.lacking(model, None) is None and gpu.lacking(model, 2**30) is None
    assert "0.0 GiB are free" in gpu.lacking(model, 2**18)["skipped"]


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
    texts = gpu.Corpus(gpu.World()).texts(200, seed=1)
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
