"""What a change of a model is made in: one thread at a time, never cut short, torch's own modes.

with alone(model), plain():
    with or_else(restore):         # any error, Ctrl-C too: restore(), then the error
        with held():               # Ctrl-C waits until this is done
            ...
"""

import signal
import threading
from contextlib import ExitStack, contextmanager
from functools import wraps
from weakref import WeakKeyDictionary

import torch

_LOCKS = WeakKeyDictionary()  # model: its lock, which lies here so that a model can be copied


def alone(model):
    """with alone(model): other threads that change or read this model wait until the block ends."""
    from .running import unwrapped  # which reads through `hooks`, and that through this

    return _LOCKS.setdefault(unwrapped(model), threading.RLock())


def by_one(context):
    """The context manager context(model), which one thread at a time is in."""

    @wraps(context)
    @contextmanager
    def locked(model):
        with alone(model), context(model) as found:
            yield found

    return locked


@contextmanager
def plain():
    """Gradients can be taken; autocast and inference mode are off, whatever the caller chose."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def or_else(restore):
    """On any error in the block, Ctrl-C too: restore(), then the error goes on.

    restore must bear to be called twice: it is, so that one more interrupt cannot cut it short.
    """
    try:
        try:
            yield
        except BaseException:
            restore()
            raise
    except BaseException:
        restore()
        raise


@contextmanager
def afterwards(restore):
    """restore() when the block ends, in whatever way. It must bear to be called twice, as above."""
    with or_else(restore):
        yield
        restore()


class held:
    """with held(): Ctrl-C waits until the block has ended, and comes then.

    Python brings it to the main thread only; elsewhere there is nothing to hold.
    """

    def __enter__(self):
        self.late, self.former = [], None
        if threading.current_thread() is threading.main_thread():
            self.former = signal.getsignal(signal.SIGINT)  # None: not Python's, left alone
        if self.former is not None:
            signal.signal(signal.SIGINT, lambda number, frame: self.late.append(number))

    def __exit__(self, *error):
        if self.former is not None:
            signal.signal(signal.SIGINT, self.former)
        if self.late:
            signal.raise_signal(signal.SIGINT)
