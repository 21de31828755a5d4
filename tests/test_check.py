"""check_equation notices what it should, and so does the proof that it does."""

from __future__ import annotations

import pytest
import torch

from medit_teach import check


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
