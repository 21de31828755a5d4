"""The yardstick of the benchmarks is right itself, and the table it makes is complete."""

import json
from pathlib import Path

import pytest
import torch

import medit_teach as mt
from benchmarks import gpu, plain
from benchmarks.__main__ import GPT2_SMALL, ROWS, main
from medit_teach.hyper import MEMIT
from medit_teach.models import View

from .test_golden_model import COMMON, FACTS, error, golden  # noqa: F401

RECORDS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def originals(golden):  # noqa: F811
    return lambda name: golden.array("memit", name)


def test_values_against_the_original(golden, originals):  # noqa: F811
    h = MEMIT.original(lam=20.0, layers=[1, 2, 3], **COMMON)
    for i in (0, 1, 4):
        target, losses = plain.value(golden.model, golden.tok, FACTS[i], 3, h)
        assert error(target, originals("opt3_zs")[:, i]) < 1e-4
        theirs = originals("opt3_loss")[i]
        seen = ~torch.isnan(theirs)
        assert torch.allclose(losses.double()[seen], theirs[seen], rtol=1e-3, atol=1e-5)


def test_a_whole_edit_against_the_original(golden, originals):  # noqa: F811
    h = MEMIT.original(lam=20.0, layers=[1, 2, 3], **COMMON)
    before = {n: p.detach().clone() for n, p in golden.model.named_parameters()}
    try:
        deltas = plain.memit(golden.model, golden.tok, FACTS, [1, 2, 3], golden.statistics, h,
                             targets=originals("given3_zs"))  # fmt: skip
    finally:
        with torch.no_grad():
            for n, p in golden.model.named_parameters():
                p.copy_(before[n])
    for layer, delta in deltas.items():
        R, adj = (originals(f"given3_L{layer}_{x}") for x in ("resid", "adj_k"))
        assert error(delta, R @ adj.T) < 1e-5


def test_statistics_and_scores_agree_with_the_library(golden, reference):  # noqa: F811
    texts = reference("golden/text.txt").read_text().splitlines()
    texts = [t for t in texts if len(golden.tok(t)["input_ids"]) < 200][:20]
    tokens = sum(len(golden.tok(t)["input_ids"]) for t in texts)
    ours = mt.second_moment(golden.model, golden.tok, texts, [2], tokens=tokens)
    assert error(plain.second_moment(golden.model, golden.tok, texts, 2), ours[2]) < 1e-6
    model, tok = mt.load("tiny-gptj")
    facts = mt.facts("world", n=3, seed=0)
    per_fact = mt.score(model, tok, facts).per_fact
    for i, fact in enumerate(facts):
        found = plain.scores(model, tok, fact)
        assert found == pytest.approx([per_fact[name][i] for name in ("ES", "PS", "NS")])
    assert View(model).n_layers == 8


def test_the_table_on_a_small_shape(tmp_path, capsys):
    out = tmp_path / "bench.json"
    main(["--small", "--threads", "1", "--out", str(out)])
    record = json.loads(out.read_text())
    rows = {row["step"]: row for row in record["rows"]}
    assert set(rows) == {"values", "keys", "statistics", "update", "scores", "memit"}
    assert all(row["ratio"] > 0 and row["difference"] < 1e-4 for row in rows.values())
    assert {"C0 against layers", "v* against edits"} < set(record["growth"])
    assert record["command"].endswith(f"--small --threads 1 --out {out}")
    assert record["hyper"]["early_stop"] == 0 and len(record["tokens"]) == 2
    assert set(rows["memit"]["peak_GiB"]) == {"plain", "library"}
    assert all(len(x["seconds"]) == len(x["at"]) for x in record["growth"].values())
    assert record["step_of_plain"] > 0 and record["threads"] == [1]
    assert "values" in capsys.readouterr().out
    main(["--table", str(out)])
    first, _, *lines = capsys.readouterr().out.splitlines()
    assert "1 thread: seconds" in first and len(lines) == 6 and "| MEMIT |" in lines[-1]
    assert all(line.count("|") == first.count("|") for line in lines)


def test_the_page_shows_the_records(capsys):
    records = sorted(map(str, RECORDS.glob("cpu-*.json")))
    main(["--table", *records])
    page = (RECORDS.parent / "book" / "speed.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() in page
    for name in records:
        record = json.loads(Path(name).read_text())
        assert {x["step"] for x in record["rows"]} == set(ROWS if "-1" in name else ROWS[:4])
        assert record["shape"] == GPT2_SMALL
        for found in record["growth"].values():
            rows = [[f"{found['power']:.1f}", ", ".join(f"{x:.{n}f}" for x in found["seconds"])]
                    for n in (1, 2)]  # fmt: skip
            assert any(f"| {power} | {seconds} |" in page for power, seconds in rows)
        assert f"costs {record['step_of_plain']:.2f} times" in page
        assert record["step_of_plain"] <= 1.15
        assert all(f"({n:.1f} tokens" in page for n in record["tokens"].values())
        assert all(x["difference"] < 1e-5 for x in record["rows"])
        for row in record["rows"]:
            for path, gib in row.get("peak_GiB", {}).items():
                assert f"{gib:.1f} GiB ({path})" in page.replace("\n", " ")


def test_the_gpu_script_on_small_shapes_of_a_cpu_and_again(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    call = ["--small", "--device", "cpu", "--batches", "1", "3", "--tokens", "1500"]
    first = gpu.main([*call, "--out", str(out)])
    again = gpu.main([*call, "--out", str(out)])
    assert set(first["shapes"]) == {"gpt2-small-test", "gptj-small-test"}
    for name, found in first["shapes"].items():
        assert set(found["batches"]) == {"1", "3"}
        assert again["shapes"][name]["batches"] == found["batches"]  # not measured twice
    assert json.loads(out.read_text())["shapes"].keys() == first["shapes"].keys()
