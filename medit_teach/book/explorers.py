"""Explorers of edits: choose fact, method, layer, lam or rule, and see what the model says.

    edit_explorer(model, tok, facts, objects, methods, layers, lams)
    dial(model, tok, fact)                     # lam, from exact memorization to no change
    distribution_explorer(model, tok, facts)   # the residual over layers

Each returns a `widgets.explorer`: every frame is a real edit, made and undone when it is drawn.
"""

from dataclasses import replace
from functools import cache
from math import inf

from .. import objective
from ..distribution import RULES, rule
from ..edits import edit, statistics_for
from ..errors import SingularError
from ..fact import as_facts
from ..hyper import hyper
from ..keys import at_subject
from ..metrics import top_tokens
from ..values import Targets
from .widgets import explorer, words

OWN = "its own"  # the new object that a fact brings along
NEIGHBOUR = "a neighbour"


def edit_explorer(model, tok, facts, objects=None, methods=("memit",), layers=None, lams=None,
                  statistics=None, start=None, finer=None, name="one edit"):  # fmt: skip
    """One edit: what the model says to prompt, paraphrase and neighbour, before and after.

    facts: to choose from. objects: new objects to choose from; None: each fact's own. methods,
    layers, lams: the same (default: the preset's layers and lam); lam 0 is the exact update,
    inf none at all, and methods without a lam take no notice of it. Besides the tokens: how much of
    the residual the update writes, and its preservation (tr Delta C0 Delta^T) as a share of what
    writing the same residual exactly costs. The rest as in `explorer`. The model is left as it was.
    """
    facts = {f"{fact.text} …": fact for fact in as_facts(facts)}
    preset = hyper("memit", model, layers=layers)
    layers = list(preset.layers)
    lams = list(lams or [preset.lam])
    statistics = statistics or statistics_for(model, tok, layers)
    targets = Targets(model, tok)

    def ask(fact):
        return top_tokens(model, tok, _questions(fact).values(), k=100)  # a token beyond: below 1%

    before = cache(ask)

    @cache
    def update(fact, method, layer, lam):
        """(share of the residual written, preservation as a share of the exact price, tokens,
        why there is no edit, if there is none)."""
        if lam == inf:
            return 0.0, 0.0, before(fact), ""
        more = {} if lam is None else {"lam": lam}
        h = hyper(method, model, layers=[layer], **more)
        before(fact)  # on the unedited model
        found = targets([fact], h)
        try:
            with edit(model, tok, fact, h, statistics=statistics, targets=found) as made:
                said = ask(fact)
        except SingularError as error:  # such as: no direction of C0 counts as null
            return 0.0, 0.0, before(fact), f" No edit: {error}."
        residual, key = made.layers[layer][0], made.keys[layer]
        exact = objective.rome(residual, key, statistics.soft(layer)).delta
        prices = [objective.preservation(D, statistics[layer]) for D in (made.delta(layer), exact)]
        return 1 - made.diagnostics[layer]["unwritten"], float(prices[0] / prices[1]), said, ""

    def look(asked, new, method, layer, lam):
        fact = facts[asked] if new == OWN else replace(facts[asked], target_new=new)
        soft = hasattr(hyper(method, model, layers=[layer]), "lam")
        how = ("emmet", None) if soft and lam == 0 else (method, lam if soft else None)
        written, price, after, why = update(fact, how[0], layer, how[1])
        at = f", λ = {words(lam)}" if soft else ""
        sentence = (
            f"{fact.subject}: {fact.target_true} becomes {fact.target_new}. {method.upper()}, "
            f"layer {layer}{at}: {written:.0%} of the residual is written, at "
            f"{price:.0%} of the exact update's price.{why}"
        )
        panels = {
            f"{title}: {prompt} …": _tokens(*both, fact, title == NEIGHBOUR)
            for (title, prompt), *both in zip(
                _questions(fact).items(), before(fact), after, strict=True
            )
        }
        panels["the update"] = [
            ("written", None, 100 * written, "left"), ("price", None, 100 * price, "kept")
        ]  # fmt: skip
        return sentence, panels

    controls = {
        "fact": list(facts), "new object": list(objects or [OWN]), "method": list(methods),
        "layer": layers, "λ": lams,
    }  # fmt: skip
    return explorer(name, controls, look, start, finer)


def _questions(fact):
    """{what is asked: prompt} of a fact, as far as it has such prompts."""
    asked = {"the prompt": [fact.text], "in other words": fact.paraphrases,
             NEIGHBOUR: fact.neighborhood}  # fmt: skip
    return {title: prompts[0] for title, prompts in asked.items() if prompts}


def _tokens(before, after, fact, neighbour):
    """Rows for the likeliest tokens after the edit and before it, the likeliest now first."""
    now, then = ({token.strip(): p for token, p in found} for found in (after, before))
    likely = dict.fromkeys([*list(now)[:3], *list(then)[:2]])
    rows = []
    for token in sorted(likely, key=lambda t: -now.get(t, 0)):
        new = bool(token) and (fact.target_new or "").startswith(token)
        true = bool(token) and (fact.target_true or "").startswith(token)
        kind = "kept" if neighbour and true else "new" if new else "rest"
        rows.append((token, 100 * then.get(token, 0), 100 * now.get(token, 0), kind))
    return [row for row in rows if max(row[1:3]) >= 0.5] or rows[:1]


def dial(model, tok, facts, lams=None, layer=None, statistics=None, finer=None):
    """Preservation against memorization: lam from exact memorization (0) to no change (inf).

    An `edit_explorer` of MEMIT in one layer. lams: between the two ends; default: half decades
    about the preset.
    """
    preset = hyper("memit", model, layers=None if layer is None else [layer])
    middle = lams or [preset.lam * 10 ** (i / 2) for i in range(-5, 5)]
    return edit_explorer(
        model, tok, facts, layers=preset.layers[-1:],
        lams=[0.0, *(float(f"{lam:.1g}") for lam in middle), inf], statistics=statistics,
        start={"λ": 0.0}, finer=finer, name="the dial between preservation and memorization",
    )  # fmt: skip


def distribution_explorer(model, tok, facts, rules=tuple(RULES), layers=None, lams=None,
                          statistics=None, finer=None):  # fmt: skip
    """The residual over layers: what each rule leaves missing, and what each layer pays.

    facts: one batch, written by MEMIT's solver (lam 0: exactly) into the last 1, 2, ... of `layers`
    (default: the preset's), with the residual divided by each of `rules`. Missing: the mean over
    the facts of |target - now| / |target - start| at the last layer. Prices (tr Delta C0 Delta^T)
    are shares of what the exact update of the last layer alone costs. The model is left as it was.
    """
    facts, preset = as_facts(facts), hyper("memit", model, layers=layers)
    layers, site = preset.layers, (preset.site, preset.layers[-1])
    lams = list([0.0, preset.lam / 10, preset.lam] if lams is None else lams)
    statistics = statistics or statistics_for(model, tok, layers)
    target = Targets(model, tok)(facts, preset)

    def missing():
        now = at_subject(model, tok, facts, [site], preset.contexts, preset.average)[site]
        return (target - now).norm(dim=0)

    whole = missing()

    @cache
    def run(name, n, lam):
        """Shares missing before each layer and at the end; prices of the layers."""
        left = []

        def watched(step):
            left.append(float((step.missing.norm(dim=0) / whole).mean()))
            return rule(name)(step)

        method, more = ("memit", {"lam": lam}) if lam else ("emmet", {"ridge": "least"})
        h = hyper(method, model, layers=layers[-n:], distribution=watched, **more)
        with edit(model, tok, facts, h, statistics=statistics, targets=target) as made:
            left.append(float((missing() / whole).mean()))
        prices = [
            float(objective.preservation(made.delta(x), statistics[x])) if x in made.layers else 0.0
            for x in layers[-n:]
        ]
        return left, prices

    def look(name, n, lam):
        (left, prices), exact = run(name, n, lam), sum(run("last", 1, 0.0)[1])
        names = [f"layer {layer}" for layer in layers[-n:]]
        return (
            f"{name}, λ = {words(lam)}: {left[-1]:.0%} of the residual is still missing at the "
            f"end; the price is {sum(prices) / exact:.0%} of the exact update of one layer."
        ), {
            "still missing at the last layer": [
                (at, None, 100 * share, "left")
                for at, share in zip(["at the start", *names], left, strict=True)
            ],
            "price of each layer": [
                (at, None, 100 * price / exact, "kept")
                for at, price in zip(names, prices, strict=True)
            ],
        }  # fmt: skip

    controls = {"rule": list(rules), "layers": list(range(1, len(layers) + 1)), "λ": lams}
    start = {"layers": len(layers), "λ": lams[-1]}
    return explorer("the residual over layers", controls, look, start, finer)
