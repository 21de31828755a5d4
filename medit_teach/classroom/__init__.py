"""Assignments: hidden tests, copies made from a master, marks made out of the student's reach.

`hidden` and its kin are what the masters in `assignments/` use. The rest serves the command line:
`medit-teach assignment` (assignment.py) and `medit-teach grade` (grade.py).
"""

from .hidden import Draw, Lost, Ref, afresh, agree, hidden, is_true, number, shuffled

__all__ = [
    "Draw",
    "Lost",
    "Ref",
    "afresh",
    "agree",
    "hidden",
    "is_true",
    "number",
    "shuffled",
]
