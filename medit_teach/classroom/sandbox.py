"""The grader's side of the wall: starts worker.py, isolated if possible, and calls its functions.

Isolation (Linux, `unshare` from util-linux): own user, process, mount and network namespaces; a new
root that holds the Python installation and this package, read-only and without the modules that are
forbidden in graded work, and an empty desk; no capabilities. Where that fails, the worker is an
ordinary process with limits, and `isolation()` says no.
"""

import functools
import json
import os
import secrets
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .hidden import Lost
from .worker import decode, encode, told_changed

PACKAGE = Path(__file__).resolve().parent.parent
WORKER = PACKAGE / "classroom" / "worker.py"
FORBIDDEN = (
    "objective",
    "distribution",
    "edit",
    "edits",
    "methods",
    "hyper",
    "keys",
    "values",
    "statistics",
    "study",
    "tiny.acceptance",
    "tiny.training",
    "classroom",
)
CPU, CELLS, CALL = 30, 15, 6  # processor seconds: a submission, all its cells, one call
PATIENCE = 5  # of each, so many times on the clock: for a busy machine, and for those who sleep
MEMORY = 4 << 30  # bytes
ANSWER = 32 << 20  # bytes of the longest answer


# ------------------------------------------------------------------ the wall


def _script(root):
    """Shell commands that build the new root at `root` and run "$@" in it."""
    q = shlex.quote
    lines = [f"mount -t tmpfs -o size=256m,mode=755 tmpfs {q(root)}", f"cd {q(root)}"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/") / name
        if path.is_symlink():
            lines.append(f"ln -s {q(os.readlink(path))} {name}")
        elif path.is_dir():
            lines.append(_bind(path))
    wanted = {Path("/usr"), Path(sys.prefix), Path(sys.base_prefix), PACKAGE}
    wanted |= {Path(os.path.realpath(sys.executable)).parent.parent}
    for path in sorted(wanted):  # a folder before those inside it
        if not any(other != path and other in path.parents for other in wanted):
            lines.append(_bind(path))
    for name in FORBIDDEN:
        if name == "classroom":
            continue
        place = PACKAGE / name.replace(".", "/")
        for path in (place.with_suffix(".py"), place):
            hidden = q("." + str(path))
            if path.is_file():
                lines.append(f"mount --bind /dev/null {hidden}")
            elif path.is_dir():
                lines.append(f"mount -t tmpfs -o ro tmpfs {hidden}")
    for kept in sorted({PACKAGE, *((PACKAGE / n.replace(".", "/")).parent for n in FORBIDDEN)}):
        if (kept / "__pycache__").is_dir():
            lines.append(f"mount -t tmpfs -o ro tmpfs {q('.' + str(kept) + '/__pycache__')}")
    lines += [
        "mkdir -p dev proc desk old tmp",
        "for d in null zero urandom; do : > dev/$d; mount --bind /dev/$d dev/$d; done",
        "mount -t proc proc proc || true",
        "pivot_root . old",
        "umount -l /old",
        "cd /desk",
        "exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all --ambient-caps=-all "
        '-- "$@"',
    ]
    return "\n".join(lines)


def _bind(path):
    here = shlex.quote("." + str(path))
    return (
        f"mkdir -p {here}; mount --rbind {shlex.quote(str(path))} {here}; "
        f"mount -o remount,bind,ro,nosuid,nodev {here}"
    )


UNSHARE = "unshare --user --map-root-user --mount --net --ipc --pid --fork --kill-child".split()


def _walled(command, root):
    return [*UNSHARE, "sh", "-ec", _script(root), "sh", *command]


@functools.cache
def isolation():
    """(True or False, one sentence on how the student's code is kept apart)."""
    if not sys.platform.startswith("linux"):
        return False, f"isolation was off: not possible on {sys.platform}"
    look = f"import os, socket; print(os.listdir('/'), os.path.exists({str(Path.cwd())!r}))"
    with tempfile.TemporaryDirectory() as root:
        try:
            done = subprocess.run(
                _walled([sys.executable, "-I", "-c", look], root),
                capture_output=True,
                text=True,
                timeout=60,
                env=_environment("/desk"),
                encoding="utf-8",
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return False, f"isolation was off: {error}"
    if done.returncode or "desk" not in done.stdout:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return False, f"isolation was off: {reason}"
    return True, "isolated: no network, no files but Python and the package, no capabilities"


def _environment(desk):
    """A clean environment: nothing of the teacher's."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE"), "1")
    return one | {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": desk,
        "USER": "student",
        "TMPDIR": desk,
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": desk,
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _processor_time(pid):
    """Seconds that the process and those it started have used; 0 where /proc does not say."""
    seconds, tick = 0.0, os.sysconf("SC_CLK_TCK")
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        seconds += sum(map(int, fields[11:15])) / tick  # its own, and of those that ended
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split():
            seconds += _processor_time(child)
    except (OSError, IndexError, ValueError):
        pass
    return seconds


# ------------------------------------------------------------------ one student


class Gone(Exception):
    """The worker ended, or did not answer in time: args[0] tells which."""


class Student:
    """The functions of one submission, each called in a process of its own kind.

    cells: [(label, source)]. `student.name(*args)` returns the decoded result, or raises Lost
    with what happened. A cell that hangs or kills the process is left out and the rest is run
    again; a function that hangs or kills it is not called again. Use as a context manager;
    `seconds` is the processor time of the processes that have ended.
    """

    def __init__(self, cells, isolate=True):
        self.cells, self.isolate = list(cells), isolate
        self.notes, self.errors, self.names, self.dead = [], {}, [], {}
        self.process, self.seconds = None, 0.0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stop()

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return functools.partial(self._call, name)

    def _call(self, name, *args):
        if name in self.dead:
            raise Lost(self.dead[name])
        if self.process is None:
            self._start()
        if name not in self.names:
            why = "; ".join(f"cell {k}: {v}" for k, v in self.errors.items())
            raise Lost(f"there is no function {name}" + (f" ({why})" if why else ""))
        ticket = secrets.token_hex(8)
        try:
            self._send({"id": ticket, "call": name, "args": encode(list(args))})
            answer = self._receive(CALL)
            while answer.get("id") != ticket:  # something else was written into the pipe
                answer = self._receive(CALL)
        except Gone as problem:
            self._stop()
            self.dead[name] = f"{name} {problem}"
            raise Lost(self.dead[name]) from None
        if "error" in answer:
            if answer.get("kind") == "NotImplementedError":
                raise Lost("no answer yet")
            raise Lost(f"{name} stops with {str(answer['error'])[:500]}")
        if answer.get("changed"):
            raise Lost(told_changed([str(x)[:60] for x in answer["changed"]]))
        try:
            return decode(answer["value"])
        except Exception as error:
            raise Lost(f"{name} returns something unreadable") from error

    # -------------------------------------------------------------- the process

    def _start(self):
        """Run all cells; leave out, one after the other, those that end the process."""
        for _ in range(4):
            if self.seconds > CPU:
                break
            self._spawn()
            label, begun = None, time.monotonic()
            try:
                while True:
                    message = self._receive(CELLS, 0.0, begun)
                    label = message.get("cell", label)
                    if "failed" in message:
                        self.errors[str(message["failed"])] = str(message.get("error"))[:500]
                    if message.get("ready") is True:
                        self.names = [str(n) for n in message.get("names", [])]
                        return
            except Gone as problem:
                self._stop()
                if label is None:
                    self.notes.append(f"the work cannot be started: it {problem}")
                    break
                self.notes.append(f"cell {label} {problem}; it was left out")
                self.cells = [c for c in self.cells if str(c[0]) != str(label)]
        self.names = []
        why = self.notes[-1] if self.notes else "its time is used up"
        raise Lost(f"nothing can be called: {why}")

    def _spawn(self):
        down, up = os.pipe(), os.pipe()
        self._folder = tempfile.TemporaryDirectory(prefix="medit-")
        command = [sys.executable, "-I", str(WORKER), str(down[0]), str(up[1])]
        desk = "/desk" if self.isolate else self._folder.name
        if self.isolate:
            command = _walled(command, self._folder.name)
        self.process = subprocess.Popen(
            command,
            pass_fds=(down[0], up[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder.name,
            env=_environment(desk),
            start_new_session=True,
        )
        os.close(down[0])
        os.close(up[1])
        self._down, self._up, self._rest = down[1], up[0], b""
        blocked = [f"medit_teach.{name}" for name in FORBIDDEN]
        self._send(
            {
                "cells": self.cells,
                "blocked": blocked,
                "package": str(PACKAGE),
                "cpu": max(5, CPU - int(self.seconds)),
                "memory": MEMORY,
            }
        )

    def _send(self, message):
        data = json.dumps(message).encode() + b"\n"
        os.set_blocking(self._down, False)
        start = time.monotonic()
        while data:
            try:
                data = data[os.write(self._down, data) :]
            except BlockingIOError:
                if time.monotonic() - start > CALL:
                    raise Gone("does not listen any more") from None
                time.sleep(0.01)
            except OSError:
                raise Gone(self._end()) from None

    def _receive(self, seconds, used=None, begun=None):
        """The next message: a dict. Gone if none comes within `seconds` of processor time.

        used, begun: processor time and clock from which they count; None: from now.
        """
        used = _processor_time(self.process.pid) if used is None else used
        begun = time.monotonic() if begun is None else begun
        pieces = [self._rest]
        with selectors.DefaultSelector() as selector:
            selector.register(self._up, selectors.EVENT_READ)
            while b"\n" not in pieces[-1]:
                if not selector.select(0.25):
                    now = _processor_time(self.process.pid)
                    if now - used > seconds or time.monotonic() - begun > PATIENCE * seconds:
                        raise Gone("did not end in time (an endless loop?)")
                    if self.seconds + now > CPU:
                        raise Gone("used up its processor time")
                    continue
                piece = os.read(self._up, 1 << 20)
                if not piece:
                    raise Gone(self._end())
                pieces.append(piece)
                if sum(map(len, pieces)) > ANSWER:
                    raise Gone("sends more than any answer could be")
        line, self._rest = b"".join(pieces).split(b"\n", 1)
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        return message if isinstance(message, dict) else {}

    def _end(self):
        """How the process ended, in words."""
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            return "closed its door"
        code = code if code >= 0 else 128 - code
        if code - 128 in (signal.SIGXCPU, signal.SIGKILL):
            return "used up its processor time or memory and was ended"
        return f"ended the process (exit code {code})"

    def _stop(self):
        if self.process is None:
            return
        self.seconds += _processor_time(self.process.pid)
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        os.close(self._down)
        os.close(self._up)
        try:
            self._folder.cleanup()
        except OSError:
            pass
        self.process = None
