"""A figure with a slider: live beside a kernel, and stored frames on a page without one.

    slider(draw, "λ", values, alt="what the frames show")      # draw: a value -> a Figure

All frames are drawn beforehand and stored in the output; a native slider chooses one of them. The
arrow keys move it, a screen reader says its value, and without scripts the start frame is seen.
Where a kernel runs, a slider of ipywidgets takes their place and draws anew.
"""

import base64
import html
import io

from .errors import MeditError

VIEW = "application/vnd.jupyter.widget-view+json"
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
    """What `frames` and `slider` return: HTML for a notebook or a page; live(): a widget, or None.

    A front end with a kernel prefers the widget; what is stored for a page is the HTML.
    """

    def __init__(self, page, about, live=None):
        self.html, self.about, self.live = page, about, live

    def _repr_html_(self):
        return self.html

    def _repr_mimebundle_(self, include=None, exclude=None):
        from IPython import get_ipython

        if self.live is None or getattr(get_ipython(), "kernel", None) is None:
            return {}
        return {VIEW: {"version_major": 2, "version_minor": 0, "model_id": self.live().model_id}}

    def __repr__(self):
        return self.about


def slider(draw, label, values, alt=None, start=0, finer=None):
    """`frames` of draw(value) for each of `values`, and the same live where a kernel runs.

    draw: a value -> a matplotlib Figure. finer: the live slider's values, `values` if not given.
    The rest as in `frames`.
    """
    values = list(values)
    still = frames([draw(value) for value in values], label, values, alt, start)
    words = alt[start] if isinstance(alt, (list, tuple)) else alt or "Figure"
    still.live = lambda: _live(draw, label, list(finer or values), values[start], words)
    return still


def _live(draw, label, values, start, alt):
    """A slider of ipywidgets over the picture of draw(value); drawn again on each move."""
    import ipywidgets

    options = [(_text(value), value) for value in values]
    dial = ipywidgets.SelectionSlider(
        options=options, value=start if start in values else values[0],
        description=label, continuous_update=False, layout={"width": "min(95%, 36em)"},
        style={"description_width": "initial"},
    )  # fmt: skip
    picture = ipywidgets.HTML()

    def show(_=None):
        drawn = _png(draw(dial.value), RESOLUTIONS[0])
        picture.value = _image(drawn, label, _text(dial.value), alt)

    dial.observe(show, "value")
    show()
    return ipywidgets.VBox([dial, picture])


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
    last = len(shown) - 1
    images = "\n".join(
        _image(picture, label, value, alt, "block" if i == start else "none")
        for i, (picture, value, alt) in enumerate(zip(pictures, shown, alts, strict=True))
    )
    label, value = html.escape(label), html.escape(shown[start])
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


def _image(picture, label, value, alt, display="block"):
    """An <img> of what `_png` returned, with its words."""
    data, width = picture
    return (
        f'<img src="data:image/png;base64,{data}" data-value="{html.escape(value)}" '
        f'alt="{html.escape(alt)} ({html.escape(label)} = {html.escape(value)})" width="{width}" '
        f'style="display:{display};max-width:100%;height:auto">'
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
