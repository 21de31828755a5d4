"""Looking at a model leaves it as it was, wherever an interrupt comes."""

import sys

import pytest
import torch

from medit_teach import hooks

LIMIT = 10_000  # lines


def lines(work, at=None):
    """Runs work(), with a KeyboardInterrupt before the `at`-th line of hooks.py; counts these."""
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        if frame.f_code.co_filename != hooks.__file__:
            return None
        if event == "line":
            count += 1
            if count == at:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def small():
    model = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(3)))
    model.eval()
    model[0].train()
    model[1].weight.requires_grad_(False)
    return model


def state(model):
    return (
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
    )


def evaluate(model):
    with hooks.evaluating(model):
        assert not any(m.training for m in model.modules())
        assert not any(p.requires_grad for p in model.parameters())
        model(torch.ones(1, 2))


def watch(model):
    modules = {"a": model[0], "b": model[1]}
    with hooks.watch(modules, {"a": lambda x: x + 1}, stop=True) as seen:
        model(torch.ones(1, 2))
    assert seen["b"].output is not None


@pytest.mark.parametrize("work", [evaluate, watch])
def test_an_interrupt_at_any_line_leaves_the_model_as_it_was(work):
    model = small()
    before = state(model)
    n = lines(lambda: work(model))
    assert state(model) == before and 10 < n < LIMIT
    for at in range(1, n + 1):
        with pytest.raises(KeyboardInterrupt):
            lines(lambda: work(model), at)
        assert state(model) == before, f"line {at} of {n}"


def test_an_output_is_kept_as_it_was_given():
    """Falcon's blocks add to the MLP's output in place, after it was seen."""
    part = torch.nn.Linear(2, 2)
    with torch.no_grad(), hooks.watch({"part": part}) as seen:
        out = part(torch.ones(1, 2))
        wanted = out.clone()
        out += 1
    assert torch.equal(seen["part"].output, wanted)
