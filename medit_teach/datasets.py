"""Where facts and text come from: the built-in world, CounterFact, a file."""

import json
import os
from pathlib import Path

import torch

from .errors import FactError, StatisticsError
from .facts import Fact
from .models import card

DOCUMENTS = 4000  # documents of the world that texts_for makes
COUNTERFACT = "azhx/counterfact"  # hub copy without a loading script, in CounterFact's own schema
WIKITEXT = ("Salesforce/wikitext", "wikitext-103-raw-v1")


def facts(source=None, relation=None, n=None, seed=0, distinct_subjects=True, model=None):
    """A list of Fact.

    source: "world" (the invented world of the embedded models), "counterfact" (from the hub), or
    a JSON / JSON-lines file with records in CounterFact's schema. None: the file named by the
    environment variable MEDIT_FACTS; else "world", or "counterfact" if `model` is given and is
    not an embedded one. relation: keep one relation, by its id or (in the world) its name.
    n: draw that many at random (a CPU generator with `seed`), else all, in order.
    distinct_subjects: at most one fact a subject (two facts of one subject share almost the same
    key). model: whose world to use, if it is an embedded model of another world.
    FactError if there are not n such facts.
    """
    if source is None:
        other = model is not None and not card(model)
        source = os.environ.get("MEDIT_FACTS") or ("counterfact" if other else "world")
    if source == "world":
        records = _world(model).records(distinct_subjects=False)
    elif source == "counterfact":
        records = _hub(FactError, "MEDIT_FACTS", COUNTERFACT, split="train")
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
    """Text that is ordinary for `model`, for C0: an iterable of str.

    The file named by MEDIT_TEXT (one document a line); else an embedded model's own world; else
    Wikipedia articles (wikitext-103, streamed from the hub). StatisticsError without a network
    says how to give a local text.
    """
    path = os.environ.get("MEDIT_TEXT")
    if path:
        return read_texts(path)
    if "world" in card(model):
        return _world(model).texts(DOCUMENTS, seed=1)
    rows = _hub(StatisticsError, "MEDIT_TEXT", *WIKITEXT, split="train", streaming=True)
    return (row["text"] for row in rows if len(row["text"]) > 200)


def read_texts(path):
    """The lines of a text file that are not empty; StatisticsError if it cannot be read."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StatisticsError(f"cannot read the text file {path}: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def _hub(error, variable, *name, **kwargs):
    """A data set from the hub; `error`, in one line, with the local alternative if it fails."""
    try:
        from datasets import load_dataset

        return load_dataset(*name, **kwargs)
    except Exception as cause:
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        raise error(
            f"cannot load {'/'.join(name)} from the hub ({reason}); without a network, name a "
            f"local file in the environment variable {variable} or in the call"
        ) from cause


def _world(model):
    """The invented world of an embedded model (model None: the default world)."""
    from .world import World

    return World(**(card(model).get("world", {}) if model is not None else {}))
