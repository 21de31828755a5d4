"""Repairs of the theme's buttons for readers with a screen reader or a voice: the name of a button
holds the words that are seen on it."""

import re
from pathlib import Path

SWITCH = re.compile(r'(<i class="theme-switch [^>]*?) title="[^"]*"')
SEARCH = re.compile(r'(<button class="btn search-button-field[^>]*?) aria-label="[^"]*"')


def _repair(app, error):
    if error is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            text = path.read_text(encoding="utf-8")
            fixed = SEARCH.sub(r"\1", SWITCH.sub(r"\1", text))
            if fixed != text:
                path.write_text(fixed, encoding="utf-8")


def setup(app):
    app.connect("build-finished", _repair)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
