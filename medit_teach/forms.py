"""Records of facts, in the forms that collections have, as the fields of a Fact.

Read: CounterFact's schema (and the first one's "entity"), MQuAKE's, flat records of EasyEdit, zsRE
(MEND's form and KnowEdit's), KnowEdit's other files, UniEdit's, counterfact-tracing's. null, NaN,
"", [] and, where an object is looked for, a FILLER are as if the field were not there; of several
names of one object the first is taken. Anything else that is not text, a number too, is for Fact to
refuse.
"""

import re
from collections.abc import Mapping
from numbers import Real

from .errors import FactError
from .texts import described, is_text, places

# Flat records: our field, and the names it has here, in EasyEdit's files (KnowEdit's WikiBio last),
# in zsRE's (MEND's form), in counterfact-tracing
FLAT = {
    "prompt": ("prompt", "src", "text"),
    "subject": ("subject", "entity", "concept"),
    "target_new": ("target_new", "alt", "target_false", "labels"),
    "target_true": ("target_true", "ground_truth", "answers"),
    "paraphrases": ("paraphrases", "rephrase_prompt", "rephrase"),
    "neighborhood": ("neighborhood", "locality_prompt", "loc"),
    "neighborhood_true": ("neighborhood_true", "locality_ground_truth", "loc_ans"),
    "relation": ("relation_id", "relation"),
}
NEEDED = ("prompt", "subject", "target_new")
PROMPTS = ("paraphrases", "neighborhood", "attributes", "generation")
SCHEMAS = (
    "expected CounterFact's requested_rewrite with prompt, subject, target_new, or flat fields: "
    "prompt, subject, target_new (EasyEdit), or src, subject, alt (zsRE)"
)
RIPPLES = (
    "RippleEdits' own form has its subject and object only as ids and inside a sentence. KnowEdit's"
    " wiki_recent and wiki_counterfact hold such edits in a form that is read; or convert: "
    '[{"subject": NAME, "target_new": NEW, "prompt": e["edit"]["prompt"].removesuffix(f" {NEW}.")} '
    "for e in data], NAME and NEW being the labels of subject_id and target_id"
)
# What stands in files where there is no object: marks of a tokenizer, marks of a table
FILLER = re.compile(
    r"</?[^<>\s]+>|\[(PAD|UNK|MASK|CLS|SEP|BOS|EOS)\]|nan|NaN|None|null|n/a|#?N/A", re.ASCII
)


def fields(record, where):
    """The fields of a Fact from a record of any of the forms that are read."""
    if "requested_rewrite" in record:
        return _counterfact(record, where)
    edit = record.get("edit")
    if isinstance(edit, Mapping):
        if "target_id" in edit and "target" not in edit:
            raise FactError(f"{where}: {RIPPLES}")
        flat = {"src": "prompt", "subject": "subject", "alt": "target"}  # UniEdit's
        flat = {ours: edit[theirs] for ours, theirs in flat.items() if theirs in edit}
        kind = edit.get("property")
        flat["relation"] = kind.get("id") if isinstance(kind, Mapping) else None
        return _flat(flat | {k: record.get(k) for k in ("case_id", "locality")}, where)
    return _flat(record, where)


def _counterfact(record, where):
    rewrite = record["requested_rewrite"]
    if isinstance(rewrite, (list, tuple)):
        if len(rewrite) != 1:
            raise FactError(
                f"{where}: requested_rewrite lists {len(rewrite)} facts (MQuAKE's form); "
                "medit_teach.facts(...) makes one fact of each"
            )
        rewrite = rewrite[0]
    if isinstance(rewrite, Mapping) and "subject" not in rewrite and "entity" in rewrite:
        rewrite = {**rewrite, "subject": rewrite["entity"]}  # as the first CounterFact had it
    _need(rewrite, NEEDED, f"{where}, requested_rewrite")
    new = rewrite["target_new"]
    if isinstance(new, Mapping):
        _need(new, ("str",), f"{where}, target_new")
    asked = {
        field: _several(record.get(f"{name}_prompts"))
        for field, name in zip(PROMPTS, ("paraphrase", "neighborhood", "attribute", "generation"),
                               strict=True)
    }  # fmt: skip
    own = record.get("neighborhood_true")
    nulls = isinstance(own, (list, tuple)) and len(own)  # nothing is known of these neighbours
    if nulls or not _missing(own):
        pairs = _paired(record.get("neighborhood_prompts"), own, where)
        asked["neighborhood"] = [prompt for prompt, _ in pairs]
        asked["neighborhood_true"] = [answer for _, answer in pairs]
    return asked | {
        "prompt": _given(rewrite["prompt"]),
        "subject": _given(rewrite["subject"]),
        "target_new": _given(new),
        "target_true": _object(rewrite.get("target_true")),
        "case_id": _given(record.get("case_id")),
        "relation": _given(rewrite.get("relation_id")),
        "join": _join(record.get("join")),
    }


def _flat(record, where):
    """The fields of a Fact from a flat record, by whichever of FLAT's names it uses."""
    more = {"case_id": _given, "attributes": _several, "generation": _several, "join": _join}
    fields = {name: read(record[name]) for name, read in more.items() if name in record}
    foreign, found = False, {}
    for ours, names in FLAT.items():
        there = [name for name in names if name in record]
        used = next((name for name in there if not _missing(record[name])), None)
        if used is None and there and ours in NEEDED:
            used = there[0]  # empty: Fact says so
        if used:
            found[ours] = record[used]
            if ours in (*NEEDED, "target_true") and not _missing(record[used]):
                is_text(_given(record[used]), f"{where}: {used}", FactError)
            foreign = foreign or (used != ours and ours != "relation")
    _need(found, NEEDED, where, record)
    fields |= {k: _given(v) for k, v in found.items() if k in (*NEEDED, "relation")}
    fields["target_true"] = true = _object(found.get("target_true"))
    if "paraphrases" in found:
        fields["paraphrases"] = _several(found["paraphrases"])
    pairs = _paired(found.get("neighborhood"), found.get("neighborhood_true"), where, true)
    loc = record.get("loc")
    if isinstance(loc, str) and loc.startswith("nq question:"):  # zsRE leaves the mark out
        pairs = [(q if not isinstance(q, str) or q.endswith("?") else q + "?", a) for q, a in pairs]
    pairs += _asks(record.get("locality"), where)
    fields["neighborhood"] = [prompt for prompt, _ in pairs]
    own = [answer for _, answer in pairs]
    if any(answer != true for answer in own):  # CounterFact's are all target_true
        fields["neighborhood_true"] = own
    prompt, subject = fields["prompt"], fields["subject"]
    if foreign and isinstance(prompt, str) and isinstance(subject, str) and "{}" not in prompt:
        at = places(subject.strip(), prompt)
        if at:  # the first place, if there are several
            fields["prompt"] = prompt[: at[0]] + "{}" + prompt[at[0] + len(subject.strip()) :]
    return fields


def _asks(group, where):
    """[(prompt, its object or None), ...] from a record's locality: asks {"prompt", "ground_truth"
    or "target"}, in lists or under the names of their groups."""
    if _missing(group):
        return []
    if isinstance(group, (list, tuple)):
        return [pair for ask in group for pair in _asks(ask, where)]
    if not isinstance(group, Mapping):
        raise FactError(
            f"{where}: locality holds {described(group)}; expected objects with a prompt and a "
            "ground_truth"
        )
    if "prompt" in group:
        return _paired(group["prompt"], group.get("ground_truth", group.get("target")), where)
    return [pair for ask in group.values() for pair in _asks(ask, where)]


def _paired(prompts, answers, where, otherwise=None):
    """[(prompt, its object), ...]; the object is `otherwise` if there are no answers at all."""
    if isinstance(prompts, str) or _missing(prompts):
        prompts, answers = [prompts], [answers]
    prompts = _listed(prompts)
    if _missing(answers):
        answers = [otherwise] * len(prompts)
    answers = _listed(answers)
    if len(prompts) != len(answers):
        raise FactError(
            f"{where}: {len(prompts)} neighborhood prompts and {len(answers)} answers to them; "
            "give one each, or none"
        )
    pairs = zip(prompts, answers, strict=True)
    return [(_given(p), otherwise if _missing(a) else _object(a)) for p, a in pairs
            if not _missing(p)]  # fmt: skip


def _listed(value):
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _several(value):
    """Prompts as they are, less what is missing among them."""
    if _missing(value):
        return ()
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (list, tuple)):
        return tuple(_given(x) if isinstance(x, (list, tuple)) else x for x in value
                     if not _missing(x))  # fmt: skip
    return value


def _given(value):
    """What a field holds: the first of several names (lists of aliases, lists in lists), None if it
    is missing."""
    if isinstance(value, Mapping) and "str" in value:
        value = value["str"]
    rest = [value]
    while rest:
        value = rest.pop()
        value = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(value, (list, tuple)):
            rest += reversed(value)
        elif not _missing(value):
            return value
    return None


def _join(value):
    """As _given, but "" is a joint."""
    return value if isinstance(value, str) else _given(value)


def _object(value):
    """As _given, and None for a FILLER."""
    value = _given(value)
    return None if isinstance(value, str) and FILLER.fullmatch(value.strip()) else value


def _missing(value):
    """null, NaN, "", [] or [[]] (what a table or a file has where there is nothing)."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (list, tuple)):
        return all(map(_missing, value))
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, Mapping):
        return not value
    unknown = value is None or type(value).__name__ == "NAType"  # pandas'
    return unknown or (isinstance(value, Real) and value != value)


def _need(record, fields, where, given=None):
    known = isinstance(record, Mapping)
    missing = [f for f in fields if f not in record] if known else list(fields)
    if missing:
        given = record if given is None else given
        found = sorted(map(str, given)) if isinstance(given, Mapping) else [type(given).__name__]
        raise FactError(
            f"{where}: lacks the field {missing[0]!r} (found: {', '.join(found) or 'nothing'}); "
            f"{SCHEMAS}"
        )


def one_each(records, where="record"):
    """[(name, record of one fact), ...]: one record or several, MQuAKE's with a fact for each of
    its rewrites, UniEdit's, which stand in one object under their numbers. where: how to call them.

    The question of one of MQuAKE's rewrites is kept as its paraphrase.
    """
    if isinstance(records, Mapping):
        numbered = records and all(
            isinstance(r, Mapping) and isinstance(r.get("edit"), Mapping) for r in records.values()
        )  # fmt: skip
        if not numbered:
            records = [records]
        else:
            records = [{"case_id": name, **record} for name, record in records.items()]
    out = []
    for i, record in enumerate(records):
        rewrites = record.get("requested_rewrite") if isinstance(record, Mapping) else None
        if not isinstance(rewrites, (list, tuple)):
            out.append((f"{where} {i}", record))
            continue
        for k, rewrite in enumerate(rewrites):
            asked = rewrite.get("question") if isinstance(rewrite, Mapping) else None
            one = {**record, "requested_rewrite": rewrite}
            if "paraphrase_prompts" not in record:
                one["paraphrase_prompts"] = asked
            out.append((f"{where} {i}, rewrite {k}", one))
    return out


def filler(record):
    """The FILLER that a record has for its true object, or None."""
    if not isinstance(record, Mapping):
        return None
    rewrite = record.get("requested_rewrite")
    names = ("target_true",) if isinstance(rewrite, Mapping) else FLAT["target_true"]
    record = rewrite if isinstance(rewrite, Mapping) else record
    found = [_given(record.get(name)) for name in names]
    return next((x for x in found if isinstance(x, str) and FILLER.fullmatch(x.strip())), None)
