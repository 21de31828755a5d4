"""On every page of the course, the first use of a term of the glossary leads to its entry."""

import re
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

# One-word terms that are hardly used in another sense. Of the others (cell, record, target ...) the
# first on a page is often the everyday word; a page that introduces one says {term}`key`.
TECHNICAL = set(
    """AUC bootstrap codebook echo efficacy fine-tuning fluency generalization hyper-parameters
    hypernetwork Lagrangian locality neighborhood paraphrase portability reliability residual ridge
    ripple shrinkage solver specificity sub-update""".split()
)
PAGES = re.compile(r"book/(\d\d-|solutions/|capstone|datasheet|instructors|tokenization|trouble)")
SKIP = (
    nodes.title, nodes.literal, nodes.literal_block, nodes.reference, nodes.math, nodes.math_block,
    nodes.raw, nodes.caption, nodes.table, addnodes.pending_xref, addnodes.only,
)  # fmt: skip


def terms(text):
    """The terms of a glossary page: its lines that are not indented."""
    inside = text.split("```{glossary}")[1].split("```")[0]
    return [line.strip() for line in inside.splitlines() if line[:1].strip()]


def _load(app, config):
    known = terms((Path(app.srcdir) / "book" / "glossary.md").read_text(encoding="utf-8"))
    app.glossary_terms = {term.lower(): term for term in known if " " in term or term in TECHNICAL}
    longest = sorted(app.glossary_terms, key=len, reverse=True)
    app.glossary_pattern = re.compile(rf"\b({'|'.join(map(re.escape, longest))})s?\b", re.I)


def _texts(node):
    """The text nodes of running text, in order."""
    if isinstance(node, nodes.Text):
        yield node
    elif not isinstance(node, SKIP):
        for child in list(node.children):
            yield from _texts(child)


def _link(app, doctree):
    if not PAGES.match(app.env.docname):
        return
    seen = set()
    for text in list(_texts(doctree)):
        parts, end = [], 0
        for found in app.glossary_pattern.finditer(text):
            term = app.glossary_terms[found[1].lower()]
            if term in seen:
                continue
            seen.add(term)
            link = addnodes.pending_xref(
                "", nodes.inline("", found[0]), refdomain="std", reftype="term", reftarget=term,
                refexplicit=True, refwarn=True, refdoc=app.env.docname, classes=["mt-term"],
            )  # fmt: skip
            parts += [nodes.Text(text[end : found.start()]), link]
            end = found.end()
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(text[end:])])


def setup(app):
    app.connect("config-inited", _load)
    app.connect("doctree-read", _link)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
