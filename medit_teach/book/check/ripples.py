"""Checks of the exercises on ripples: paths, changes, fair rates, zero of n, reach of a key."""

from random import Random

import torch

from .core import Wrong, call, distance, exercise
from .objective import _problem


def _facts(seed, missing=False):
    """A little world: people -> firms -> towns, as {(relation, subject): object}."""
    rng = Random(seed)
    people, firms, towns = "Ann Bo Cy Di Ed".split(), "Fix Gum Hob".split(), "Uz Vy Wo".split()
    facts = {("employer", p): rng.choice(firms) for p in people}
    facts |= {("headquarters", f): t for f, t in zip(firms, rng.sample(towns, 3), strict=True)}
    facts |= {("country", t): rng.choice(("X-land", "Y-land")) for t in towns}
    if missing:
        del facts["headquarters", facts["employer", "Ann"]]
    return facts


PATHS = (("employer",), ("employer", "headquarters"), ("employer", "headquarters", "country"))


def _follow(facts, path, subject):
    for relation in path:
        subject = facts.get((relation, subject))
    return subject


@exercise
def follow(function):
    """function(facts, path, subject) must give the end of the path, None where it breaks off."""
    for seed in range(3):
        for missing in (False, True):
            facts = _facts(seed, missing)
            for path in PATHS:
                try:
                    found = function(facts, path, "Ann")
                except Exception as error:
                    raise Wrong(
                        f"for the path {' / '.join(path)} your function stops with "
                        f"{type(error).__name__}: {error}"
                        + (" (here a fact on the path is missing)" if missing else "")
                    ) from error
                if found is ...:
                    call(lambda: ...)
                if found != _follow(facts, path, "Ann"):
                    where = " where a fact is missing" if missing and len(path) > 1 else ""
                    raise Wrong(f"the path {' / '.join(path)}{where}: you end at {found!r}")
    return "it arrives, and it stops where the path stops"


@exercise
def changed(function):
    """function(facts, edit, paths) must give the set of (path, subject) with another answer."""
    paths = PATHS[1:]
    for seed in range(6):
        facts = _facts(seed)
        subjects = [s for r, s in facts if r == "employer"]
        old = facts["headquarters", "Fix"]
        edits = [("employer", "Ann", f) for f in ("Fix", "Gum", "Hob")]
        edits += [("headquarters", "Fix", next(t for t in ("Uz", "Vy") if t != old))]
        for edit in edits:
            before, now = dict(facts), {**facts, edit[:2]: edit[2]}
            found = call(function, facts, edit, paths)
            if facts != before:
                raise Wrong("your function changes the facts that it was given; copy them first")
            try:
                found = {(tuple(path), s) for path, s in found}
            except (TypeError, ValueError):
                raise Wrong("the answer is a set of pairs (path, subject)") from None
            true = {
                (p, s)
                for p in paths
                for s in subjects
                if _follow(before, p, s) != _follow(now, p, s)
            }
            what = f"after the edit {edit[0]} of {edit[1]} -> {edit[2]}"
            if extra := found - true:
                path, s = sorted(extra)[0]
                raise Wrong(f"{what}, {' / '.join(path)} of {s} has the same answer as before")
            if lost := true - found:
                path, s = sorted(lost)[0]
                raise Wrong(f"{what}, {' / '.join(path)} of {s} has another answer; you miss it")
    return "exactly the questions on which the two worlds differ"


@exercise
def fair_rate(function):
    """function(before, after, old, new): share of the known questions that got the new answer."""
    cases = [
        (list("ooxxo"), list("nonnn"), list("ooooo"), list("nnnnn")),
        (list("xxxx"), list("nnxx"), list("oooo"), list("nnnn")),
        (list("abcd"), list("eecd"), list("abxd"), list("efgh")),
    ]
    for before, after, old, new in cases:
        usable = [i for i in range(len(old)) if before[i] == old[i]]
        right = [i for i in usable if after[i] == new[i]]
        try:
            share = function(before, after, old, new)
        except ZeroDivisionError:
            raise Wrong("when the model knew none of the answers your function divides by 0") from (
                None
            )
        if share is ...:
            call(lambda: ...)
        if not usable:
            if share is not None:
                raise Wrong(
                    f"the model knew none of these answers, so nothing can be said; you say {share}"
                )
            continue
        if share is None:
            raise Wrong(f"{len(usable)} of {len(old)} answers were known; you return nothing")
        if abs(float(share) - len(right) / len(usable)) > 1e-9:
            raise Wrong(
                f"of {len(old)} questions {len(usable)} were known before, and {len(right)} of "
                f"those got the new answer; you return {float(share):.3g}"
            )
    return "only questions that could tell something are counted"


@exercise
def at_most(function):
    """function(n): the largest rate under which 0 of n successes still has a chance of 5%."""
    for n in (1, 6, 29, 300):
        u = float(call(function, n))
        if not 0 < u < 1:
            raise Wrong(f"a rate lies between 0 and 1; for n = {n} you say {u:.3g}")
        chance = (1 - u) ** n
        if abs(chance - 0.05) > 1e-6:
            raise Wrong(
                f"if the true rate were {u:.3g}, then {n} failures out of {n} would have a chance "
                f"of {chance:.1%}, not of 5%"
            )
    return "0 of n is a measurement too, and now you know how sharp it is"


@exercise
def reach(function):
    """function(C0, k, other): the share of the residual that ROME's update adds at `other`."""
    for seed, (d_out, d_in) in enumerate(((3, 6), (5, 9))):
        r, K, C0 = _problem(d_out, d_in, 2, seed)
        r, k, other = r[:, 0], K[:, 0], K[:, 1]
        Delta = torch.outer(r, torch.linalg.solve(C0, k)) / (k @ torch.linalg.solve(C0, k))
        for name, at in (("k itself", k), ("3 k", 3 * k), ("another key", other)):
            share = torch.as_tensor(call(function, C0, k, at), dtype=torch.float64)
            if share.ndim:
                raise Wrong(f"a share is one number, yours has the shape {tuple(share.shape)}")
            if distance(share * r, Delta @ at) > 1e-8:
                true = float((Delta @ at) @ r / (r @ r))
                raise Wrong(
                    f"at {name} ROME's update adds {true:.3g} of the residual, you say "
                    f"{float(share):.3g}"
                )
    return "you can say what a question will feel without asking it"
