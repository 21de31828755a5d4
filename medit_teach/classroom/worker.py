"""The student's side of grading: runs a submission's cells, calls its functions, sends results.

Started by sandbox.py as a script of its own, `python -I worker.py FD_IN FD_OUT`, so that nothing of
this package is loaded but what the submission may use. Messages are lines of JSON; numbers travel
as raw bytes in base64. Nothing that is received is ever executed by the grader.
"""

import base64
import json
import os
import sys
import traceback
import types
from importlib.machinery import ModuleSpec

OFFERED = {"load": "models", "is_embedded": "models", "Fact": "fact", "facts": "datasets"}
DTYPES = ("float64", "float32", "int64", "int32", "bool")


def encode(x):
    """x (numbers, text, tensors, arrays, lists, dicts of these) as something JSON can hold."""
    import numpy as np
    import torch

    if x is None or isinstance(x, (bool, int, str)):
        return x if not isinstance(x, int) or abs(x) < 2**63 else float(x)
    if isinstance(x, float):
        return {"f": repr(x)}
    if isinstance(x, np.generic):
        return encode(x.item())
    if isinstance(x, (torch.Tensor, np.ndarray)):
        array = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x
        if array.dtype.name not in DTYPES:
            array = array.astype("float64")
        data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
        return {"shape": list(array.shape), "dtype": array.dtype.name, "data": data}
    if isinstance(x, (list, tuple)):
        return [encode(v) for v in x]
    if isinstance(x, dict) and all(isinstance(k, (str, int)) for k in x):
        return {"pairs": [[k, encode(v)] for k, v in x.items()]}
    if type(x).__name__ == "Ref":
        return {"ref": x.name}
    raise TypeError(f"a {type(x).__name__} cannot be handed to the grader")


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


class Blocked:
    """An import hook: the modules that hold what the assignment asks for cannot be imported."""

    def __init__(self, names):
        self.names = tuple(names)

    def find_spec(self, name, path=None, target=None):
        if any(name == x or name.startswith(x + ".") for x in self.names):
            raise ImportError(f"{name} cannot be imported in graded work: write it yourself")


def _nothing(*args, **kwargs):
    """A public check, where marks are made: silent."""


class _Package(types.ModuleType):
    """medit_teach without its own __init__, which would load all of it."""

    def __getattr__(self, name):
        from importlib import import_module

        if name not in OFFERED:
            raise AttributeError(
                f"medit_teach.{name} is not at hand in graded work: write it yourself"
            )
        return getattr(import_module(f"medit_teach.{OFFERED[name]}"), name)


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


def _limit(cpu, memory):
    import resource

    for what, value in (
        (resource.RLIMIT_CPU, int(cpu)),
        (resource.RLIMIT_AS, int(memory)),
        (resource.RLIMIT_FSIZE, 64 << 20),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(what, (value, value))
        except (ValueError, OSError):  # macOS does not know all of them
            pass


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
    _limit(first["cpu"], first["memory"])
    import torch

    torch.set_num_threads(1)
    _furnish(first["package"], first["blocked"])
    names = {"__name__": "__main__"}
    sys.modules["__main__"].__dict__.pop("main", None)
    for label, code in first["cells"]:
        send(cell=label)
        try:
            exec(compile(code, f"<cell {label}>", "exec"), names)
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
