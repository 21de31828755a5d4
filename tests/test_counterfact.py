"""Every CounterFact prompt gets its key from a model of GPT-2's form; none fails, none is shared.

With the true prompts and GPT-2's true tokenizer where the reference data is at hand; with the facts
of the built-in world, under the same checks, everywhere.
"""

import json

import pytest
import torch

import medit_teach as mt
from medit_teach.fact import subject_last, with_target
from medit_teach.keys import keys
from medit_teach.models import View
from medit_teach.study import selftest
from medit_teach.world import World

from .helpers import tiny_model, tiny_tokenizer

CONTEXT = "It was a quiet morning. "


def gpt2(tok, layers=2, d=32):
    """A random model of GPT-2's form with its whole vocabulary, narrow and shallow."""
    return tiny_model("gpt2", tok, layers=layers, d=d)


def check_all(model, tok, facts):
    """Keys of all facts in one call; right against plain forward passes, finite, told apart."""
    layer = 1
    K, mean = (keys(model, tok, facts, layer, contexts) for contexts in (("",), ("", CONTEXT)))
    assert K.shape == (4 * model.config.n_embd, len(facts)) and torch.isfinite(mean).all()
    down, seen = View(model).down(layer), []
    handle = down.register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    with torch.no_grad():
        for e in range(0, len(facts), max(1, len(facts) // 40)):
            ids, at = subject_last(tok, facts[e])
            assert tok.decode(ids) == facts[e].text
            model(torch.tensor([ids]))
            assert torch.allclose(seen[-1][at].double(), K[:, e], atol=1e-4), facts[e]
    handle.remove()
    # facts whose tokens up to the subject's last one are alike have one key, all others their own
    first = {}
    for e, fact in enumerate(facts):
        ids, at = subject_last(tok, fact)
        first.setdefault(tuple(ids[: at + 1]), []).append(e)
    alike = [(e, same[0]) for same in first.values() for e in same[1:]]
    for e, other in alike:
        assert torch.allclose(K[:, e], K[:, other], atol=1e-4)
    apart = (K.T[[same[0] for same in first.values()]] * 1e3).round()
    assert len({tuple(column) for column in apart.tolist()}) == len(first)
    for fact in facts:
        ids, start = with_target(tok, fact.text, fact.target_new)
        assert tok.decode(ids[start:]).strip() == fact.target_new


def test_ten_thousand_counterfact_prompts(reference):
    from transformers import GPT2TokenizerFast

    tok = GPT2TokenizerFast.from_pretrained(reference("data/gpt2-tokenizer"))
    facts = mt.facts(reference("data/counterfact-edit.json"), distinct_subjects=False)
    assert (len(tok), len(facts)) == (50257, 10_000)
    check_all(gpt2(tok), tok, facts)


def test_the_facts_of_the_world():
    tok = tiny_tokenizer()
    facts = [mt.Fact.from_record(r) for r in World().records(distinct_subjects=False)[:300]]
    check_all(gpt2(tok), tok, facts)


def test_the_self_test_runs_on_true_data(reference, tmp_path, capsys, monkeypatch):
    """All of `medit-teach selftest --real gpt2`, with random weights in the place of GPT-2's: its
    tokenizer, CounterFact records, Wikipedia text. Only the scores cannot be as expected."""
    from transformers import GPT2TokenizerFast

    tok = GPT2TokenizerFast.from_pretrained(reference("data/gpt2-tokenizer"))
    gpt2(tok, layers=4).save_pretrained(tmp_path / "gpt2")
    tok.save_pretrained(tmp_path / "gpt2")
    monkeypatch.setenv("MEDIT_CACHE", str(tmp_path / "cache"))
    call = ["--real", str(tmp_path / "gpt2"), "--tokens", "2000", "--n", "3",
            "--facts", str(reference("data/counterfact-edit.json")),
            "--text", str(reference("data/wikitext-2-valid.txt")),
            "--out", str(tmp_path / "report.json")]  # fmt: skip
    code = selftest.main(call)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["tokens"] == 2000 and report["facts"] == 3
    for method in ("rome", "memit"):
        assert {"ES", "PS", "NS"} <= report["report"][method]["after"].keys()
        assert "undo" not in report["report"][method]["failed"]
    printed = capsys.readouterr().out
    assert "medit-teach selftest" in printed and code == ("NOT" in printed)


def test_the_checks_see_a_wrong_key(monkeypatch):
    """A tokenizer-position off by one does not pass."""
    tok = tiny_tokenizer()
    facts = [mt.Fact.from_record(r) for r in World().records(distinct_subjects=False)[:2]]
    real = subject_last
    monkeypatch.setattr("medit_teach.keys.subject_last", lambda *a: (real(*a)[0], real(*a)[1] - 1))
    with pytest.raises(AssertionError):
        check_all(gpt2(tok), tok, facts)
