"""Draw one edit, before and after: the picture of the README, the explorer of the first page.

    python tools/picture.py [--seed 98] [--out book/_static/first-edit.svg]

It edits the embedded model, so every number comes from a run. The explorer goes to
`book/first-edit.html`.
"""

from __future__ import annotations

import argparse
import html
from pathlib import Path

import medit_teach as mt
from medit_teach.book.explorers import dial
from medit_teach.metrics import top_tokens

ROOT = Path(__file__).resolve().parent.parent
EXPLORER = ROOT / "book" / "first-edit.html"
INK, SOFT, LINE, PAPER = "#22272e", "#5a626d", "#e3dfd6", "#fdfcfa"
OLD, NEW, KEPT = "#9aa1aa", "#d55e00", "#009e73"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
WIDTH, LEFT, RIGHT, BAR = 760, 24, 400, 130


SEED = 98  # the fact of the first chapter


def measure(seed: int = SEED, method: str = "rome") -> dict:
    """Top tokens of prompt, paraphrase and neighbour, before and after one edit."""
    model, tok = mt.load()
    fact = mt.facts("world", n=1, seed=seed, model=model)[0]
    prompts = {"The fact": fact.text}
    prompts["Asked in other words"] = fact.paraphrases[0]
    prompts["A neighbour"] = fact.neighborhood[0]
    before = top_tokens(model, tok, list(prompts.values()), k=3)
    with mt.edit(model, tok, [fact], method=method):
        after = top_tokens(model, tok, list(prompts.values()), k=3)
    rows = list(zip(prompts.items(), before, after, strict=True))
    return {"new": fact.target_new, "old": fact.target_true, "rows": rows, "method": method}


def explore(seed: int = SEED) -> str:
    """The dial of chapter 9 for three facts, as HTML."""
    model, tok = mt.load()
    return dial(model, tok, mt.facts("world", n=3, seed=seed, model=model))._repr_html_()


def draw(run: dict) -> str:
    """The picture as SVG text."""
    rows, parts, y = run["rows"], [], 62
    for (title, prompt), before, after in rows:
        parts.append(_text(LEFT, y, title, size=13, fill=SOFT))
        parts.append(_text(LEFT, y + 22, f"{prompt} …", size=16, weight=600))
        y += 46
        for rank in range(3):
            parts.append(_bar(LEFT, y, *before[rank], run, was=True, kept=title == "A neighbour"))
            parts.append(_bar(RIGHT, y, *after[rank], run, was=False, kept=title == "A neighbour"))
            y += 24
        y += 26
    height = y - 8
    method = run["method"].upper()
    head = [
        f'<rect width="{WIDTH}" height="{height}" rx="6" fill="{PAPER}" stroke="{LINE}"/>',
        _text(LEFT, 32, "before", size=14, weight=600, fill=SOFT),
        _text(RIGHT, 32, f"after one edit ({method})", size=14, weight=600, fill=SOFT),
    ]
    body = "\n".join(head + parts)
    label = f"One edit of the embedded model: {run['old']} becomes {run['new']}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{html.escape(label)}" font-family="{FONT}">\n{body}\n</svg>\n'
    )


def _bar(x, y, token, p, run, was, kept) -> str:
    word = token.strip()
    new = run["new"].startswith(word) and bool(word)
    color = KEPT if kept and p > 0.1 else NEW if new and not was else OLD
    weight = 600 if p > 0.5 else 400
    shown = html.escape(word)
    return (
        f'<rect x="{x + 110}" y="{y - 11}" width="{max(p * BAR, 1):.0f}" height="14" rx="2" '
        f'fill="{color}"/>'
        + _text(x + 100, y, shown, size=14, weight=weight, anchor="end", escape=False)
        + _text(x + 118 + p * BAR, y, f"{p:.0%}", size=13, fill=SOFT)
    )


def _text(x, y, text, size, weight=400, fill=INK, anchor="start", escape=True) -> str:
    shown = html.escape(text) if escape else text
    return (
        f'<text x="{x:.0f}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{fill}" '
        f'text-anchor="{anchor}">{shown}</text>'
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=SEED, help="which fact of the world")
    parser.add_argument("--method", default="rome")
    parser.add_argument("--out", type=Path, default=ROOT / "book" / "_static" / "first-edit.svg")
    options = parser.parse_args(argv)
    run = measure(options.seed, options.method)
    options.out.write_text(draw(run), encoding="utf-8")
    EXPLORER.write_text(explore(options.seed) + "\n", encoding="utf-8")
    for (title, prompt), before, after in run["rows"]:
        print(f"{title}: {prompt}\n  {before}\n  {after}")


if __name__ == "__main__":
    main()
