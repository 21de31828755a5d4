"""Checks of the exercises on large models: bytes, chunks, minutes, and two results side by side."""

import math

import torch

from ... import objective as _objective
from ...study import budget as _budget
from .core import Wrong, call, distance, exercise, judge
from .misuse import _number
from .objective import _problem


@exercise
def real_c0(function):
    """function(d_in, layers): GiB of the second moments of so many layers, in float64."""
    for d_in, layers in ((16384, 1), (16384, 6), (6400, 5), (768, 3)):
        right = 8 * d_in**2 * layers / 2**30
        found = _number(call(function, d_in, layers), "a number of GiB")
        if math.isclose(found, right, rel_tol=1e-6):
            continue
        told = f"{layers} matrices of {d_in} x {d_in} are {right:.4g} GiB, yours says {found:.4g}"
        for factor, why in (
            (0.5, "a float64 has 8 bytes"),
            (2**30 / 1e9, "a GiB has 2^30 bytes, a GB has 10^9"),
            (2**30, "that is in bytes"),
            (1 / layers, "that is one layer's"),
            (1 / d_in, "C0 has d_in rows and d_in columns"),
        ):
            if math.isclose(found, right * factor, rel_tol=1e-6):
                told += f": {why}"
        raise Wrong(told)
    return "GPT-J's six layers: 12 GiB, more than its weights in half precision"


@exercise
def real_chunk(function):
    """function(bill, cap): the most facts that can be optimised together below `cap`."""
    cases = (
        ("0.5 a fact on top of 10", lambda c: 10 + 0.5 * c, 15, 10),
        ("a bill that does not grow until 6 facts", lambda c: max(13, 10 + 0.5 * c), 14, 8),
        ("a bill that is met exactly", lambda c: 3 + c, 7, 4),
        ("too much even for one fact", lambda c: 16 + 0.1 * c, 15, 0),
        ("a bill that grows slowly", lambda c: 5 + 0.01 * c, 15, 1000),
    )
    for told, bill, cap, right in cases:
        found = _number(call(function, bill, cap), "a number of facts")
        if found != right:
            where = f"bill(1) = {bill(1):g}, bill(2) = {bill(2):g}, cap {cap}"
            raise Wrong(f"{told} ({where}): {right} facts fit, yours says {found:g}")
    return "also where the bill has a floor, and 0 where nothing fits"


@exercise
def real_minutes(function):
    """function(n1, t1, n2, t2, n): minutes for n edits, from two runs with a fixed cost."""
    cases = ((5.0, 0.2, 1, 11, 1000), (0.0, 0.5, 4, 8, 100), (40.0, 0.1, 10, 5, 50))
    for fixed, each, n1, n2, n in cases:
        t1, t2, right = (fixed + each * x for x in (n1, n2, n))
        found = _number(call(function, n1, t1, n2, t2, n), "a time")
        if math.isclose(found, right, rel_tol=1e-6):
            continue
        told = f"{n1} edits took {t1:g}, {n2} took {t2:g}; {n} take {right:g}, yours says {found:g}"
        if math.isclose(found, t2 / n2 * n, rel_tol=1e-6) or math.isclose(
            found, t1 / n1 * n, rel_tol=1e-6
        ):
            told += ": part of the time is spent once, whatever the number of edits"
        raise Wrong(told)
    return "the fixed cost is paid once, the rest for each edit"


@exercise
def real_differ(function):
    """function(mine, published): do two means differ? Each is (mean, half of its 95% interval)."""
    cases = (
        ((85.0, 3.0), (85.8, 0.5), False, "the means are 0.8 apart"),
        ((80.0, 3.0), (85.8, 0.5), True, "5.8 apart, half widths 3 and 0.5"),
        ((81.0, 3.0), (85.0, 2.0), True, "4 apart; the difference has a half width of 3.6"),
        ((81.5, 3.0), (85.0, 2.0), False, "3.5 apart; the difference has a half width of 3.6"),
        ((85.0, 2.0), (81.0, 3.0), True, "the same two, in the other order"),
    )
    for mine, published, right, seen in cases:
        found = call(function, mine, published)
        if bool(found) != right:
            told = f"{mine} and {published}: {seen}"
            if right and abs(mine[0] - published[0]) > 3.7:
                told += "; intervals that touch do not show that two means agree"
            raise Wrong(f"{told}; yours says {'they differ' if found else 'no difference'}")
    return "the error of a difference is the root of the sum of squares"


def _referee_cases():
    """{sentence: function that runs it and returns (is it so, what was seen)}."""
    field = dict(model_type="gpt2", n_layer=4, n_head=4, n_positions=64, vocab_size=100)
    small, wide = field | {"n_embd": 64}, field | {"n_embd": 128}
    bill = lambda shape, dtype=torch.float32, **more: _budget.memory(  # noqa: E731
        shape, "memit", dtype, layers=[1, 2], **more
    )
    rates = _budget.Rates(chunk=8, start=1.0, step=0.5, keys=0.2, read=0.01, factor=3.0,
                          score=0.1, steps=20, layers=2)  # fmt: skip

    def half():
        one, two = bill(small).C0, bill(small, torch.float16).C0
        return 2 * two == one, f"C0 takes {one:,} bytes in float32 weights, {two:,} in float16"

    def double():
        one, two = bill(small).C0, bill(wide).C0
        return two == 4 * one, f"width 64: {one:,} bytes of C0, width 128: {two:,}"

    def disk():
        R, K, C0 = _problem(6, 9, 3, 0)
        factor = _objective.factor(C0)
        d = distance(
            _objective.memit(R, K, factor, 2.0).delta, _objective.memit(R, K, C0, 2.0).delta
        )
        return d > 1e-12, f"a C0 that is read again gives an update that differs by {d:.0e}"

    def again():
        few, many = (rates.minutes(n, tokens=10_000)["C0"] for n in (10, 1000))
        return many > few, f"C0 takes {few:.1f} minutes before 10 edits and {many:.1f} before 1,000"

    def chunk():
        one, four = (bill(small, chunk=c) for c in (1, 4))
        seen = f"graph and states: {one.graph + one.states:,} and {four.graph + four.states:,}"
        return four.weights == one.weights and four.graph > 3 * one.graph, seen

    return {
        "weights of half the precision halve the memory of C0": half,
        "a model of twice the width needs four times the memory for C0": double,
        "reading C0 from the disk, one layer at a time, changes the update": disk,
        "the minutes for C0 grow with the number of edits": again,
        "four times the chunk needs about four times the graph, and no more weights": chunk,
    }


@exercise
def real_referee(verdicts):
    """verdicts: {sentence: True or False}. Runs each sentence."""
    return judge(verdicts, _referee_cases())
