"""A figure with a slider that works on a printed page of HTML, with no kernel behind it.

    frames([draw(lam) for lam in values], "λ", values, alt="what the frames show")

All frames are drawn beforehand and stored in the output; a native slider chooses one of them. The
arrow keys move it, a screen reader says its value, and without scripts the start frame is seen.
"""

import base64
import html
import io

from .errors import MeditError

LIMIT = 300_000  # bytes of HTML that one slider may add to a page
RESOLUTIONS = (150, 125, 100, 80, 60)  # dots an inch; the first at which all frames fit
COLOURS = 48  # a palette keeps a frame small and, for a line drawing, sharp

# On each move: show one frame, and say its value in the output and to a screen reader.
MOVE = (
    "const box=this.closest('.medit-frames'),n=+this.value;"
    "box.querySelectorAll('img').forEach((f,i)=>{f.style.display=i===n?'block':'none'});"
    "const v=box.querySelectorAll('img')[n].dataset.value;"
    "box.querySelector('output').textContent=v;this.setAttribute('aria-valuetext',v)"
)


class Frames:
    """What `frames` returns: HTML for a notebook or a page."""

    def __init__(self, page, about):
        self.html, self.about = page, about

    def _repr_html_(self):
        return self.html

    def __repr__(self):
        return self.about


def frames(figures, label, values, alt=None, start=0):
    """A slider over `figures` (matplotlib Figures of one size), one for each of `values`.

    label: the name of what is moved. alt: words for those who do not see the picture (one text,
    or one a frame). start: index of the frame shown first. MeditError if the numbers of figures
    and values differ or the frames do not fit into LIMIT bytes.
    """
    figures, shown = list(figures), [_text(value) for value in values]
    if not figures or len(figures) != len(shown):
        raise MeditError(f"{len(figures)} figures for {len(shown)} values; give one for each")
    start = range(len(shown))[start]
    alts = list(alt) if isinstance(alt, (list, tuple)) else [alt or "Figure"] * len(shown)
    if len(alts) != len(shown):
        raise MeditError(f"{len(alts)} alternative texts for {len(shown)} frames")
    for resolution in RESOLUTIONS:
        pictures = [_png(figure, resolution) for figure in figures]
        page = _page(pictures, label, shown, alts, start)
        if len(page.encode()) <= LIMIT:
            return Frames(page, f"slider: {label} from {shown[0]} to {shown[-1]}")
    raise MeditError(
        f"{len(figures)} frames need {len(page.encode()) / 1000:.0f} kB, more than "
        f"{LIMIT / 1000:.0f}; take fewer frames or smaller figures"
    )


def _page(pictures, label, shown, alts, start):
    label, last = html.escape(label), len(shown) - 1
    images = "\n".join(
        f'<img src="data:image/png;base64,{picture}" data-value="{html.escape(value)}" '
        f'alt="{html.escape(alt)} ({label} = {html.escape(value)})" width="{width}" '
        f'style="display:{"block" if i == start else "none"};max-width:100%;height:auto">'
        for i, ((picture, width), value, alt) in enumerate(zip(pictures, shown, alts, strict=True))
    )
    value = html.escape(shown[start])
    return (
        f'<div class="medit-frames" role="group" aria-label="{label}: a figure with a slider" '
        f'style="max-width:{pictures[0][1]}px">\n'
        '<label style="display:flex;gap:0.8em;align-items:center;padding:0.3em 0">'
        f'<span style="white-space:nowrap">{label} = '
        '<output aria-live="polite" style="display:inline-block;min-width:4em;font-weight:600">'
        f"{value}</output></span>\n"
        f'<input type="range" min="0" max="{last}" step="1" value="{start}" autocomplete="off" '
        f'aria-label="{label}" aria-valuetext="{value}" '
        f'style="flex:1;min-width:6em;height:1.8em" oninput="{html.escape(MOVE)}">'
        f"</label>\n{images}\n</div>"
    )


def _png(figure, resolution):
    """(base64 text, width in CSS pixels) of the figure as a PNG with a palette and no date."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=resolution, metadata={"Software": None})
    picture = Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    width = round(float(figure.get_size_inches()[0]) * 100)
    return base64.b64encode(out.getvalue()).decode(), width


def _text(value):
    return value if isinstance(value, str) else f"{value:g}"
