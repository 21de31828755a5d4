"""Checks of the chapter on large models: published solutions pass, wrong answers hear why."""

from __future__ import annotations

import pytest

from medit_teach.book import check
from tests.helpers import solution_tests, solutions, verdict

RIGHT = solutions("18-real-models", check=check)
PAIRS = [
    (check.real_c0, "c0_gib"),
    (check.real_chunk, "largest_chunk"),
    (check.real_minutes, "forecast"),
    (check.real_differ, "differ"),
    (check.real_referee, "verdicts"),
]


test_the_published_solution_passes, test_no_answer_is_not_a_wrong_answer = solution_tests(
    RIGHT, PAIRS
)


def wrong_verdict(start):
    sentence = next(s for s in RIGHT["verdicts"] if s.startswith(start))
    return RIGHT["verdicts"] | {sentence: not RIGHT["verdicts"][sentence]}


WRONG = {
    check.real_c0: {
        "a float64 has 8 bytes": lambda d, n: 4 * d * d * n / 2**30,
        "a GB has 10^9": lambda d, n: 8 * d * d * n / 1e9,
        "that is in bytes": lambda d, n: 8 * d * d * n,
        "that is one layer's": lambda d, n: 8 * d * d / 2**30,
        "d_in rows and d_in columns": lambda d, n: 8 * d * n / 2**30,
        "is a number, yours is a str": lambda d, n: "much",
    },
    check.real_chunk: {
        "0.5 a fact on top of 10": lambda bill, cap: 9,
        "a bill that does not grow until 6 facts": lambda bill, cap: (
            int((cap - bill(1)) / (bill(2) - bill(1))) + 1 if bill(2) > bill(1) else 1
        ),
        "too much even for one fact": lambda bill, cap: max(
            (c for c in range(1, 2000) if bill(c) <= cap), default=1
        ),
        "a bill that grows slowly": lambda bill, cap: max(
            (c for c in range(1, 65) if bill(c) <= cap), default=0
        ),
    },
    check.real_minutes: {
        "part of the time is spent once": lambda n1, t1, n2, t2, n: t2 / n2 * n,
        "10 edits took 41, 5 took 40.5": lambda n1, t1, n2, t2, n: (
            t1 + abs((t2 - t1) / (n2 - n1)) * (n - min(n1, n2))
        ),
        "stops with ZeroDivisionError": lambda *a: 1 / 0,
    },
    check.real_differ: {
        "5.8 apart": lambda a, b: False,
        "intervals that touch do not show": lambda a, b: abs(a[0] - b[0]) > a[1] + b[1],
        "3.5 apart; the difference has a half width of 3.6": lambda a, b: (
            abs(a[0] - b[0]) > max(a[1], b[1])
        ),
        "in the other order": lambda a, b: b[0] - a[0] > (a[1] ** 2 + b[1] ** 2) ** 0.5,
    },
    check.real_referee: {
        "in float16": wrong_verdict("weights of half"),
        "width 128": wrong_verdict("a model of twice"),
        "differs by": wrong_verdict("reading C0"),
        "before 1,000": wrong_verdict("the minutes"),
        "graph and states": wrong_verdict("four times"),
        "no verdict yet on 'a model of": RIGHT["verdicts"]
        | {"a model of twice the width needs four times the memory for C0": None},
    },
}
CASES = [(function, text) for function, cases in WRONG.items() for text in cases]


@pytest.mark.parametrize(("function", "message"), CASES, ids=lambda x: getattr(x, "__name__", x))
def test_a_wrong_answer_hears_what_is_wrong(function, message, capsys):
    ok, text = verdict(capsys, function, WRONG[function][message])
    assert ok is False and text.startswith("not yet: ") and message in text, text
