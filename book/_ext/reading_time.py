"""How long a page takes to read, under its title; chapters say it themselves."""

from docutils import nodes

REFERENCE = {"api", "bibliography", "equations", "glossary", "notation", "times"}
WORDS_A_MINUTE = 200  # of text with formulas; code and outputs are not counted
SKIP = (nodes.literal_block, nodes.raw, nodes.comment)


def _words(node):
    if isinstance(node, SKIP):
        return 0
    if isinstance(node, nodes.Text):
        return len(node.split())
    return sum(map(_words, node.children))


def _insert(app, doctree):
    title = doctree.next_node(nodes.title)
    if title is None or app.env.docname == app.config.root_doc:
        return
    if any(strong.astext() == "Time" for strong in doctree.findall(nodes.strong)):
        return
    minutes = max(1, round(_words(doctree) / WORDS_A_MINUTE))
    text = f"{minutes} minute{'s' * (minutes > 1)} to read"
    if app.env.docname.removeprefix("book/") in REFERENCE:
        text = "To look things up in"
    note = nodes.paragraph("", text, classes=["mt-reading"])
    title.parent.insert(title.parent.index(title) + 1, note)


def setup(app):
    app.connect("doctree-read", _insert)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
