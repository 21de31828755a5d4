"""The command `medit-teach grade SUBMISSIONS --assignment N`: marks, feedback pages, a summary."""

import argparse
import hashlib
import html
import json
import os
import re
import shutil
import stat
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import MeditError
from ..kept import named, opened, seal, write_text
from ..options import Parser
from . import tables
from .hidden import Draw, Lost, afresh
from .notebook import LARGEST, find, forbidden, kind_of, plain_bytes, read, text_of
from .sandbox import Student, isolation, unstartable


def submissions(folder, assignment=None, master=None):
    """{student: path}: FOLDER/student.ipynb, or FOLDER/student/.../any.ipynb (nbgrader's layout).

    Folders and files as Canvas and Moodle name them belong to the student of that name, and so do
    "ann-1.ipynb" and "ann (1).ipynb" beside "ann.ipynb". Of a student's notebooks one counts: the
    one of this assignment (by its metadata, else by its cells or its name), with most answers, the
    newest. Who handed in something else is listed too: with a report. Nothing that is not a plain
    file, or below a folder of the student, is opened. MeditError when there is nothing.
    """
    folder, found = Path(folder), {}
    if not folder.is_dir():
        raise MeditError(f"{folder} is not a folder of submissions")
    for path in sorted(folder.iterdir()):
        if NOBODY.match(path.name):
            continue
        is_folder = path.is_dir() and not path.is_symlink()
        student = student_of(path.name if is_folder else path.stem)
        inside = _notebooks(path) if is_folder else []
        found.setdefault(student, []).extend(inside or [path])
    for student in list(found):  # a second copy, as a browser or Canvas names it
        if (base := COPY.sub("", student)) != student and base in found:
            found[base] += found.pop(student)
    if not found:
        raise MeditError(f"{folder} holds no submissions")
    return {k: _chosen(paths, assignment, master) for k, paths in found.items()}


def unpacked(path, home):
    """The folder of submissions in a zip file (Canvas's, Moodle's), unpacked below `home`.

    Only plain files, each within `home` and none larger than a notebook may be.
    """
    folder = Path(home) / "submitted"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as packed:
            for info in packed.infolist():
                parts = [x for x in re.split(r"[/\\]", info.filename) if x not in ("", ".", "..")]
                kind = stat.S_IFMT(info.external_attr >> 16)
                if info.is_dir() or not parts or kind not in (0, stat.S_IFREG):
                    continue
                target = folder.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(info) as source, open(target, "xb") as file:
                    while target.suffix == ".ipynb" and (piece := source.read(1 << 20)):
                        if file.tell() > LARGEST:
                            break  # it is listed, and then told to be too large
                        file.write(piece)
                when = time.mktime((*info.date_time, 0, 0, -1))
                os.utime(target, (when, when))
    except (OSError, zipfile.BadZipFile, ValueError, OverflowError, RuntimeError) as error:
        raise MeditError(f"{Path(path).name} cannot be unpacked ({error})") from None
    return folder


NOBODY = re.compile(
    r"\.|__MACOSX$|(readme|licen[cs]e)(\.\w+)?$|thumbs\.db$|desktop\.ini$|.*\.(csv|tsv|xlsx?|ods|log)$",
    re.IGNORECASE,
)
COPY = re.compile(r"(?:-\d+| ?\(\d+\)|-Copy\d*)$")
CANVAS = re.compile(r"([^_]+)_(?:LATE_)?(\d+)_(\d+)_.")
MOODLE = re.compile(r"(.+)_(\d+)_assignsubmission_(?:file|onlinetext)_?$")
MOST = 100  # notebooks of one student that are looked at


def student_of(name):
    """The student to whom a file or folder of this name belongs."""
    found = CANVAS.match(name) or MOODLE.match(name)
    return f"{found[1]} ({found[2]})" if found else name


def _notebooks(folder):
    """The notebooks in a student's folder: plain files only, whatever links lead elsewhere."""
    found, seen = [], 0
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(x for x in folders if x[0] != "." and x != "__MACOSX")
        for name in sorted(files):
            seen += 1
            path = Path(here, name)
            if name.endswith(".ipynb") and name[0] != "." and stat.S_ISREG(path.lstat().st_mode):
                found.append(path)
        if seen > 100 * MOST or len(found) > MOST:
            break
    return found[:MOST]


def _chosen(paths, assignment, master):
    """The one of a student's files that counts."""
    notebooks = [p for p in paths if p.suffix == ".ipynb"]
    if len(notebooks) < 2 or assignment is None:
        return (notebooks or paths)[0]
    return min(notebooks, key=lambda p: _fit(p, assignment, master))


def _says(notebook):
    """The assignment that a notebook says it is, or None."""
    about = notebook.get("metadata")
    about = about.get("medit_teach") if isinstance(about, dict) else None
    said = about.get("assignment") if isinstance(about, dict) else None
    return said if isinstance(said, str) and said else None


def _fit(path, assignment, master):
    """A sort key: the assignment first (0 it says so, 1 its name does, 2 unknown, 3 another).

    Then those with more answers, then the newer file, then the larger number of a copy.
    """
    said, answered, here = None, 0, 0
    try:
        notebook = read(path)
        said, here, answered = _says(notebook), *_answered(notebook, master)
    except MeditError:
        pass
    names = {COPY.sub("", x) for x in (path.stem, path.parent.name)}
    named = assignment in names or path.stem.endswith((f"_{assignment}", f"_{assignment}-1"))
    fit = (0 if said == assignment else 3) if said else 0 if here else 1 if named else 2
    again = re.search(r"(\d+)\)?$", path.stem) if COPY.search(path.stem) else None
    try:
        newer = -path.lstat().st_mtime
    except OSError:
        newer = 0
    return fit, -answered, newer, -int(again[1][:9]) if again else 0, str(path)


def _answered(notebook, master):
    """(how many answer cells of the master a notebook has, how many of all its answers differ)."""
    if master is None:
        return 0, 0
    asked = {i for i, c in master.cells() if kind_of(c["metadata"]["nbgrader"]) == "answer"}
    before, found, changed_ = handed_out(master), set(), set()
    for cell, grade_id in zip(notebook["cells"], grade_ids(notebook, master), strict=True):
        found.add(grade_id)
        if text_of(cell).strip() not in ("", before.get(grade_id)):
            changed_.add(grade_id)
    return len(found & asked), len(changed_ & (asked | set(master.by_hand())))


def handed_out(master):
    """{grade_id: text} of the cells that students get."""
    return {
        c["metadata"]["nbgrader"]["grade_id"]: text_of(c).strip()
        for c in master.version("student")["cells"]
        if "nbgrader" in c["metadata"]
    }


def shown(text, most=300):
    """Text of a student's in one line that is safe to print, to store and to open anywhere."""
    text = " ".join(str(text)[: 4 * most].split())
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


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

    Tests are left out, and untouched answer cells whose function stands elsewhere. An answer cell
    that is not there, or that uses what it may not, gets a note.
    """
    kinds = {i: kind_of(c["metadata"]["nbgrader"]) for i, c in master.cells()}
    given, before, run, notes = master.given(), handed_out(master), [], []
    ids = list(grade_ids(notebook, master))
    texts = [text_of(c) if c["cell_type"] == "code" else "" for c in notebook["cells"]]
    elsewhere = {}  # names that are given a meaning outside an untouched answer cell
    for text, grade_id in zip(texts, ids, strict=True):
        if text.strip() != before.get(grade_id):
            elsewhere |= dict.fromkeys(DEFINES.findall(text))
    for name in (i for i, kind in kinds.items() if kind == "answer" and i not in ids):
        if name not in {x or y for x, y in elsewhere}:
            notes.append(f"the answer cell {name} was not found")
    for number, (cell, text, grade_id) in enumerate(
        zip(notebook["cells"], texts, ids, strict=True), 1
    ):
        kind = kinds.get(grade_id)
        if cell["cell_type"] != "code" or kind == "tests":
            continue
        if kind == "given":
            if grade_id in given:  # once, and in the words of the master
                run.append((grade_id, given.pop(grade_id)))
            continue
        if kind == "answer":
            if text.strip() == before[grade_id] and grade_id in {x or y for x, y in elsewhere}:
                continue
            if found := forbidden(text):
                notes.append(
                    f"cell {grade_id} names {', '.join(found)}, which graded work may not import: "
                    "what uses it there fails; write it yourself"
                )
        run.append((grade_id if kind else f"number {number}", text))
    return [*given.items(), *run], notes


DEFINES = re.compile(r"^[ \t]*(?:(?:async[ ]+)?def[ \t]+(\w+)|(\w+)[ \t]*=(?!=))", re.MULTILINE)


_turn = threading.Lock()  # the hidden tests of all threads share one model: its hooks, its text


class _Elsewhere:
    """The student's functions; while one works, other threads' tests may go on."""

    def __init__(self, student):
        self._student = student

    def _afresh(self):
        afresh(self._student)

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
                told = str(problem) or "lost"
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
                    "told": shown(told, 700),
                }
            )
        got = sum(p["points"] for p in parts)
        marks.append({"name": exercise.name, "of": exercise.points, "points": got, "parts": parts})
    return marks


def grade_one(path, master, exercises, seed, isolate, until=float("inf")):
    """The record of one submission: marks, notes, what is left to mark by hand.

    until: when the run is over, on time.monotonic's clock.
    """
    by_hand = dict.fromkeys(master.by_hand(), "not found")
    try:
        if time.monotonic() > until:
            raise MeditError("not graded: the time of the run was over; run it again")
        notebook = read(path)
        if (said := _says(notebook)) not in (None, master.name):
            raise MeditError(f"this is {said[:60]}, not {master.name}")
    except MeditError as problem:
        return _without(problem, master, exercises)
    cells, notes = cells_of(notebook, master)
    before = handed_out(master)
    for cell, grade_id in zip(notebook["cells"], grade_ids(notebook, master), strict=True):
        if grade_id in by_hand and by_hand[grade_id] != "answered":
            written = text_of(cell).strip() not in ("", before[grade_id])
            by_hand[grade_id] = "answered" if written else "not answered"
    if notebook["metadata"].get("orig_nbformat") == 3:
        notes.append("the notebook is of format 3, and was read as 4")
    notes += [
        f"the cell of the answer in words {i} was not found: look for it in the notebook"
        for i, state in by_hand.items()
        if state == "not found"
    ]
    with Student(cells, isolate, until) as student:
        marks = mark(student, exercises, seed)
        notes += student.notes
        notes += [f"cell {label} stops with {error}" for label, error in student.errors.items()]
    notes, more = [shown(note) for note in notes[:NOTES]], len(notes) - NOTES
    notes += [f"and {more} more of this kind"] if more > 0 else []
    seconds = round(student.seconds, 1)
    return {"marks": marks, "notes": notes, "by_hand": by_hand, "seconds": seconds}


NOTES = 20  # of one submission


class _Nobody:
    """In the place of a student whose file cannot be read."""

    def __init__(self, why):
        self._why = why

    def __getattr__(self, name):
        raise Lost(self._why)


# ------------------------------------------------------------------ a class


def grade(
    folder,
    number,
    out,
    seed=None,
    masters=None,
    jobs=2,
    isolate=None,
    say=print,
    roster=None,
    minutes=None,
):
    """Records {student: dict} of all submissions; writes marks.csv, feedback/ and summary.png.

    Finished records are kept in out/records and used again while submission, master, seed and
    this grader are the same, so an interrupted run goes on. isolate: True or None, MeditError
    where the system cannot; False, without. roster: a CSV file with a line a student, of whom each
    gets a line. minutes: of the whole run; what is not done then is done by the next.
    """
    if os.name != "posix":
        raise MeditError("grading needs Linux or macOS; on Windows, use WSL")
    master, out = find(number, masters), Path(out)
    if zipfile.is_zipfile(folder):
        folder = unpacked(folder, out)
    found = submissions(folder, master.name, master)
    listed = tables.roster(roster) if roster else {}
    strangers = {}
    if listed:
        found, strangers = tables.on_roster(listed, found)
        found |= strangers
    seed = master.seed if seed is None else seed
    exercises = master.exercises()
    able, sentence = _isolated(isolate)
    until = time.monotonic() + 60 * minutes if minutes else float("inf")
    say(f"{len(found)} submissions; {sentence}")
    with named(out):
        (out / "records").mkdir(parents=True, exist_ok=True)
        changed = tables.overrides(out, say)
    grader = b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py")))
    made_by = f"{master.path.read_bytes()!r}{grader!r}{seed}{able}"
    base = hashlib.blake2b(made_by.encode()).hexdigest()
    names, same = _file_names(found), _same_files(found)

    def graded(student):
        path, kept = found[student], out / "records" / f"{names[student]}.json"
        about = {"student": shown(student), "isolation": sentence, "assignment": master.name}
        if path is None:
            return _without("nothing was handed in", master, exercises) | about
        try:
            data = plain_bytes(path)
            if path.lstat().st_nlink > max(1, len(same.get(student, ()))):
                raise MeditError(f"{path.name} is a hard link to a file elsewhere: hand in a copy")
        except MeditError as problem:
            folder_ = path.is_dir() and not path.is_symlink()
            told = "the folder holds no notebook" if folder_ else problem
            return _without(told, master, exercises) | about
        key = hashlib.blake2b(base.encode() + data, digest_size=16).hexdigest()
        try:
            record = opened(kept.read_bytes())
            if record["key"] == key:
                return record
        except (OSError, MeditError, KeyError):  # damaged, or none: it is graded again
            pass
        record = grade_one(path, master, exercises, seed, able, until) | about | {"key": key}
        if time.monotonic() < until:
            write_text(kept, json.dumps(seal(record), indent=1))
        return record

    def work(student):
        try:
            return graded(student)
        except Exception as problem:  # of the grader: the others of the class are graded
            about = {"student": shown(student), "isolation": sentence, "assignment": master.name}
            told = f"the grader could not deal with it ({type(problem).__name__}: {problem})"
            return _without(told, master, exercises) | about

    records = {}
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        for student, record in zip(found, pool.map(work, found), strict=True):
            if others := [shown(x, 60) for x in same.get(student, ()) if x != student]:
                told = f"one file on the disk with that of {', '.join(others[:5])}"
                record["notes"] = [*record["notes"], told]
            if student in strangers:
                record["notes"] = [*record["notes"], "not on the roster"]
            name = record["student"]
            if name in records:  # two names that look alike
                name = record["student"] = names[student]
            records[name] = record
            say(f"{name:30.30} {total(record):5.1f} of {of(record):g}  {_first_note(record)}")
    by_hand = master.by_hand()
    with named(out):
        tables.marks_table(records, by_hand, changed, out)
        if listed:
            tables.sheets(records, by_hand, changed, listed, out, master.name)
        (out / "feedback").mkdir(exist_ok=True)
    for line in tables.unused(changed, records, by_hand):
        say(line)
    for student, record in zip(found, records.values(), strict=True):
        write_text(out / "feedback" / f"{names[student]}.html", feedback(record, master, changed))
    lost = {
        e.name: [1 - r["marks"][i]["points"] / e.points for r in records.values()]
        for i, e in enumerate(exercises)
    }
    from ..book.plots import lost_points

    with named(out):
        lost_points(lost).savefig(out / "summary.png", dpi=150)
    return records


def _same_files(found):
    """{student: all students whose file is one and the same, by hard links}."""
    files = {}
    for student, path in found.items():
        if path is not None and not path.is_symlink() and path.is_file():
            about = path.lstat()
            files.setdefault((about.st_dev, about.st_ino), []).append(student)
    return {student: students for students in files.values() for student in students}


def _isolated(wanted):
    """(True or False, one sentence), or MeditError where isolation is wanted and impossible."""
    if wanted is False:
        if reason := unstartable():
            raise MeditError(reason)
        return False, "isolation was off: asked"
    able, sentence = isolation()
    if not able:
        raise MeditError(
            f"{sentence}. Submissions are other people's programs: grade in a virtual machine, and "
            "say --no-isolation there"
        )
    return able, sentence


def _without(told, master, exercises):
    """The record of a student with nothing to grade."""
    told = shown(told)
    hand = dict.fromkeys(master.by_hand(), "not found")
    return {
        "marks": mark(_Nobody(told), exercises, 0),
        "notes": [told],
        "by_hand": hand,
        "seconds": 0,
    }


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
        clean = re.sub(r"[^\w.-]", "_", shown(student))[:60]
        if clean != student or clean.startswith("."):
            told = student.encode(errors="surrogateescape")
            clean += "-" + hashlib.blake2b(told, digest_size=4).hexdigest()
        names[student] = clean
    return names


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


def feedback(record, master, changed=None):
    """A page for one student: what each part earned, and what to look at where it earned none.

    changed: marks by hand, as tables.overrides returns them.
    """
    e, body, changed = html.escape, [], changed or {}
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
        if entry := changed.get((record["student"], m["name"])):
            caption += f"; by hand {entry[0]:g} of {m['of']:g}. {e(shown(entry[1]))}"
        heads = ("about", "points", "what we saw")
        head = "<tr>" + "".join(f"<th scope=col>{x}</th>" for x in heads) + "</tr>"
        body.append(f"<table><caption>{caption}</caption>{head}{''.join(rows)}</table>")
    hand = master.by_hand()
    given = {x: changed[record["student"], x] for x in hand if (record["student"], x) in changed}
    for x, (points, words) in given.items():
        body.append(f"<h2>{e(x)}: {points:g} of {hand[x]:g}</h2><p>{e(shown(words, 5000))}</p>")
    left = {x: p for x, p in hand.items() if x not in given}
    told = ", ".join(f"{x} ({p:g} points; {record['by_hand'][x]})" for x, p in left.items())
    hand = f"To be marked by a person: {e(told)}." if left else ""
    title = f"{e(record['assignment'])}: {e(record['student'])}"
    return PAGE.format(
        title=title,
        points=sum(tables.final(record, {}, changed).values()),
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
        "nbgrader collects them; or the zip file that Canvas or Moodle gives",
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
        "--roster",
        metavar="CSV",
        help="a line a student, the name first (or Canvas's or Moodle's export): each gets a line "
        "in marks.csv, and canvas.csv and moodle.csv are written",
    )
    parser.add_argument(
        "--minutes", type=float, help="of the whole run; the rest is graded by the next one"
    )
    wall = parser.add_mutually_exclusive_group()
    wall.add_argument(
        "--require-isolation",
        action="store_true",
        help="stop where the system cannot isolate (so it is without this option, too)",
    )
    wall.add_argument(
        "--no-isolation",
        action="store_true",
        help="grade without a wall around the submissions: only in a virtual machine of its own",
    )
    args = parser.parse_args(argv)
    grade(
        args.submissions,
        args.assignment,
        args.out,
        args.seed,
        args.masters,
        args.jobs,
        isolate=not args.no_isolation,
        roster=args.roster,
        minutes=args.minutes,
    )
    print(
        f"marks.csv, overrides.csv (marks by hand), feedback/ and summary.png are in {args.out}",
        file=sys.stderr,
    )
