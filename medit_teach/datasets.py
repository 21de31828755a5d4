"""Where facts and text come from: the built-in world, CounterFact, or a file."""

import json
from pathlib import Path

import torch

from .errors import FactError, StatisticsError
from .facts import Fact
from .models import card

DOCUMENTS = 4000  # documents of the world that texts_for makes


def facts(source="world", relation=None, n=None, seed=0, distinct_subjects=True, model=None):
    """A list of Fact.

    source: "world" (the invented world of the embedded models), or a JSON / JSON-lines file with
    records in CounterFact's schema. relation: keep one relation, by its id or (in the world) its
    name. n: draw that many at random (a CPU generator with `seed`), else all, in order.
    distinct_subjects: at most one fact a subject (two facts of one subject share almost the same
    key). model: whose world to use, if it is an embedded model of another world.
    FactError if there are not n such facts.
    """
    if source == "world":
        records = _world(model).records(distinct_subjects=False)
    else:
        records = read(source)
    found = [Fact.from_record(r, f"{source}, record {i}") for i, r in enumerate(records)]
    if relation is not None:
        names = [(f.relation, r.get("relation")) for f, r in zip(found, records, strict=True)]
        found = [f for f, name in zip(found, names, strict=True) if relation in name]
        if not found:
            known = sorted({" or ".join(filter(None, name)) for name in names})
            raise FactError(f"no facts of relation {relation!r}; there are {', '.join(known)}")
    if n is not None:
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).tolist()
        found = [found[i] for i in order]
    if distinct_subjects:
        seen = {}
        for f in found:
            seen.setdefault(f.subject, f)
        found = list(seen.values())
    if n is not None and len(found) < n:
        raise FactError(
            f"asked for {n} facts, there are {len(found)} (relation {relation}, {source})"
        )
    return found[:n]


def read(path):
    """Records of a JSON file (a list, or one record) or of a JSON-lines file."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FactError(f"cannot read the facts file {path}: {error}") from error
    if not text.strip():
        raise FactError(f"the facts file {path} is empty")
    try:
        records = json.loads(text)
    except json.JSONDecodeError as whole:
        try:
            records = [json.loads(line) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError:
            raise FactError(f"the facts file {path} is not JSON: {whole}") from whole
    records = [records] if isinstance(records, dict) else records
    if not isinstance(records, list) or not records:
        raise FactError(f"the facts file {path} holds no records; expected a list of facts")
    return records


def texts_for(model):
    """Text that is ordinary for `model`, for C0: an embedded model's own world.

    For other models StatisticsError says how to give text.
    """
    if "world" not in card(model):
        raise StatisticsError(
            "there is no text for this model's C0 here; pass statistics=second_moment(model, tok, "
            "texts, layers) with a list of strings of ordinary text"
        )
    return _world(model).texts(DOCUMENTS, seed=1)


def _world(model):
    """The invented world of an embedded model (model None: the default world)."""
    from .world import World

    return World(**(card(model).get("world", {}) if model is not None else {}))
