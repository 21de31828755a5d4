"""The fact record, and where its subject's last token lies in a text."""

from dataclasses import asdict, dataclass, replace

import torch

from .errors import FactError, ModelError

# Flat records: our field, and the names it has here, in EasyEdit's files, in zsRE's (MEND's form)
FLAT = {
    "prompt": ("prompt", "src"),
    "subject": ("subject",),
    "target_new": ("target_new", "alt"),
    "target_true": ("target_true", "ground_truth", "answers"),
    "paraphrases": ("paraphrases", "rephrase_prompt", "rephrase"),
    "neighborhood": ("neighborhood", "locality_prompt", "loc"),
    "neighborhood_true": ("neighborhood_true", "locality_ground_truth", "loc_ans"),
}
SEVERAL = ("paraphrases", "neighborhood", "neighborhood_true")
SCHEMAS = (
    "expected CounterFact's requested_rewrite with prompt, subject, target_new, or flat fields: "
    "prompt, subject, target_new (EasyEdit), or src, subject, alt (zsRE)"
)


@dataclass(frozen=True)
class Fact:
    """One (subject, relation, object) to write, with the prompts that measure it.

    prompt holds "{}" where the subject goes and ends just before the object; a prompt in which
    the subject is spelled out once is accepted too. target_new is the object to write,
    target_true the object the model has now (needed by the metrics). The other fields are those
    of CounterFact (ROME paper, app. D): paraphrases ask the same, neighborhood prompts ask for
    other subjects whose object is target_true, attributes for subjects whose object is
    target_new, generation prompts start a text about the subject. neighborhood_true: the object of
    each neighborhood prompt, where it is not target_true (in zsRE; empty elsewhere).
    """

    prompt: str
    subject: str
    target_new: str
    target_true: str | None = None
    paraphrases: tuple = ()
    neighborhood: tuple = ()
    attributes: tuple = ()
    generation: tuple = ()
    case_id: int | str | None = None
    relation: str | None = None
    neighborhood_true: tuple = ()

    def __post_init__(self):
        name = f"fact {self.case_id}" if self.case_id is not None else "fact"
        for field in ("prompt", "subject", "target_new"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value.strip():
                raise FactError(f"{name}: {field} is empty or not text ({value!r}); fill it in")
        for field in ("subject", "target_new", "target_true"):
            value = getattr(self, field)
            if value is not None:
                object.__setattr__(self, field, value.strip())
        if self.target_true == "":
            raise FactError(f"{name}: target_true is empty; fill it in or leave it out")
        for field in (
            "paraphrases", "neighborhood", "attributes", "generation", "neighborhood_true"
        ):  # fmt: skip
            object.__setattr__(self, field, tuple(getattr(self, field)))
        if len(self.neighborhood_true) not in (0, len(self.neighborhood)):
            raise FactError(
                f"{name}: {len(self.neighborhood)} neighborhood prompts and "
                f"{len(self.neighborhood_true)} answers to them; give one each, or none"
            )
        prompt = self.prompt.rstrip()
        if "{}" not in prompt:
            found = prompt.count(self.subject)
            if found == 0:
                raise FactError(
                    f"{name}: the subject {self.subject!r} is not in the prompt {prompt!r}; "
                    "write {} where it goes"
                )
            if found > 1:
                raise FactError(
                    f"{name}: the subject {self.subject!r} stands {found} times in {prompt!r}; "
                    "write {} where the edited one goes"
                )
            prompt = prompt.replace(self.subject, "{}")
        if prompt.count("{}") > 1:
            raise FactError(f"{name}: the prompt {prompt!r} has two subjects; write {{}} only once")
        object.__setattr__(self, "prompt", prompt)

    @property
    def text(self):
        """The prompt with its subject."""
        return self.prompt.replace("{}", self.subject)

    @property
    def span(self):
        """(start, end) of the subject in `text`, in characters."""
        start = self.prompt.index("{}")
        return start, start + len(self.subject)

    @property
    def neighbors(self):
        """(prompt, the object that is true of it or None) for each neighborhood prompt."""
        own = self.neighborhood_true or (self.target_true,) * len(self.neighborhood)
        return list(zip(self.neighborhood, own, strict=True))

    def to_record(self):
        """The same fact in CounterFact's schema (dict), with neighborhood_true where it has any."""
        d = asdict(self)
        true = None if self.target_true is None else {"str": self.target_true}
        own = {"neighborhood_true": list(self.neighborhood_true)} if self.neighborhood_true else {}
        return {
            "case_id": self.case_id,
            "requested_rewrite": {
                "prompt": self.prompt,
                "relation_id": self.relation,
                "subject": self.subject,
                "target_new": {"str": self.target_new},
                "target_true": true,
            },
            "paraphrase_prompts": list(d["paraphrases"]),
            "neighborhood_prompts": list(d["neighborhood"]),
            "attribute_prompts": list(d["attributes"]),
            "generation_prompts": list(d["generation"]),
            **own,
        }

    @classmethod
    def from_record(cls, record, where="record"):
        """From CounterFact's schema, or from a flat record: EasyEdit's, zsRE's (KnowEdit's form or
        MEND's), or this class's own field names (FLAT has them all).

        where: what to call the record in error messages. FactError names a missing field, those
        that were expected and those that were found.
        """
        if not isinstance(record, dict):
            raise FactError(
                f"{where}: expected an object with fields, found {type(record).__name__}"
            )
        if "requested_rewrite" not in record:
            return cls(**_flat(record, where))
        rewrite = record["requested_rewrite"]
        _need(rewrite, ("prompt", "subject", "target_new"), f"{where}, requested_rewrite")
        _need(rewrite["target_new"], ("str",), f"{where}, target_new")
        return cls(
            prompt=rewrite["prompt"],
            subject=rewrite["subject"],
            target_new=rewrite["target_new"]["str"],
            target_true=(rewrite.get("target_true") or {}).get("str"),
            paraphrases=record.get("paraphrase_prompts", ()),
            neighborhood=record.get("neighborhood_prompts", ()),
            attributes=record.get("attribute_prompts", ()),
            generation=record.get("generation_prompts", ()),
            case_id=record.get("case_id"),
            relation=rewrite.get("relation_id"),
            neighborhood_true=record.get("neighborhood_true", ()),
        )


def _flat(record, where):
    """The fields of a Fact from a flat record, by whichever of FLAT's names it uses."""
    fields = {k: v for k, v in record.items() if k in Fact.__dataclass_fields__}
    foreign = False
    for ours, names in FLAT.items():
        there = [name for name in names if name in record]
        used = next((name for name in there if record[name] not in (None, "", [])), None)
        if used is None and there and ours in ("prompt", "subject", "target_new"):
            used = there[0]  # empty: Fact says so
        if used:
            fields[ours], foreign = record[used], foreign or used != ours
        if ours in SEVERAL and isinstance(fields.get(ours), str):
            fields[ours] = (fields[ours],)
    for group in (record.get("locality") or {}).values():  # KnowEdit's: groups of prompts
        for ask in group:
            for ours, theirs in (("neighborhood", "prompt"), ("neighborhood_true", "ground_truth")):
                fields[ours] = (*fields.get(ours, ()), _first(ask[theirs]))
    _need(fields, ("prompt", "subject", "target_new"), where, record)
    for name in ("target_new", "target_true"):
        if name in fields:
            fields[name] = _first(fields[name])
    if foreign and "{}" not in str(fields["prompt"]):  # the first place, if there are several
        fields["prompt"] = str(fields["prompt"]).replace(str(fields["subject"]), "{}", 1)
    if str(record.get("loc", "")).startswith("nq question:"):  # zsRE leaves the mark out
        fields["neighborhood"] = [q if q.endswith("?") else q + "?" for q in fields["neighborhood"]]
    if set(fields.get("neighborhood_true", ())) == {fields.get("target_true")}:  # CounterFact's
        del fields["neighborhood_true"]
    return fields


def _first(names):
    """The first of several names of one thing (lists of aliases, lists in lists)."""
    while isinstance(names, (list, tuple)) and names:
        names = names[0]
    return names


def _need(record, fields, where, given=None):
    missing = [f for f in fields if f not in record] if isinstance(record, dict) else list(fields)
    if missing:
        given = record if given is None else given
        found = ", ".join(sorted(given)) if isinstance(given, dict) else type(given).__name__
        raise FactError(
            f"{where}: lacks the field {missing[0]!r} (found: {found or 'nothing'}); {SCHEMAS}"
        )


def as_facts(facts):
    """A list of Fact from a Fact, a dict, or an iterable of either; FactError if there is none."""
    if isinstance(facts, (Fact, dict)):
        facts = [facts]
    facts = [
        f if isinstance(f, Fact) else Fact.from_record(f, f"record {i}")
        for i, f in enumerate(facts)
    ]
    if not facts:
        raise FactError("no facts were given")
    return facts


def without_edited_neighbors(facts, edited):
    """`facts`, each without the neighbours whose own fact of its relation is among `edited`."""
    subjects, found = {}, []
    for fact in edited:
        subjects.setdefault(fact.relation, set()).add(fact.subject)
    for fact in facts:
        taken = subjects.get(fact.relation, ())
        left = [i for i, prompt in enumerate(fact.neighborhood)
                if not any(subject in prompt for subject in taken)]  # fmt: skip
        fields = {"neighborhood": [fact.neighborhood[i] for i in left]}
        if fact.neighborhood_true:
            fields["neighborhood_true"] = [fact.neighborhood_true[i] for i in left]
        found.append(replace(fact, **fields))
    return found


# ------------------------------------------------------------------ text to tokens


def encode(tok, text):
    """Token ids and character offsets of one text: (list of int, list of (start, end)).

    Special tokens that the tokenizer puts in front (a BOS) stay, with offset (0, 0); one that it
    puts at the end is dropped, for prompts are to be continued. ModelError for a tokenizer
    without offsets.
    """
    if not getattr(tok, "is_fast", False):
        raise ModelError(
            f"tokenizer {type(tok).__name__} gives no character offsets; load the fast version "
            "(AutoTokenizer.from_pretrained(..., use_fast=True))"
        )
    out = tok(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    ids, offsets = list(out["input_ids"]), list(out["offset_mapping"])
    while ids and out["special_tokens_mask"][len(ids) - 1]:
        ids.pop(), offsets.pop()
    return ids, offsets


def last_token(offsets, start, end):
    """Index of the last token that covers any of the characters start..end-1.

    Where the subject's last piece is merged with what follows ("{}s are"), it is the merged
    token; where one character is spread over several tokens, the last of them.
    """
    hits = [i for i, (a, b) in enumerate(offsets) if a < end and b > start and b > a]
    if not hits:
        raise FactError(f"no token covers the characters {start} to {end}; is the subject empty?")
    return hits[-1]


def subject_last(tok, fact, prefix=""):
    """Token ids of prefix + prompt, and the position of the subject's last token in them."""
    ids, offsets = encode(tok, prefix + fact.text)
    start, end = fact.span
    return ids, last_token(offsets, len(prefix) + start, len(prefix) + end)


def with_target(tok, text, target):
    """Token ids of `text + " " + target`, and how many of them come before the target.

    Encoded in one piece, so that no token is made that the model would not see in running text.
    """
    ids, offsets = encode(tok, text + " " + target)
    first = next((i for i, (_, end) in enumerate(offsets) if end > len(text)), len(ids))
    if first == len(ids):
        raise FactError(f"the target {target!r} has no token after {text!r}")
    return ids, first


def pad(rows, tok, device=None):
    """Rows of token ids as one right-padded batch: {"input_ids", "attention_mask"}, (n, longest).

    Right padding whatever the tokenizer prefers: positions then count from the start.
    """
    fill = tok.pad_token_id if tok.pad_token_id is not None else 0
    longest = max(map(len, rows))
    ids = torch.tensor([row + [fill] * (longest - len(row)) for row in rows], device=device)
    mask = torch.tensor(
        [[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device
    )
    return {"input_ids": ids, "attention_mask": mask}
