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
    modules = {
        (what, layer): view.block(layer) if what == "block" else view.down(layer)
        for what, layer in wanted
    }
    out = {}
    with torch.no_grad(), evaluating(model):
        for context, weight in zip(contexts, weights.tolist(), strict=True):
            if not weight:
                continue
            found = []
            for fact in facts:
                ids, position = subject_last(tok, fact, context)
                found.append(ids[: position + 1])
            start = _shared(view, found, modules)
            for chunk in _alike([len(ids) - start[0] for ids in found], batch_size):
                rows = [found[e] for e in chunk]
                with watch(modules, stop=True) as seen:
                    view.model.base_model(**_rest(rows, tok, view.device, *start))
                last = torch.tensor([len(ids) - start[0] - 1 for ids in rows])
                for name in wanted:
                    hidden = seen[name].input if name[0] == "key" else seen[name].output
                    hidden = by_row(hidden, len(chunk))[
                        torch.arange(len(chunk), device=hidden.device), last.to(hidden.device)
                    ]
                    if name not in out:
                        shape = hidden.shape[1], len(facts)
                        out[name] = hidden.new_zeros(shape, dtype=torch.float64)
                    out[name][:, chunk] += weight * hidden.double().T
    return out


def _alike(lengths, most, waste=1.2):
    """Indices of rows, short ones first, in parts of at most `most` in which padding adds < 20%."""
    parts, total = [], 0
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        total += lengths[i]
        if not parts or len(parts[-1]) == most or (len(parts[-1]) + 1) * lengths[i] > waste * total:
            parts.append([])
            total = lengths[i]
        parts[-1].append(i)
    return parts


def _shared(view, rows, modules):
    """How many tokens all rows begin with, and attention's keys and values there: one pass for all.

    At most all but the last token of the shortest row, so that every row has something left.
    """
    from transformers import DynamicCache

    most = min(map(len, rows)) - 1
    columns = zip(*(ids[:most] for ids in rows), strict=True)
    n = next((i for i, ids in enumerate(columns) if len(set(ids)) > 1), most)
    if n == 0 or len(rows) == 1:
        return 0, []
    past = DynamicCache()
    with watch(modules, stop=True):
        ids = torch.tensor([rows[0][:n]], device=view.device)
        view.model.base_model(input_ids=ids, past_key_values=past, use_cache=True)
    return n, [(layer.keys, layer.values) for layer in past.layers if layer.is_initialized]


def _rest(rows, tok, device, n, past):
    """Arguments with which the model goes on after the first n tokens of rows, which they share."""
    from transformers import DynamicCache

    batch = pad([ids[n:] for ids in rows], tok, device)
    if n == 0:
        return batch | {"use_cache": False}
    mask = batch["attention_mask"]
    batch["attention_mask"] = torch.cat([mask.new_ones(len(rows), n), mask], 1)
    batch["position_ids"] = n + torch.arange(mask.shape[1], device=device).expand(len(rows), -1)
    copies = [tuple(x.expand(len(rows), -1, -1, -1) for x in layer) for layer in past]
    return batch | {"past_key_values": DynamicCache(copies), "use_cache": True}


def keys(model, tok, facts, layer, contexts=("",), average="half"):
    """K (d_in, E): the key k* of each fact at `layer`. ROME paper eq. 3, MEMIT paper sec. 4.3.2."""
    return at_subject(model, tok, facts, [("key", layer)], contexts, average)["key", layer]
