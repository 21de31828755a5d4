"""The invented world of the small models and its documents: no model in sight."""

from .corpus import Corpus
from .world import (
    BY_NAME,
    CATEGORIES,
    CHAIN,
    CLASSES,
    COMPOSITIONS,
    LEADING,
    RELATIONS,
    WORDS,
    Composed,
    Consequence,
    Relation,
    World,
    table,
)

__all__ = [
    "BY_NAME",
    "CATEGORIES",
    "CHAIN",
    "CLASSES",
    "COMPOSITIONS",
    "LEADING",
    "RELATIONS",
    "WORDS",
    "Composed",
    "Consequence",
    "Corpus",
    "Relation",
    "World",
    "table",
]
