"""Where facts and text come from: the built-in world, CounterFact, zsRE, Wikipedia, a file."""

import json
import os
import warnings
from pathlib import Path

import torch

from .errors import FactError, StatisticsError
from .fact import Fact
from .models import card

DOCUMENTS = 4000  # documents of the world that texts_for makes
COUNTERFACT = "azhx/counterfact"  # hub copy without a loading script, in CounterFact's own schema
ZSRE = ("zjunlp/KnowEdit", "benchmark/ZsRE/ZsRE-test-all.json")  # a repository and a file in it
TEXTS = {  # name: (hub repository, its configuration); a column "text", no loading script
    "wikitext": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "wikipedia": ("wikimedia/wikipedia", "20231101.en"),
}
SHORTEST = 200  # characters; shorter rows of TEXTS are headings and blank lines
MIXED = {"wikitext": 100_000, "wikipedia": 10_000}  # rows (paragraphs, articles) mixed at a time


def facts(
    source=None, relation=None, n=None, seed=0, distinct_subjects=True, model=None, strict=None
):
    """A list of Fact.

    source: "world" (the invented world of the embedded models), "counterfact" or "zsre" (from the
    hub: COUNTERFACT, ZSRE), or a JSON / JSON-lines file with records in CounterFact's schema, in
    EasyEdit's flat one or in zsRE's (Fact.from_record). None: the file named by the
    environment variable MEDIT_FACTS; else "world", or "counterfact" if `model` is given and is
    not an embedded one. relation: keep one relation, by its id or (in the world) its name.
    n: draw that many at random (a CPU generator with `seed`), else all, in order.
    distinct_subjects: at most one fact a subject (two facts of one subject share almost the same
    key). model: whose world to use, if it is an embedded model of another world.
    strict: True, a record that cannot be used is an error (the default for files); False, it is
    left out, with a warning that counts them (the default for the hub's collections).
    FactError if there are not n such facts.
    """
    source = source or facts_source(model)
    if source == "world":
        records = _world(model).records(distinct_subjects=False)
    elif source == "counterfact":
        records = _hub(FactError, "MEDIT_FACTS", COUNTERFACT, split="train")
    elif source == "zsre":
        records = read(_hub_file(FactError, "MEDIT_FACTS", *ZSRE))
    else:
        records = read(source)
    if strict is None:
        strict = source not in ("counterfact", "zsre")
    found, records = _usable(records, source, strict)
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


def facts_source(model=None):
    """Name of the facts that `facts` gives by itself: MEDIT_FACTS, "world" or "counterfact"."""
    other = model is not None and not card(model)
    return os.environ.get("MEDIT_FACTS") or ("counterfact" if other else "world")


def _usable(records, source, strict):
    """(facts, their records); the others raise (strict) or are left out with a warning."""
    kept, bad = [], []
    for i, record in enumerate(records):
        try:
            kept.append((Fact.from_record(record, f"{source}, record {i}"), record))
        except FactError as error:
            if strict:
                raise
            bad.append(error)
    if not kept:
        raise FactError(f"none of the {len(bad)} records of {source} can be used; {bad[0]}")
    if bad:
        warnings.warn(
            f"{len(bad)} of {len(bad) + len(kept)} records of {source} were left out; the first: "
            f"{bad[0]}",
            stacklevel=3,
        )
    return [fact for fact, _ in kept], [record for _, record in kept]


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

    What MEDIT_TEXT names (see read_texts); else an embedded model's own world; else Wikipedia
    articles (wikitext-103, streamed from the hub). StatisticsError without a network says how to
    give a local text.
    """
    source = text_source(model)
    return _documents(model) if source == "world" else read_texts(source)


def text_source(model):
    """Name of the text that texts_for gives: MEDIT_TEXT, "world" or "wikitext"."""
    return os.environ.get("MEDIT_TEXT") or ("world" if "world" in card(model) else "wikitext")


def read_texts(source):
    """Texts by name or from a file: an iterable of str.

    source: "wikitext" or "wikipedia" (streamed from the hub: TEXTS, in an order drawn with seed 0
    within buffers of MIXED rows, for a few texts from the front would be a few articles), a text
    file (each line that is not empty is a document), or a JSON-lines file (.jsonl) whose records
    have a field "text"; files are read in their own order.
    StatisticsError if it cannot be read, with the fields that were expected and found.
    """
    if source in TEXTS:
        return _streamed(source)
    try:
        lines = Path(source).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StatisticsError(f"cannot read the text file {source}: {error}") from error
    lines = [line.strip() for line in lines if line.strip()]
    if Path(source).suffix != ".jsonl":
        return lines
    try:
        rows = [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise StatisticsError(f"the text file {source} is not JSON lines: {error}") from error
    return [_text(row, f"{source}, record {i}") for i, row in enumerate(rows)]


def _streamed(name):
    """The texts of TEXTS[name], mixed, as they arrive; StatisticsError if the connection breaks."""
    rows = _hub(StatisticsError, "MEDIT_TEXT", *TEXTS[name], split="train", streaming=True)
    rows = rows.shuffle(seed=0, buffer_size=MIXED[name])
    rows = _arriving(iter(rows), StatisticsError, "MEDIT_TEXT", "/".join(TEXTS[name]))
    texts = (_text(row, name) for row in rows)
    return (text for text in texts if len(text) > SHORTEST)


def _text(row, where):
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        found = ", ".join(sorted(row)) if isinstance(row, dict) else type(row).__name__
        raise StatisticsError(f"{where}: expected a field 'text' (found: {found or 'nothing'})")
    return row["text"].strip()


def _hub(error, variable, *name, **kwargs):
    """A data set from the hub; `error`, in one line, with the local alternative if it fails."""
    try:
        from datasets import load_dataset

        return load_dataset(*name, **kwargs)
    except Exception as cause:
        raise error(_unreachable(cause, "/".join(name), variable)) from cause


def _hub_file(error, variable, repository, path):
    """A local copy of one file of a hub repository; `error` as for _hub. For collections whose
    files have different fields, which load_dataset cannot put into one table."""
    try:
        from huggingface_hub import hf_hub_download

        return hf_hub_download(repository, path, repo_type="dataset")
    except Exception as cause:
        raise error(_unreachable(cause, f"{repository}/{path}", variable)) from cause


def _arriving(rows, error, variable, name):
    """The same rows; what goes wrong while they arrive is an `error`."""
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as cause:
            raise error(_unreachable(cause, name, variable)) from cause
        yield row


def _unreachable(cause, name, variable):
    reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    return (
        f"cannot load {name} from the hub ({reason}); without a network, name a "
        f"local file in the environment variable {variable} or in the call"
    )


def _world(model):
    """The invented world of an embedded model (model None: the default world)."""
    from .world import World

    return World(**(card(model).get("world", {}) if model is not None else {}))


def _documents(model):
    """Plain documents of that world, like those of the training corpus."""
    from .world import Corpus

    return Corpus(_world(model)).texts(DOCUMENTS, seed=1)
