"""The self-test passes on a model that edits well, and says what fails on one that cannot."""

import json

import medit_teach as mt
from medit_teach.cli import main
from medit_teach.study import selftest

from .helpers import tiny_model, tiny_tokenizer
from .test_families import TEXTS


def test_passes_on_the_embedded_model(tmp_path, capsys):
    out = tmp_path / "report.json"
    assert main(["selftest", "--n", "4", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("as expected") == 2 and "first guess" not in printed
    assert printed.startswith("medit-teach selftest: tiny-gptj, 4 facts from world\n")
    kept = json.loads(out.read_text())
    assert kept["report"]["rome"]["failed"] == [] and kept["tokens"] >= 20_000
    model, _ = mt.load("tiny-gptj")
    assert kept["weights"] == mt.models.fingerprint(model) and kept["range"] is None
    assert f"weights {kept['weights']}, text {kept['text hash']}" in printed


def test_a_model_of_random_weights_fails_and_says_where(tmp_path, capsys, monkeypatch):
    tok = tiny_tokenizer()
    model = tiny_model("gptj", tok, d=16)
    model.save_pretrained(tmp_path / "model")
    tok.save_pretrained(tmp_path / "model")
    facts = [mt.Fact("The king of {} is", name, "new", "old").to_record()
             for name in ("Rome", "Oslo", "Bonn")]  # fmt: skip
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    (tmp_path / "text.txt").write_text("\n".join(TEXTS))
    monkeypatch.setenv("MEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MEDIT_FACTS", str(tmp_path / "facts.json"))
    call = ["selftest", "--real", str(tmp_path / "model"), "--dtype", "bfloat16",
            "--text", str(tmp_path / "text.txt"), "--n", "3", "--tokens", "3000"]  # fmt: skip
    code = main(call)
    printed, errors = capsys.readouterr()
    assert f"3 facts from {tmp_path / 'facts.json'}\n" in printed and "threads, bfloat16" in printed
    assert f"3000 tokens of {tmp_path / 'text.txt'}" in printed
    assert "medit-teach:" not in errors, errors
    assert "rome" in printed and "memit" in printed and "note: no preset" in printed
    assert "note: the range is a first guess" in printed
    assert code == (1 if "NOT" in printed else 0)


def test_every_check_can_fail(monkeypatch):
    model, tok = mt.load("tiny-gptj")
    facts = mt.facts("world", n=2, seed=3)
    statistics = mt.edit.__globals__["statistics_for"](model, tok, [1, 2, 3], tokens=10_000)
    impossible = {"ES": 101.0, "PS": 101.0, "loss of NS": -101.0}
    monkeypatch.setattr(selftest, "EXPECTED", {"memit": impossible})
    found = selftest.selftest(model, tok, facts, statistics)
    assert found["memit"]["failed"] == ["ES", "PS", "loss of NS"]
