"""marks.csv and what persons write: overrides.csv, the roster, grade sheets for Canvas and Moodle.

What a person has entered is never lost. A mark by hand stands in overrides.csv (student, question,
points, comment), which grading reads and only adds to: a number that somebody has typed into
marks.csv since the last run is moved there.
"""

import csv
import io
import os
import re
import unicodedata
from pathlib import Path

from ..errors import MeditError
from .notebook import plain_bytes

OVERRIDES = ("student", "question", "points", "comment")


# ------------------------------------------------------------------ files


def read_table(path):
    """The rows of a CSV file as dicts, whatever program saved it: BOM, UTF-16, semicolons, tabs."""
    data = plain_bytes(Path(path))
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16", errors="replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("cp1252", errors="replace")
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    return [{str(k).strip(): (v or "").strip() for k, v in row.items() if k} for row in rows]


def write_table(path, heads, rows, encoding="utf-8"):
    """A CSV file, at once or not at all; a text that a sheet would take for a formula is quoted."""
    draft = Path(f"{path}.draft")
    with open(draft, "w", newline="", encoding=encoding) as file:
        writer = csv.writer(file)
        writer.writerows([[_harmless(x) for x in row] for row in [heads, *rows]])
    os.replace(draft, path)


def _harmless(x):
    return "'" + x if isinstance(x, str) and x[:1] in ("=", "+", "-", "@", "\t") else x


def as_points(text):
    """A number of points as a person writes it (2, 2.5, "2,5"), or None."""
    try:
        value = float(str(text).strip().replace(",", "."))
    except ValueError:
        return None
    return value if value == value and abs(value) < 1e6 else None


def keys_of(name):
    """How a name may be written, to compare it: without case, accents, blanks; in three orders."""
    plain = unicodedata.normalize("NFKD", str(name)).casefold()
    words = re.findall(r"[^\W_]+", re.sub("[\u0300-\u036f']", "", plain))
    return {"".join(x) for x in (words, words[::-1], sorted(words))} - {""}


# ------------------------------------------------------------------ marks by hand


def overrides(out, say=print):
    """{(student, question): (points, comment)} of overrides.csv, with what marks.csv has new.

    out: the folder of marks.csv. Both files may have been saved by a spreadsheet.
    """
    path, found = out / "overrides.csv", {}
    for number, row in enumerate(read_table(path) if path.exists() else [], 2):
        points = as_points(row.get("points", ""))
        if points is None:
            if any(row.values()):
                say(f"overrides.csv, line {number}: {row.get('points', '')!r} is no number")
            continue
        student = row.get("student", "").removeprefix("'")
        found[student, row.get("question", "")] = (points, row.get("comment", ""))
    typed = {k: v for k, v in _typed(out).items() if k not in found or found[k][0] != v}
    for where, points in typed.items():
        found[where] = (points, "entered in marks.csv")
        say(f"kept in overrides.csv: {where[0]}, {where[1]}: {points:g}")
    if typed or not path.exists():
        rows = [(*where, f"{points:g}", words) for where, (points, words) in found.items()]
        write_table(path, OVERRIDES, rows)
    return found


def _typed(out):
    """{(student, question): points}: numbers in marks.csv that grading did not write there."""
    path, last = out / "marks.csv", out / "records" / "marks.csv"
    if not path.exists():
        return {}
    before = {row.get("student"): row for row in read_table(last)} if last.exists() else None
    found = {}
    for row in read_table(path):
        student = row.get("student", "")
        for head, text in row.items():
            question = re.fullmatch(r"(\w+) \(of [\d.]+(, by hand)?\)", head)
            if not question or question[1] in ("total", "sum"):
                continue
            if before is None:  # written by an older version: only marks by hand can be told
                new = question[2] and as_points(text)
            else:
                new = text != before.get(student, {}).get(head, "")
            if new and as_points(text) is not None:
                found[student.removeprefix("'"), question[1]] = as_points(text)
    return found


def final(record, by_hand, changed):
    """{question: points, or None if a person has to mark it} of a student.

    by_hand: {question: points that it is worth}; changed: what `overrides` returns.
    """
    points = {m["name"]: m["points"] for m in record["marks"]}
    points |= {x: 0 if record["by_hand"][x] == "not answered" else None for x in by_hand}
    for question in points:
        if (entry := changed.get((record["student"], question))) is not None:
            points[question] = entry[0]
    return points


def unused(changed, records, by_hand):
    """Lines on overrides that belong to no student or question."""
    questions = {m["name"] for r in records.values() for m in r["marks"]} | set(by_hand)
    for student, question in changed:
        if student not in records:
            yield f"overrides.csv: there is no student {student!r}"
        elif question not in questions:
            yield f"overrides.csv: there is no question {question!r}"


def marks_table(records, by_hand, changed, out):
    """marks.csv: a line a student, a column a question; empty where a person has to mark."""
    first = next(iter(records.values()))
    worth = {m["name"]: m["of"] for m in first["marks"]}
    heads = ["student", f"total (of {sum(worth.values()):g})"]
    heads.append(f"sum (of {sum(worth.values()) + sum(by_hand.values()):g}, with words)")
    heads += [f"{name} (of {points:g})" for name, points in worth.items()]
    heads += [f"{name} (of {points:g}, by hand)" for name, points in by_hand.items()]
    rows = []
    for student, record in records.items():
        points = final(record, by_hand, changed)
        total = sum(points[x] for x in worth)
        whole = "" if None in points.values() else f"{sum(points.values()):g}"
        isolated = "yes" if record["isolation"].startswith("isolated") else "no"
        each = ["" if x is None else f"{x:g}" for x in points.values()]
        rest = [isolated, record["seconds"], " | ".join(record["notes"])]
        rows.append([student, f"{total:g}", whole, *each, *rest])
    for path in (out / "records" / "marks.csv", out / "marks.csv"):
        write_table(path, [*heads, "isolated", "seconds", "notes"], rows)


# ------------------------------------------------------------------ a class


def roster(path):
    """{name: row} of a roster: a CSV file with a header and a line a student.

    The name is in the first column, or where Canvas's and Moodle's exports have it.
    """
    rows = {_name_in(row): row for row in read_table(path)}
    rows = {k: row for k, row in rows.items() if k and not k.startswith("Points Possible")}
    if not rows:
        raise MeditError(f"{Path(path).name} is not a roster: a header, then a line a student")
    return rows


def _name_in(row):
    both = " ".join(filter(None, (row.get("First name"), row.get("Last name", row.get("Surname")))))
    return row.get("Full name") or row.get("Student") or both or next(iter(row.values()), "")


def on_roster(rows, found):
    """({name on the roster: path or None}, those of `found` who are on no line of it).

    found: {student: path}, of `submissions`. A line is a student's if its name or one of its cells
    is his name, or his number in a learning platform.
    """
    lines = {}
    for name, row in rows.items():
        cells = [re.sub(r"^Participant (?=\d+$)", "", x) for x in row.values()]
        lines[name] = set().union(*map(keys_of, [name, *cells]))
    named, strangers = dict.fromkeys(lines), {}
    for student, path in found.items():
        split = re.fullmatch(r"(.*) \((\d+)\)", student)
        for part in (split[2], split[1]) if split else (student,):  # a number is surer than a name
            owners = [name for name, known in lines.items() if known & keys_of(part)]
            if len(owners) == 1 and named[owners[0]] is None:
                named[owners[0]] = path
                break
        else:
            strangers[student] = path
    return named, strangers


def sheets(records, by_hand, changed, rows, out, assignment):
    """canvas.csv and moodle.csv: sums that are complete, with what the roster says of a student.

    rows: `roster`'s; of the platform's own export the columns are repeated.
    """
    first = next(iter(records.values()))
    worth = sum(m["of"] for m in first["marks"]) + sum(by_hand.values())
    canvas, moodle = [], []
    for student, record in records.items():
        points, row = final(record, by_hand, changed), rows.get(student, {})
        whole = "" if None in points.values() else f"{sum(points.values()):g}"
        about = [row.get(x, "") for x in ("ID", "SIS Login ID", "Section")]
        canvas.append([row.get("Student") or student, *about, whole])
        about = [row.get(x, "") for x in ("Identifier", "Email address")]
        moodle.append([row.get("Full name") or student, *about, whole, f"{worth:g}"])
    heads = ["Student", "ID", "SIS Login ID", "Section", assignment]
    most = ["    Points Possible", "", "", "", f"{worth:g}"]
    write_table(out / "canvas.csv", heads, [most, *canvas], "utf-8-sig")
    heads = ["Full name", "Identifier", "Email address", "Grade", "Maximum Grade"]
    write_table(out / "moodle.csv", heads, moodle, "utf-8-sig")
