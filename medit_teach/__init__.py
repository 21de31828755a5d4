"""medit_teach: knowledge editing in language models under one objective.

import medit_teach as mt
model, tok = mt.load("tiny-gptj")
facts = mt.facts("world", n=8, seed=0)
with mt.edit(model, tok, facts, method="memit"):
    print(mt.score(model, tok, facts))
"""

from . import former, methods
from .datasets import facts
from .edits import Edit, edit, edits_of, statistics_for
from .errors import MeditError
from .fact import Fact
from .metrics import score
from .models import is_embedded, load
from .statistics import Statistics, second_moment

__version__ = "0.1.0"
__all__ = [
    "Edit",
    "Fact",
    "MeditError",
    "Statistics",
    "edit",
    "edits_of",
    "facts",
    "is_embedded",
    "load",
    "methods",
    "score",
    "second_moment",
    "statistics_for",
]

former.install()


def __getattr__(name):
    found = former.module(name)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found
