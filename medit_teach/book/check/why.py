"""Checks of the exercises of the first comparison: advice, a retriever, and the price of a fact."""

import math

from ...fact import Fact
from ...methods.in_context import Memory
from .core import NoAnswer, Wrong, call, exercise


@exercise
def advice(answers, table):
    """answers: {customer: method}; table: {method: {"EA": (mean, low, high) or None, ...}}."""
    if not any(answers.values()):
        raise NoAnswer
    untouched = [m for m in table if m == "in the prompt" or m.startswith("retrieval")]

    def mean(method, name):
        value = table[method].get(name)
        return value[0] if value else 0.0

    wishes = {
        "frozen": (untouched, lambda m: mean(m, "NA")),
        "said": (list(table), lambda m: mean(m, "EA")),
        "balance": (list(table), lambda m: min(mean(m, n) for n in ("EA", "PA", "NA"))),
    }
    for customer, (allowed, worth) in wishes.items():
        chosen = answers.get(customer)
        if chosen is None or chosen is ...:
            raise Wrong(f"the customer {customer!r} still waits for your advice")
        if chosen not in table:
            raise Wrong(f"{chosen!r} is no row of the table; there are {', '.join(table)}")
        if chosen not in allowed:
            raise Wrong(f"{customer!r} wants the weights left alone and something done about it")
        best = max(map(worth, allowed))
        if worth(chosen) < best - 1e-9:
            raise Wrong(f"{customer!r}: {chosen!r} has {worth(chosen):.0f}, another {best:.0f}")
    return "three customers, served by measurement"


@exercise
def idf(function):
    """function(word, sentences) must give scikit-learn's smoothed inverse document frequency."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    sentences = ["anna plays the harp", "bo plays the horn", "cy cooks", "the harp of the harp"]
    fitted = TfidfVectorizer().fit(sentences)
    for word, index in sorted(fitted.vocabulary_.items()):
        mine, right = float(call(function, word, list(sentences))), fitted.idf_[index]
        if abs(mine - right) > 1e-9:
            told = sum(word in s.split() for s in sentences)
            raise Wrong(
                f"{word!r}, in {told} of {len(sentences)} sentences: yours is {mine:.3f}, "
                f"scikit-learn's is {right:.3f}"
            )
    return "the same weights as scikit-learn"


def _store():
    """A small store with names that share their parts, and questions: (question, index or None)."""
    people = ["Anna Marlow", "Anna Berg", "Otto Marlow", "Otto Berg", "Ida Stone"]
    said = [
        ("{} plays the", "harp"),
        ("{} was trained as a", "baker"),
        ("{} spends every weekend with", "chess"),
    ]
    asked = ["The instrument of {} is the", "By profession {} is a", "The sport that {} loves is"]
    known = people[:3]
    facts = [Fact(prompt, name, new) for name in known for prompt, new in said]
    questions = [
        (question.format(name), known.index(name) * len(said) + i if name in known else None)
        for name in people
        for i, question in enumerate(asked)
    ]
    return Memory(facts), questions


@exercise
def retriever(function):
    """function(memory, question) must find the stored subject's sentences and no others."""
    memory, questions = _store()
    for question, right in questions:
        found = call(function, memory, question)
        if not isinstance(found, (list, tuple)):
            raise Wrong(f"give back a list of indices, not a {type(found).__name__}")
        if any(not 0 <= int(i) < len(memory.sentences) for i in found):
            raise Wrong(f"there are {len(memory.sentences)} sentences; an index is outside")
        strange = [i for i in found if memory.facts[i].subject not in question]
        if right is None and found:
            raise Wrong(
                f"nothing in the store is about the subject of {question!r}, "
                f"but you found {memory.sentences[found[0]]!r}"
            )
        if strange:
            raise Wrong(f"for {question!r} you found {memory.sentences[strange[0]]!r}")
        if right is not None and right not in found:
            raise Wrong(f"for {question!r} the right sentence is not among those you found")
    return "it finds what is there, and is silent about what is not"


@exercise
def break_even(questions, write=3000, extra=12):
    """questions: the least number at which `write` is less than `extra` times it."""
    if int(questions) != questions or questions < 1:
        raise Wrong("a number of questions is a whole number")
    if write >= extra * questions:
        more = "more than" if write > extra * questions else "just as much as"
        raise Wrong(f"at {questions} questions writing costs {more} the prompt")
    if write < extra * (questions - 1):
        raise Wrong(f"at {questions} questions writing is cheaper, but it was before, too")
    return f"from the {questions}th question on, the weights are the cheaper place"


@exercise
def storage(function):
    """function(d_out, d_in): the least E with E (d_out + d_in) >= d_out d_in."""
    for d_out, d_in in ((192, 768), (4, 4), (1600, 6400), (3, 7)):
        E = call(function, d_out, d_in)
        if int(E) != E:
            raise Wrong(f"for {d_out} x {d_in} you get {E}, and facts come in whole numbers")
        pairs, whole = int(E) * (d_out + d_in), d_out * d_in
        if pairs < whole:
            raise Wrong(
                f"{d_out} x {d_in}: {int(E)} pairs are {pairs} numbers, still fewer than {whole}"
            )
        if E > math.ceil(whole / (d_out + d_in)):
            raise Wrong(f"{d_out} x {d_in}: right for {int(E)} facts, but fewer would fill it too")
    return "also where the division comes out even"
