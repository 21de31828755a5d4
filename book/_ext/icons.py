"""The theme's icons, drawn into the pages. The theme would load a script of 1.5 MB on each, that
draws any of two thousand; the shapes of the few that stand on a page are read from it instead."""

import re
from pathlib import Path

SCRIPT = "_static/scripts/fontawesome.js"
LOADING = re.compile(rf'\s*<script [^>]*src="[^"]*{SCRIPT}[^"]*"[^>]*></script>')
ICON = re.compile(r'<(i|span) class="([^"]*\bfa-[^"]*)"([^>]*?)\s*></\1>')
# name:[width,height,[other names],"code","outline"
SHAPE = re.compile(r'[,{]"?([a-z0-9-]+)"?:\[(\d+),(\d+),\[([^]]*)\],"[0-9a-f]+","([^"]+)"')


def shapes(script):
    """{name: (width, height, outline)}; of the script's styles, the last (solid) counts."""
    found = {}
    for name, width, height, others, outline in SHAPE.findall(script):
        for known in (name, *re.findall(r'"([a-z0-9-]+)"', others)):
            found[known] = (width, height, outline)
    return found


def drawn(text, known):
    """A page with its icons drawn, and without the script; KeyError for an unknown icon."""

    def draw(icon):
        _, classes, rest = icon.groups()
        name = next(
            c[3:] for c in classes.split() if c.startswith("fa-") and c not in {"fa-solid", "fa-lg"}
        )
        width, height, outline = known[name]
        return (
            f'<svg class="mt-icon {" ".join(classes.split())}"{rest} aria-hidden="true" '
            f'viewBox="0 0 {width} {height}"><path fill="currentColor" d="{outline}"/></svg>'
        )

    return ICON.sub(draw, LOADING.sub("", text))


def _draw(app, error):
    if error is not None or app.builder.format != "html":
        return
    script = Path(app.outdir) / SCRIPT
    known = shapes(script.read_text(encoding="utf-8"))
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        path.write_text(drawn(text, known), encoding="utf-8")
    for unused in script.parent.glob("fontawesome.js*"):
        unused.unlink()


def setup(app):
    app.connect("build-finished", _draw)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
