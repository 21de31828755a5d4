"""Works by the same authors in the same year are told apart by a letter, as in 2024a and 2024b."""

from collections import defaultdict


def _label(entry):
    """What a citation shows of a work, but for the year."""
    names = [" ".join(person.last_names) for person in entry.persons["author"]]
    return tuple(names) if len(names) < 3 else (names[0], "et al.")


def tell_apart(entries):
    """Add letters to the years, in the order of the file; a second time changes nothing."""
    alike = defaultdict(list)
    for entry in entries:
        year = entry.fields.get("year", "")[:4]
        alike[_label(entry), year].append(entry)
    for (_, year), works in alike.items():
        for letter, entry in zip("abcdefgh", works, strict=False):
            entry.fields["year"] = year + letter * (len(works) > 1)


def _prepare(app):
    tell_apart(app.env.get_domain("cite").bibdata.data.entries.values())


def setup(app):
    app.connect("builder-inited", _prepare, priority=900)  # when the file was read
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
