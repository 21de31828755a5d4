"""Keys and values of facts: what an MLP's last matrix reads and writes at the subject's last token.

A fact has one key per context (a text in front of its prompt); the key k* is their weighted mean.
Everything that is compared with W k* is averaged over the same contexts with the same weights.
"""

import torch

from .errors import HyperError
from .facts import as_facts, pad, subject_last
from .hooks import by_row, evaluating, watch
from .models import View

AVERAGES = ("bare", "uniform", "half")


def context_weights(contexts, average):
    """Weights (n,) that sum to 1 over contexts, whose first must be "" (the bare prompt).

    "bare": the bare prompt alone. "uniform": all alike (ROME). "half": one half for the bare
    prompt, one half shared by the others (what MEMIT's nested templates amount to).
    """
    if not contexts or contexts[0] != "":
        raise HyperError('contexts must begin with "", the bare prompt')
    n = len(contexts)
    if average not in AVERAGES:
        raise HyperError(f"unknown average {average!r}; choose from {', '.join(AVERAGES)}")
    if average == "bare" or n == 1:
        return torch.tensor([1.0] + [0.0] * (n - 1), dtype=torch.float64)
    if average == "uniform":
        return torch.full((n,), 1 / n, dtype=torch.float64)
    return torch.tensor([0.5] + [0.5 / (n - 1)] * (n - 1), dtype=torch.float64)


def at_subject(model, tok, facts, wanted, contexts=("",), average="half", batch_size=128):
    """Hidden vectors at the subject's last token, averaged over contexts.

    wanted: pairs (what, layer), what being "key" (input of the down-projection, d_in), "value"
    (its output, bias included, d_out) or "block" (output of the decoder block, d_out).
    Returns {(what, layer): (d, E) float64}, one column a fact. The forward pass stops at the
    highest layer asked for, and nothing after the subject is read.
    """
    facts, view, wanted = as_facts(facts), View(model), list(dict.fromkeys(wanted))
    weights = context_weights(contexts, average)
    rows = []  # (fact, weight, ids up to the subject's last token)
    for e, fact in enumerate(facts):
        for context, weight in zip(contexts, weights.tolist(), strict=True):
            if weight:
                ids, position = subject_last(tok, fact, context)
                rows.append((e, weight, ids[: position + 1]))
    rows.sort(key=lambda row: len(row[2]))
    modules = {
        (what, layer): view.block(layer) if what == "block" else view.down(layer)
        for what, layer in wanted
    }
    out = {}
    with torch.no_grad(), evaluating(model):
        for i in range(0, len(rows), batch_size):
            chunk = rows[i : i + batch_size]
            with watch(modules, stop=True) as seen:
                model(**pad([ids for _, _, ids in chunk], tok, view.device), use_cache=False)
            last = torch.tensor([len(ids) - 1 for _, _, ids in chunk])
            fact_of = torch.tensor([e for e, _, _ in chunk])
            weight = torch.tensor([w for _, w, _ in chunk], dtype=torch.float64)
            for name in wanted:
                hidden = seen[name].input if name[0] == "key" else seen[name].output
                hidden = by_row(hidden, len(chunk))[
                    torch.arange(len(chunk), device=hidden.device), last.to(hidden.device)
                ]
                if name not in out:
                    out[name] = hidden.new_zeros(hidden.shape[1], len(facts), dtype=torch.float64)
                column = (hidden.double() * weight.to(hidden.device)[:, None]).T
                out[name].index_add_(1, fact_of.to(hidden.device), column)
    return out


def keys(model, tok, facts, layer, contexts=("",), average="half"):
    """K (d_in, E): the key k* of each fact at `layer`. ROME paper eq. 3, MEMIT paper sec. 4.3.2."""
    return at_subject(model, tok, facts, [("key", layer)], contexts, average)["key", layer]
