"""One context manager to look at modules while a model runs, to replace outputs, and to stop early.

with watch({"key": view.down(3)}, stop=True) as seen:
    model(**batch)                       # ends right after the last watched module
seen["key"].input                        # (batch, tokens, d_in)
"""

from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .guard import by_one


@dataclass
class Seen:
    """One call of a module: its first tensor argument, the other arguments, and its output.

    Without gradients the output is a copy: some models add to it in place later (Falcon's blocks).
    """

    input: torch.Tensor | None = None
    args: tuple = ()
    kwargs: dict | None = None
    output: torch.Tensor | None = None


class _Stop(Exception):
    """Ends a forward pass once everything that was asked for has been seen."""


def first(output):
    """The hidden states of a module's output (some modules return a tuple, some a tensor)."""
    return output[0] if isinstance(output, tuple) else output


def by_row(hidden, rows):
    """(rows, tokens, d) from (rows, tokens, d), or from (rows * tokens, d) as OPT's MLP has it."""
    return hidden.view(rows, -1, hidden.shape[-1])


@contextmanager
def finally_(restore):
    """Runs restore() at the end, and again if it is interrupted: it must be such that that is fine.

    So what is inside may be interrupted at any place, also while it is restored.
    """
    try:
        try:
            yield
        finally:
            restore()
    finally:
        restore()


@contextmanager
def watch(modules, replace=None, stop=False):
    """Record input and output of `modules` {name: module}; yields {name: Seen}.

    replace: {name: function}, each given the module's output (batch, tokens, d) and returning the
    tensor to use instead. stop: end the forward pass when every module has been seen once.
    Hooks are always removed, also after an error.
    """
    replace = replace or {}
    seen = {name: Seen() for name in modules}
    waiting = set(modules)

    def before(name):
        def hook(module, args, kwargs):
            hidden = args[0] if args else kwargs.get("hidden_states")
            seen[name].input, seen[name].args, seen[name].kwargs = hidden, args, kwargs

        return hook

    def after(name):
        def hook(module, args, kwargs, output):
            if name in replace:
                new = replace[name](first(output))
                output = (new, *output[1:]) if isinstance(output, tuple) else new
            seen[name].output = first(output)
            if not torch.is_grad_enabled():
                seen[name].output = seen[name].output.clone()
            waiting.discard(name)
            if stop and not waiting:
                raise _Stop
            return output

        return hook

    hooks = {name: (before(name), after(name)) for name in modules}

    def remove():  # by what they are: an interrupt may come before there is a handle
        for name, module in modules.items():
            for kept in (module._forward_pre_hooks, module._forward_hooks):
                for key in [key for key, hook in kept.items() if hook in hooks[name]]:
                    del kept[key]

    with finally_(remove):
        try:
            for name, module in modules.items():
                module.register_forward_pre_hook(hooks[name][0], with_kwargs=True)
                module.register_forward_hook(hooks[name][1], with_kwargs=True)
            yield seen
        except _Stop:
            pass


@by_one
@contextmanager
def evaluating(model):
    """Evaluation mode and no gradients for parameters inside; the caller's own settings outside."""
    training = [module for module in model.modules() if module.training]
    trainable = [p for p in model.parameters() if p.requires_grad]

    def restore():
        for module in training:
            module.training = True
        for p in trainable:
            p.requires_grad_(True)

    with finally_(restore):
        model.eval()
        for p in trainable:
            p.requires_grad_(False)
        yield
