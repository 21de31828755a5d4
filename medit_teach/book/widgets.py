"""Things to move on a page: a figure with a slider, and controls over bars; live beside a kernel.

    slider(draw, "λ", values, alt="what the frames show")      # draw: a value -> a Figure
    explorer("a name", {"method": names, "λ": lams}, look)     # look: values -> bars

All frames are made beforehand and stored in the output; native controls choose one of them. The
Tab and arrow keys move them, a screen reader says their values, and without scripts the start
frame is seen. Where a kernel runs, controls of ipywidgets take their place and compute anew.
`explorers` has those of this course.
"""

import base64
import html
import io
import json
from itertools import product
from math import inf
from numbers import Real

from ..errors import MeditError
from ..settings import number, several, whole
from ..settings import shown as told

VIEW = "application/vnd.jupyter.widget-view+json"
LIMIT = 300_000  # bytes of HTML that one slider or explorer may add to a page
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
    """What this module returns: HTML for a notebook or a page; live(): a widget, or None.

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
    values = several("values", values, error=MeditError)
    still = frames([draw(value) for value in values], label, values, alt, start)
    words = alt[start] if isinstance(alt, (list, tuple)) else alt or "Figure"
    live = list(values if finer is None else several("finer", finer, error=MeditError))
    still.live = lambda: _live(draw, label, live, values[start], words)
    return still


def _live(draw, label, values, start, alt):
    """A slider of ipywidgets over the picture of draw(value); drawn again on each move."""
    import ipywidgets

    options = [(words(value), value) for value in values]
    dial = ipywidgets.SelectionSlider(
        options=options, value=start if start in values else values[0],
        description=label, continuous_update=False, layout={"width": "min(95%, 36em)"},
        style={"description_width": "initial"},
    )  # fmt: skip
    picture = ipywidgets.HTML()

    def show(_=None):
        drawn = _png(draw(dial.value), RESOLUTIONS[0])
        picture.value = _image(drawn, label, words(dial.value), alt)

    dial.observe(show, "value")
    show()
    return ipywidgets.VBox([dial, picture])


def frames(figures, label, values, alt=None, start=0):
    """A slider over `figures` (matplotlib Figures of one size), one for each of `values`.

    label: the name of what is moved. alt: words for those who do not see the picture (one text,
    or one a frame). start: index of the frame shown first. MeditError if the numbers of figures
    and values differ or the frames do not fit into LIMIT bytes.
    """
    figures, shown = several("figures", figures, error=MeditError), [words(v) for v in values]
    if not figures or len(figures) != len(shown):
        raise MeditError(f"{len(figures)} figures for {len(shown)} values; give one for each")
    n = len(shown)
    start = range(n)[whole("start", start, -n, n - 1, error=MeditError)]
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

    if not hasattr(figure, "savefig"):
        raise MeditError(f"a frame is a matplotlib Figure, not {told(figure)}")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=resolution, metadata={"Software": None})
    picture = Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    width = round(float(figure.get_size_inches()[0]) * 100)
    return base64.b64encode(out.getvalue()).decode(), width


def words(value):
    """A value of a control in words."""
    if isinstance(value, str):
        return value
    if isinstance(value, Real) and value == inf:
        return "∞"
    return f"{number('a value of a control', value, error=MeditError):g}"


# ------------------------------------------------------------------ explorers

STYLE = """<style>
.medit-explorer { max-width: 46em; font-variant-numeric: tabular-nums; }
.medit-explorer label { display: inline-flex; flex-wrap: wrap; gap: 0.5em; align-items: center;
  margin: 0 1.2em 0.5em 0; }
.medit-explorer :is(select, input) { font: inherit; min-height: 2em; max-width: 100%; }
.medit-explorer input { width: 12em; }
.medit-explorer output { display: inline-block; min-width: 3.5em; font-weight: 600; }
.medit-panels { display: grid; gap: 0.4em 1.6em;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 19em), 1fr)); }
.medit-panels p { margin: 0.6em 0 0.2em; line-height: 1.35; }
.medit-panels ul { list-style: none; margin: 0; padding: 0; }
.medit-panels li { display: grid; grid-template-columns: 6em 1fr 6.2em; gap: 0.6em;
  align-items: center; margin: 0; line-height: 1.6; }
.medit-panels b { font-weight: 500; }
.medit-panels i { height: 1em; border-left: 1px solid;
  background: linear-gradient(var(--c), var(--c)) 0 0 / calc(1% * var(--z)) 60% no-repeat,
    linear-gradient(gray, gray) 0 100% / calc(1% * var(--a)) 25% no-repeat; }
.medit-panels .rest { --c: gray; }
.medit-panels .new { --c: var(--mt-values, #D55E00); }
.medit-panels .kept { --c: var(--mt-preserve, #009E73); }
.medit-panels .left { --c: var(--mt-residual, #CC79A7); }
</style>"""

# On each move: the number of the frame, the values said, and the frame's pieces put in place.
CHOOSE = (
    "let n=0;this.querySelectorAll('[data-n]').forEach(c=>{n=n*c.dataset.n+ +c.value;"
    "if(c.dataset.said){const s=JSON.parse(c.dataset.said)[c.value];"
    "c.setAttribute('aria-valuetext',s);c.previousElementSibling.textContent=s}});"
    "const d=JSON.parse(this.dataset.frames),s=this.querySelectorAll('.medit-slot');"
    "d.frames[n].forEach((p,i)=>{s[i].innerHTML=d.pieces[p]})"
)


def explorer(name, controls, look, start=None, finer=None):
    """Native controls over panels of bars, a frame for every combination of their values.

    name: says what is explored. controls: {label: values}; numbers make a slider, texts a menu, and
    one value alone no control. look(a value of each) -> (sentence, {title: rows}), each row (name,
    percent before or None, percent, kind), kind "new", "kept", "left" or "rest" (the colour).
    start: {label: value} of the first frame. finer: {label: values} for the live controls.
    MeditError if the frames do not fit into LIMIT bytes.
    """
    controls = {x: list(several(x, v, error=MeditError)) for x, v in controls.items()}
    if not controls or not all(controls.values()):
        raise MeditError("an explorer needs controls, and each control at least one value")
    first = {label: values[0] for label, values in controls.items()} | (start or {})
    for label, value in first.items():
        if value not in controls.get(label, ()):
            raise MeditError(f"start: {told(value)} is not among the values of {label!r}")
    pieces, numbers = {}, []
    for chosen in product(*controls.values()):
        parts = _parts(*look(*chosen))
        numbers.append([pieces.setdefault(part, len(pieces)) for part in parts])
    if len({len(row) for row in numbers}) > 1:
        raise MeditError("an explorer needs the same number of panels in every frame")
    data = json.dumps(
        {"pieces": list(pieces), "frames": numbers}, ensure_ascii=False, separators=(",", ":")
    )
    shown = _panels(_parts(*look(*(first[label] for label in controls))))
    moved = "".join(_control(*item, first) for item in controls.items() if len(item[1]) > 1)
    page = (
        f'<div class="medit-explorer" role="group" aria-label="{html.escape(name)}" '
        f"oninput=\"{html.escape(CHOOSE)}\"\ndata-frames='{_attribute(data)}'>\n{STYLE}\n"
        f"<div>{moved}</div>\n{shown}\n</div>"
    )
    if len(page.encode()) > LIMIT:
        raise MeditError(
            f"{len(numbers)} frames need {len(page.encode()) / 1000:.0f} kB, more than "
            f"{LIMIT / 1000:.0f}; take fewer values"
        )
    live = controls | {x: list(v) for x, v in (finer or {}).items()}
    about = f"explorer: {name}, {len(numbers)} frames"
    return Frames(page, about, lambda: _moved(live, look, first))


def _parts(sentence, panels):
    """A frame as HTML pieces: the sentence, then one piece a panel."""
    return [html.escape(sentence, quote=False), *(_bars(*panel) for panel in panels.items())]


def _bars(title, rows):
    items = (
        f'<li class="{kind}" style="--a:{before or 0:.0f};--z:{min(after, 100):.0f}">'
        f"<span>{html.escape(name, quote=False)}</span><i></i>"
        f"<b>{'' if before is None else f'{before:.0f}% → '}{after:.0f}%</b></li>"
        for name, before, after, kind in rows
    )
    return f"<p>{html.escape(title, quote=False)}</p><ul>{''.join(items)}</ul>"


def _panels(parts):
    sentence, *panels = parts
    slots = "".join(f'<div class="medit-slot">{panel}</div>' for panel in panels)
    said = f'<p class="medit-slot" role="status">{sentence}</p>'
    return f'{said}\n<div class="medit-panels">{slots}</div>'


def _control(label, values, first):
    """A native slider for numbers, a native menu for anything else."""
    at, said = values.index(first[label]), [words(value) for value in values]
    label = html.escape(label)
    if _numbers(values):
        return (
            f"<label><span>{label} =</span><output>{said[at]}</output>"
            f'<input type="range" min="0" max="{len(values) - 1}" value="{at}" autocomplete="off" '
            f'data-n="{len(values)}" '
            f"data-said='{_attribute(json.dumps(said, ensure_ascii=False))}' "
            f'aria-label="{label}" aria-valuetext="{said[at]}"></label>'
        )
    options = "".join(
        f'<option value="{i}"{" selected" * (i == at)}>{html.escape(value)}</option>'
        for i, value in enumerate(said)
    )
    return (
        f'<label><span>{label}</span><select autocomplete="off" data-n="{len(values)}">'
        f"{options}</select></label>"
    )


def _moved(controls, look, first):
    """The same with controls of ipywidgets; computed when it is asked for."""
    import ipywidgets

    dials = [
        (ipywidgets.SelectionSlider if _numbers(values) else ipywidgets.Dropdown)(
            options=[(words(value), value) for value in values],
            value=first[label] if first[label] in values else values[0],
            description=label, style={"description_width": "initial"},
            layout={"width": "min(95%, 30em)"},
            **({"continuous_update": False} if _numbers(values) else {}),
        )
        for label, values in controls.items()
    ]  # fmt: skip
    page = ipywidgets.HTML()

    def show(_=None):
        frame = _panels(_parts(*look(*(dial.value for dial in dials))))
        page.value = f'{STYLE}<div class="medit-explorer">{frame}</div>'

    for dial_ in dials:
        dial_.observe(show, "value")
    show()
    seen = [dial_ for dial_ in dials if len(dial_.options) > 1]
    return ipywidgets.VBox([*seen, page])


def _numbers(values):
    return all(isinstance(value, (int, float)) for value in values)


def _attribute(text):
    """Text for an attribute in single quotes; the JSON in it keeps its double ones."""
    return text.replace("&", "&amp;").replace("'", "&#39;")
