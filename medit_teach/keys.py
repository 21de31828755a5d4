"""Keys and values of facts: what an MLP's last matrix reads and writes at the subject's last token.

A fact has one key per context (a text in front of its prompt); the key k* is their weighted mean.
Everything that is compared with W k* is averaged over the same contexts with the same weights.
"""

import torch

from .errors import HyperError
from .fact import as_facts, pad, subject_last
from .hooks import by_row, evaluating, watch
from .memory import Room
from .models import View
from .running import exact

AVERAGES = ("bare", "uniform", "half")
SHARED_BY = 8  # facts from which on it pays to read what a context's rows begin with only once


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
    facts, view = as_facts(facts), View(model)
    wanted = list(dict.fromkeys((what, *view.layers(layer)) for what, layer in wanted))
    weights = context_weights(contexts, average)
    modules = {
        (what, layer): view.block(layer) if what == "block" else view.down(layer)
        for what, layer in wanted
    }
    groups = {}  # rows (fact, weight, ids up to the subject's last token) that may begin alike
    for context, weight in zip(contexts, weights.tolist(), strict=True):
        for e, fact in enumerate(facts if weight else ()):
            ids, position = subject_last(tok, fact, context)
            view.check(ids, tok)
            group = groups.setdefault(context if len(facts) >= SHARED_BY else "", [])
            group.append((e, weight, ids[: position + 1]))
    out, room = {}, Room(batch_size, "batch_size")
    with torch.no_grad(), evaluating(view.model):
        for group in groups.values():
            n, past = _shared(view, [ids for _, _, ids in group], modules)
            for part in _alike([len(ids) - n for _, _, ids in group], batch_size):
                while part:
                    with room:
                        chunk = [group[i] for i in part[: room.size]]
                        fact_of, weight, rows = zip(*chunk, strict=True)
                        with watch(modules, stop=True) as seen:
                            view.run(*_rest(view, rows, tok, n, past))
                        last = torch.tensor([len(ids) - n - 1 for ids in rows])
                        read = [_at(seen[name], name[0], last) for name in wanted]
                        for name, hidden in zip(wanted, map(exact, read), strict=True):
                            if name not in out:
                                shape = hidden.shape[1], len(facts)
                                out[name] = hidden.new_zeros(shape)
                            column = hidden.T * hidden.new_tensor(weight)
                            out[name].index_add_(
                                1, last.new_tensor(fact_of).to(column.device), column
                            )
                        part = part[len(chunk) :]
    return out


def _at(seen, what, last):
    """What a module was given ("key") or gave, at token last[i] of row i: (rows, d)."""
    hidden = by_row(seen.input if what == "key" else seen.output, len(last))
    row = torch.arange(len(last), device=hidden.device)
    return hidden[row, last.to(hidden.device)]


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
    most = min(map(len, rows)) - 1
    columns = zip(*(ids[:most] for ids in rows), strict=True)
    n = next((i for i, ids in enumerate(columns) if len(set(ids)) > 1), most)
    if n < 2 or len(rows) < SHARED_BY:
        return 0, []
    past = view.cache()
    with watch(modules, stop=True):
        view.run({"input_ids": torch.tensor([rows[0][:n]], device=view.device)}, past)
    return n, [(layer.keys, layer.values) for layer in past.layers if layer.is_initialized]


def _rest(view, rows, tok, n, past):
    """Batch and cache with which the model goes on after the first n tokens, which rows share."""
    batch = pad([ids[n:] for ids in rows], tok, view.device)
    if n == 0:
        return batch, None
    mask = batch["attention_mask"]
    batch["attention_mask"] = torch.cat([mask.new_ones(len(rows), n), mask], 1)
    batch["position_ids"] = n + torch.arange(mask.shape[1], device=view.device).expand(
        len(rows), -1
    )
    copies = [tuple(x.expand(len(rows), -1, -1, -1) for x in layer) for layer in past]
    return batch, view.cache(copies)


def keys(model, tok, facts, layer, contexts=("",), average="half"):
    """K (d_in, E): the key k* of each fact at `layer`. ROME paper eq. 3, MEMIT paper sec. 4.3.2."""
    found = at_subject(model, tok, facts, [("key", layer)], contexts, average)
    return next(iter(found.values()))
