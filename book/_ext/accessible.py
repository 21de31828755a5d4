"""Repairs of the theme's pages for readers with a screen reader or a voice, and of its side bar."""

import re
from pathlib import Path

REPAIRS = [
    # the name of a button holds the words that are seen on it
    (re.compile(r'(<i class="theme-switch [^>]*?) title="[^"]*"'), r"\1"),
    (re.compile(r'(<button class="btn search-button-field[^>]*?) aria-label="[^"]*"'), r"\1"),
    # the entries of a bibliography are no items of a list, and their own role is out of use
    (re.compile(r'<div role="list" class="citation-list">'), '<div class="citation-list">'),
    (re.compile(r'(<div class="citation"[^>]*?) role="doc-biblioentry"'), r"\1"),
    # a corner of a table names no column
    (re.compile(r'<th class="head">(?:<p></p>)?\s*</th>'), "<td></td>"),
    # what stands in the side bar beside the list of chapters is part of the site's navigation
    (
        re.compile(r'<a class="navbar-brand logo".*?</a>', re.S),
        r'<nav aria-label="Home">\g<0></nav>',
    ),
]
SOLUTIONS = re.compile(
    r'<p [^>]*class="caption"[^>]*>(<span class="caption-text">Solutions</span>)</p>\s*'
    r'(<ul class="(?:current )?nav bd-sidenav">.*?</ul>)',
    re.S,
)


def _folded(found):
    """The solutions, one line until a reader opens them; open on a page of theirs."""
    shown = " open" if 'class="toctree-l1 current' in found[2] else ""
    return (
        f'<details class="mt-folded"{shown}><summary class="caption">{found[1]}</summary>'
        f"{found[2]}</details>"
    )


def repaired(text):
    """A page with all repairs."""
    for wrong, right in REPAIRS:
        text = wrong.sub(right, text)
    return SOLUTIONS.sub(_folded, text)


def _repair(app, error):
    if error is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            path.write_text(repaired(path.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app):
    app.connect("build-finished", _repair)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
