"""Write book/equations.md: every displayed equation of the chapters, and the code that checks it.

python tools/equations.py            write the page
python tools/equations.py --check    exit with 1 if the page is not what would be written
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "book" / "equations.md"
TAGGED = re.compile(
    r"^\*\*(?P<kind>Claim|Definition)\*\*\s*(?:\((?P<name>[^)]*)\))?"
    r"|^\$\$\n.*?^\$\$[ ]*\((?P<label>eq:[^)]*)\)",
    re.M | re.S,
)
CALL = re.compile(r"check_equation\(\s*\"(?P<label>[^\"]+)\",\s*")
HEAD = """# Every equation and its check

Made by `python tools/equations.py` from the chapters; a test keeps it complete. A **definition**
gives a name, and there is nothing to check. A **claim** is checked on its page by the code in the
last column: `check_equation` compares the two sides, and a test repeats every check with one side
changed by one part in a thousand, to prove that it would notice.
"""


def chapters(root=ROOT):
    return sorted((root / "book").glob("*.ipynb"))


def rows(path):
    """(label, kind, name, code of the check or "") for each displayed equation of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    checks = {}
    for kind, text in cells:
        if kind == "code":
            for match in CALL.finditer(text):
                checks.setdefault(match["label"], _sides(text[match.end() :]))
    found = []
    for kind, text in cells:
        tag = name = None
        for match in TAGGED.finditer(text) if kind == "markdown" else ():
            if match["kind"]:
                tag, name = match["kind"], match["name"]
            else:
                label = match["label"]
                found.append((label, (tag or "").lower(), name or "", checks.get(label, "")))
                tag = name = None
    return found


def _sides(text):
    """The rest of a call's arguments, up to its closing bracket, on one line."""
    depth, kept = 1, ""
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if depth == 0:
            break
        kept += letter
    return re.sub(r"\s+", " ", kept).strip().rstrip(",")


def page():
    lines = [HEAD]
    for path in chapters():
        found = rows(path)
        if not found:
            continue
        title = json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]
        title = "".join(title).splitlines()[0].removeprefix("# ")
        lines += [f"## {title}", "", f"In [this chapter]({path.name}).", ""]
        lines += ["| equation | kind | says | checked by |", "|---|---|---|---|"]
        for label, kind, name, code in found:
            code = f"`{code}`".replace("|", "\\|") if code else ""
            lines.append(f"| {{eq}}`{label}` | {kind} | {name} | {code} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
