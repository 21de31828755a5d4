"""Checks of chapters 7 and 8: published solutions pass, wrong answers hear what is wrong."""

from __future__ import annotations

import re

import pytest
import torch

from medit_teach import objective
from medit_teach.book import check
from medit_teach.book.check import core
from medit_teach.book.check.objective import _problem
from tests.conftest import ROOT

ROME = ["rome_update", "rome_echo", "rome_scale", "rome_repair", "rome_second", "rome_bargain"]
MEMIT = [
    "memit_stacked",
    "memit_lam",
    "memit_twice",
    "memit_doubled",
    "memit_rule",
    "memit_crowding",
]
solve, outer = torch.linalg.solve, torch.outer


def verdict(capsys, name, *args):
    core.passed.clear()
    assert getattr(check, name)(*args) is None
    return core.passed.get(name), capsys.readouterr().out.strip()


def code_of(page):
    text = (ROOT / "book" / "solutions" / page).read_text()
    return re.findall(r"```python\n(.*?)```", text, re.S)


def test_published_solutions_to_rome_are_right(capsys):
    core.passed.clear()
    _, K, C0 = _problem(3, 12, 9)
    namespace = {"torch": torch, "check": check, "objective": objective, "K_many": K, "C0": C0}
    for code in code_of("07-rome.md")[:-1]:  # the last needs a model, and has no check
        exec(code, namespace)
    assert core.passed == dict.fromkeys(ROME, True), capsys.readouterr().out


def test_published_solutions_to_memit_are_right(capsys):
    core.passed.clear()
    R, K, C0 = _problem(5, 12, 4)
    missing = lambda D: (R - D @ K).norm(dim=0) / R.norm(dim=0)  # noqa: E731
    namespace = {"torch": torch, "check": check, "objective": objective}
    namespace |= {"R": R, "K": K, "C0": C0, "missing": missing}
    for code in code_of("08-memit.md"):
        exec(code, namespace)
    assert core.passed == dict.fromkeys(MEMIT, True), capsys.readouterr().out


@pytest.mark.parametrize("name", ROME + MEMIT)
@pytest.mark.parametrize("nothing", [None, ...])
def test_no_answer_is_not_a_wrong_answer(name, nothing, capsys):
    more = [None] * {"memit_lam": 3, "rome_bargain": 2}.get(name, 0)
    assert verdict(capsys, name, nothing, *more) == (None, "no answer yet")
    if name not in ("memit_lam", "rome_scale", "rome_bargain"):
        assert verdict(capsys, name, lambda *args: ...) == (None, "no answer yet")
    if name == "rome_scale":
        assert verdict(capsys, name, {"length": None, "price": None})[0] is None


def rome(r, k, C0):
    return objective.rome(r, k, C0).delta


def minus(r2, k2, k1, C0):
    """The second fact with a row at right angles to k1, in the wrong metric."""
    u = k2 - (k2 @ k1) / (k1 @ k1) * k1
    return outer(r2, u) / (u @ k2)


def off(C0, k):
    u = solve(C0, k)
    return u + 0.3 * u.flip(0)


def stacked(weight):
    def fit(R, K, K0, lam):
        C0 = K0 @ K0.T
        return R @ K.T @ torch.linalg.inv(weight(lam, K0.shape[1]) * C0 + K @ K.T)

    return fit


def echoes(K, C0):
    G = K.T @ solve(C0, K)
    return G / G.diagonal()[:, None]


def mean_square(K, C0):
    return (echoes(K, C0)[~torch.eye(K.shape[1], dtype=torch.bool)] ** 2).mean()


WRONG = {
    "rome_update": {
        "the wrong way round": lambda r, k, C0: rome(r, k, C0).T,
        "along the key itself": lambda r, k, C0: outer(r, k) / (k @ k),
        "times r; it must give r": lambda r, k, C0: outer(r, solve(C0, k)),
        "even point along r": lambda r, k, C0: rome(r.flip(0), k, C0),
        "times as much": lambda r, k, C0: outer(r, off(C0, k)) / (off(C0, k) @ k),
        "stops with": lambda r, k, C0: r @ k,
    },
    "rome_echo": {
        "numbers; one for each": lambda k, C0, X: k,
        "must get 1": lambda k, C0, X: solve(C0, k) @ X,
        "does not give": lambda k, C0, X: k @ X / (k @ k),
        "wants your function": torch.ones(3),
    },
    "rome_scale": {
        "no number for 'length'": {"price": 0.25},
        "factor of the length is smaller": {"length": 2, "price": 0.25},
        "factor of the price is smaller": {"length": 0.5, "price": 0.5},
        "factor of the price is larger": {"length": 0.5, "price": 0.1},
    },
    "rome_repair": {
        "still the asymmetric one": lambda D, k, k_e, C0: D,
        "times r_e; it must give r_e": lambda D, k, k_e, C0: D / (solve(C0, k) @ k_e),
        "at the bare key": lambda D, k, k_e, C0: rome(D @ k_e, k_e, C0),
        "not ROME's any more": lambda D, k, k_e, C0: outer(D @ k_e, k) / (k @ k),
    },
    "rome_second": {
        "still moved": lambda r, k, k1, C0: rome(r, k, C0),
        "disturbed": minus,
        "times r; it must give r": lambda r, k, k1, C0: 2 * minus(r, k, k1, C0),
    },
    "memit_crowding": {
        "at itself is 1": lambda K, C0: (echoes(K, C0) ** 2).mean() ** 0.5,
        "with C0 = I": lambda K, C0: mean_square(K, 0 * C0 + torch.eye(len(C0)).to(C0)) ** 0.5,
        "its root is missing": lambda K, C0: mean_square(K, C0),
        "larger than yours": lambda K, C0: 0.5 * mean_square(K, C0) ** 0.5,
        "one number": echoes,
    },
    "memit_stacked": {
        "lam instead of lam / N": stacked(lambda lam, N: lam),
        "square root": stacked(lambda lam, N: lam**2 / N**2),
        "take no part": lambda R, K, K0, lam: R @ torch.linalg.pinv(K),
        "not at the bottom": stacked(lambda lam, N: 3 * lam / N),
    },
    "memit_twice": {
        "that is r1": lambda r1, r2: r1,
        "that is r2": lambda r1, r2: r2,
        "2 times as long": lambda r1, r2: r1 + r2,
        "something else": lambda r1, r2: r1 - r2,
        "as long as r1": lambda r1, r2: torch.zeros(1),
    },
    "memit_doubled": {
        "writes more": lambda lam: lam,
        "writes less": lambda lam: 4 * lam,
        "must be positive": lambda lam: -lam,
    },
    "memit_rule": {
        "still missing": lambda step: step.missing / step.n,
        "should be even": lambda step: step.missing / (step.n - step.index) ** 0.5,
        "of which number 1 failed": lambda step: (step.target - step.start) / step.n,
        "for every fact": lambda step: step.missing[:, :1],
    },
}
CASES = [(name, text) for name, cases in WRONG.items() for text in cases]


@pytest.mark.parametrize(("name", "message"), CASES)
def test_a_wrong_answer_hears_what_is_wrong(name, message, capsys):
    ok, text = verdict(capsys, name, WRONG[name][message])
    assert ok is False and text.startswith("not yet: ") and message in text, text


def test_a_lam_that_writes_too_little_or_costs_too_much(capsys):
    R, K, C0 = _problem(5, 12, 4)
    for lam, message in ((-1.0, "positive"), (1e6, "is left"), (1e-9, "price")):
        ok, text = verdict(capsys, "memit_lam", lam, R, K, C0)
        assert ok is False and message in text, text


def test_which_facts_are_cheap(capsys):
    _, K, C0 = _problem(3, 12, 9)
    K = K * torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 1, 0.01], dtype=K.dtype)  # one very dear
    order = (K * solve(C0, K)).sum(0).argsort(descending=True).tolist()
    assert verdict(capsys, "rome_bargain", order[:5], K, C0)[0] is True
    for answer, message in (
        (order[-5:], "most expensive"),
        (order[:4] + order[:1], "five different"),
        ([*order[:4], 99], "from 0 to 8"),
        (order[:4] + order[-1:], "8 facts are cheaper"),
        (order[4::-1], "not the cheapest first"),
    ):
        ok, text = verdict(capsys, "rome_bargain", answer, K, C0)
        assert ok is False and message in text, text
