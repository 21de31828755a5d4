"""Facts in the prompt instead of in the weights, and a memory that finds the right one again.

    memory = Memory(facts)                                     # one sentence a fact
    memory.find("The trade of Anna is that of a", k=3)         # indices of the likeliest sentences
    asked = in_front(facts, lambda fact, question: memory.recall(question, k=1))
    mt.score(model, tok, asked)                                # no weight has changed

The memory is the plainest retriever: the cosine of TF-IDF word vectors.
Sources: in-context editing: Zheng et al. 2023, arXiv:2305.12740; a store of facts beside the
model, looked up at each question: Lewis et al. 2020, arXiv:2005.11401.
"""

from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from ..facts import as_facts
from ..models import View


def statement(fact):
    """The new fact as a sentence."""
    return f"{fact.text} {fact.target_new}."


class Memory:
    """The sentences of `facts`, found by the words that they share with a question."""

    def __init__(self, facts):
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.facts = as_facts(facts)
        self.sentences = [statement(fact) for fact in self.facts]
        self.tfidf = TfidfVectorizer()
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
