"""The checks of the map of methods: they accept the solutions and name what is wrong."""

from __future__ import annotations

import pytest
import torch

from medit_teach.book.check import methods
from medit_teach.methods.in_context import statement

from .helpers import solution_blocks, verdict

TABLE = {
    "nothing": {"ES": (0, 0, 0), "PS": (0, 0, 0), "NS": (99, 99, 99), "own": (100, 100, 100)},
    "FT": {"ES": (100, 0, 0), "PS": (60, 0, 0), "NS": (90, 0, 0), "own": (97, 0, 0)},
    "FT-L": {"ES": (100, 0, 0), "PS": (70, 0, 0), "NS": (80, 0, 0), "own": (80, 0, 0)},
    "FT-W": {"ES": (90, 0, 0), "PS": (50, 0, 0), "NS": (95, 0, 0), "own": (99, 0, 0)},
    "in the prompt": {"ES": (98, 0, 0), "PS": (97, 0, 0), "NS": (80, 0, 0), "own": (90, 0, 0)},
    "IKE": {"ES": (60, 0, 0), "PS": (61, 0, 0), "NS": (90, 0, 0), "own": (95, 0, 0)},
    "ROME": {"ES": (100, 0, 0), "PS": (99, 0, 0), "NS": (95, 0, 0), "own": (50, 0, 0)},
}


@pytest.fixture(scope="module")
def solution():
    found = {"table": TABLE, "torch": torch}
    for block in solution_blocks("15-map"):
        exec(block, found)
    return found


def test_solutions_are_accepted(solution, capsys):
    for function, args in (
        (methods.gradient, (solution["gradient"],)),
        (methods.look_up, (solution["look_up"],)),
        (methods.box_step, (solution["box_step"],)),
        (methods.demonstrations, (solution["demonstrations"],)),
        (methods.referee, (solution["verdicts"],)),
        (methods.choose, (solution["choice"], TABLE)),
    ):
        assert verdict(capsys, function, *args)[0] is True, function.__name__


def test_no_answer_is_no_verdict(capsys):
    sentences = dict.fromkeys(methods._cases())
    for function, args in (
        (methods.gradient, (lambda U, D: ...,)),
        (methods.look_up, (lambda k, v, keys, values, radii: ...,)),
        (methods.box_step, (lambda W, W0, gradient, lr, eps: ...,)),
        (methods.demonstrations, (lambda fact: ...,)),
        (methods.referee, (sentences,)),
        (methods.choose, ({"closed": None, "subject": None, "words": None}, TABLE)),
    ):
        assert verdict(capsys, function, *args) == (None, "no answer yet")


def _nearest_that_reaches(k, v, keys, values, radii):
    d = (keys - k).norm(dim=1)
    d[d > radii] = float("inf")
    return values[int(d.argmin())] if d.min() < float("inf") else v


def _any_that_reaches(k, v, keys, values, radii):
    d = (keys - k).norm(dim=1)
    inside = (d <= radii).nonzero()
    return values[int(inside[-1])] if len(inside) else v


WRONG = [
    (methods.gradient, lambda U, D: U.T @ D, "wrong way round"),
    (methods.gradient, lambda U, D: D.T @ U / len(U), "a sum, not a mean"),
    (methods.gradient, lambda U, D: D[-1:].T @ U[-1:], "off by"),
    (methods.gradient, lambda U, D: 1 / 0, "ZeroDivisionError"),
    (methods.look_up, lambda k, v, *_: v, "is not used"),
    (methods.look_up, lambda k, v, keys, values, radii: values[0], "not used"),
    (
        methods.look_up,
        lambda k, v, keys, values, radii: values[int((keys - k).norm(dim=1).argmin())],
        "keep its bits",
    ),
    (methods.look_up, _any_that_reaches, "entry"),
    (methods.look_up, _nearest_that_reaches, "not the nearest one"),
    (methods.look_up, lambda k, v, *_: v[:1], "shape"),
    (methods.box_step, lambda W, W0, g, lr, eps: W - lr * g, "away from W0"),
    (methods.box_step, lambda W, W0, g, lr, eps: W0, "whole step"),
    (
        methods.box_step,
        lambda W, W0, g, lr, eps: (W + lr * g).clamp(W0 - eps, W0 + eps),
        "up the gradient",
    ),
    (
        methods.box_step,
        lambda W, W0, g, lr, eps: torch.where(
            (W - lr * g - W0).abs() <= eps, W - lr * g, W0.clone()
        ),
        "wall next",
    ),
    (methods.demonstrations, lambda f: statement(f), "dict"),
    (
        methods.demonstrations,
        lambda f: {k: f"{f.text} {f.target_new}." for k in ("copy", "update", "retain")},
        "question of that kind",
    ),
    (
        methods.demonstrations,
        lambda f: {
            "copy": f"{statement(f)} {f.text} {f.target_new}.",
            "update": f"{statement(f)} {f.paraphrases[0]} {f.target_true}.",
            "retain": f"{statement(f)} {f.neighborhood[0]} {f.target_true}.",
        },
        "not what should be said",
    ),
    (
        methods.demonstrations,
        lambda f: {
            "copy": f"{statement(f)} {f.text} {f.target_new}.",
            "update": f"{statement(f)} {f.paraphrases[0]} {f.target_new}.",
            "retain": f"{statement(f)} {f.neighborhood[0]} {f.target_new}.",
        },
        "retain: ",
    ),
]


@pytest.mark.parametrize(("function", "answer", "words"), WRONG)
def test_wrong_answers_are_told_why(function, answer, words, capsys):
    passed, said = verdict(capsys, function, answer)
    assert passed is False and words in said, said


def test_a_wrong_verdict_shows_what_was_run(solution, capsys):
    for sentence, right in solution["verdicts"].items():
        passed, said = verdict(
            capsys, methods.referee, solution["verdicts"] | {sentence: not right}
        )
        assert passed is False and sentence in said


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"closed": None}, "still waits"),
        ({"closed": "SERAC"}, "no method of the table"),
        ({"closed": "nothing"}, "no method of the table"),
        ({"closed": "ROME"}, "read again"),
        ({"closed": "IKE"}, "another one has 80"),
        ({"subject": "ROME"}, "another one has 90"),
        ({"words": "FT"}, "another one has 70"),
    ],
)
def test_bad_advice_is_told_the_number(changed, words, solution, capsys):
    passed, said = verdict(capsys, methods.choose, solution["choice"] | changed, TABLE)
    assert passed is False and words in said, said
