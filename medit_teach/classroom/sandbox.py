"""The grader's side of the wall: starts worker.py, isolated if possible, and calls its functions.

Isolation (Linux, `unshare` from util-linux): own process, mount, network, IPC and host-name
namespaces; a new root that holds the Python installation and this package, read-only and without
the modules that are forbidden in graded work, a read-only /proc, and an empty desk; no
capabilities, and never the system's uid 0: root's grader gives the worker a uid that nobody has,
an ordinary user's a user namespace. Where that fails, the worker is an ordinary process with
limits, and `isolation()` says no.

Limits hold for all processes that a submission starts, together: processor time, the clock, time
asleep, memory, their number.
"""

import collections
import functools
import itertools
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
PATIENCE = 5  # of each, so many times on the clock; waiting for a busy processor does not count
CLOCK, IDLE = 120, 10  # seconds on the clock that a submission may take, and those spent asleep
MEMORY = 4 << 30  # bytes, of all its processes together
THREADS = 64  # of all its processes together
ANSWER = 32 << 20  # bytes of the longest answer
LOOK = 0.25  # seconds between two looks at what it uses


# ------------------------------------------------------------------ the wall


def _script(root):
    """Shell commands that build the new root at `root` and run "$@" in it."""
    q = shlex.quote
    lines = [
        f"mount -t tmpfs -o size=256m,nr_inodes=20k,mode=755 tmpfs {q(root)}",
        f"cd {q(root)}",
    ]
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
        "chmod 777 desk tmp",
        "for d in null zero urandom; do : > dev/$d; mount --bind /dev/$d dev/$d; "
        "mount -o remount,bind,ro,nosuid,noexec dev/$d; done",
        "mount -t proc -o ro,nosuid,nodev,noexec proc proc || true",
        "pivot_root . old",
        "umount -l /old",
        "cd /desk",
        f"exec setpriv {_other_user()} --no-new-privs --bounding-set=-all --inh-caps=-all "
        '--ambient-caps=-all -- "$@"',
    ]
    return "\n".join(lines)


def _bind(path):
    """Commands that show the folder `path`, and what is mounted in it, read-only at ./path."""
    here = shlex.quote("." + str(path))
    lines = [f"mkdir -p {here}", f"mount --rbind {shlex.quote(str(path))} {here}"]
    for inside in [path, *(p for p in _mounts() if path in p.parents)]:
        inside = shlex.quote("." + str(inside))
        lines.append(f"mount -o remount,bind,ro,nosuid,nodev {inside}")
    return "\n".join(lines)


def _mounts():
    """All places where something is mounted."""
    rows = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return {Path(row.split()[4].encode().decode("unicode_escape")) for row in rows}


_nobodies = itertools.count(secrets.randbelow(4000))


def _other_user():
    """Options of setpriv that leave uid 0 for a uid of no person (those of passing services)."""
    if os.geteuid() != 0:
        return ""
    uid = 61184 + next(_nobodies) % 4000
    return f"--reuid {uid} --regid {uid} --clear-groups"


UNSHARE = "unshare --mount --net --ipc --uts --pid --fork --kill-child".split()


def _walled(command, root):
    """`command` in a new root at the folder `root`. An ordinary user is root in there only."""
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return [*UNSHARE, *own, "sh", "-ec", _script(root), "sh", *command]


# Run behind the wall: what is seen, who it is, and whether the system's settings can be opened.
LOOK_AROUND = """
import json, os, sys
def opens(path):
    try:
        os.close(os.open(path, os.O_WRONLY))
        return True
    except OSError:
        return False
settings = [p for p in ("/proc/sys/kernel/hostname", "/proc/sysrq-trigger") if opens(p)]
seen = [os.path.exists("/desk"), os.path.exists(sys.argv[1]), os.access(sys.argv[2], os.R_OK)]
print(json.dumps([*seen, os.getuid(), settings]))
"""


@functools.cache
def isolation():
    """(True or False, one sentence on how the student's code is kept apart)."""
    if not sys.platform.startswith("linux"):
        return False, f"isolation was off: not possible on {sys.platform}"
    look = [sys.executable, "-I", "-c", LOOK_AROUND]
    with tempfile.TemporaryDirectory() as root:
        try:
            done = subprocess.run(
                _walled([*look, root, str(WORKER)], root),
                capture_output=True,
                text=True,
                timeout=60,
                env=_environment("/desk"),
                encoding="utf-8",
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return False, f"isolation was off: {error}"
    try:
        desk, outside, readable, uid, settings = json.loads(done.stdout)
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return False, f"isolation was off: {reason}"
    if not desk or outside or settings or (uid == 0 and os.geteuid() == 0):
        return False, "isolation was off: the wall has a hole on this system"
    if not readable:
        return False, f"isolation was off: only its owner can read {PACKAGE}"
    return True, "isolated: no network, no files but Python and the package, no capabilities"


def unstartable():
    """Why a worker cannot be started without a wall, or "": root's must not run as root."""
    if os.geteuid() != 0:
        return ""
    uid = 61184 + next(_nobodies) % 4000
    try:
        command = [sys.executable, "-I", "-c", f"open({str(WORKER)!r})"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        done = subprocess.run(command, user=uid, group=uid, extra_groups=[], timeout=60, **quiet)
        reason = "cannot read the package" if done.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        reason = f"cannot start Python ({error})"
    return reason and f"without isolation nothing runs as root, and another user {reason}"


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


def _tree(root):
    """{pid: fields of /proc/PID/stat from the state on} of a process and all its descendants."""
    rows, found = {}, {}
    for entry in os.listdir("/proc") if sys.platform.startswith("linux") else ():
        if entry.isdigit():
            try:
                row = Path("/proc", entry, "stat").read_bytes().rsplit(b")", 1)[1].split()
            except (OSError, IndexError):
                continue  # it has just ended
            rows[int(entry)] = row
    below = {}
    for pid, row in rows.items():
        below.setdefault(int(row[1]), []).append(pid)
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        if pid in rows and pid not in found:
            found[pid] = rows[pid]
            waiting += below.get(pid, [])
    return found


def _queued(pid):
    """Seconds that a process has waited for a processor; 0 where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/schedstat").read_text(encoding="utf-8")
        return int(text.split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class _Watch:
    """What a process and all its descendants use, from samples; zeros where there is no /proc.

    seconds: of processor time, also of those that ended; idle: seconds in which none of them was
    awake; waited: seconds in which one was ready and had no processor; bytes in memory; threads.
    """

    def __init__(self, pid):
        self.pid, self.seconds, self.idle, self.bytes, self.threads = pid, 0.0, 0.0, 0, 0
        self.waited, self._sum, self._queue, self._seen = 0.0, 0.0, 0.0, time.monotonic()

    def look(self, unheard=0.0):
        """Take a sample. unheard: seconds in which the grader waited and nothing came."""
        tree = _tree(self.pid)
        rows = tree.values()
        now, tick = time.monotonic(), os.sysconf("SC_CLK_TCK")
        used = sum(sum(map(int, row[11:15])) for row in rows) / tick
        # what an unwaited child used leaves the sum with it: only what is new counts
        new, self._sum = max(0.0, used - self._sum), used
        self.seconds += new
        if rows and not new and not any(row[0] in b"RD" for row in rows):
            self.idle += unheard
        queue = sum(map(_queued, tree))
        self.waited += min(max(0.0, queue - self._queue), now - self._seen)
        self._queue, self._seen = queue, now
        self.bytes = sum(int(row[21]) for row in rows) * os.sysconf("SC_PAGE_SIZE")
        self.threads = sum(int(row[17]) for row in rows)

    def end(self):
        """Kill them all. Where some start others faster, those before them go first."""
        for _ in range(20):
            if not (rows := _tree(self.pid)):
                return
            for pid in [p for p in rows if p != self.pid] + [self.pid]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass
            if all(row[0] == b"Z" for row in rows.values()):
                return
            time.sleep(0.02)


def _threads_of_mine():
    """How many threads this user runs already: older systems count them all for one limit."""
    found = 0
    for entry in os.listdir("/proc") if sys.platform.startswith("linux") else ():
        try:
            if entry.isdigit() and os.stat(f"/proc/{entry}").st_uid == os.geteuid():
                found += len(os.listdir(f"/proc/{entry}/task"))
        except OSError:
            pass
    return found


# ------------------------------------------------------------------ one student


class Gone(Exception):
    """The worker ended, or did not answer in time: args[0] tells which."""


class Student:
    """The functions of one submission, each called in a process of its own kind.

    cells: [(label, source)]; until: when the whole run ends, on time.monotonic's clock.
    `student.name(*args)` returns the decoded result, or raises Lost with what happened. A cell that
    hangs or kills the process is left out and the rest is run again; a function that hangs or kills
    it is not called again. Use as a context manager; `seconds` is the processor time of the
    processes that have ended.
    """

    def __init__(self, cells, isolate=True, until=float("inf")):
        self.cells, self.isolate, self.until = list(cells), isolate, until
        self.notes, self.errors, self.names, self.dead = [], {}, [], {}
        self.process, self.seconds, self.idle, self.clock, self.waited = None, 0.0, 0.0, 0.0, 0.0
        self._begun = 0.0  # the call that is on

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stop()

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return functools.partial(self._call, name)

    def _afresh(self):
        """The next call starts a new process: nothing is left of the calls before."""
        self._stop()

    def _call(self, name, *args):
        begun, waited = time.monotonic(), self._waited()
        self._begun = begun - waited  # on the clock of _now
        try:
            return self._ask(name, *args)
        finally:
            self.clock += time.monotonic() - begun - (self._waited() - waited)

    def _ask(self, name, *args):
        if name in self.dead:
            raise Lost(self.dead[name])
        if self.process is None:
            self._start()
        if name not in self.names:
            why = "; ".join(f"cell {k}: {v}" for k, v in self.errors.items())[:500]
            raise Lost(f"there is no function {name}" + (f" ({why})" if why else ""))
        ticket = secrets.token_hex(8)
        try:
            deadline = self._deadline(CALL)
            self._send({"id": ticket, "call": name, "args": encode(list(args))}, deadline)
            answer = self._receive(deadline)
            while answer.get("id") != ticket:  # something else was written into the pipe
                answer = self._receive(deadline)
        except Gone as problem:
            self._stop()
            self.dead[name] = f"{name} {problem}"
            raise Lost(self.dead[name]) from None
        if "error" in answer:
            if answer.get("kind") == "NotImplementedError":
                raise Lost("no answer yet")
            raise Lost(f"{name} stops with {str(answer['error'])[:500]}")
        if isinstance(answer.get("changed"), list) and answer["changed"]:
            raise Lost(told_changed([str(x)[:60] for x in answer["changed"][:10]]))
        try:
            return decode(answer["value"])
        except Exception as error:
            raise Lost(f"{name} returns something unreadable") from error

    # -------------------------------------------------------------- the process

    def _start(self):
        """Run all cells; leave out, one after the other, those that end the process."""
        labels = {str(label) for label, _ in self.cells}
        for _ in range(4):
            label = None
            try:
                deadline = self._spawn()
                while True:
                    message = self._receive(deadline)
                    if str(message.get("cell")) in labels:
                        label = str(message["cell"])
                    if (failed := str(message.get("failed"))) in labels:
                        self.errors[failed] = str(message.get("error"))[:500]
                    if message.get("ready") is True:
                        names = message.get("names")
                        self.names = [str(n) for n in names] if isinstance(names, list) else []
                        return
            except Gone as problem:
                self._stop()
                if label is None:
                    self.notes.append(f"the work cannot be started: it {problem}")
                    break
                self.notes.append(f"cell {label} {problem}; it was left out")
                self.cells = [c for c in self.cells if str(c[0]) != label]
        self.names = []
        why = self.notes[-1] if self.notes else "its time is used up"
        raise Lost(f"nothing can be called: {why}")

    def _spawn(self):
        """Start the worker and hand it the cells; returns the deadline of these."""
        down, up = os.pipe(), os.pipe()
        self._folder, lowered = tempfile.TemporaryDirectory(prefix="medit-"), {}
        command = [sys.executable, "-I", str(WORKER), str(down[0]), str(up[1])]
        desk = "/desk" if self.isolate else self._folder.name
        if self.isolate:
            command = _walled(command, self._folder.name)
        elif os.geteuid() == 0:  # without a wall, but not as root
            uid = 61184 + next(_nobodies) % 4000
            os.chown(self._folder.name, uid, uid)
            lowered = {"user": uid, "group": uid, "extra_groups": []}
        self.process = subprocess.Popen(
            command,
            pass_fds=(down[0], up[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder.name,
            env=_environment(desk),
            start_new_session=True,
            **lowered,
        )
        os.close(down[0])
        os.close(up[1])
        self._down, self._up = down[1], up[0]
        self._lines, self._pieces, self._size = collections.deque(), [], 0
        self._watch = _Watch(self.process.pid)
        deadline = self._deadline(CELLS)
        mine = _threads_of_mine() if os.geteuid() else 0
        first = {"cells": self.cells, "package": str(PACKAGE), "memory": MEMORY}
        first["blocked"] = [f"medit_teach.{name}" for name in FORBIDDEN]
        first |= {"cpu": max(5, CPU - int(self.seconds)), "threads": THREADS + mine}
        self._send(first, deadline)
        return deadline

    def _deadline(self, seconds):
        """(processor time, clock) at which what now begins has to be done. Nothing prolongs it."""
        self._watch.look()
        return self._watch.seconds + seconds, self._now() + PATIENCE * seconds

    def _now(self):
        """The clock, without the time in which submission or grader waited for a processor."""
        return time.monotonic() - self._waited()

    def _waited(self):
        its = self.waited + (self._watch.waited if self.process else 0.0)
        return its + _queued("thread-self")

    def _check(self, deadline):
        """Gone if a limit is passed: of what was begun, of the submission, of the run."""
        if time.monotonic() - self._watch._seen > LOOK:
            self._watch.look()
        w, (processor, clock), now = self._watch, deadline, self._now()
        for passed, told in (
            (time.monotonic() > self.until, "was stopped: the time of the whole run is over"),
            (self.seconds + w.seconds > CPU, "used up its processor time"),
            (self.clock + now - self._begun > CLOCK, "used up its time"),
            (self.idle + w.idle > IDLE, "waits and does nothing: it was ended"),
            (w.seconds > processor or now > clock, "did not end in time (an endless loop?)"),
            (w.bytes > MEMORY, "used up its memory"),
            (w.threads > THREADS, "starts too many processes"),
        ):
            if passed:
                raise Gone(told)

    def _send(self, message, deadline):
        data = json.dumps(message).encode() + b"\n"
        os.set_blocking(self._down, False)
        while data:
            self._check(deadline)
            try:
                data = data[os.write(self._down, data) :]
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                raise Gone(self._end()) from None

    def _receive(self, deadline):
        """The next message: a dict. Gone if a limit is passed before it is complete."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._up, selectors.EVENT_READ)
            while True:
                self._check(deadline)
                if self._lines:
                    line = self._lines.popleft()
                    break
                if not selector.select(LOOK):
                    self._watch.look(LOOK)
                    continue
                piece = os.read(self._up, 1 << 20)
                if not piece:
                    raise Gone(self._end())
                first, *more = piece.split(b"\n")
                self._pieces.append(first)
                self._size += len(first)
                if self._size > ANSWER:
                    raise Gone("sends more than any answer could be")
                if more:
                    self._lines += [b"".join(self._pieces), *more[:-1]]
                    self._pieces, self._size = [more[-1]], len(more[-1])
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
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
        self._watch.look()
        self._watch.end()
        self.seconds, self.idle = self.seconds + self._watch.seconds, self.idle + self._watch.idle
        self.waited += self._watch.waited
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self.process.wait()
        os.close(self._down)
        os.close(self._up)
        try:
            self._folder.cleanup()
        except OSError:
            pass
        self.process = None
