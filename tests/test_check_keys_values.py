"""Checks of the chapter on keys, values and C0: the published solutions are right, wrong answers
hear what is wrong; and the committed records can be computed again."""

from __future__ import annotations

import json
import re

import pytest
import torch

import medit_teach as mt
from measure import statistics as study
from medit_teach import objective
from medit_teach.book.check import core, keys_values
from medit_teach.fact import subject_last
from medit_teach.hooks import watch
from medit_teach.hyper import hyper
from medit_teach.keys import keys
from medit_teach.models import View, fingerprint
from tests.conftest import ROOT

DATA = ROOT / "medit_teach" / "book" / "records"


@pytest.fixture(scope="module")
def setting():
    """What the chapter has at its end."""
    model, tok = mt.load()
    facts = mt.facts("world", n=8, seed=1, model=model)
    h = hyper("rome", model)
    layer = h.layers[-1]
    d_in = View(model).weight(layer).shape[1]
    texts = study.texts_for(model)
    K0 = study.token_keys(model, tok, texts, layer, 6 * d_in).double()
    K = keys(model, tok, facts, layer, h.contexts, h.average)
    return {"mt": mt, "torch": torch, "objective": objective, "keys_values": keys_values,
            "View": View, "watch": watch, "subject_last": subject_last, "model": model,
            "tok": tok, "facts": facts, "layer": layer, "K0": K0, "K": K}  # fmt: skip


def verdict(capsys, function, *args):
    core.passed.clear()
    assert function(*args) is None
    return core.passed.get(function.__name__), capsys.readouterr().out.strip()


def test_the_published_solutions_are_right(setting, capsys):
    page = (ROOT / "book" / "solutions" / "06-keys-values.md").read_text()
    core.passed.clear()
    namespace = dict(setting)
    for code in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(code, namespace)
    names = ("position", "key", "share", "alpha", "budget")
    assert core.passed == dict.fromkeys(names, True), capsys.readouterr().out


def test_no_answer_is_not_a_wrong_answer(setting, capsys):
    about = {
        keys_values.position: (),
        keys_values.key: [setting[x] for x in ("model", "tok", "facts", "layer")],
        keys_values.share: (),
        keys_values.alpha: [setting[x] for x in ("K0", "K")],
    }
    for check, more in about.items():
        assert verdict(capsys, check, lambda *args: ..., *more) == (None, "no answer yet")
    assert verdict(capsys, keys_values.budget, ...) == (None, "no answer yet")


def expect(capsys, check, wrong, *more):
    for message, answer in wrong.items():
        ok, text = verdict(capsys, check, answer, *more)
        assert ok is False and message in text, (message, text)


def test_position(capsys):
    def ends_there(offsets, start, end):
        return next(i for i, (_, last) in enumerate(offsets) if last >= end)

    wrong = {
        "wants your function": 3,
        "an index is an int": lambda offsets, start, end: 1.0,
        "there is no token 9": lambda offsets, start, end: 9,
        "not the last that does": lambda offsets, start, end: 0,
        "spread over two tokens: token 1": ends_there,
        "no character of the subject": lambda offsets, start, end: len(offsets) - 1,
    }
    expect(capsys, keys_values.position, wrong)


def test_key(setting, capsys):
    model, tok, facts, layer = (setting[x] for x in ("model", "tok", "facts", "layer"))

    def look(fact, shift=0, layer=layer, value=False):
        view = View(model)
        ids, position = subject_last(tok, fact)
        with watch({"down": view.down(layer)}, stop=True) as seen:
            model(input_ids=torch.tensor([ids]))
        return (seen["down"].output if value else seen["down"].input)[0, position + shift]

    def detached(**how):
        return lambda model, tok, fact, layer: look(fact, **how).detach()

    wrong = {
        "that is a value": detached(value=True),
        "drags a gradient": lambda model, tok, fact, layer: look(fact),
        "that is the key of token": detached(shift=-1),
        "no token of the prompt has this key": detached(layer=layer - 1),
        "yours is a list": lambda model, tok, fact, layer: look(fact).tolist(),
        "yours has (1,": lambda model, tok, fact, layer: look(fact).detach()[None],
    }
    expect(capsys, keys_values.key, wrong, model, tok, facts, layer)


def test_share(capsys):
    solve = torch.linalg.solve
    wrong = {
        "where is C0": lambda others, k, C0: others.T @ k / (k @ k),
        "receives the whole fact": lambda others, k, C0: others.T @ solve(C0, k),
        "other shares than yours": lambda others, k, C0: (others.T @ C0 @ k) / (k @ C0 @ k),
        "have 4 shares": lambda others, k, C0: others,
    }
    expect(capsys, keys_values.share, wrong)


def test_alpha(setting, capsys):
    wrong = {
        "between 0 and 1": lambda few, held_out, K: 2.0,
        "more shrinkage": lambda few, held_out, K: 1e-7,
        "less shrinkage": lambda few, held_out, K: 1.0,
        "alpha is a number": lambda few, held_out, K: "some",
    }
    expect(capsys, keys_values.alpha, wrong, setting["K0"], setting["K"])


def test_budget(capsys):
    wrong = {"singular": 1000, "% efficiency, not 95%": 163_840, "more than needed": 44e6}
    expect(capsys, keys_values.budget, wrong)


# ------------------------------------------------------------------ the records


def record(name):
    return json.loads((DATA / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def embedded():
    model, tok = mt.load()
    facts = mt.facts("world", n=32, seed=1, model=model)[: study.FIRST]
    return model, tok, facts, hyper("rome", model)


@pytest.mark.parametrize("name", ["c0-tokens", "values-terms"])
def test_records_belong_to_the_embedded_model(name, embedded):
    found = record(name)
    assert found["weights"] == fingerprint(embedded[0])
    assert found["layer"] == embedded[3].layers[-1]
    assert found["facts"]["n"] == 32 and len(found["rows"]) > 5


def close(row, known, name, **tolerance):
    """The first facts' numbers agree; None where a fact has no such prompts."""
    for now, then in zip(row["first"][name], known["first"][name], strict=True):
        assert (now is None) == (then is None)
        assert now is None or now == pytest.approx(then, **tolerance), name


def test_a_slice_of_the_sample_sizes_again(embedded, capsys):
    rows = study.sample_sizes(*embedded, sizes=(2,), alphas=(0.0, 0.1))["rows"]
    for row in rows:
        known = next(
            r
            for r in record("c0-tokens")["rows"]
            if (r["tokens"], r["alpha"]) == (row["tokens"], row["alpha"])
        )
        close(row, known, "efficiency", rel=1e-3)
        for name in ("EM", "PM", "NM"):
            close(row, known, name, abs=3)


def test_a_slice_of_the_terms_again(embedded, capsys):
    chosen = ("all terms", "without the decay term")
    rows = study.terms(*embedded, variants={name: study.VARIANTS[name] for name in chosen})["rows"]
    for row in rows[1:]:
        known = next(r for r in record("values-terms")["rows"] if r["name"] == row["name"])
        close(row, known, "length", rel=0.02)
        close(row, known, "EM", abs=3)


def test_expected_efficiency_of_independent_keys():
    """The yardstick of the chapter, (N + 2 - d) / (N + 1), by simulation."""
    generator = torch.Generator().manual_seed(0)
    d, N, draws = 20, 50, 400
    prices = torch.logspace(0, -3, d, dtype=torch.float64)
    k = torch.randn(d, 1, generator=generator, dtype=torch.float64)
    found = []
    for _ in range(draws):
        X = torch.randn(d, N, generator=generator, dtype=torch.float64) * prices.sqrt()[:, None]
        found.append(float(study.efficiency(k, X @ X.T / N, torch.diag(prices))))
    assert sum(found) / draws == pytest.approx((N + 2 - d) / (N + 1), abs=0.02)
