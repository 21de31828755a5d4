"""Draw the picture that others show of a link to the book: book/_static/card.png.

python tools/card.py        needs a Chromium (apt install chromium)
"""

from __future__ import annotations

import base64
import io
import tempfile
from pathlib import Path

from browser import Browser
from PIL import Image

CARD = Path(__file__).resolve().parent.parent / "book" / "_static" / "card.png"
WIDTH, HEIGHT = 1200, 630
PAGE = """<!doctype html><meta charset="utf-8"><style>
body { position: relative; margin: 0; width: 1200px; height: 630px;
  background: #fdfcfa; color: #22272e;
  font-family: system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1, p { position: absolute; left: 80px; margin: 0; }
h1 { top: 90px; width: 700px; font-size: 76px; line-height: 1.12; }
p { bottom: 80px; width: 760px; font-size: 34px; color: #5a626d; }
svg { position: absolute; right: 80px; top: 150px; }
</style><h1>Editing what a language model knows</h1>
<p>One small matrix moves one fact and keeps the rest. Derive it, write it, run it, break it.</p>
<svg width="300" height="300" viewBox="0 0 300 300"><rect x="4" y="4" width="292" height="292"
 rx="10" fill="#f5f3ee" stroke="#0072b2" stroke-width="8"/><text x="150" y="178"
 text-anchor="middle" font-size="72" font-family="Georgia, serif" font-style="italic">W +
 <tspan fill="#d55e00">Δ</tspan></text></svg>"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "card.html").write_text(PAGE, encoding="utf-8")
        with Browser(Path(folder)) as browser, browser.tab("card.html") as tab:
            clip = {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT, "scale": 1}
            shot = base64.b64decode(tab.call("Page.captureScreenshot", clip=clip)["data"])
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(64).save(CARD, optimize=True)


if __name__ == "__main__":
    main()
