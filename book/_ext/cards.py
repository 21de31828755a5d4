"""What others show of a page that is linked to: its title, a sentence, a picture."""

import html

from docutils import nodes

LENGTH = 200
PICTURE = "_static/card.png"


def sentence(doctree, length=LENGTH):
    """The beginning of the first paragraph that says something, cut between words."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if len(text) >= 60 and not paragraph.next_node(nodes.math):
            if len(text) > length:
                text = text[:length].rsplit(" ", 1)[0] + " …"
            return text
    return ""


def _tags(app, pagename, templatename, context, doctree):
    if doctree is None or app.builder.format != "html":
        return
    first = doctree.next_node(nodes.title)
    title = first.astext() if first else context["docstitle"]
    text = sentence(doctree) or f"{title}: a page of {context['docstitle']}, an executable course"
    home = app.config.html_baseurl
    tags = {
        "og:title": title, "og:description": text, "og:type": "article",
        "og:url": f"{home}{pagename}.html", "og:image": home + PICTURE,
        "og:site_name": context["docstitle"], "twitter:card": "summary_large_image",
    }  # fmt: skip
    lines = [f'<meta name="description" content="{html.escape(text)}">']
    lines += [
        f'<meta {"name" if name.startswith("twitter") else "property"}="{name}" '
        f'content="{html.escape(value)}">'
        for name, value in tags.items()
    ]
    context["metatags"] = context.get("metatags", "") + "\n".join(lines)


def setup(app):
    app.connect("html-page-context", _tags)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
