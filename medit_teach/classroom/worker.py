"""The student's side of grading: runs a submission's cells, calls its functions, sends results.

Started by sandbox.py as a script of its own, `python -I worker.py FD_IN FD_OUT`, so that nothing of
this package is loaded but what the submission may use. Messages are lines of JSON; numbers travel
as raw bytes in base64. Nothing that is received is ever executed by the grader.
"""

import __future__

import array as array_module
import ast
import base64
import collections.abc
import ctypes
import decimal
import functools
import json
import numbers
import os
import platform
import struct
import sys
import traceback
import types
from importlib.machinery import ModuleSpec

OFFERED = {  # what the package offers by its own name, and from where
    "load": "models",
    "is_embedded": "models",
    "Fact": "fact",
    "facts": "datasets",
    "MeditError": "errors",
    "score": "metrics",
}
KEPT_BACK = ("Edit", "Statistics", "edits_of", "second_moment", "statistics_for")
DTYPES = ("float64", "float32", "int64", "int32", "bool")


def encode(x):
    """x (numbers, text, tensors, arrays, lists, dicts of these) as something JSON can hold.

    Numbers of every kind (numpy's, Fraction, Decimal, ...) become Python's, tensors and arrays of
    every kind dense and real. TypeError for anything else.
    """
    import numpy as np
    import torch

    if isinstance(x, np.generic) and not isinstance(x, (str, bytes)):
        x = x if np.iscomplexobj(x) else _python(x)
    if x is None or isinstance(x, (bool, str)):
        return x if x is None or isinstance(x, bool) else str(x)
    if isinstance(x, int):
        return int(x) if abs(x) < 2**63 else encode(float(x))
    if isinstance(x, (list, tuple, range, collections.deque)):
        return [encode(v) for v in x]
    if isinstance(x, collections.abc.Mapping):
        return {"pairs": [[_key(k), encode(v)] for k, v in x.items()]}
    if isinstance(x, (numbers.Number, decimal.Decimal)):
        if isinstance(x, numbers.Complex) and x.imag:
            raise TypeError("a complex number cannot be handed to the grader")
        return {"f": repr(float(x.real))}
    if isinstance(x, torch.Tensor):
        array = _dense(x)
    elif isinstance(x, (memoryview, array_module.array)) or hasattr(x, "__array__"):
        array = np.asarray(x)
    elif type(x).__name__ == "Ref":
        return {"ref": x.name}
    else:
        raise TypeError(f"a {type(x).__name__} cannot be handed to the grader")
    if np.iscomplexobj(array):
        if array.imag.any():
            raise TypeError("complex numbers cannot be handed to the grader")
        array = array.real
    array = array.astype(array.dtype.name if array.dtype.name in DTYPES else "float64")
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"shape": list(array.shape), "dtype": array.dtype.name, "data": data}


def _python(x):
    """A number of numpy as Python's (item() leaves long doubles as they are)."""
    x = x.item()
    return x if isinstance(x, (bool, int, float, str)) else float(x)


def _key(k):
    """A key of a dict: text or an integer."""
    k = k.item() if hasattr(k, "item") else k
    if not isinstance(k, (str, int)):
        raise TypeError(f"a dict with a {type(k).__name__} as key cannot be handed to the grader")
    return str(k) if isinstance(k, str) else int(k)


def _dense(x):
    """A tensor of any kind (sparse, half precision, of a gradient, ...) as an array."""
    import torch

    x = x.detach()
    x = x.dequantize() if x.is_quantized else x.to_dense() if x.layout != torch.strided else x
    x = x.cpu().resolve_conj().resolve_neg()
    real = x.dtype in (torch.bfloat16, torch.float16) or "float8" in str(x.dtype)
    return (x.double() if real else x).numpy()


def decode(x, names=None):
    """What `encode` made: tensors in torch, tuples as lists. names: where references lead."""
    import numpy as np
    import torch

    if isinstance(x, list):
        return [decode(v, names) for v in x]
    if not isinstance(x, dict):
        return x
    if "f" in x:
        return float(x["f"])
    if "pairs" in x:
        return {k: decode(v, names) for k, v in x["pairs"]}
    if "ref" in x and names is not None:
        return names[x["ref"]]
    if x.get("dtype") not in DTYPES:
        raise ValueError("an unknown kind of value")
    array = np.frombuffer(base64.b64decode(x["data"]), dtype=x["dtype"])
    return torch.from_numpy(array.reshape([int(n) for n in x["shape"]]).copy())


def snapshot(args):
    """The arguments as `encode` makes them; None in the place of what cannot be encoded."""
    found = []
    for x in args:
        try:
            found.append(encode(x))
        except (TypeError, ValueError):  # a model, a tokenizer
            found.append(None)
    return found


def changed(function, before, args):
    """Names of the arguments of `function` that differ, bit by bit, from their snapshot."""
    import inspect

    pairs = zip(before, snapshot(args), strict=True)
    found = [i for i, (x, y) in enumerate(pairs) if x not in (None, y)]
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = []
    return [names[i] if i < len(names) else f"number {i + 1}" for i in found]


def told_changed(names):
    """The sentence for such names."""
    return f"your function changes its argument {', '.join(names)}: work on a copy"


class NotAtHand(ImportError):
    """Graded work uses what it should write itself."""


class _Refusing(type):
    """The class of what stands for a name of a blocked module: whoever uses it is told."""

    def _refuse(cls, *args, **kwargs):
        raise NotAtHand(f"{cls.__module__} cannot be imported in graded work: write it yourself")

    __call__ = __iter__ = __len__ = __getitem__ = __enter__ = __exit__ = _refuse

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        cls._refuse()


class _Absent(types.ModuleType):
    """A blocked module: it can be imported (that alone does no harm), but nothing of it used."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Refusing(name, (), {"__module__": self.__name__})

    def __call__(self, *args, **kwargs):
        raise NotAtHand(f"{self.__name__} cannot be imported in graded work: write it yourself")


class Blocked:
    """An import hook: the modules that hold what the assignment asks for cannot be used."""

    def __init__(self, names):
        self.names = tuple(names)

    def find_spec(self, name, path=None, target=None):
        if any(name == x or name.startswith(x + ".") for x in self.names):
            return ModuleSpec(name, self)
        return None

    def create_module(self, spec):
        return _Absent(spec.name)

    def exec_module(self, module):
        pass


def _nothing(*args, **kwargs):
    """A public check, where marks are made: silent."""


class _Package(types.ModuleType):
    """medit_teach without its own __init__, which would load all of it."""

    def __getattr__(self, name):
        from importlib import import_module
        from importlib.util import find_spec

        if name in OFFERED:
            return getattr(import_module(f"medit_teach.{OFFERED[name]}"), name)
        if name in KEPT_BACK:
            return getattr(_Absent("medit_teach"), name)
        if name.startswith("__") or not find_spec(f"medit_teach.{name}"):
            raise AttributeError(f"medit_teach has no {name}")
        return import_module(f"medit_teach.{name}")


class _Checks(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _nothing


def _furnish(package, blocked):
    home = _Package("medit_teach")
    home.__path__, home.__version__ = [package], "graded"
    home.__spec__ = ModuleSpec("medit_teach", None, is_package=True)
    check = _Checks("medit_teach.book.check")
    check.__spec__ = ModuleSpec(check.__name__, None)
    sys.modules |= {"medit_teach": home, check.__name__: check}
    sys.meta_path.insert(0, Blocked(blocked))


def _limit(cpu, memory, threads):
    """Limits of each process; sandbox.py watches what all of them use together."""
    import resource

    for what, value in (
        ("CPU", cpu),
        ("AS", memory),
        ("FSIZE", 16 << 20),
        ("NOFILE", 128),
        ("NPROC", threads),
        ("CORE", 0),
    ):
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{what}"), (int(value), int(value)))
        except (AttributeError, ValueError, OSError):  # macOS does not know all of them
            pass


# System calls that no function of an assignment needs: sockets; new namespaces and mounts; signals
# to, and the memory of, other processes; keys; memory that no limit counts; the system's settings.
CALLS = """socket kill tkill tgkill ptrace mount umount2 pivot_root chroot unshare setns add_key
request_key keyctl bpf perf_event_open userfaultfd io_uring_setup memfd_create memfd_secret shmget
msgget semget mq_open process_vm_readv process_vm_writev open_by_handle_at fsopen open_tree
move_mount mount_setattr pidfd_send_signal pidfd_getfd rt_sigqueueinfo rt_tgsigqueueinfo syslog
personality sched_setaffinity setpriority ioprio_set""".split()
SYSTEMS = {  # machine: (audit number, clone, numbers of CALLS)
    "x86_64": (
        0xC000003E,
        56,
        "41 62 200 234 101 165 166 155 161 272 308 248 249 250 321 298 323 425 319 447 29 68 64 "
        "240 310 311 304 430 428 429 442 424 438 129 297 103 135 203 141 251",
    ),
    "aarch64": (
        0xC00000B7,
        220,
        "198 129 130 131 117 40 39 41 51 97 268 217 218 219 280 241 282 425 279 447 194 186 190 "
        "180 270 271 265 430 428 429 442 424 438 138 240 116 92 122 140 30",
    ),
}
CLONE3, NAMESPACES = 435, 0x7E020000  # clone's flags of new namespaces


def _filter(audit, clone, barred):
    """A seccomp program (Linux, Documentation/userspace-api/seccomp_filter): these calls fail."""
    load, equal, larger, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    killed, refused, unknown, allowed = 0x80000000, 0x00050001, 0x00050026, 0x7FFF0000
    lines = [(load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, killed), (load, 0, 0, 0)]
    lines += [(larger, 0, 1, 0x40000000), (give, 0, 0, killed)]  # calls of another convention
    for number in barred:
        lines += [(equal, 0, 1, number), (give, 0, 0, refused)]
    lines += [(equal, 0, 1, CLONE3), (give, 0, 0, unknown), (equal, 0, 3, clone)]
    lines += [(load, 0, 0, 16), (any_bit, 0, 1, NAMESPACES), (give, 0, 0, refused)]
    return b"".join(struct.pack("HBBI", *line) for line in [*lines, (give, 0, 0, allowed)])


def _bar():
    """Install the filter for this process and all that it starts, where the system has it."""
    if not sys.platform.startswith("linux") or platform.machine() not in SYSTEMS:
        return
    audit, clone, numbers_ = SYSTEMS[platform.machine()]
    program = _filter(audit, clone, map(int, numbers_.split()))
    kept = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    libc = ctypes.CDLL(None)
    libc.prctl(36, 1, 0, 0, 0)  # orphans of what it starts stay below it
    libc.prctl(38, 1, 0, 0, 0)  # no new privileges
    libc.prctl(22, 2, ctypes.byref(Program(len(program) // 8, ctypes.addressof(kept))), 0, 0)


# ------------------------------------------------------------------ a cell, as Jupyter runs it


def parsed(code):
    """The syntax tree of a cell; what only Jupyter understands becomes calls of get_ipython()."""
    try:
        return ast.parse(code)
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager

        return ast.parse(TransformerManager().transform_cell(code))


def run_cell(label, code, names):
    """Run a cell's statements in `names`, one after the other, as Jupyter does.

    From the first one on that uses what is not at hand, those that fail are left out, and the
    others run: an experiment with the whole library may stand in a cell with a helper.
    """
    flags, left_out = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, False
    for node in parsed(code).body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            found = (getattr(__future__, a.name, None) for a in node.names)
            flags |= functools.reduce(lambda x, f: x | f.compiler_flag, filter(None, found), 0)
        try:
            whole = ast.Module([node], [])
            waiting = eval(compile(whole, f"<cell {label}>", "exec", flags, True), names)
            if waiting is not None:
                import asyncio

                asyncio.run(waiting)
        except NotAtHand:
            left_out = True
        except BaseException:
            if not left_out:
                raise


class Shell:
    """What get_ipython() gives where no Jupyter is: magics that time or hide run their code."""

    RUN = ("time", "capture", "prun")

    def __init__(self, names):
        self._names = names

    def run_line_magic(self, name, line, *rest):
        if name in self.RUN and line.strip():
            run_cell(f"%{name}", line, self._names)

    def run_cell_magic(self, name, line, cell):
        if name in self.RUN:
            run_cell(f"%%{name}", cell, self._names)

    def getoutput(self, *args, **kwargs):
        return []

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return _nothing


def notebook_names(name):
    """The names that a notebook starts with."""
    names = {"__name__": name, "display": _nothing}
    names["get_ipython"] = lambda: shell
    shell = Shell(names)
    return names


def _told(error):
    """An exception in one line."""
    text = traceback.format_exception_only(type(error), error)[-1].strip()
    return text[:500]


def main():
    """Serve until the pipe is closed."""
    source, sink = os.fdopen(int(sys.argv[1]), "rb"), os.fdopen(int(sys.argv[2]), "wb")

    def send(**message):
        sink.write(json.dumps(message).encode() + b"\n")
        sink.flush()

    first = json.loads(source.readline())
    _limit(first["cpu"], first["memory"], first["threads"])
    _bar()
    import torch

    torch.set_num_threads(1)
    _furnish(first["package"], first["blocked"])
    names = notebook_names("__main__")
    sys.modules["__main__"].__dict__.pop("main", None)
    for label, code in first["cells"]:
        send(cell=label)
        try:
            run_cell(label, code, names)
        except BaseException as error:  # also SystemExit: the next cells still count
            send(failed=label, error=_told(error))
    send(ready=True, names=[k for k, v in names.items() if callable(v)])
    for line in source:
        message = json.loads(line)
        try:
            args, function = decode(message["args"], names), names[message["call"]]
            before = snapshot(args)
            value = function(*args)
            spoiled = changed(function, before, args)
            result = {"changed": spoiled} if spoiled else {"value": encode(value)}
        except BaseException as error:
            result = {"error": _told(error), "kind": type(error).__name__}
        send(id=message["id"], **result)


if __name__ == "__main__":
    main()
