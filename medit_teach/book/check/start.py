"""Checks of chapter 0: edits as objects, what should change, what does not."""

from ...edits import Edit, edit, edits_of
from ...errors import MeditError
from ...metrics import target_logprobs, top_tokens
from ...models import card, fingerprint
from .core import NoAnswer, Wrong, exercise


def _likelihoods(model, tok, prompt, fact):
    """Log-probabilities of fact's new and old object after `prompt`."""
    pair = [fact.target_new, fact.target_true]
    return [float(x.mean()) for x in target_logprobs(model, tok, [prompt] * 2, pair)[0]]


def _clean(model, keep=0):
    """Undo all but the oldest `keep` edits of the model, last in, first out."""
    while len(edits_of(model)) > keep:
        edits_of(model)[-1].undo()


@exercise
def own_edit(answer, model, tok, fact):
    """An applied Edit that makes the model say a new object for fact's subject. Undoes it."""
    if not isinstance(answer, Edit):
        raise Wrong(f"mt.edit(...) returns an Edit, your answer is a {type(answer).__name__}")
    if not answer.applied:
        raise Wrong("your edit is not applied to the model any more; leave it in place")
    mine = answer.facts[0]
    try:
        if len(answer.facts) != 1 or mine.subject != fact.subject:
            about = ", ".join(f.subject for f in answer.facts)
            raise Wrong(f"the edit should be about {fact.subject} alone, yours is about {about}")
        if mine.target_new == fact.target_true:
            raise Wrong(f"{mine.target_new} is what the model said already; choose another object")
        said = top_tokens(model, tok, [mine.text], k=1)[0][0][0].strip()
        if not said or not mine.target_new.startswith(said):
            raise Wrong(f"after your edit the model says {said!r}, not {mine.target_new!r}")
    finally:
        if answer in edits_of(model):
            _clean(model, edits_of(model).index(answer))
    return f"the model said {mine.target_new!r}; the edit is undone again"


def _questions(model, fact):
    """[(path of relations, subject, prompt)] around an edit in the invented world, or []."""
    if "world" not in card(model):
        return []
    from ...world import BY_NAME, World

    world = World(**card(model)["world"])
    relation, subject, _ = world.as_edit(fact)
    found = [((relation,), subject, BY_NAME[relation].heldout[0].format(subject))]
    other = next(r for r in world.by_subject[subject] if r != relation)
    found.append(((other,), subject, BY_NAME[other].train[0].format(subject)))
    same = world.by_object[relation, world.facts[relation, subject]]
    for neighbour in [s for s in same if s != subject][:1]:
        found.append(((relation,), neighbour, BY_NAME[relation].train[0].format(neighbour)))
    for c in [c for c in world.consequences(fact) if len(c.path) > 1][:1]:
        found.append((c.path, c.subject, c.prompts[0]))
        found.append((c.path[:1], c.subject, BY_NAME[c.path[0]].train[0].format(c.subject)))
    return [(path, s, prompt, world) for path, s, prompt in found]


def scope_questions(model, fact):
    """Prompts around an edit, for `in_scope`: a list of str (empty without an invented world)."""
    return [prompt for _, _, prompt, _ in _questions(model, fact)]


@exercise
def in_scope(answers, model, fact):
    """answers: one bool a prompt of scope_questions, True if it should be answered differently.

    Judged by following the facts of the invented world before and after the edit.
    """
    questions = _questions(model, fact)
    if not questions:
        raise Wrong("only in the invented world is it known what should change")
    answers = list(answers)
    if len(answers) != len(questions):
        raise Wrong(f"there are {len(questions)} prompts, you judged {len(answers)}")
    for given, (path, subject, prompt, world) in zip(answers, questions, strict=True):
        if given not in (True, False):
            raise Wrong(f"write True or False for {prompt!r}, not {given!r}")
        old = world.follow(path, subject)
        new = world.follow(path, subject, world.changed(fact))
        if given and old == new:
            raise Wrong(f"{prompt!r}: which of the facts on the way to its answer was edited?")
        if not given and old != new:
            raise Wrong(f"{prompt!r}: follow the facts to its answer, one by one")
    return "you and the invented world agree on what should change"


class _Nothing:
    def undo(self):
        return self


@exercise
def undo_both(function, model, tok, facts):
    """function(first, second) must undo two edits that were made one after the other."""
    if not callable(function):
        raise Wrong(f"this check wants your function, not a {type(function).__name__}")
    try:
        if function(_Nothing(), _Nothing()) is ...:
            raise NoAnswer
    except (AttributeError, TypeError) as error:
        raise Wrong(f"your function stops with {type(error).__name__}: {error}") from error
    start, carried = fingerprint(model), len(edits_of(model))
    try:
        first, second = (edit(model, tok, fact, method="rome") for fact in facts[:2])
        function(first, second)
        if fingerprint(model) != start:
            left = [name for name, e in (("first", first), ("second", second)) if e.applied]
            raise Wrong(f"the model is not what it was: still applied: {', '.join(left)}")
    except MeditError as error:
        raise Wrong(f"the library refuses: {error}") from error
    finally:
        _clean(model, carried)
    return "both are undone, and all bits are back"


@exercise
def hole(prompt, model, tok, edit):
    """A prompt on which the unedited model says the old object, and the edited one still does."""
    fact = edit.facts[0]
    if not isinstance(prompt, str) or not prompt.strip():
        raise Wrong(f"the answer is a prompt, a text; yours is a {type(prompt).__name__}")
    if edit.applied:
        raise Wrong("the edit is applied; undo it first, the check applies it itself")
    prompt = prompt.rstrip()
    new, old = _likelihoods(model, tok, prompt, fact)
    said = top_tokens(model, tok, [prompt], k=1)[0][0][0].strip()
    if not said or not fact.target_true.startswith(said):
        raise Wrong(
            f"even before the edit the model says {said!r} there, not {fact.target_true!r}: it "
            "does not take this for a question about the fact"
        )
    with edit:
        new, old = _likelihoods(model, tok, prompt, fact)
    if new >= old:
        raise Wrong(f"the edit reaches this prompt: {fact.target_new!r} is the likelier one there")
    return "a hole: before and after the edit, the old object is the likelier one there"
