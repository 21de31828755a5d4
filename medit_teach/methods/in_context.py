"""Facts in the prompt instead of in the weights, and a memory that finds the right one again.

    memory = Memory(facts)                                     # one sentence a fact
    memory.find("The trade of Anna is that of a", k=3)         # indices of the likeliest sentences
    asked = in_front(facts, lambda fact, question: memory.recall(question, k=1))
    mt.score(model, tok, asked)                                # no weight has changed

    with mt.edit(model, tok, facts, method="prompt", at_least=0.3):        # the same as an Edit
        mt.score(model, tok, facts)
    mt.edit(model, tok, facts, method="ike", examples=others, shots=4)     # with demonstrations

The memory is the plainest retriever: the cosine of TF-IDF word vectors. As an Edit it finds, for
every prompt that medit_teach.metrics asks, the sentences to put in front; the search sees the
prompt only, never the target. Demonstrations show, on other facts, what to do with a statement:
copy it, use it in other words (update), leave others alone (retain).
Sources: in-context editing with copy, update and retain demonstrations (1:3:4 of them) found by
similarity: Zheng et al. 2023, arXiv:2305.12740, sec. 3 (theirs: sentence embeddings, 32 of them,
and the words "New Fact:" and "Prompt:" around); a store of facts beside the model, looked up at
each question: Lewis et al. 2020, arXiv:2005.11401.
"""

import re
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from ..edits import Edit
from ..errors import FactError, HyperError
from ..fact import Fact, as_facts
from ..hyper import Hyper
from ..models import View
from ..settings import setting
from ..texts import WORD, joined

KINDS = ("copy", "update", "retain", "update", "retain", "update", "retain", "retain")


def statement(fact):
    """The new fact as a sentence."""
    return joined(fact.text, fact.target_new, fact.join) + "."


class Memory:
    """The sentences of `facts`, found by the words that they share with a question."""

    def __init__(self, facts):
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.facts = as_facts(facts)
        self.sentences = [statement(fact) for fact in self.facts]
        if not any(re.search(WORD, sentence) for sentence in self.sentences):
            raise FactError(
                f"{self.sentences[0]!r} holds no word of two letters or more to be found by"
            )
        self.tfidf = TfidfVectorizer(token_pattern=WORD)
        self.vectors = self.tfidf.fit_transform(self.sentences)  # rows of length 1

    def similarity(self, questions):
        """Cosines (questions, sentences), 0 (no word in common) to 1."""
        return (self.tfidf.transform(questions) @ self.vectors.T).toarray()

    def find(self, question, k=1, at_least=0.0):
        """Indices of the k most similar sentences, best first; ties in the order of the facts.

        Sentences whose similarity is 0 or below at_least are left out.
        """
        cosine = self.similarity([question])[0].round(9)
        best = np.argsort(-cosine, kind="stable")[:k]
        return [int(i) for i in best if cosine[i] > 0 and cosine[i] >= at_least]

    def recall(self, question, k=1, at_least=0.0):
        """The sentences found, as one text, the best last: next to the question."""
        found = self.find(question, k, at_least)
        return " ".join(self.sentences[i] for i in reversed(found))


class PromptEdit(Edit):
    """Puts what its memory finds in front of every question; the weights stay as they are."""

    beside = True

    def __init__(self, method, hyper, facts, before=None):
        super().__init__(method, hyper, facts, None)
        Prompt(k=hyper["k"], at_least=hyper["at_least"])  # HyperError, for one from the disk
        self.memory = Memory(self.facts)
        self.examples = [Fact.from_record(e) for e in hyper.get("examples", ())]
        if self.examples:
            IKE(examples=self.examples, shots=hyper["shots"])
        self.shown = Memory(self.examples) if self.examples else None

    def asked(self, prompt):
        found = self.memory.find(prompt, self.hyper["k"], self.hyper["at_least"])
        text = [self.memory.sentences[i] for i in reversed(found)]
        if found and self.shown:
            text = self.demonstrations(self.facts[found[0]]) + text
        return " ".join([*text, prompt])

    def demonstrations(self, fact):
        """Statement, question and answer about the examples most like `fact`, the likest last."""
        like = self.shown.find(statement(fact), self.hyper["shots"])
        shown = [demonstration(self.examples[i], KINDS[n % 8]) for n, i in enumerate(like)]
        return shown[::-1]


def demonstration(fact, kind):
    """One demonstration of `kind`: "copy", "update" or "retain"; a kind that the fact has no
    prompts for is a copy."""
    question, answer = fact.text, fact.target_new
    if kind == "update" and fact.paraphrases:
        question = fact.paraphrases[0]
    if kind == "retain" and fact.neighbors and fact.neighbors[0][1]:
        question, answer = fact.neighbors[0]
    return f"{statement(fact)} {joined(question, answer, fact.join)}."


@dataclass(frozen=True)
class Prompt(Hyper):
    """The facts in the prompt; no shared field counts here."""

    k: int = setting(1, low=1)
    """How many sentences to put in front of a question."""
    at_least: float = setting(0.0, low=0, high=1, what="a cosine, 0 to 1")
    """Smallest similarity at which a sentence is used."""

    needs = None
    beside = True
    shared = False

    def settle(self, model):
        if self.layers:
            raise HyperError("a fact in the prompt belongs to no layer; leave layers out")
        return self

    def make(self, model, tok, facts, plain, progress):
        """A PromptEdit, not applied yet."""
        return PromptEdit(type(self).__name__, plain, facts)


@dataclass(frozen=True)
class IKE(Prompt):
    """The fact in the prompt behind demonstrations made of other facts."""

    examples: tuple = ()
    """Facts to demonstrate with; none of them is to be edited."""
    shots: int = setting(8, low=1)
    """How many demonstrations. Mind the model's window."""

    def __post_init__(self):
        object.__setattr__(
            self, "examples", tuple(as_facts(self.examples) if self.examples else ())
        )
        super().__post_init__()
        if not self.examples:
            raise HyperError("IKE needs examples=[...]: facts to demonstrate with, not edited ones")

    def make(self, model, tok, facts, plain, progress):
        both = {f.subject for f in facts} & {f.subject for f in self.examples}
        if both:
            raise HyperError(f"{sorted(both)[0]!r} is to be edited and stands in the examples too")
        return super().make(model, tok, facts, plain, progress)


def in_front(facts, text_for):
    """The same facts with a text in front of every question: rewrite, paraphrases, neighbours.

    text_for(fact, question) returns the text ("" for none).
    """

    def ask(fact, question, shown=None):
        text = text_for(fact, question)
        return f"{text} {shown or question}" if text else shown or question

    return [
        replace(
            fact,
            prompt=ask(fact, fact.text, fact.prompt),
            paraphrases=[ask(fact, q) for q in fact.paraphrases],
            neighborhood=[ask(fact, q) for q in fact.neighborhood],
        )
        for fact in as_facts(facts)
    ]


@dataclass
class Cost:
    """What ran through a model to its last layer: texts (rows of a batch) and tokens (padding
    included)."""

    texts: int = 0
    tokens: int = 0


@contextmanager
def counting(model):
    """with counting(model) as cost: ...   Passes that end before the last layer do not count."""
    cost = Cost()

    def look(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        cost.texts += hidden.shape[0]
        cost.tokens += hidden.shape[0] * hidden.shape[1]

    handle = View(model).blocks[-1].register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield cost
    finally:
        handle.remove()
