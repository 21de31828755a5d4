"""The machinery of checks: equations that must hold on the page, and answers to exercises.

Equations, in every chapter:

    from medit_teach.book.check import check_equation
    check_equation("eq:memit-solution", Delta @ (lam * C0 + K @ K.T), R @ K.T)
    # eq:memit-solution  holds (relative error below 1e-09)

`perturbed` proves that such checks are not empty: it repeats each with one side made wrong.

Exercises: a check runs the reader's answer and says what is wrong with it. It measures what the
answer does (does it meet the fact? could it disturb less?) and so holds no solution. `passed`
keeps the verdicts, for a script that grades.
"""

import functools
from contextlib import contextmanager

import torch

_modules = {}  # name of a check: the module that has it
passed = {}  # name of the check -> True or False; absent while there is no answer

_wrong = None  # inside perturbed(): (factor, {label: True if the wrong side was noticed})


def check_equation(label, lhs, rhs, rtol=1e-9):
    """Prints one line if ||lhs - rhs|| <= rtol * max(||lhs||, ||rhs||), else raises AssertionError.

    lhs, rhs: tensors of one shape, or numbers. The line does not depend on the machine. An
    equation "... = 0" has no scale to be relative to: move one term to the other side.
    """
    lhs, rhs = (  # a Python number would become float32 on the way
        side.detach().to("cpu", torch.float64)
        if isinstance(side, torch.Tensor)
        else torch.as_tensor(side, dtype=torch.float64)
        for side in (lhs, rhs)
    )
    if lhs.shape != rhs.shape:
        raise AssertionError(f"{label}: shapes {tuple(lhs.shape)} and {tuple(rhs.shape)} differ")
    if not lhs.any() and not rhs.any():
        raise AssertionError(f"{label}: both sides are zero, so there is nothing to compare")
    error = distance(lhs, rhs)
    if not error <= rtol:  # also when it is NaN
        raise AssertionError(f"{label} does not hold: relative error {error:.1e}, above {rtol:.0e}")
    if _wrong is not None:
        factor, noticed = _wrong
        caught = not distance(factor * lhs, rhs) <= rtol
        noticed[label] = noticed.get(label, True) and caught
    print(f"{label}  holds (relative error below {rtol:.0e})")


@contextmanager
def perturbed(by=1e-3):
    """Within, each check is repeated with its left side scaled by 1 + by.

    Yields {label: noticed}; a check that does not notice is too loose to mean anything.
    """
    global _wrong
    before, _wrong = _wrong, (1 + by, {})
    try:
        yield _wrong[1]
    finally:
        _wrong = before


def distance(lhs, rhs):
    return float((lhs - rhs).norm() / max(lhs.norm(), rhs.norm()))


# ------------------------------------------------------------------ exercises


class Wrong(Exception):
    """What is wrong with an answer, in words for its author."""


class NoAnswer(Exception):
    """The reader has not started yet."""


def exercise(function, word="right"):
    """A check: `function` returns praise, or raises Wrong with what to look at.

    `passed` knows it by the function's name, so no other module may have a check of that name.
    word: what stands before the praise; "runs", where a check looks at simple cases only.
    """
    if _modules.setdefault(function.__name__, function.__module__) != function.__module__:
        raise NameError(f"{_modules[function.__name__]} has a check {function.__name__} already")

    @functools.wraps(function)
    def run(answer, *args, **kwargs):
        try:
            if answer is None or answer is ...:
                raise NoAnswer
            praise = function(answer, *args, **kwargs)
        except NoAnswer:
            print("no answer yet")
        except Wrong as problem:
            passed[function.__name__] = False
            print(f"not yet: {problem}")
        else:
            passed[function.__name__] = True
            print(f"{word}: {praise}")

    return run


def as_update(answer, d_out, d_in):
    """The answer as a float64 tensor of shape (d_out, d_in), or Wrong."""
    if not isinstance(answer, torch.Tensor):
        raise Wrong(f"an update is a tensor, yours is a {type(answer).__name__}")
    shape = tuple(answer.shape)
    if shape == (d_in, d_out) and d_in != d_out:
        raise Wrong(f"your update is {shape}, the wrong way round: rows are outputs, (d_out, d_in)")
    if shape != (d_out, d_in):
        raise Wrong(f"your update has shape {shape}, the matrix it is added to {(d_out, d_in)}")
    if not torch.isfinite(answer).all():
        raise Wrong("your update contains NaN or infinite numbers")
    return answer.detach().double()


def call(function, *args):
    """function(*args), with an error in it told as feedback."""
    if not callable(function):
        raise Wrong(f"this check wants your function, not a {type(function).__name__}")
    try:
        result = function(*args)
    except NotImplementedError:  # the stub of an assignment
        raise NoAnswer from None
    except Wrong:
        raise
    except Exception as error:
        raise Wrong(f"your function stops with {type(error).__name__}: {error}") from error
    if result is ...:
        raise NoAnswer
    if result is None:
        raise Wrong("your function returns nothing; end it with `return`")
    return result


def judge(verdicts, cases):
    """Praise if each verdict {sentence: True or False} agrees with a run of its sentence.

    cases: {sentence: function without arguments that returns (is it so, what was seen)}.
    """
    if all(v is None or v is ... for v in verdicts.values()):
        raise NoAnswer
    for sentence, run in cases.items():
        verdict = verdicts.get(sentence)
        if verdict is None or verdict is ...:
            raise Wrong(f"no verdict yet on {sentence!r}")
        so, seen = run()
        if bool(verdict) != so:
            raise Wrong(f"{sentence!r}: look at what was run: {seen}")
    return "each verdict agrees with a run"
