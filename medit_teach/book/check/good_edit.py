"""Checks of the exercises on what a good edit is: scope, scores, fluency and intervals."""

import numpy as np
import torch

from ...metrics import ngram_entropy
from ...world import World
from .core import NoAnswer, Wrong, call, exercise

# (path of relations, whose, question); "self" is the edited person, "old" and "new" the companies
QUESTIONS = (
    (("employer",), "self", "{} is employed by"),
    (("instrument",), "self", "{} plays the"),
    (("employer", "product"), "self", "The company where {} works makes"),
    (("employer",), "colleague", "{} works for"),
    (("headquarters",), "old", "{} is based in"),
    (("employer", "headquarters"), "self", "{} goes to the office in"),
    (("employer",), "self", "The company that employs {} is"),
    (("product",), "new", "{} sells"),
)


def scope_case(seed=0):
    """A small invented world and one edit of it, for classification.

    Returns (world, (relation, subject, new object), [(path, subject, question), ...]).
    """
    world = World.small(seed=seed)
    for subject in world.editable:
        old = world.facts.get(("employer", subject))
        others = [s for s in world.by_object.get(("employer", old), []) if s != subject]
        for new in world.objects["employer"] if others else []:
            same = [r for r in ("product", "headquarters") if old == new
                    or world.facts[r, old] == world.facts[r, new]]  # fmt: skip
            if not same:
                who = {"self": subject, "colleague": others[0], "old": old, "new": new}
                asked = [(path, who[w], text.format(who[w])) for path, w, text in QUESTIONS]
                return world, ("employer", subject, new), asked
    raise ValueError(f"the world of seed {seed} has no such edit")


@exercise
def scope(labels, seed=0):
    """labels: "in", "out" or "follows" for each question of scope_case, by the world's facts."""
    world, edit, asked = scope_case(seed)
    if len(labels) != len(asked):
        raise Wrong(f"there are {len(asked)} questions, you gave {len(labels)} labels")
    if all(label in (None, ...) for label in labels):
        raise NoAnswer
    after = world.changed(edit)
    for number, (label, (path, subject, text)) in enumerate(zip(labels, asked, strict=True), 1):
        if label not in ("in", "out", "follows"):
            raise Wrong(f"question {number}: {label!r} is none of 'in', 'out', 'follows'")
        same = path == edit[:1] and subject == edit[1]
        moved = world.follow(path, subject) != world.follow(path, subject, after)
        if label != ("in" if same else "follows" if moved else "out"):
            raise Wrong(
                f"question {number}, {text!r}: is it the edited question in other words? "
                "If not, write down its answer in the old world and in the new one"
            )
    return "you drew the border of the edit where the world draws it"


@exercise
def needed_locality(ns, es=100.0, ps=100.0, wanted=90.0):
    """ns: the least NS with which ES = es and PS = ps still give S = wanted (percent)."""
    if not 0 < float(ns) <= 100:
        raise Wrong(f"NS is a percentage, yours is {float(ns):g}")
    s = 3 / (1 / es + 1 / ps + 1 / float(ns))
    if abs(s - wanted) > 0.05:
        raise Wrong(f"with NS = {float(ns):g} the harmonic mean is {s:.1f}, not {wanted:g}")
    return f"S is {s:.1f} although NS is only {float(ns):g}: one bad part can hide in S"


@exercise
def gamed(function):
    """function(logits (n,), new, true) must win the preference with one logit, saying new never."""
    generator = torch.Generator().manual_seed(0)
    for n in (6, 50, 500):
        logits = torch.randn(n, generator=generator, dtype=torch.float64)
        order = logits.argsort(descending=True).tolist()
        true, new = order[0], order[n // 2]
        after = call(function, logits.clone(), new, true)
        after = torch.as_tensor(after, dtype=torch.float64)
        if after.shape != logits.shape:
            raise Wrong(f"give back all {n} logits; yours have the shape {tuple(after.shape)}")
        if not torch.isfinite(after).all():
            raise Wrong("keep the logits finite")
        touched = int((after != logits).sum())
        if not after[new] > after[true]:
            raise Wrong("the metric still prefers the true object, so it counts a failure")
        if int(after.argmax()) == new:
            raise Wrong("it works, but the model really says the new object: that is no cheating")
        if touched > 1:
            raise Wrong(f"you changed {touched} logits; one is enough")
    return "the preference counts a success, and the model never says the new object"


@exercise
def gamed_fluency(text, words=60, different=8, bits=5.5):
    """text: few different words, no sense, and yet a high n-gram entropy."""
    if not isinstance(text, str):
        raise Wrong(f"this check wants a text, not a {type(text).__name__}")
    found = text.split()
    if len(found) != words:
        raise Wrong(f"the text should have {words} words, yours has {len(found)}")
    if len(set(found)) > different:
        raise Wrong(f"use at most {different} different words, yours has {len(set(found))}")
    entropy = ngram_entropy(text)
    if entropy < bits:
        raise Wrong(
            f"its entropy is {entropy:.2f} bits, below {bits}: which pairs and triples of words "
            "come back too often?"
        )
    return f"{entropy:.2f} bits from {len(set(found))} words, and not a thought in it"


@exercise
def good_edit_interval(function):
    """function(values (m,), seed) -> (low, high): a 95% bootstrap interval of the mean."""
    rng = np.random.default_rng(0)
    cases = [rng.random(60), (rng.random(200) < 0.8).astype(float), rng.normal(5, 2, 100)]
    for values in cases:
        low, high = map(float, call(function, values.copy(), 1))
        mean, se = values.mean(), values.std() / len(values) ** 0.5
        if not low < high:
            raise Wrong(
                "your interval has no width: do the draws differ, and are values drawn with "
                "replacement?"
            )
        if not low < mean < high:
            raise Wrong(f"the mean {mean:.3g} lies outside your interval {low:.3g} to {high:.3g}")
        ratio = (high - low) / (2 * 1.96 * se)
        if ratio > 3:
            raise Wrong(
                f"{ratio:.1f} times too wide: is it the interval of the mean, or the spread of "
                "single values?"
            )
        if not 0.88 < ratio < 1.12:
            raise Wrong(
                f"{ratio:.2f} times the width that {len(values)} values give: are there as many "
                "values in a draw as in the data, enough draws, and the right quantiles?"
            )
    return "it has the width that the number of facts allows"


interval = good_edit_interval  # as the chapter calls it


@exercise
def facts_needed(n, share=0.9, half_width=0.02):
    """n: the fewest facts with which a share is known to +- half_width (95%)."""
    if int(n) != n or n < 1:
        raise Wrong("a number of facts is a whole number")

    def reaches(m):
        return 1.96 * (share * (1 - share) / m) ** 0.5 <= half_width

    if not reaches(n):
        width = 1.96 * (share * (1 - share) / n) ** 0.5
        raise Wrong(f"{n} facts give {share:.0%} +- {width:.1%}: too wide")
    if reaches(n - 1):
        raise Wrong(f"{n} facts are enough, but fewer would do")
    return f"{n} facts; with a hundred the half width would be {1.96 * 3:.0f} points"
