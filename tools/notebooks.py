"""Run the book's notebooks, store their outputs in one normal form, and check them.

    python tools/notebooks.py                     run and store every notebook of the book
    python tools/notebooks.py book/a.ipynb        these only
    python tools/notebooks.py --times [FILE ...]  run, store, and write down what it costs
    python tools/notebooks.py --check             check the stored notebooks, run nothing
    python tools/notebooks.py --normalise FILE    only bring a notebook into the normal form
    python tools/notebooks.py --new book/a.ipynb "Title"    start a notebook

Normal form: no timings, no kernel version, widget ids that do not change from run to run, one
output per stream, cell ids kept. So a notebook that is run again without a change of its numbers
gives a small diff or none.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import address

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
MAX_BYTES = 3_000_000
# As in the Makefile, so that a run by hand stores the same outputs.
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
ABSOLUTE = re.compile(
    r"(?<![\w./:-])/(?:home|root|Users|tmp|work|usr|opt|mnt|var|private|workspace|content)/[\w.+-]+"
    r"|\b[A-Z]:\\\\?Users\b"
)
ALT = '"mystnb": {"image": {"alt": "what it shows"}}'
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def all_notebooks(root: Path = ROOT) -> list[Path]:
    """The committed notebooks of the book."""
    found = (root / "book").rglob("*.ipynb")
    return sorted(p for p in found if ".ipynb_checkpoints" not in p.parts)


def setup_line(where: address.Address | None = None) -> str:
    """The one-line set-up cell: installs the package where it is missing (Colab), else nothing."""
    where = where or address.read()
    return (
        'from importlib.util import find_spec; found = find_spec("medit_teach") or '
        f'get_ipython().run_line_magic("pip", "install -q {where.install}")'
    )


def badge(name: str, where: address.Address | None = None) -> str:
    """The "Open in Colab" button of `book/<name>`."""
    where = where or address.read()
    return f"[Open in Colab]({where.colab(name)})"


# ---------------------------------------------------------------- run and normalise


def execute(path: Path, timeout: int = 900) -> float:
    """Run the notebook from top to bottom and store it; seconds of processor time it took."""
    import resource

    import nbformat
    from nbclient import NotebookClient

    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    notebook = nbformat.read(path, as_version=4)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)  # the kernel's, once it has ended
    NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        store_widget_state=True,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    write(path, normalise(json.loads(nbformat.writes(notebook)), path.name))
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write(path: Path, notebook: dict) -> None:
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")


def normalise(notebook: dict, name: str) -> dict:
    """The notebook in normal form; `name` seeds ids that would be random."""
    metadata = notebook["metadata"]
    metadata["kernelspec"] = dict(KERNEL)
    metadata["language_info"] = {"file_extension": ".py", "name": "python"}
    notebook["nbformat"], notebook["nbformat_minor"] = 4, 5
    for number, cell in enumerate(notebook["cells"]):
        cell.setdefault("id", _short(f"{name}:{number}"))
        for key in ("execution", "collapsed", "ExecuteTime"):
            cell["metadata"].pop(key, None)
        if cell["cell_type"] == "code":
            cell["outputs"] = _merge_streams(cell["outputs"])
            for output in cell["outputs"]:
                output.pop("transient", None)
                if "text/html" in output.get("data", {}):  # what a page shows; a widget is for
                    output["data"].pop(WIDGET_VIEW, None)  # a kernel
    return _stable_widgets(notebook, name)


def _merge_streams(outputs: list[dict]) -> list[dict]:
    """Join the pieces in which a stream arrived."""
    merged: list[dict] = []
    for output in outputs:
        last = merged[-1] if merged else {}
        stream = output["output_type"] == "stream" and last.get("output_type") == "stream"
        if stream and last["name"] == output["name"]:
            last["text"] = (_joined(last["text"]) + _joined(output["text"])).splitlines(True)
        else:
            merged.append(output)
    return merged


def _stable_widgets(notebook: dict, name: str) -> dict:
    """Rename widget models by their order; drop a state that no output shows."""
    widgets = notebook["metadata"].get("widgets", {})
    state = widgets.get(WIDGET_STATE, {}).get("state", {})
    if not state or WIDGET_VIEW not in json.dumps(notebook["cells"]):
        notebook["metadata"].pop("widgets", None)
        return notebook
    text = json.dumps(notebook)
    for number, model in enumerate(_widget_order(notebook, state)):
        text = text.replace(model, hashlib.md5(f"{name}:{number}".encode()).hexdigest())
    return json.loads(text)


def _widget_order(notebook: dict, state: dict) -> list[str]:
    """Widget ids in an order that does not depend on them: as outputs and widgets refer to them."""
    order: list[str] = []

    def visit(model):
        if model in state and model not in order:
            order.append(model)
            inside = json.dumps(state[model], sort_keys=True)
            for other in re.findall(r"IPY_MODEL_([0-9a-f]{32})", inside):
                visit(other)

    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            visit(output.get("data", {}).get(WIDGET_VIEW, {}).get("model_id"))

    def anonymous(model):
        inside = json.dumps(state[model], sort_keys=True)
        for number, known in enumerate(order):
            inside = inside.replace(known, str(number))
        return re.sub(r"[0-9a-f]{32}", "", inside)

    while rest := [model for model in state if model not in order]:
        visit(min(rest, key=anonymous))
    return order


def _joined(text) -> str:
    return text if isinstance(text, str) else "".join(text)


def _short(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()[:8]


# ---------------------------------------------------------------- what it costs

TIMES, TIMES_PAGE = BOOK / "records" / "times.json", BOOK / "times.md"
TIMES_HEAD = """# Execution times

What each notebook costs from its first cell to its last, in seconds of processor time: one thread,
with nothing cached, so that the text for $C_0$ is read as on the first day. On an idle machine the
clock shows about the same. Made by `python tools/notebooks.py --times`; on a GPU: not measured.

| notebook | seconds | processor |
|---|---|---|
"""


def note_times(seconds: dict[str, float]) -> None:
    """Write {path in the repository: seconds} into the record, and the page made from it."""
    known = json.loads(TIMES.read_text(encoding="utf-8")) if TIMES.exists() else {}
    processor = _processor()
    known |= {name: {"seconds": round(s), "processor": processor} for name, s in seconds.items()}
    known = {name: known[name] for name in sorted(known) if (ROOT / name).exists()}
    TIMES.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    TIMES_PAGE.write_text(times_page(known), encoding="utf-8")


def times_page(known: dict) -> str:
    rows = [
        f"| [{Path(name).stem}]({Path(name).relative_to('book')}) | {row['seconds']} "
        f"| {row['processor']} |"
        for name, row in known.items()
    ]
    return TIMES_HEAD + "\n".join(rows) + "\n"


def _processor() -> str:
    """The processor's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    names = (
        re.findall(r"model name\s*: (.*)", info.read_text(encoding="utf-8"))
        if info.exists()
        else []
    )
    return names[0].strip() if names else platform.processor() or platform.machine()


# ---------------------------------------------------------------- check


def problems(notebook: dict, name: str, size: int = 0) -> list[str]:
    """What is wrong with a stored notebook, one line each; `name` is its path in the repository."""
    found = []
    where = address.read()
    cells = notebook["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    if size > MAX_BYTES:
        found.append(f"{size / 1e6:.1f} MB is above the cap of {MAX_BYTES / 1e6:.0f} MB")
    if not cells or not _joined(cells[0]["source"]).startswith("# "):
        found.append("the first cell does not start with a title")
    if not any(where.colab(name) in _joined(cell["source"]) for cell in cells[:3]):
        found.append(f"no Colab button in the first three cells: {badge(name, where)}")
    if not code or _joined(code[0]["source"]).strip() != setup_line(where):
        found.append(f"the first code cell is not the set-up line: {setup_line(where)}")
    if "jupytext" in notebook["metadata"]:
        found.append("paired with a text notebook, which breaks the build")
    for number, cell in enumerate(cells):
        at = f"cell {number}"
        if "id" not in cell:
            found.append(f"{at}: no id")
        if set(cell["metadata"]) & {"execution", "ExecuteTime"}:
            found.append(f"{at}: carries timings; run tools/notebooks.py --normalise")
        text = _joined(cell["source"])
        if cell["cell_type"] == "code":
            if cell.get("execution_count") is None and text.strip():
                found.append(f"{at}: was not run, so nothing would compare its output")
            figure = cell["metadata"].get("mystnb", {}).get("figure")
            if figure and not any("image/png" in o.get("data", {}) for o in cell["outputs"]):
                found.append(f"{at}: a caption, but no figure; end the cell with the Figure")
            if text.rstrip().endswith(";"):
                found.append(f"{at}: ends in ';', which nbval does not respect; assign the value")
            alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt")
            if not alt and any(_is_picture(output) for output in cell["outputs"]):
                found.append(f"{at}: a picture without words; add to the metadata {ALT}")
            for output in cell["outputs"]:
                text += _visible(output)
                if output["output_type"] == "error":
                    found.append(f"{at}: ends in {output.get('ename')}: {output.get('evalue')}")
                if output["output_type"] == "stream" and output["name"] == "stderr":
                    found.append(f"{at}: writes to stderr: {_joined(output['text'])[:80]!r}")
        for path in sorted(set(ABSOLUTE.findall(text))):
            found.append(f"{at}: an absolute path: {path}")
    return found


def _is_picture(output: dict) -> bool:
    return any(kind.startswith("image/") for kind in output.get("data", {}))


def _visible(output: dict) -> str:
    """The text of an output; pictures left out."""
    parts = [_joined(output.get("text", ""))]
    for kind, data in output.get("data", {}).items():
        if kind.startswith("text/"):
            parts.append(re.sub(r"base64,[A-Za-z0-9+/=\s]+", "", _joined(data)))
    return "\n".join(parts)


def check(path: Path, root: Path = ROOT) -> list[str]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    name = path.resolve().relative_to(root.resolve()).as_posix()
    return problems(notebook, name, path.stat().st_size)


# ---------------------------------------------------------------- command


def new(path: Path, title: str) -> None:
    """Start a notebook: title, Colab button, set-up line."""
    name = path.resolve().relative_to(ROOT).as_posix()
    cells = [
        {"cell_type": "markdown", "source": f"# {title}\n\n{badge(name)}"},
        {"cell_type": "code", "source": setup_line(), "outputs": [], "execution_count": None},
    ]
    for cell in cells:
        cell["metadata"] = {"tags": ["remove-input"]} if cell["cell_type"] == "code" else {}
    write(path, normalise({"cells": cells, "metadata": {}}, path.name))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", type=Path, help="all of the book by default")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--times", action="store_true", help="run with nothing cached, note the cost")
    mode.add_argument("--check", action="store_true", help="run nothing, list what is wrong")
    mode.add_argument("--normalise", action="store_true", help="run nothing, rewrite")
    mode.add_argument("--new", nargs=2, metavar=("FILE", "TITLE"), help="start a notebook")
    options = parser.parse_args(argv)
    if options.new:
        new(Path(options.new[0]), options.new[1])
        return 0
    bad, seconds = 0, {}
    for path in options.notebooks or all_notebooks():
        if options.normalise:
            write(path, normalise(json.loads(path.read_text(encoding="utf-8")), path.name))
        elif not options.check:
            name = path.resolve().relative_to(ROOT).as_posix()
            with tempfile.TemporaryDirectory() as empty:
                if options.times:
                    os.environ["MEDIT_CACHE"] = empty
                seconds[name] = execute(path)
            print(f"{path.name}: {seconds[name]:.0f} s of processor time", flush=True)
        for problem in check(path):
            bad += 1
            print(f"{path}: {problem}")
    if options.times:
        note_times(seconds)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
