"""Pages that work with no network, and carry only the scripts they need.

The maths and widget scripts lie in `book/_vendor`. They are copied to `_static/vendor` after the
build: a script under an `html_static_path` would be put in the head of every page. Each page then
keeps the maths script only if it has maths, and the widget script only if it has widgets.
"""

from __future__ import annotations

import shutil
from pathlib import Path

VENDOR = Path(__file__).parent.parent / "_vendor"
MATHJAX = "vendor/mathjax/es5/tex-chtml.js"
WIDGETS = "vendor/widgets/embed.js"
# Widgets typeset their labels through the interface of MathJax 2.
HUB = """window.addEventListener('load', () => {
  if (!window.MathJax) return;
  MathJax.Hub = {Queue: ([, , node]) => MathJax.startup.promise
    .then(() => MathJax.typesetPromise([node]))};
});"""


def _defaults(app, config):
    config.mathjax_path = MATHJAX
    config.nb_ipywidgets_js = {WIDGETS: {}}


def _name(script) -> str:
    return str(getattr(script, "filename", "") or "")


def _text(script) -> str:
    return str((getattr(script, "attributes", None) or {}).get("body") or "")


def _needed(app, pagename, templatename, context, doctree):
    """Drop from this page the scripts that it does not use."""
    scripts = context.get("script_files")
    if scripts is None:
        return
    body = context.get("body") or ""
    maths = 'class="math ' in body or "tex2jax_process" in body or "mathjax_process" in body
    widgets = "application/vnd.jupyter.widget-view+json" in body

    def keep(script) -> bool:
        name, text = _name(script), _text(script)
        if "mathjax" in name.lower() or "window.MathJax" in text:
            return maths
        if WIDGETS in name:
            return widgets
        # a live-kernel button that this book does not offer; its script comes from outside
        return "thebe" not in name.lower() and "thebe" not in text.lower()

    kept = [script for script in scripts if keep(script)]
    scripts[:] = kept
    if widgets and maths:
        app.add_js_file(None, body=HUB, priority=1)


def _copy(app, error):
    if error is None and app.builder.format == "html":
        target = Path(app.outdir) / "_static" / "vendor"
        shutil.copytree(VENDOR, target, dirs_exist_ok=True)


def setup(app):
    app.connect("config-inited", _defaults, priority=900)
    app.connect("html-page-context", _needed, priority=900)
    app.connect("build-finished", _copy)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
