"""The page lab: makes its data, copies it with its scripts to `_static/lab`, and links to it.

A script under an `html_static_path` would be put in the head of every page; so the page loads
`_static/lab/lab.js` itself, and that script loads the rest when the reader asks for it.

Chapters link to the lab by its full address, which also works in Colab. In the built book such a
link is made relative, so that it works from a folder.
"""

from __future__ import annotations

import html
import shutil
import sys
from pathlib import Path

from docutils import nodes

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("lab.js", "lab.css", "engine.js")
PAGE = "book/lab"


def assemble(target: Path) -> Path:
    """All that the page loads, in the folder `target`."""
    sys.path.insert(0, str(ROOT / "tools"))
    import page_lab

    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(page_lab.build().glob("*.js")):
        shutil.copy(path, target)
    for name in SCRIPTS:
        shutil.copy(page_lab.SOURCES / name, target)
    return target


def _finish(app, error):
    if error is None and app.builder.format == "html":
        assemble(Path(app.outdir) / "_static" / "lab")


def _links(app, doctree, docname):
    """Full addresses of the lab become relative ones."""
    full = f"{app.config.html_baseurl}{PAGE}.html"
    if app.builder.format != "html" or not app.config.html_baseurl:
        return
    for link in doctree.findall(nodes.reference):
        address = html.unescape(link.get("refuri", ""))  # MyST has escaped its & already
        if address.startswith(full):
            here = app.builder.get_relative_uri(docname, PAGE) or "lab.html"
            link["refuri"] = here + address.removeprefix(full)
            link["internal"] = True


def setup(app):
    app.connect("doctree-resolved", _links)
    app.connect("build-finished", _finish)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
