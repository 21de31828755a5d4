"""Several processes at one command: the share of each, and what all of them found.

    with joined() as processes:              # several under `accelerate launch`, else one
        found = [measure(x) for x in processes.share(work)]
        everything = processes.gathered(found)                 # one list a process, in order

Nothing is divided unless it is asked for: a function of the library works alone unless it is given
`processes`, and one that is given them must be called by all of them, with the same arguments.
"""

import os
import sys
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import timedelta

import torch

from .errors import MeditError

LAUNCH = "accelerate launch --multi_gpu --num_processes 2 -m medit_teach"
LONGEST = 366 * 24 * 60  # minutes
MINUTES = 30.0  # that a process waits for the others, unless MEDIT_TIMEOUT says otherwise


class Processes:
    """This process among those that run the command: number `index` of `count`, on `device`.

    state: accelerate's PartialState; None for one process, which waits for nobody, and whose
    device is None: the caller's choice.
    """

    def __init__(self, state=None):
        self.index, self.count, self.device = 0, 1, None
        if state is not None:
            self.index, self.count = state.process_index, state.num_processes
            self.device = state.device
        self.main = self.index == 0  # it alone prints, and writes what is common

    def share(self, work):
        """This process's items of the sequence `work`: every count-th, so that work in order of
        size is dealt out evenly. With one process all of it."""
        return work[self.index :: self.count]

    def gathered(self, found):
        """[what each process passed], in their order, the same in all; waits for all of them.

        MeditError if one has ended, or does not come within MEDIT_TIMEOUT minutes.
        """
        if self.count == 1:
            return [found]
        from accelerate.utils import gather_object

        return _heard(gather_object, [found])

    def wait(self):
        """Return when all processes are here; MeditError as in `gathered`."""
        self.gathered(None)

    def total(self, x):
        """Sum over processes of their tensors x, which have one shape; MeditError as above."""
        if self.count == 1:
            return x
        from accelerate.utils import reduce

        return _heard(reduce, x.to(self.device), "sum")


ALONE = Processes()


@contextmanager
def joined():
    """with joined() as processes: the processes that a launcher started together, or ALONE.

    Processes other than the first print nothing on stdout inside. MeditError if they do not find
    each other.
    """
    if not launched():
        yield ALONE
        return
    from accelerate import PartialState

    cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
    cpu = cpu or not torch.cuda.is_available()  # gloo between CPUs, nccl between GPUs
    state = _heard(lambda: PartialState(cpu=cpu, timeout=timedelta(minutes=minutes())))
    processes = Processes(state)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        with nullcontext() if processes.main else redirect_stdout(nowhere):
            if processes.main:
                print(f"{processes.count} processes, {state.backend}", file=sys.stderr)
            yield processes
            processes.wait()  # nobody leaves while another still asks for something
    state.destroy_process_group()


def launched():
    """Whether a launcher (accelerate, torchrun) started this process together with others."""
    return "LOCAL_RANK" in os.environ and _told("WORLD_SIZE", 1) > 1


def _told(name, default):
    """The whole number that a launcher gave in the environment; MeditError for anything else."""
    text = os.environ.get(name, str(default))
    if not text.strip().isdecimal():
        raise MeditError(f"{name} is a whole number that a launcher gives, not {text!r}")
    return int(text)


def title():
    """What this process calls itself in an error: "medit-teach", with its number if launched."""
    try:
        if launched():
            return f"medit-teach (process {_told('RANK', 0) + 1} of {_told('WORLD_SIZE', 1)})"
    except MeditError:  # which the command itself tells
        pass
    return "medit-teach"


def minutes():
    """MEDIT_TIMEOUT in minutes, or MINUTES; MeditError if it is no positive number."""
    text = os.environ.get("MEDIT_TIMEOUT") or str(MINUTES)
    try:
        if 0 < (found := float(text)) <= LONGEST:
            return found
    except ValueError:
        pass
    raise MeditError(f"MEDIT_TIMEOUT is a number of minutes, not {text!r}")


def _heard(ask, *args):
    """ask(*args); MeditError in place of the backend's error when others do not answer."""
    try:
        return ask(*args)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise MeditError(
            "another process of this run has ended, or did not answer within "
            f"{minutes():g} minutes (MEDIT_TIMEOUT); what is finished is kept: give the same "
            f"command again ({str(error).strip().splitlines()[0][:200]})"
        ) from error
