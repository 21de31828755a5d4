"""check_equation notices what it should, and so does the proof that it does."""

from __future__ import annotations

import re

import pytest
import torch

from medit_teach.book import check
from medit_teach.book.check.objective import _problem
from tests.conftest import ROOT


def test_a_true_equation_prints_the_same_line_everywhere(capsys):
    A = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    check.check_equation("eq:a", A @ A, torch.linalg.matrix_power(A, 2) * (1 + 1e-12))
    check.check_equation("eq:b", 2.0, 2)
    check.check_equation("eq:c", A, A + 1e-4, rtol=1e-3)
    check.check_equation("eq:d", torch.tensor(3), 3.0)
    assert capsys.readouterr().out == (
        "eq:a  holds (relative error below 1e-09)\n"
        "eq:b  holds (relative error below 1e-09)\n"
        "eq:c  holds (relative error below 1e-03)\n"
        "eq:d  holds (relative error below 1e-09)\n"
    )


@pytest.mark.parametrize(
    ("lhs", "rhs", "message"),
    [
        (1.0, 1.001, "eq:x does not hold: relative error 1.0e-03, above 1e-09"),
        (0.0, 1.0, "relative error 1.0e\\+00"),
        (torch.ones(2), torch.ones(3), r"shapes \(2,\) and \(3,\) differ"),
        (torch.ones(2, 1), torch.ones(1, 2), "differ"),
        (torch.ones(1), 1.0, "differ"),
        (torch.zeros(2), torch.zeros(2), "both sides are zero"),
        (float("nan"), float("nan"), "relative error nan"),
        (float("inf"), float("inf"), "relative error nan"),
    ],
)
def test_a_false_equation_raises(lhs, rhs, message, capsys):
    with pytest.raises(AssertionError, match=message):
        check.check_equation("eq:x", lhs, rhs)
    assert "holds (" not in capsys.readouterr().out


def test_perturbed_finds_the_checks_that_are_too_loose(capsys):
    with check.perturbed() as noticed:
        check.check_equation("eq:tight", 3.0, 3.0)
        check.check_equation("eq:loose", 3.0, 3.0, rtol=0.01)
        check.check_equation("eq:twice", 1.0, 1.0, rtol=0.1)
        check.check_equation("eq:twice", 1.0, 1.0)
        with pytest.raises(AssertionError), check.perturbed(0.5):
            check.check_equation("eq:false", 1.0, 2.0)
    assert noticed == {"eq:tight": True, "eq:loose": False, "eq:twice": False}
    check.check_equation("eq:later", 1.0, 1.0)
    assert "eq:later" not in noticed


# ------------------------------------------------------------------ exercises


def verdict(capsys, function, *args):
    check.passed.clear()
    assert function(*args) is None
    return check.passed.get(function.__name__), capsys.readouterr().out.strip()


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


CHECKS = [
    check.rank_one,
    check.memit_update,
    check.emmet_update,
    check.half_learned,
    check.constraint_table,
    check.free_directions,
]


def test_published_solutions_are_right(capsys):
    check.passed.clear()
    R, K, C0 = _problem(8, 16, 4)
    namespace = {"torch": torch, "check": check, "r": R[:, 0], "k": K[:, 0], "C0": C0}
    text = (ROOT / "book" / "solutions" / "05-objective.md").read_text()
    for code in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(code, namespace)
    right = {function.__name__: True for function in CHECKS}
    assert check.passed == right, capsys.readouterr().out


@pytest.mark.parametrize("function", CHECKS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("nothing", [None, ...])
def test_no_answer_is_not_a_wrong_answer(function, nothing, capsys):
    more = {"rank_one": 2, "half_learned": 2}.get(function.__name__, 0)
    ok, text = verdict(capsys, function, nothing, *[None] * more)
    assert ok is None and text == "no answer yet"


def test_an_unfinished_function_is_no_answer(capsys):
    for function in (check.memit_update, check.emmet_update, check.free_directions):
        assert verdict(capsys, function, lambda *args: ...) == (None, "no answer yet")
        ok, text = verdict(capsys, function, lambda *args: None)
        assert ok is False and "returns nothing" in text
    assert verdict(capsys, check.constraint_table, {("soft", "soft"): None})[0] is None


def test_rank_one(capsys):
    r, k = randn(3), randn(5, seed=1)
    good = torch.outer(r, k) / (k @ k)
    tilted = torch.outer(r, k + randn(5, seed=2))
    wrong = {
        "is a tensor, yours is a float": 1.0,
        "the wrong way round": good.T,
        "has shape (3, 4)": good[:, :4],
        "NaN": good * float("nan"),
        "rank 3, a single edit should have rank 1": good + randn(3, 5),
        "rank 0": good * 0,
        "2 times as long": 2 * good,
        "-1 times as long": -good,
        "misses r by": torch.outer(r.flip(0), k) / (k @ k),
        "times as large as it needs to be": tilted / (tilted @ k)[0] * r[0],
    }
    for message, answer in wrong.items():
        ok, text = verdict(capsys, check.rank_one, answer, r, k)
        assert ok is False and text.startswith("not yet: ") and message in text, (message, text)
    ok, text = verdict(capsys, check.rank_one, good, r, k)
    assert ok is True and text.startswith("right: ")


def test_memit_update(capsys):
    from medit_teach import objective

    def form(system, turn=lambda D: D):
        return lambda R, K, C0, lam: turn(R @ K.T @ torch.linalg.inv(system(K, C0, lam)))

    wrong = {
        "wants your function, not a Tensor": randn(3, 5),
        "stops with": lambda R, K, C0, lam: R @ K,
        "the wrong way round": form(lambda K, C0, lam: lam * C0 + K @ K.T, lambda D: D.T),
        "right for lam = 1, wrong for other": form(lambda K, C0, lam: C0 + K @ K.T),
        "not at the bottom": form(lambda K, C0, lam: 2 * lam * C0 + K @ K.T),
        "worse than no update": form(lambda K, C0, lam: -lam * C0 - K @ K.T),
    }
    for message, answer in wrong.items():
        ok, text = verdict(capsys, check.memit_update, answer)
        assert ok is False and message in text, (message, text)
    good = form(lambda K, C0, lam: lam * C0 + K @ K.T)
    assert verdict(capsys, check.memit_update, good)[0]
    library = lambda R, K, C0, lam: objective.memit(R, K, C0, lam).delta  # noqa: E731
    assert verdict(capsys, check.memit_update, library)[0]


def test_emmet_update(capsys):
    from medit_teach import objective

    wrong = {
        "is missing": lambda R, K, C0: objective.memit(R, K, C0, 1.0).delta,
        "not the mildest": lambda R, K, C0: R @ torch.linalg.pinv(K),
        "yours is a Solution": objective.emmet,
    }
    for message, answer in wrong.items():
        ok, text = verdict(capsys, check.emmet_update, answer)
        assert ok is False and message in text, (message, text)
    assert verdict(capsys, check.emmet_update, lambda R, K, C0: objective.emmet(R, K, C0).delta)[0]


def test_half_learned(capsys):
    k, C0 = randn(4), torch.diag(torch.tensor([1.0, 2, 3, 4]).double())
    q = float(k @ torch.linalg.solve(C0, k))
    assert verdict(capsys, check.half_learned, q, k, C0)[0]
    assert "smaller lam" in verdict(capsys, check.half_learned, 2 * q, k, C0)[1]
    assert "larger lam" in verdict(capsys, check.half_learned, q / 2, k, C0)[1]
    assert "must be positive" in verdict(capsys, check.half_learned, 0, k, C0)[1]


def test_constraint_table(capsys):
    cells = [(a, b) for a in ("soft", "exact") for b in ("soft", "exact")]
    good = dict(zip(cells, ["memit", "emmet", "alphaedit", "nullspace"], strict=True))
    assert verdict(capsys, check.constraint_table, good)[0]
    wrong = {
        "still empty": {**good, ("soft", "soft"): None},
        "is none of": {**good, ("soft", "soft"): "finetuning"},
        "memit does not memorize in the exact way": {**good, ("soft", "exact"): "memit"},
        "emmet does not preserve in the exact way": {**good, ("exact", "exact"): "emmet"},
        "4 cells, you filled 3": dict(list(good.items())[:3]),
    }
    for message, answer in wrong.items():
        ok, text = verdict(capsys, check.constraint_table, answer)
        assert ok is False and message in text, (message, text)


def test_free_directions(capsys):
    good = lambda K0: K0.shape[0] - torch.linalg.matrix_rank(K0)  # noqa: E731
    assert verdict(capsys, check.free_directions, good)[0]
    for careless in (lambda K0: K0.shape[0] - K0.shape[1], lambda K0: 0):
        ok, text = verdict(capsys, check.free_directions, careless)
        assert ok is False and "you count" in text


def test_no_two_exercises_have_one_name():
    """`passed` knows a check by its name."""
    import importlib
    import pkgutil

    for module in pkgutil.iter_modules(check.__path__):
        importlib.import_module(f"{check.__name__}.{module.name}")
    assert len(check.core._modules) > 100

    def rank_one(answer):
        return "a second one"

    with pytest.raises(NameError, match="has a check rank_one already"):
        check.exercise(rank_one)
    assert check.categories.interval.__name__ != check.good_edit.interval.__name__
