"""The command `medit-teach grade SUBMISSIONS --assignment N`: marks, feedback pages, a summary."""

import argparse
import csv
import hashlib
import html
import json
import os
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import MeditError
from ..kept import named, opened, seal, write_text
from ..options import Parser
from .hidden import Draw, Lost
from .notebook import find, forbidden, kind_of, plain, read, text_of
from .sandbox import Student, isolation


def submissions(folder, assignment=None):
    """{student: path}: FOLDER/student.ipynb, or FOLDER/student/.../any.ipynb (nbgrader's layout).

    Of a student's notebooks the one of this assignment counts: by its metadata, else by its name
    or its folder's, else the first that does not say what it is. Files that are no notebooks are
    listed too: they get a report. MeditError when there is nothing.
    """
    folder, found = Path(folder), {}
    if not folder.is_dir():
        raise MeditError(f"{folder} is not a folder of submissions")
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_symlink():
            continue
        if path.is_file():
            found[path.stem] = path
        elif inside := sorted(
            p for p in path.rglob("*.ipynb") if ".ipynb_checkpoints" not in str(p)
        ):
            found[path.name] = min(inside, key=lambda p: _fit(p, assignment))
    if not found:
        raise MeditError(f"{folder} holds no submissions")
    return found


def _says(notebook):
    """The assignment that a notebook says it is, or None."""
    about = notebook.get("metadata")
    about = about.get("medit_teach") if isinstance(about, dict) else None
    said = about.get("assignment") if isinstance(about, dict) else None
    return said if isinstance(said, str) and said else None


def _fit(path, assignment):
    """How badly a file fits the assignment: 0 it says so, 1 its name does, 2 unknown, 3 another."""
    try:
        said = _says(read(path))
    except MeditError:
        said = None
    if said is not None:
        return 0 if said == assignment else 3
    return 1 if assignment in (path.stem, path.parent.name) else 2


def grade_ids(notebook, master):
    """The grade_id of each cell ("" for a student's own): from its metadata, else from its id."""
    known = {i: c.get("id") for i, c in master.cells()}
    by_id = {cell_id: i for i, cell_id in known.items() if cell_id}
    for cell in notebook["cells"]:
        about = cell["metadata"].get("nbgrader")
        found = str(about.get("grade_id", "")) if isinstance(about, dict) else ""
        yield found if found in known else by_id.get(str(cell.get("id")), found)


def cells_of(notebook, master):
    """([(label, code)] to run, notes): given cells as they were handed out, answers, own cells.

    Tests are left out. A cell that imports what is forbidden is left out with a note. An answer
    cell that is not there, and whose function is nowhere else, gets a note too.
    """
    kinds = {i: kind_of(c["metadata"]["nbgrader"]) for i, c in master.cells()}
    given, run, notes = master.given(), [], []
    ids = list(grade_ids(notebook, master))
    code = "\n".join(text_of(c) for c in notebook["cells"] if c["cell_type"] == "code")
    for name in (i for i, kind in kinds.items() if kind == "answer" and i not in ids):
        if not re.search(rf"^\s*(?:def\s+{name}\b|{name}\s*=)", code, flags=re.M):
            notes.append(f"the answer cell {name} was not found")
    for number, (cell, grade_id) in enumerate(zip(notebook["cells"], ids, strict=True), 1):
        if cell["cell_type"] != "code":
            continue
        kind = kinds.get(grade_id)
        if kind == "tests":
            continue
        if kind == "given":
            if grade_id in given:  # once, and in the words of the master
                run.append((grade_id, plain(given.pop(grade_id))))
            continue
        label, code = grade_id or f"number {number}", plain(text_of(cell))
        if found := forbidden(code):
            notes.append(
                f"cell {label} was not run: it uses {', '.join(found)}, which graded work may not "
                "import; write it yourself"
            )
            continue
        run.append((label, code))
    return [(i, plain(code)) for i, code in given.items()] + run, notes


_turn = threading.Lock()  # the hidden tests of all threads share one model: its hooks, its text


class _Elsewhere:
    """The student's functions; while one works, other threads' tests may go on."""

    def __init__(self, student):
        self._student = student

    def __getattr__(self, name):
        function = getattr(self._student, name)

        def call(*args):
            _turn.release()
            try:
                return function(*args)
            finally:
                _turn.acquire()

        return call


def mark(student, exercises, seed):
    """What each part earned: a list of dicts, one for each exercise. student: see hidden.py."""
    marks = []
    for exercise in exercises:
        parts = []
        for part in exercise.parts:
            told = ""
            try:
                with _turn:
                    part.run(_Elsewhere(student), Draw(seed, exercise.name, part.area))
            except Lost as problem:
                told = str(problem)
            except MeditError as problem:
                told = f"the library refuses what came back: {problem}"
            except Exception as problem:  # an answer of a form that the test did not foresee
                told = f"the answer cannot be used ({type(problem).__name__}: {problem})"
            parts.append(
                {
                    "area": part.area,
                    "hint": part.hint,
                    "of": part.points,
                    "points": 0 if told else part.points,
                    "told": told,
                }
            )
        got = sum(p["points"] for p in parts)
        marks.append({"name": exercise.name, "of": exercise.points, "points": got, "parts": parts})
    return marks


def grade_one(path, master, exercises, seed, isolate):
    """The record of one submission: marks, notes, what is left to mark by hand."""
    by_hand = dict.fromkeys(master.by_hand(), "not found")
    try:
        notebook = read(path)
        if (said := _says(notebook)) not in (None, master.name):
            raise MeditError(f"this is {said[:60]}, not {master.name}")
    except MeditError as problem:
        marks = mark(_Nobody(str(problem)), exercises, seed)
        return {"marks": marks, "notes": [str(problem)], "by_hand": by_hand, "seconds": 0.0}
    cells, notes = cells_of(notebook, master)
    handed_out = {
        c["metadata"]["nbgrader"]["grade_id"]: text_of(c).strip()
        for c in master.version("student")["cells"]
        if "nbgrader" in c["metadata"]
    }
    for cell, grade_id in zip(notebook["cells"], grade_ids(notebook, master), strict=True):
        if grade_id in by_hand and by_hand[grade_id] != "answered":
            written = text_of(cell).strip() not in ("", handed_out[grade_id])
            by_hand[grade_id] = "answered" if written else "not answered"
    notes += [
        f"the cell of the answer in words {i} was not found: look for it in the notebook"
        for i, state in by_hand.items()
        if state == "not found"
    ]
    with Student(cells, isolate) as student:
        marks = mark(student, exercises, seed)
        notes += student.notes
        notes += [f"cell {label} stops with {error}" for label, error in student.errors.items()]
    seconds = round(student.seconds, 1)
    return {"marks": marks, "notes": notes, "by_hand": by_hand, "seconds": seconds}


class _Nobody:
    """In the place of a student whose file cannot be read."""

    def __init__(self, why):
        self._why = why

    def __getattr__(self, name):
        raise Lost(self._why)


# ------------------------------------------------------------------ a class


def grade(folder, number, out, seed=None, masters=None, jobs=2, isolate=None, say=print):
    """Records {student: dict} of all submissions; writes marks.csv, feedback/ and summary.png.

    Finished records are kept in out/records and used again while submission, master, seed and
    this grader are the same, so an interrupted run goes on. isolate: None, as the system allows.
    """
    if os.name != "posix":
        raise MeditError("grading needs Linux or macOS; on Windows, use WSL")
    master, out = find(number, masters), Path(out)
    found = submissions(folder, master.name)
    seed = master.seed if seed is None else seed
    exercises = master.exercises()
    able, sentence = isolation() if isolate in (None, True) else (False, "isolation was off: asked")
    if isolate and not able:
        raise MeditError(f"isolation was asked for, but {sentence}")
    say(f"{len(found)} submissions; {sentence}")
    with named(out):
        (out / "records").mkdir(parents=True, exist_ok=True)
    grader = b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py")))
    made_by = f"{master.path.read_bytes()!r}{grader!r}{seed}{able}"
    base = hashlib.blake2b(made_by.encode()).hexdigest()
    names = _file_names(found)

    def work(student):
        path, kept = found[student], out / "records" / f"{names[student]}.json"
        key = hashlib.blake2b(base.encode() + path.read_bytes(), digest_size=16).hexdigest()
        try:
            record = opened(kept.read_bytes())
            if record["key"] == key:
                return record
        except (OSError, MeditError, KeyError):  # damaged, or none: it is graded again
            pass
        record = grade_one(path, master, exercises, seed, able)
        record |= {"key": key, "student": student, "isolation": sentence, "assignment": master.name}
        write_text(kept, json.dumps(seal(record), indent=1))
        return record

    records = {}
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        for student, record in zip(found, pool.map(work, found), strict=True):
            records[student] = record
            say(f"{student:30.30} {total(record):5.1f} of {of(record):g}  {_first_note(record)}")
    with named(out):
        _table(records, master, out / "marks.csv")
        (out / "feedback").mkdir(exist_ok=True)
    for student, record in records.items():
        write_text(out / "feedback" / f"{names[student]}.html", feedback(record, master))
    lost = {
        e.name: [1 - r["marks"][i]["points"] / e.points for r in records.values()]
        for i, e in enumerate(exercises)
    }
    from ..book.plots import lost_points

    with named(out):
        lost_points(lost).savefig(out / "summary.png", dpi=150)
    return records


def total(record):
    """Points earned."""
    return sum(m["points"] for m in record["marks"])


def of(record):
    """Points that could be earned without those given by hand."""
    return sum(m["of"] for m in record["marks"])


def _first_note(record):
    return record["notes"][0][:60] if record["notes"] else ""


def _file_names(students):
    """A harmless file name for each student, no two alike."""
    names = {}
    for student in students:
        clean = re.sub(r"[^\w.-]", "_", student)[:60]
        if clean != student or clean.startswith("."):
            clean += "-" + hashlib.blake2b(student.encode(), digest_size=4).hexdigest()
        names[student] = clean
    return names


def _table(records, master, path):
    """marks.csv: a line a student, a column an exercise; empty columns for marks by hand."""
    by_hand = master.by_hand()
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        first = next(iter(records.values()))
        heads = [f"{m['name']} (of {m['of']:g})" for m in first["marks"]]
        heads += [f"{name} (of {points:g}, by hand)" for name, points in by_hand.items()]
        writer.writerow(
            ["student", f"total (of {of(first):g})", *heads, "isolated", "seconds", "notes"]
        )
        for student, record in records.items():
            safe = "'" + student if student[:1] in "=+-@" else student  # no formula in a sheet
            row = [safe, total(record), *(m["points"] for m in record["marks"])]
            row += [0 if record["by_hand"][x] == "not answered" else "" for x in by_hand]
            isolated = "yes" if record["isolation"].startswith("isolated") else "no"
            writer.writerow([*row, isolated, record["seconds"], " | ".join(record["notes"])])


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 17px/1.5 system-ui, sans-serif; color: #22272E; max-width: 46em; margin: 2em auto;
       padding: 0 1em }}
table {{ border-collapse: collapse; width: 100%; margin-bottom: 1.5em }}
th, td {{ text-align: left; vertical-align: top; padding: .4em .6em;
          border-top: 1px solid #8A929C }}
th:nth-child(1) {{ width: 10em }} th:nth-child(2) {{ width: 4em }}
caption {{ text-align: left; font-weight: bold; padding: .4em 0 }}
small {{ color: #555c66 }}
</style></head><body>
<h1>{title}</h1>
<p><strong>{points:g} of {of:g} points</strong> for the functions. {hand}</p>
{body}
<p><small>{isolation}.</small></p>
</body></html>
"""


def feedback(record, master):
    """A page for one student: what each part earned, and what to look at where it earned none."""
    e, body = html.escape, []
    if record["notes"]:
        items = "".join(f"<li>{e(note)}</li>" for note in record["notes"])
        body.append(f"<h2>Before the marks</h2><ul>{items}</ul>")
    for m in record["marks"]:
        rows = []
        for part in m["parts"]:
            said = "right"
            if part["told"]:
                said = e(part["told"][:700])
                if part["hint"] and part["told"] not in ("no answer yet", *record["notes"]):
                    said += f"<br><small>To look at: {e(part['hint'])}</small>"
            verdict = f"{part['points']:g} of {part['of']:g}"
            rows.append(f"<tr><td>{e(part['area'])}</td><td>{verdict}</td><td>{said}</td></tr>")
        caption = f"{e(m['name'])}: {m['points']:g} of {m['of']:g}"
        heads = ("about", "points", "what we saw")
        head = "<tr>" + "".join(f"<th scope=col>{x}</th>" for x in heads) + "</tr>"
        body.append(f"<table><caption>{caption}</caption>{head}{''.join(rows)}</table>")
    hand = master.by_hand()
    told = ", ".join(f"{x} ({p:g} points; {record['by_hand'][x]})" for x, p in hand.items())
    hand = f"To be marked by a person: {e(told)}." if hand else ""
    title = f"{e(record['assignment'])}: {e(record['student'])}"
    return PAGE.format(
        title=title,
        points=total(record),
        of=of(record),
        hand=hand,
        body="\n".join(body),
        isolation=e(record["isolation"]),
    )


EXAMPLES = """examples:
  medit-teach grade submitted --assignment 1 --out marks
  medit-teach grade submitted --assignment out/grader/1-objective.ipynb --out marks

Of several notebooks of one student, the one of this assignment is taken.
"""


def main(argv):
    """medit-teach grade SUBMISSIONS --assignment N."""
    parser = Parser(
        prog="medit-teach grade",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "submissions",
        metavar="SUBMISSIONS",
        help="a folder: <name>.ipynb, one per student, or <name>/.../<assignment>.ipynb as "
        "nbgrader collects them",
    )
    parser.add_argument("--assignment", required=True, help="its number, or a grader notebook")
    parser.add_argument(
        "--out",
        default="marks",
        type="new folder",
        metavar="DIR",
        help="folder of marks.csv, feedback/, summary.png and records/ (%(default)s)",
    )
    parser.add_argument(
        "--seed", type="seed", help="of the hidden tests (the grader notebook's, or 0)"
    )
    parser.add_argument("--masters", metavar="DIR", help="where the masters are (assignments/)")
    parser.add_argument(
        "--jobs",
        type="count",
        default=2,
        help="submissions graded at a time, one processor each (%(default)s)",
    )
    parser.add_argument(
        "--require-isolation", action="store_true", help="stop where the system cannot isolate"
    )
    args = parser.parse_args(argv)
    isolate = True if args.require_isolation else None
    grade(args.submissions, args.assignment, args.out, args.seed, args.masters, args.jobs, isolate)
    print(f"marks.csv, feedback/ and summary.png are in {args.out}", file=sys.stderr)
