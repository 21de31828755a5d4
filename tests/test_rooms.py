"""The house: imports run one way, between rooms and inside the core, and the core loads alone."""

from __future__ import annotations

import ast
import subprocess
import sys

from tests.conftest import ROOT

PACKAGE = ROOT / "medit_teach"
FLOORS = ("core", "world", "real", "methods", "study", "tiny", "book", "classroom")  # upwards
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
LAZY = {  # the imports that lead up a floor, each with its reason
    ("medit_teach.datasets", "medit_teach.world"): "the invented world is one of the sources",
    ("medit_teach.datasets", "medit_teach.real"): "and so are the real facts",
    **{
        ("medit_teach.book.check.assignments", f"medit_teach.classroom.{name}"): "the notebook's "
        "check bars and reads what the grader will"
        for name in ("sandbox", "worker")
    },
}


def imports(name):
    """(module of this package that `name` imports, is it at the top of the file)."""
    path = FILES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [a.name for a in node.names if a.name.split(".")[0] == "medit_teach"]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            whole = ".".join([*base, node.module] if node.module else base)
            module = whole if node.level else node.module
            found = [x if (x := f"{module}.{a.name}") in FILES else module for a in node.names]
        else:
            continue
        for target in found:
            if target in FILES and target != name:
                yield target, node in tree.body


def floor(name):
    room = name.split(".")[1] if "." in name else "core"
    return room if (PACKAGE / room).is_dir() else "core"


def up(name, target):
    return FLOORS.index(floor(target)) > FLOORS.index(floor(name))


def test_imports_run_down_from_room_to_room():
    found = {
        (name, target)
        for name in FILES
        for target, _ in imports(name)
        if up(name, target) and name not in ("medit_teach", "medit_teach.cli")
    }
    assert found <= set(LAZY), found - set(LAZY)


def test_inside_the_core_there_is_no_circle():
    edges = {
        name: {t for t, top in imports(name) if top and floor(t) == "core" and t != "medit_teach"}
        for name in FILES
        if floor(name) == "core" and name not in ("medit_teach", "medit_teach.__main__")
    }
    done = set()
    while edges:
        free = [name for name, needs in edges.items() if needs <= done]
        assert free, f"a circle among {sorted(edges)}"
        done |= set(free)
        edges = {name: needs for name, needs in edges.items() if name not in done}


def test_importing_the_package_loads_no_upper_room():
    code = (
        "import sys, medit_teach; print([m for m in sys.modules if m.startswith('medit_teach.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {floor(name) for name in ast.literal_eval(done.stdout)}
    assert loaded == {"core", "methods"}


def test_no_page_names_a_module_that_is_not_there():
    """Chapters, solutions, pages, assignments: every import of this package works."""
    import json
    import re

    pages = [*ROOT.glob("book/*.ipynb"), *ROOT.glob("assignments/*/*.ipynb")]
    texts = {p: "\n".join("".join(c["source"]) for c in json.loads(p.read_text())["cells"])
             for p in pages}  # fmt: skip
    texts |= {p: p.read_text(encoding="utf-8")
              for pattern in ("book/*.md", "book/solutions/*.md", "*.md", "assignments/*.md")
              for p in ROOT.glob(pattern)}  # fmt: skip
    lines = {
        (line, path.name)
        for path, text in texts.items()
        for line in re.findall(r"^ *((?:from|import) medit_teach\.?[\w.]*.*)$", text, re.M)
    }
    assert len(lines) > 60
    code = "\n".join(sorted({line.strip() for line, _ in lines if not line.endswith("(")}))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_former_paths_work_for_one_version_and_warn():
    from medit_teach.former import MOVED

    code = "import warnings, importlib, medit_teach as mt\n"
    for former, now in MOVED.items():
        code += f"""
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    old = importlib.import_module("medit_teach.{former}")
new = importlib.import_module("medit_teach.{now}")
assert old is new and new.__name__ == new.__spec__.name == "medit_teach.{now}", old
assert {former!r} in ("facts", "edit") or any("{now}" in str(w.message) for w in told)
"""
    code += """
from medit_teach.facts import Fact
from medit_teach.check.core import Wrong
from medit_teach.grading.notebook import read
from medit_teach import plots, locate, baselines
assert callable(mt.facts) and callable(mt.edit) and mt.Fact is Fact
try:
    mt.nothing
except AttributeError:
    pass
else:
    raise AssertionError
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def said(path):
    """The first paragraph of a module's docstring, in one line."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return " ".join(doc.split("\n\n")[0].split())


def test_the_page_shows_the_house_as_it_stands():
    page = (ROOT / "book" / "house.md").read_text(encoding="utf-8")
    shown = dict(line[3:-2].split("` | ", 1) for line in page.splitlines() if line[:3] == "| `")
    rooms = {path.parent.name: path for path in PACKAGE.glob("*/__init__.py")}
    rooms = {name: path for name, path in rooms.items() if name in FLOORS}
    modules = {p.stem: p for p in PACKAGE.glob("*.py") if not p.stem.startswith("__")}
    assert shown == {name: said(path) for name, path in (rooms | modules).items()}
    order = list(shown)
    assert [name for name in order if name in rooms] == list(FLOORS[1:])
    for name in modules:
        top = {t.split(".")[1] for t, at_top in imports(f"medit_teach.{name}")
               if at_top and t.count(".") == 1 and floor(t) == "core"}  # fmt: skip
        late = [t for t in top & set(modules) if order.index(t) > order.index(name)]
        assert not late, f"{name} uses {late}, which stand after it"
