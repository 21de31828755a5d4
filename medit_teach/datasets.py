"""Where facts and text come from: the built-in world, CounterFact, zsRE, Wikipedia, a file."""

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from .errors import FactError, StatisticsError
from .fact import Fact, as_records
from .files import read_records, read_text
from .forms import filler, one_each
from .models import card
from .settings import truth, whole
from .texts import described, draws, mark

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

    source: "world" (the invented world of the embedded models), "real" (medit_teach.real; one of
    its splits is "real-choosing" or "real-reporting"), "counterfact" or "zsre" (from the hub:
    COUNTERFACT, ZSRE), a JSON / JSON-lines file, or a list of records or facts. Records are in
    CounterFact's schema (MQuAKE's lists of rewrites too), in EasyEdit's flat one, in zsRE's,
    KnowEdit's, UniEdit's or counterfact-tracing's (Fact.from_record). None: the file named by the
    environment variable MEDIT_FACTS; else "world", or "counterfact" if `model` is given and is
    not an embedded one. relation: keep one relation, by its id or (in the world) its name.
    n: draw that many at random (a CPU generator with `seed`), else all, in order.
    distinct_subjects: at most one fact a subject (two facts of one subject share almost the same
    key). model: whose world to use, if it is an embedded model of another world.
    strict: True, a record that cannot be used is an error (the default for files and lists); False,
    it is left out (the default for the hub's collections).
    One warning counts what is left out or doubtful in a source other than the world, by kind, with
    an example of each: records that cannot be used, further facts of one subject (if n is None),
    objects that say nothing or nothing new. FactError if there are not n such facts.
    """
    n = n if n is None else whole("n", n, 1, error=FactError)
    generator = draws(seed)
    relation = mark(relation, "relation")
    source = facts_source(model) if source is None else source
    given = not isinstance(source, (str, Path))
    name = "the records given" if given else str(source)
    if given:
        records = source
    elif source == "world":
        records = _world(model).records(distinct_subjects=False)
    elif source == "counterfact":
        records = _hub(FactError, "MEDIT_FACTS", COUNTERFACT, split="train")
    elif source in ("real", "real-choosing", "real-reporting"):
        from .real import records as real

        records = real(source.partition("-")[2] or None)
    elif source == "zsre":
        records = read(_hub_file(FactError, "MEDIT_FACTS", *ZSRE))
    elif not str(source).strip():
        raise FactError("source is empty; name a file or a collection, or leave it out")
    else:
        records = read(source)
    if strict is None:
        strict = name not in ("counterfact", "zsre")
    found, told = _usable(records, name, strict)
    if relation is not None:
        known = sorted({" or ".join(map(str, names)) for _, names, _ in found if names})
        found = [one for one in found if relation in one[1]]
        if not found:
            raise FactError(f"no facts of relation {relation!r}; there are {', '.join(known)}")
    if n is not None:
        order = torch.randperm(len(found), generator=generator).tolist()
        found = [found[i] for i in order]
    if truth("distinct_subjects", distinct_subjects, FactError):
        seen, further = {}, []
        for one in found:
            if seen.setdefault(one[0].subject, one) is not one:
                further.append(one[0])
        found = list(seen.values())
        if further and n is None:
            told.append(
                f"{_count(further)} left out: the subject has an earlier fact (the first: "
                f"{further[0].subject!r}); distinct_subjects=False keeps them"
            )
    told += _doubts(found[:n])
    if told and name != "world":
        warnings.warn(f"{name}: {'; '.join(told)}", stacklevel=2)
    if n is not None and len(found) < n:
        more = f" of different subjects, {len(order)} in all" if len(found) < len(order) else ""
        raise FactError(
            f"asked for {n} facts, there are {len(found)}{more} (relation {relation}, {name})"
        )
    return [fact for fact, _, _ in found[:n]]


def facts_source(model=None):
    """Name of the facts that `facts` gives by itself: MEDIT_FACTS, "world" or "counterfact"."""
    other = model is not None and not card(model)
    return os.environ.get("MEDIT_FACTS") or ("counterfact" if other else "world")


def _usable(records, source, strict):
    """[(fact, names of its relation, its filler), ...] and what is to be told: the records that
    cannot be used (strict: an error)."""
    kept, bad, all_ = [], [], one_each(as_records(records), f"{source}, record")
    for where, record in all_:
        try:
            fact = record if isinstance(record, Fact) else Fact.from_record(record, where)
        except FactError as error:
            if strict:
                raise
            bad.append((where, str(error)))
            continue
        named = record.get("relation") if isinstance(record, Mapping) else None
        names = [x for x in (fact.relation, named) if isinstance(x, (str, int))]
        kept.append((fact, list(dict.fromkeys(names)), filler(record)))
    if not all_:
        raise FactError("no facts were given")
    if not kept:
        raise FactError(f"none of the {len(bad)} records of {source} can be used; {bad[0][1]}")
    told = []
    if bad:
        kinds = {}
        for where, error in bad:
            kind = re.sub(r"'[^']*'|\"[^\"]*\"|\d+|\(.*?\)", "", error.removeprefix(where))
            kinds.setdefault(kind, []).append(error.removeprefix(f"{source}, "))
        examples = [f"{len(errors)} like {errors[0]}" for errors in kinds.values()]
        more = f" and {len(examples) - 5} more kinds" if len(examples) > 5 else ""
        told.append(f"{len(bad)} of {len(all_)} records were left out: "
                    + " | ".join(examples[:5]) + more)  # fmt: skip
    return kept, told


def _doubts(found):
    """What is doubtful in what _usable found: [text, ...], counted, each with an example."""
    out, seen = [], {}
    filled = [name for *_, name in found if name is not None]
    same = [f for f, *_ in found if f.target_new == f.target_true]
    for f, *_ in found:
        seen.setdefault((f.prompt, f.subject), {})[f.target_new] = f
    several = [list(news.values())[1] for news in seen.values() if len(news) > 1]
    if filled:
        out.append(f"{_count(filled)} with a filler as true object, counted as not given (the "
                   f"first: {filled[0]!r})")  # fmt: skip
    if same:
        out.append(f"{_count(same)} whose target_new is the target_true: there is nothing to "
                   f"compare (the first: {same[0].text!r} {same[0].target_new!r})")  # fmt: skip
    if several:
        out.append(f"{len(several)} prompts with more than one target_new (the first: "
                   f"{several[0].text!r})")  # fmt: skip
    return out


def _count(facts):
    return f"{len(facts)} fact{'s' * (len(facts) != 1)}"


def read(path):
    """Records of a JSON file (a list, one record, or UniEdit's numbered ones) or of a JSON-lines
    file."""
    records = read_records(path, FactError, "facts file")
    if not isinstance(records, (list, dict)) or not records:
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
    file (each line that is not empty is a document), or a JSON or JSON-lines file (.json, .jsonl)
    whose records are texts or have a field "text"; files are read in their own order.
    StatisticsError if it cannot be read, with the fields that were expected and found.
    """
    if isinstance(source, str) and source in TEXTS:
        return _streamed(source)
    if not isinstance(source, (str, Path)) or not str(source).strip():
        raise StatisticsError(f"a text source is a name or a file, not {described(source)}")
    if Path(source).suffix.lower() in (".json", ".jsonl"):
        rows = read_records(source, StatisticsError, "text file")
        rows = rows if isinstance(rows, list) else [rows]
        return [_text(row, f"{source}, record {i}") for i, row in enumerate(rows)]
    lines = read_text(source, StatisticsError, "text file").split("\n")
    return [line.strip() for line in lines if line.strip()]


def _streamed(name):
    """The texts of TEXTS[name], mixed, as they arrive; StatisticsError if the connection breaks."""
    rows = _hub(StatisticsError, "MEDIT_TEXT", *TEXTS[name], split="train", streaming=True)
    rows = rows.shuffle(seed=0, buffer_size=MIXED[name])
    rows = _arriving(iter(rows), StatisticsError, "MEDIT_TEXT", "/".join(TEXTS[name]))
    texts = (_text(row, name) for row in rows)
    return (text for text in texts if len(text) > SHORTEST)


def _text(row, where):
    row = {"text": row} if isinstance(row, str) else row
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
