"""Show docstrings as they stand in the source: plain text with aligned equations, not markup."""


def _verbatim(app, what, name, obj, options, lines):
    if any(lines):
        lines[:] = [".. code-block:: text", "   :class: mt-docstring", ""] + [
            "   " + line for line in lines
        ] + [""]  # fmt: skip


def setup(app):
    app.connect("autodoc-process-docstring", _verbatim)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
