"""Real facts of our own: relations, records in CounterFact's schema, and what a model knows.

    facts = mt.facts("real", relation="capital")     # or medit_teach.real.facts("choosing")
    known = known_by(model, tok, facts)              # those that the model says by itself
    facts = within(known)                            # neighbours and objects from these alone

The tables are the files of `tables`, one a relation, with a line "object: subject; subject".
A record is made from them by rule: it depends on its relation and subject, and on nothing drawn.
Each fact belongs to one split for good: "choosing" (layers, settings) or "reporting" (results);
neighbours, look-alikes and attributes of a record are of its own split.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from random import Random

from .. import kept
from ..edits import edits_of
from ..errors import FactError
from ..fact import Fact, as_facts
from ..metrics import target_logprobs
from ..models import fingerprint
from ..statistics import cache_folder

FOLDER = Path(__file__).parent / "tables"
SPLITS = ("choosing", "reporting")
SHARE = 0.4  # of the facts are for choosing
SAVED = 64  # facts asked between two saves of what a model knows


@dataclass(frozen=True)
class Relation:
    """One relation: who has which object, and how it is asked.

    facts {subject: object}; also {subject: other objects, true or claimed by some}; wordings:
    templates with "{}" for the subject, the first for editing, the others for paraphrases;
    generation: starts of a text about the subject; inverse: a template that asks for the subject,
    with "{}" for the object, or None; hops {relation: template}: the question whose answer is that
    relation's object for this relation's object; articles: the subjects that take "the".
    """

    id: str
    name: str
    subject: str
    object: str
    wordings: tuple
    generation: tuple
    facts: dict
    also: dict = field(default_factory=dict)
    inverse: str | None = None
    hops: dict = field(default_factory=dict)
    articles: frozenset = frozenset()

    def true(self, subject):
        """All objects that are true of the subject."""
        return {self.facts[subject], *self.also.get(subject, ())}

    def subjects(self, object):
        """The subjects that have this object, in the table's order."""
        return [s for s, o in self.facts.items() if o == object]

    def full(self, subject):
        """The subject as it is written in a sentence, with its article."""
        return f"the {subject}" if subject in self.articles else subject

    def template(self, template, subject):
        """The template for this subject: with the article before "{}", if it takes one."""
        if subject in self.articles:
            template = template.replace("{}", "The {}" if template.startswith("{}") else "the {}")
        return template

    def ask(self, subject, template=None):
        """The template (default: the wording for editing) with the subject in it."""
        return self.template(template or self.wordings[0], subject).replace("{}", subject)


@cache
def relations():
    """{name: Relation} of all tables, by id."""
    found = [_read(path) for path in FOLDER.glob("[a-z]*.toml")]
    return {r.name: r for r in sorted(found, key=lambda r: r.id)}


def _read(path):
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    lines = [line.split(": ", 1) for line in table.pop("facts").strip().splitlines()]
    pairs = [(s, o) for o, subjects in lines for s in subjects.split("; ")]
    facts = {_bare(s): o for s, o in pairs}
    if len(facts) < len(pairs):
        twice = {s for s in facts if sum(_bare(x) == s for x, _ in pairs) > 1}
        raise FactError(f"{path.name}: {', '.join(sorted(twice))} stands there twice")
    table |= {k: tuple(v) for k, v in table.items() if isinstance(v, list)}
    articles = frozenset(_bare(s) for s, _ in pairs if _bare(s) != s)
    return Relation(name=path.stem, facts=facts, articles=articles, **table)


def _bare(name):
    """The name without "the"; a title's "The" is a part of it."""
    return name.removeprefix("the ")


@cache
def _shared():
    return tomllib.loads((FOLDER / "_shared.toml").read_text(encoding="utf-8"))


@cache
def split_of(relation, subject):
    """The split of a fact, by a hash of the relation's name and the subject."""
    digest = hashlib.blake2b(f"{relation}/{subject}".encode(), digest_size=4).digest()
    return SPLITS[int.from_bytes(digest) >= SHARE * 2**32]


@cache
def _in_split(relation, split):
    """The subjects of the relation whose facts are in this split."""
    return [s for s in relations()[relation].facts if split_of(relation, s) == split]


# ------------------------------------------------------------------ records


def facts(split=None, **kwargs):
    """The facts of one split (default: of both), as mt.facts("real", **kwargs) gives them."""
    from ..datasets import facts as read

    return read(f"real-{split}" if split else "real", **kwargs)


def records(split=None, among=None):
    """Records in CounterFact's schema, of one split or all, in the order of the tables.

    among: a set of (relation, subject); objects, neighbours, look-alikes and attributes are then
    drawn from these alone, not from the split of the record. A fact whose object can be read in its
    subject (the Tokyo Tower's city) serves others as a neighbour and has no record of its own.

    Keys of a record beyond CounterFact's: relation, subject_class, object_class, split,
    neighborhood_true (the neighbours' own answers: those with target_true come first and are
    CounterFact's kind), lookalikes (other things whose name ends in the same word: prompt, subject,
    target_true or None), inverse (prompt, answer; or None), hops (relation, prompt, answer,
    answer_new: the answer that target_new leads to, or None).
    """
    if split not in (None, *SPLITS):
        raise FactError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    return [
        record(name, s, among)
        for name, r in relations().items()
        for s, o in r.facts.items()
        if split in (None, split_of(name, s)) and not _reads(o, s)
        if among is None or (name, s) in among
    ]


def asked_about(fact):
    """`fact` with the paraphrases, neighbours and true object of the real fact that has the same
    text; the same fact, where there is none or it has wordings of its own."""
    if fact.paraphrases or fact.neighborhood:
        return fact
    for row in records():
        known = Fact.from_record(row)
        if known.text == fact.text:
            more = {k: getattr(known, k) for k in ("paraphrases", "neighborhood",
                                                   "neighborhood_true", "relation")}  # fmt: skip
            return replace(fact, target_true=fact.target_true or known.target_true, **more)
    return fact


def within(facts):
    """The same facts, made again with objects, neighbours, look-alikes and attributes that are
    drawn from these facts alone (a new object from the whole relation, if there is no other).

    FactError for a fact that is not one of these tables.
    """
    names = {r.id: r.name for r in relations().values()}
    keys = [(names.get(f.relation), f.subject) for f in as_facts(facts)]
    for name, subject in keys:
        if name is None or subject not in relations()[name].facts:
            raise FactError(f"{subject!r} is not a subject of the real facts ({name})")
    return [Fact.from_record(record(*key, among=set(keys))) for key in keys]


def record(relation, subject, among=None):
    """The record of one fact, see `records`."""
    r, split = relations()[relation], split_of(relation, subject)
    rng = Random(f"real {relation} {subject}")
    if among is None:
        drawn_from = [s for s in _in_split(relation, split) if s != subject]
    else:
        drawn_from = [s for s in r.facts if s != subject and (relation, s) in among]
    true = r.facts[subject]
    objects = {r.facts[s] for s in drawn_from} - r.true(subject)
    objects = objects or set(r.facts.values()) - r.true(subject)
    objects = rng.sample(sorted(objects), len(objects))
    new = next(o for o in objects if not _reads(o, subject))
    others = [s for s in drawn_from if r.facts[s] != new and new not in r.also.get(s, ())]

    def some(subjects, n=5):
        return rng.sample(subjects, min(n, len(subjects)))

    same = some([s for s in others if r.facts[s] == true])
    near = same + some([s for s in others if r.facts[s] != true])
    return {
        "case_id": f"{relation}/{subject}",
        "requested_rewrite": {
            "prompt": r.template(r.wordings[0], subject), "relation_id": r.id, "subject": subject,
            "target_new": {"str": new}, "target_true": {"str": true},
        },
        "paraphrase_prompts": _paraphrases(r, subject),
        "neighborhood_prompts": [r.ask(s) for s in near],
        "neighborhood_true": [r.facts[s] for s in near],
        "attribute_prompts": [r.ask(s) for s in some([s for s in drawn_from if r.facts[s] == new])],
        "generation_prompts": [r.ask(subject, t) for t in r.generation if _alone(t, subject)],
        "relation": relation, "subject_class": r.subject, "object_class": r.object, "split": split,
        "lookalikes": _lookalikes(r, subject, others, some),
        "inverse": _inverse(r, subject), "hops": _hops(r, subject, new),
    }  # fmt: skip


def _paraphrases(r, subject):
    """The other wordings, and one of all behind a sentence that has nothing to do with it."""
    rng = Random(f"paraphrases {r.name} {subject}")
    wordings = [t for t in r.wordings if _alone(t, subject)]
    leads = [t for t in _shared()["lead"] if _alone(t + " {}", subject)]
    behind = f"{rng.choice(leads)} {r.ask(subject, rng.choice(wordings))}"
    return [*(r.ask(subject, t) for t in wordings if t != r.wordings[0]), behind]


def _reads(object, subject):
    """Whether the object's name stands in the subject's."""
    return f" {_bare(object)} ".lower() in f" {subject} ".lower()


def _alone(template, subject):
    """Whether the subject stands once in the prompt: its letters may be a part of another word."""
    return template.replace("{}", subject).count(subject) == 1


def _lookalikes(r, subject, others, some):
    """Things whose name ends in the subject's last word: of the table, else made up (no answer)."""
    last = subject.split()[-1]
    known = some([s for s in others if s.split()[-1] == last])
    if known:
        return [{"subject": s, "prompt": r.ask(s), "target_true": r.facts[s]} for s in known]
    first = _shared()["first"]
    names = [f"{word} {last}" for word in first.get(r.subject, first["other"])]
    article = subject in r.articles
    return [
        {"subject": s, "target_true": None,
         "prompt": r.template(r.wordings[0], subject if article else s).replace("{}", s)}
        for s in names if s != subject and s not in _names()
    ]  # fmt: skip


@cache
def _names():
    """All subjects of all relations."""
    return {s for r in relations().values() for s in r.facts}


def _inverse(r, subject):
    """The question that asks for the subject, where it is the only one with its object."""
    if not r.inverse or len(r.subjects(r.facts[subject])) > 1:
        return None
    return {"prompt": r.inverse.format(r.facts[subject]), "answer": r.full(subject)}


def _hops(r, subject, new):
    """Questions whose answer follows from this fact and one of another relation, if the edit
    changes it."""
    found = []
    for name, template in r.hops.items():
        answers = relations()[name].facts
        answer, answer_new = (answers.get(_bare(o)) for o in (r.facts[subject], new))
        if answer and answer != answer_new and _alone(template, subject):
            prompt = r.ask(subject, template)
            found.append(
                {"relation": name, "prompt": prompt, "answer": answer, "answer_new": answer_new}
            )
    return found


# ------------------------------------------------------------------ what a model knows


def said(model, tok, facts, batch_size=64, cache=True, progress=False):
    """For each fact a list of bool: is target_true said on the prompt, on each paraphrase?

    Said: every token of target_true is the likeliest one (metrics.target_logprobs). cache: keep the
    answers in the cache folder, by the model's fingerprint, and find them there again; a model that
    carries edits is always asked. progress: show a bar. FactError for a fact without target_true.
    """
    facts = as_facts(facts)
    if lacking := [f.subject for f in facts if f.target_true is None]:
        raise FactError(f"the fact about {lacking[0]!r} has no target_true, so nobody can know it")
    path, known = None, {}
    if cache and not edits_of(model):
        path = cache_folder() / "known" / f"{fingerprint(model)}.json"
        known = _kept(path)
    keys = [_key(f) for f in facts]
    missing = list({k: f for k, f in zip(keys, facts, strict=True) if k not in known}.items())
    missing.sort(key=lambda item: len(item[1].text))
    with _bar(len(missing), progress) as bar:
        for i in range(0, len(missing), SAVED):
            part = missing[i : i + SAVED]
            asked = [(k, p, f.target_true) for k, f in part for p in (f.text, *f.paraphrases)]
            of, prompts, targets = zip(*asked, strict=True)
            for k, right in zip(
                of, target_logprobs(model, tok, prompts, targets, batch_size)[1], strict=True
            ):
                known.setdefault(k, []).append(right)
            if path and not _keep(path, _kept(path) | known):
                path = None
            bar.update(len(part))
    return [known[k] for k in keys]


def known_by(model, tok, facts, least=2, batch_size=64, cache=True, progress=False):
    """The facts that the model knows: it says target_true by itself on at least `least` of the
    wordings (the prompt and the paraphrases), each by greedy choice. Options as of `said`."""
    facts = as_facts(facts)
    answers = said(model, tok, facts, batch_size, cache, progress)
    return [f for f, right in zip(facts, answers, strict=True) if sum(right) >= least]


def _key(fact):
    """Hash of what is asked about a fact."""
    asked = json.dumps([fact.text, *fact.paraphrases, fact.target_true])
    return hashlib.blake2b(asked.encode(), digest_size=16).hexdigest()


def _kept(path):
    """What the cache's file holds; nothing if there is none; a damaged one is set aside."""
    try:
        return kept.opened(path.read_bytes())
    except kept.Damaged as error:
        kept.set_aside(path, error)
    except OSError:
        pass
    return {}


def _keep(path, answers):
    """Whether the answers could be kept; that they could not is told once."""
    try:
        kept.write_text(path, json.dumps(kept.seal(answers)))
        return True
    except kept.Unwritable as error:
        kept.warn_unwritten(path.parent, error)
        return False


def _bar(total, show):
    from tqdm.auto import tqdm

    return tqdm(desc="known facts", total=total, unit="fact", disable=not show)


# ------------------------------------------------------------------ the datasheet's table


def table(measured=None):
    """Counts by relation as a Markdown table. measured: {relation id: (asked, known)}, if any."""
    heads = ["relation", "id", "subject", "object", "facts", "objects", "wordings", "choosing"]
    rows = [heads + ["known"] * (measured is not None)]
    made = Counter((r["relation"], r["split"]) for r in records())
    for name, r in relations().items():
        choosing = made[name, "choosing"]
        asked, known = (measured or {}).get(r.id, (0, 0))
        rows.append([
            name, r.id, r.subject, r.object, choosing + made[name, "reporting"],
            len(set(r.facts.values())), len(r.wordings) + 1, choosing,
            f"{known} of {asked}" if asked else "",
        ])  # fmt: skip
    asked, known = (
        sum(counts) for counts in zip(*(measured or {"": (0, 0)}).values(), strict=True)
    )
    total = [sum(row[i] for row in rows[1:]) for i in (4, 7)]
    rows.append(["all", "", "", "", total[0], "", "", total[1], f"{known} of {asked}"])
    lines = ["| " + " | ".join(map(str, row[: len(rows[0])])) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def main(name=None):
    """Print the table; with the name of a model, also how many facts it knows."""
    measured = None
    if name:
        from ..models import load

        found = facts(distinct_subjects=False)
        known = Counter(f.relation for f in known_by(*load(name), found, progress=True))
        asked = Counter(f.relation for f in found)
        measured = {relation: (n, known[relation]) for relation, n in asked.items()}
    print(table(measured))


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:2])
