"""Files that people bring: text in any of Unicode's encodings, JSON, JSON lines.

Every error is of the class that the caller names, in one line, with the file's name in it.
"""

import json
from pathlib import Path


def read_text(path, error, what="file"):
    """The text of a file, without a byte order mark, its lines ending in "\\n".

    UTF-8, or UTF-16 or UTF-32 as its first bytes show. what: what to call it in errors.
    """
    try:
        data = Path(path).read_bytes()
        text = data.decode(json.detect_encoding(data)).removeprefix("\ufeff")
    except UnicodeDecodeError as cause:
        raise error(
            f"cannot read the {what} {path}: byte {cause.start} is no {cause.encoding}; save it as "
            "UTF-8"
        ) from cause
    except (OSError, ValueError, TypeError) as cause:
        reason = getattr(cause, "strerror", None) or cause
        raise error(f"cannot read the {what} {path}: {reason}") from cause
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text, name, error, form="JSON"):
    """The value that a JSON text holds. A field that one object has twice is an error."""

    def once(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [key for key, _ in pairs]
            twice = next(key for key in names if names.count(key) > 1)
            raise error(f"{name}: an object has the field {twice!r} twice; keep one")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise error(f"{name} is not {form} that can be read: it is nested too deeply") from None
    except error:
        raise
    except ValueError as cause:  # JSONDecodeError, or a number of more digits than Python reads
        raise error(f"{name} is not {form}: {cause}") from cause


def read_json(path, error, what="file"):
    """The value in a JSON file."""
    text = read_text(path, error, what)
    if not text.strip():
        raise error(f"the {what} {path} is empty")
    return parse_json(text, f"the {what} {path}", error)


def read_records(path, error, what="file"):
    """What a JSON file holds, or the list of what the lines of a JSON-lines file hold.

    Lines end at "\\n" only: U+2028 and its like may stand in JSON's strings.
    """
    text = read_text(path, error, what)
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise error(f"the {what} {path} is empty")
    try:
        json.loads(lines[0][1])
        by_line = len(lines) > 1
    except (ValueError, RecursionError):
        by_line = Path(path).suffix == ".jsonl"
    if not by_line:
        return parse_json(text, f"the {what} {path}", error)
    name = f"the {what} {path}"
    return [parse_json(line, name, error, f"JSON lines, line {i}") for i, line in lines]
