"""What an edit should change besides itself: questions with known answers, and what a model says.

    asked = questions(world, facts)                  # everything that follows from each fact
    before = answers(model, tok, asked)              # "o": the old answer, "n": the new one, "-"
    with mt.edit(model, tok, facts, method="memit"):
        after = answers(model, tok, asked)
    rate(asked, after, known(before), kind="inverse")        # (share, low, high, questions)

The world knows the true answers before and after each edit (World.consequences). A question that
the unedited model gets wrong says nothing about an edit: hence `known`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from ..errors import MeditError
from ..fact import as_facts
from ..kept import reason
from ..metrics import bootstrap, target_logprobs
from ..world import BY_NAME

# in the order in which figures show them
KINDS = {
    "edited": "the edited prompt",
    "words": "the same in other words",
    "inverse": "the inverse",
    "symmetric": "the symmetric fact",
    "first": "two hops, first one edited",
    "second": "two hops, second one edited",
    "three": "three hops",
    "displaced": "who lost its place",
    "same": "other facts of the subject",
}


@dataclass(frozen=True)
class Question:
    """One question about an edit. new None: nothing holds any more; old None: nothing held.

    edit: number of the fact in its list; kind: a key of KINDS ("same" must keep its answer, so
    that old == new); stated: the training text gives the old answer directly somewhere.
    """

    edit: int
    kind: str
    path: tuple
    subject: str
    prompt: str
    old: str | None
    new: str | None
    stated: bool


def questions(world, facts, most=6, seed=0):
    """Questions about each fact of one relation: itself, what follows from it, what must stay.

    most: of one kind for one fact. A question that two facts bear on is left out, for its answer
    depends on both. MeditError if the facts are of several relations, which could bear on one path
    together.
    """
    facts = as_facts(facts)
    edits = [world.as_edit(fact) for fact in facts]
    if len({relation for relation, _, _ in edits}) > 1:
        raise MeditError("questions() wants facts of one relation; call it once for each")
    rng, found = Random(f"ripples/{seed}"), {}
    for number, (fact, edit) in enumerate(zip(facts, edits, strict=True)):
        relation, subject, new = edit
        old = world.facts[relation, subject]
        mine = [("edited", (relation,), subject, fact.text, old, new, True)]
        mine += [("words", (relation,), subject, p, old, new, True) for p in fact.paraphrases]
        by_kind = {}
        follow = world.consequences(edit)
        for c in follow:
            kind = c.kind
            if kind == "two-hop":
                kind = "first" if c.path[0] == relation and c.subject == subject else "second"
            kind = "three" if kind == "three-hop" else kind
            row = (kind, c.path, c.subject, rng.choice(c.prompts), c.old, c.new, c.stated)
            by_kind.setdefault(kind, []).append(row)
        for other in world.by_subject[subject]:
            # what is stated often and does not follow from the edit must stay
            value = world.facts[other, subject]
            follows = any(c.path == (other,) and c.subject == subject for c in follow)
            if other != relation and world.known(other, subject) and not follows:
                prompt = rng.choice(BY_NAME[other].train).format(subject)
                row = ("same", (other,), subject, prompt, value, value, True)
                by_kind.setdefault("same", []).append(row)
        for rows in by_kind.values():
            mine += rng.sample(rows, min(most, len(rows)))
        for row in mine:
            found.setdefault(row[1:3], []).append(Question(number, *row))
    single = [qs for qs in found.values() if len({q.edit for q in qs}) == 1]
    return sorted((q for qs in single for q in qs), key=lambda q: q.edit)


def answers(model, tok, asked, front=None):
    """(says, prefers) for each question: what the model says now, and what it holds likelier.

    says: "n" if every token of the new answer is the likeliest, "o" if of the old one, "-" for
    anything else ("n" where both are the same). prefers: 1 if P[new] > P[old], as ES has it, 0 if
    not, NaN where one of the two does not exist. front: function(question) -> a text to put before.
    """
    texts = [f"{front(q)} {q.prompt}" if front and front(q) else q.prompt for q in asked]
    pairs = [(i, which, getattr(q, which)) for i, q in enumerate(asked) for which in ("old", "new")]
    pairs = [p for p in pairs if p[2] is not None]
    logp, said = target_logprobs(model, tok, [texts[i] for i, _, _ in pairs],
                                 [target for _, _, target in pairs])  # fmt: skip
    mean, says = {}, ["-"] * len(asked)
    for (i, which, _), p, right in zip(pairs, logp, said, strict=True):
        mean[i, which] = float(p.double().mean())
        if right:
            says[i] = which[0]
    prefers = [
        float(mean[i, "new"] > mean[i, "old"]) if (i, "new") in mean and (i, "old") in mean
        else np.nan
        for i in range(len(asked))
    ]  # fmt: skip
    return "".join(says), np.array(prefers)


def known(asked, before):
    """For each question: did the unedited model give the old answer? before: its `says`."""
    return [
        q.old is not None and s == ("n" if q.old == q.new else "o")
        for q, s in zip(asked, before, strict=True)
    ]


def rate(asked, says, among=None, want="n", **where):
    """(percent, low, high, questions): how often the answer is `want`, as a mean over edits.

    among: booleans, which questions count (None: all). where: fields that must have a value, or
    one of several (kind=("inverse", "symmetric"), stated=False). The interval is a 95% bootstrap
    over edits, for questions about one edit are not independent. None if there is no question.
    """
    by_edit = {}
    for i, q in enumerate(asked):
        fits = all(
            getattr(q, k) in v if isinstance(v, (set, list, tuple)) and k != "path"
            else getattr(q, k) == v
            for k, v in where.items()
        )  # fmt: skip
        if fits and (among is None or among[i]):
            by_edit.setdefault(q.edit, []).append(100.0 * (says[i] == want))
    if not by_edit:
        return None
    means = [float(np.mean(x)) for x in by_edit.values()]
    return (*bootstrap(means), sum(map(len, by_edit.values())))


def load(path):
    """(questions, {method: says}, {method: prefers}) of the records in a JSON-lines file.

    As measure/ripples.py writes them: a line of settings, then one a relation. Edits are
    numbered through. A method that some relation lacks has None there in `says` and NaN in
    `prefers`. The prompts are not in the file. MeditError for a file that is none of these.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
        return _load([json.loads(line) for line in lines][1:])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise MeditError(f"{path} holds no records of ripples: {reason(error)}") from error


def _load(rows):
    """What `load` gives, of the records in `rows`."""
    asked, first = [], 0
    methods = list(dict.fromkeys(name for row in rows for name in row["says"]))
    says, prefers = ({name: [] for name in methods} for _ in range(2))
    for row in rows:
        columns = zip(*(row[k] for k in ("edit", "kind", "path", "stated", "moves")), strict=True)
        for edit, kind, path, stated, moves in columns:
            new = None if moves & 2 else "new" if moves & 1 else "old"
            old = None if moves & 4 else "old"
            subject = row["edits"][edit][0] if kind in ("edited", "words", "first", "same") else ""
            asked.append(
                Question(first + edit, kind, tuple(path.split("/")), subject, "", old, new, stated)
            )
        n = len(row["kind"])
        for name in methods:
            says[name] += row["says"].get(name) or [None] * n
            found = row["prefers"].get(name, "-" * n)
            prefers[name] += [np.nan if x == "-" else float(x) for x in found]
        first += row["facts"]
    return asked, says, {name: np.array(x) for name, x in prefers.items()}
