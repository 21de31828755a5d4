"""Former import paths, from before the modules stood in rooms: they work for one version, and warn.

import medit_teach.plots                 # is medit_teach.book.plots
from medit_teach import locate           # is medit_teach.study.locate
from medit_teach.facts import Fact       # is medit_teach.fact
"""

import sys
import warnings
from importlib import import_module
from importlib.machinery import ModuleSpec

PACKAGE = __name__.partition(".")[0]
MOVED = {
    "facts": "fact",
    "edit": "edits",
    "baselines": "methods",
    "corpus": "world.corpus",
    "training": "tiny.training",
    "acceptance": "tiny.acceptance",
    "locate": "study.locate",
    "forensics": "study.forensics",
    "ripples": "study.ripples",
    "budget": "study.budget",
    "experiments": "study.experiments",
    "selftest": "study.selftest",
    "method_card": "study.method_card",
    "plots": "book.plots",
    "widgets": "book.widgets",
    "explorers": "book.explorers",
    "check": "book.check",
    "grading": "classroom",
}


def module(former, stacklevel=3):
    """The module that "plots" or "check.core" is now; None if the name is not a former one."""
    head, _, rest = former.partition(".")
    if head not in MOVED:
        return None
    now = ".".join(filter(None, (PACKAGE, MOVED[head], rest)))
    warnings.warn(
        f"{PACKAGE}.{former} is {now} now; the former path goes with the next version",
        DeprecationWarning,
        stacklevel=stacklevel,
    )
    return import_module(now)


class _Former:
    """A finder and loader: the module under its former name is the very module of today."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        package, _, former = name.partition(".")
        if package == PACKAGE and former.partition(".")[0] in MOVED:
            return ModuleSpec(name, cls, is_package=True)

    @classmethod
    def create_module(cls, spec):
        found = module(spec.name.partition(".")[2])
        spec.loader_state = found.__spec__
        return found

    @classmethod
    def exec_module(cls, module):
        module.__spec__ = module.__spec__.loader_state


def install():
    """Make the former paths work. Two of them are functions of the package too: these modules are
    registered at once, so that importing one does not put it in the function's place."""
    if _Former not in sys.meta_path:
        sys.meta_path.append(_Former)
    for name in ("facts", "edit"):
        sys.modules[f"{PACKAGE}.{name}"] = sys.modules[f"{PACKAGE}.{MOVED[name]}"]
