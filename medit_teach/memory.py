"""A batch size that is halved when memory runs out, with the size that fits told."""

import warnings

import torch

from .errors import MeditError
from .settings import whole


class Room:
    """How much is worked on at once: `size` at first, halved each time memory runs out.

        room = Room(32, "batch_size")
        while done < len(rows):
            with room:                                   # swallows "out of memory"
                work(rows[done : done + room.size])
                done += room.size                        # so this is not reached, and it goes again

    A warning names the size that fitted, so that the next call can start with it. MeditError when
    not even `least` fits, HyperError if `size` is no whole number above 0.
    """

    def __init__(self, size, name, least=1):
        self.size, self.name, self.least = max(whole(name, size, 1), least), name, least
        self.asked = self.size

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is None:
            if self.size < self.asked:
                warnings.warn(
                    f"out of memory with {self.name}={self.asked}; {self.name}={self.size} fits, "
                    "and gives the same result",
                    stacklevel=3,
                )
                self.asked = self.size
            return False
        if not ran_out(error):
            return False
        if self.size == self.least:
            raise MeditError(
                f"out of memory even with {self.name}={self.size}; load the model in half "
                'precision, over several devices (device_map="auto"), or take a smaller one'
            ) from error
        self.size = max(self.least, self.size // 2)
        return True


def ran_out(error):
    """True for an error that says that memory, of a GPU or of the host, ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower() if isinstance(error, RuntimeError) else ""
    return "out of memory" in text or "can't allocate memory" in text
