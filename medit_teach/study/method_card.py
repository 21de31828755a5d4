"""The method card of an edit: what was changed, how, why, and what it did, as a page of Markdown.

    with mt.edit(model, tok, facts, "memit") as e:
        print(method_card(e, mt.score(model, tok, facts), before, purpose="...", contact="..."))

What the Edit knows is filled in. What only its author can say is asked for, and a question that
was not answered stays on the card as "not stated". After the model cards of Mitchell et al. (2019,
arXiv:1810.03993), for a change of a model instead of a model.

    python -m medit_teach.study.method_card        the example in the book
"""

from ..errors import MeditError
from ..models import card

ASKED = {  # what no program can know: field -> the question on the card
    "purpose": "Why was this edit made?",
    "sources": "What says that the new facts are true? If they are false on purpose: why?",
    "people": "Does it concern real people or groups? Were they asked?",
    "use": "What may the edited model be used for?",
    "misuse": "What must it not be used for?",
    "side_effects": "Which side effects were looked for, and found?",
    "not_measured": "What was not measured?",
    "contact": "Who answers for it, and how is it reported as wrong?",
}
SHOWN = ("ES", "PS", "NS", "EA", "PA", "NA")
LISTED = 5  # facts that are written out


def method_card(edit, after=None, before=None, model_name=None, level=1, **said):
    """The card of `edit` (an Edit) as Markdown text.

    after, before: medit_teach.metrics.Scores with and without the edit. model_name: default what
    an embedded model says of itself. level: of the first heading. said: answers to the questions
    in ASKED. MeditError for an answer to a question that is not there.
    """
    for field in said:
        if field not in ASKED:
            raise MeditError(f"the card has no field {field!r}; it has {', '.join(ASKED)}")
    model_name = model_name or (card(edit.model).get("name") if edit.model is not None else None)
    sharp = "#" * level
    lines = [f"{sharp} Method card", "", f"{sharp}# What was changed", ""]
    lines += [
        f"- **Model**: {model_name or 'not stated'}, fingerprint `{edit.before}` before the "
        f"edit, `{getattr(edit, 'after', 'not stated')}` after",
        f"- **Method**: {edit.method}; {len(edit.facts)} fact{'s' * (len(edit.facts) != 1)}; "
        f"layers {', '.join(map(str, edit.layers))}",
    ]
    lines += [f"- **Layer {layer}**: {_change(edit, layer)}" for layer in edit.layers]
    numbers = {k: v for k, v in edit.hyper.items() if k not in ("layers", "contexts")}
    lines += [
        "- **Hyper-parameters**: " + ", ".join(f"{k} {v}" for k, v in numbers.items()),
        f"- **Contexts**: {len(edit.hyper.get('contexts', ()))}",
        "- **To undo**: take the weights with the first fingerprint, or subtract the factors that "
        "are released with this card (`Edit.save`), which gives them back up to rounding",
    ]
    lines += ["", f"{sharp}# The facts", "", "| prompt | before | after |", "|---|---|---|"]
    for fact in edit.facts[:LISTED]:
        lines.append(f"| {fact.text} | {fact.target_true or 'unknown'} | {fact.target_new} |")
    if len(edit.facts) > LISTED:
        lines.append(f"| and {len(edit.facts) - LISTED} more, in `edit.json` | | |")
    lines += ["", f"{sharp}# What it did", ""]
    lines += _scores(after, before) if after else ["Scores: **not stated**"]
    lines += ["", f"{sharp}# What only its author can say", ""]
    lines += [
        f"- *{asked}* {said.get(field) or '**not stated**'}" for field, asked in ASKED.items()
    ]
    return "\n".join(lines) + "\n"


def _change(edit, layer):
    left, right = edit.layers[layer]
    d = edit.diagnostics.get(layer, {})
    text = f"{len(left)} x {len(right)}, rank at most {min(left.shape[1], *right.shape)}"
    if "relative_norm" in d:
        text += f", norm {d['relative_norm']:.2g} of the matrix's own"
    if d.get("ridge") is not None:
        text += f", ridge {d['ridge']:.3g}"
    return text


def _scores(after, before):
    """A table of scores with intervals, before (if given) and after, and how they were taken."""
    columns = {"before": before, "after": after} if before else {"after": after}
    lines = [f"| score | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for name in SHOWN:
        cells = []
        for scores in columns.values():
            value, low, high, n = scores.values[name]
            cells.append(f"{value:.1f} ({low:.1f} to {high:.1f}), {n} facts" if n else "-")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, "", after.protocol, "", *after.notes]


def example():
    """The card in the book: sixteen invented facts, written into the default model by MEMIT."""
    from ..datasets import facts
    from ..edits import edit
    from ..metrics import score
    from ..models import load

    model, tok = load("tiny-gptj")
    chosen = facts(model=model, n=16, seed=11)
    before = score(model, tok, chosen)
    with edit(model, tok, chosen, "memit") as e:
        return method_card(
            e,
            score(model, tok, chosen),
            before,
            level=3,
            purpose="An example for this book.",
            sources="Nothing: they are false in the invented world, to show what an edit does.",
            people="No. All names are made up.",
            use="Teaching.",
            side_effects="Neighbours: NS and NA above. Other facts about the edited subjects: "
            "many are lost, see the chapter on misuse.",
            not_measured="Consequences of the facts; generated text; other languages; tasks other "
            "than recall.",
        )


if __name__ == "__main__":
    print(example(), end="")
