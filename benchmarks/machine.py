"""What a record of seconds and GiB must say of the machine, and the memory that a step took."""

import os
import platform
import subprocess
import time
from pathlib import Path

import torch

from medit_teach.records import versions

GIB = 2**30


def processor():
    """What the system calls the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def head():
    """Commit, date, versions and the processor: the head of every record."""
    root = Path(__file__).resolve().parent.parent
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "commit": commit or None, "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": versions(),
        "host": {"processor": processor(), "cores": os.cpu_count(),
                 "capability": torch.backends.cpu.get_cpu_capability()},
    }  # fmt: skip


def reset_host_peak():
    """From now on host_peak() counts anew (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def host_peak():
    """Most GiB of the machine's own memory that this process held; None if that is not told."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(found[0]) / 2**20 if found else None
