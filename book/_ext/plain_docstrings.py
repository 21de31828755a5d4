"""Show docstrings as they stand in the source: plain paragraphs, and indented lines kept aligned.

The docstrings are written to be read in the editor, not as markup, so `*` and `_` mean themselves.
Only `eq:name` is more than text: a link to that equation of the book, under its number.
"""

import re
from itertools import groupby

SPECIAL = re.compile(r"([\\*`|_<>])")
EQUATION = re.compile(r"\beq:[a-z0-9-]+")


def _markup(lines):
    """Paragraphs become text, indented blocks literal text."""
    for indented, block in groupby(lines, key=lambda line: line[:1] == " " or None):
        block = list(block)
        if indented:
            yield from ["", ".. code-block:: text", "   :class: mt-docstring", ""]
            yield from ["   " + line for line in block]
            yield ""
        else:
            for line in block:
                line = SPECIAL.sub(r"\\\1", line.replace("`", ""))
                yield EQUATION.sub(r":eq:`\g<0>`", line)


def _plain(app, what, name, obj, options, lines):
    lines[:] = _markup(list(lines))


def setup(app):
    app.connect("autodoc-process-docstring", _plain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
