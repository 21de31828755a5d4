"""Make all records of the labs (chapters 11 to 14 and 16) again, and compare them with the book's.

    python -m measure.records [--out FOLDER] [--only NAME ...] [--workers 2] [--full]
    python -m measure.records --compare FOLDER

Two at a time, one thread each, into a folder of their own; the book's stay as they are. What is in
the folder is not made again, so a run that was killed goes on where it was. At the end every number
is compared with the book's: scores (value, low, high) may differ by 2 points, other numbers by 2%,
the letters of answers by 3%; records with a condition number above 1e8 are exempt, and said. A file
or a record that only one side has is a difference. --full asks the sweeps for three seeds and 300
scored facts (hours); these cells are not the book's, so only records that both have are compared
then.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "medit_teach" / "book" / "records"
RECORDS = {  # file of records: what writes it, the longest first
    "categories.jsonl": ("categories", "mixes", "mixes-600", "mixes-700"),
    "batch-size.jsonl": ("batch-size", "batch-size-seeds"),
    "sequence.jsonl": ("measure.sequence",),
    "ripples.jsonl": ("measure.ripples",),
    "relatives.json": ("measure.relatives",),
}
FULL = ("--seeds", "0", "1", "2", "--scored", "300")
POINTS, SHARE, LETTERS = 2.0, 0.02, 0.03
CONDITION = 1e8  # above it rounding decides: such records are made, and not compared
SETTINGS = (  # not measured
    "versions", "seconds", "device", "key", "hyper", "protocol", "blake2b", "columns", "keep",
)  # fmt: skip


def commands(name, out, full):
    """The commands that write the records `name` into `out`, in order."""
    for what in RECORDS[name]:
        if what.startswith("measure."):
            yield [sys.executable, "-m", what, "--out", str(out)]
        else:
            more = FULL if full else ()
            sweep = [sys.executable, "-m", "medit_teach", "sweep", str(DATA / f"{what}.toml")]
            yield [*sweep, "--out", str(out), *more]


def make(name, folder, full):
    """Run what writes `name`; its output goes to NAME.log. Returns (name, seconds, went well)."""
    began = time.time()
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with open(folder / f"{name}.log", "a", encoding="utf-8") as log:
        for command in commands(name, folder / name, full):
            env = os.environ | threads
            if subprocess.run(command, stdout=log, stderr=log, env=env, cwd=ROOT).returncode:
                return name, time.time() - began, False
    return name, time.time() - began, True


# ------------------------------------------------------------------ comparing


def read(path):
    """{what names a record: the record} of a file of records, JSON or JSON lines."""
    text = path.read_text(encoding="utf-8")
    rows = [json.loads(text)] if path.suffix == ".json" else map(json.loads, text.splitlines())
    return {_name(row): row for row in rows}


def _name(row):
    if "key" in row:  # of a sweep
        return f"{row['facts']['label']}, {row['label']}, {row['size']}, {row['key']}"
    if "relation" in row:
        return row["relation"]
    return f"{row['run']}, {row['edits']}" if "run" in row else "settings"


def leaves(value, path=()):
    """(path, leaf) pairs of a record; a list of numbers or an answer string is one leaf."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in SETTINGS:
                yield from leaves(inner, (*path, key))
    elif isinstance(value, list) and any(isinstance(x, (dict, list, str)) for x in value):
        for i, inner in enumerate(value):
            yield from leaves(inner, (*path, str(i)))
    else:
        yield "/".join(path), value


def alike(a, b, path=""):
    """Are two leaves the same within the tolerances?"""
    if a == b or a is None or b is None:
        return a == b
    if isinstance(a, str) and set(a) <= set("on-b01"):  # answers, one letter each
        letters = sum(x != y for x, y in zip(a, b, strict=False)) + abs(len(a) - len(b))
        return letters <= LETTERS * len(a)
    if isinstance(a, (str, bool)):
        return False
    if not isinstance(a, list):
        return abs(a - b) <= max(1e-6, SHARE * max(abs(a), abs(b)))
    if len(a) != len(b):
        return False
    if path.startswith("per_fact"):  # a single fact may tip over, the mean may not
        a, b = [_mean(a)], [_mean(b)]
    both = zip(a, b, strict=True)
    return all(x == y or (None not in (x, y) and abs(x - y) <= POINTS) for x, y in both)


def _mean(values):
    known = [x for x in values if x is not None]
    return sum(known) / max(1, len(known))


def compare(made, book, full=False):
    """(numbers compared, records exempt, [what differs]) of two files of records.

    A record that one of them lacks differs, unless full: then those that both have are compared.
    """
    first, second = read(made), read(book)
    n, exempt, different = 0, 0, []
    for name in first.keys() ^ second.keys() if not full else ():
        different.append(f"{name}: only {'here' if name in first else 'there'}")
    for name in second.keys() & first.keys():
        if (second[name].get("condition_gram") or 0) > CONDITION:
            exempt += 1
            continue
        one, two = dict(leaves(first[name])), dict(leaves(second[name]))
        for path in one.keys() | two.keys():
            n += 1
            missing = path not in one or path not in two
            if missing or not alike(one[path], two[path], path):
                different.append(f"{name}: {path}: {one.get(path)} here, {two.get(path)} there")
    return n, exempt, sorted(different)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "records")
    parser.add_argument("--only", nargs="*", choices=list(RECORDS), default=list(RECORDS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--compare", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    folder, bad = options.compare or options.out, False
    if not options.compare:
        if folder.resolve() == DATA:
            parser.error("that is where the book's own records are; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        began = time.time()
        print(f"{len(options.only)} files, {options.workers} at a time, into {folder}", flush=True)
        with ThreadPoolExecutor(options.workers) as pool:
            jobs = [pool.submit(make, name, folder, options.full) for name in options.only]
            for job in jobs:
                name, seconds, well = job.result()
                bad |= not well
                end = "made" if well else f"FAILED, see {folder / name}.log"
                print(f"{name:18} {seconds / 60:6.1f} minutes  {end}", flush=True)
        print(f"{'all':18} {(time.time() - began) / 60:6.1f} minutes")
    for name in options.only:
        if not (folder / name).is_file():
            print(f"{name:18} is not in {folder}")
            bad = True
            continue
        n, exempt, different = compare(folder / name, DATA / name, options.full)
        there, here = len(read(DATA / name)), len(read(folder / name))
        print(f"{name:18} {n} values of {here} records ({there} in the book), "
              f"{len(different)} differ" + f", {exempt} records exempt" * bool(exempt))  # fmt: skip
        print("".join(f"   {line[:150]}\n" for line in different[:20]), end="")
        bad |= bool(different)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
