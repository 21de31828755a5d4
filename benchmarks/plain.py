"""The textbook path, kept as a yardstick: right, readable, and without a single shortcut.

One edit at a time, the whole model at every step, the whole head, one system of d x d for every
update, one pass over the text for every layer. `tests/test_benchmarks.py` holds it to the same
reference outputs as the library. The conventions are those of the original MEMIT code.
"""

import torch

from medit_teach.fact import encode, last_token, pad, subject_last, with_target
from medit_teach.models import View


def hooked(module, function):
    """A context in which function(module's output) replaces the output; None keeps it."""

    class Hooked:
        def __enter__(self):
            def hook(module, args, output):
                tensor = output[0] if isinstance(output, tuple) else output
                new = function(args[0] if args else None, tensor)
                if new is None:
                    return output
                return (new, *output[1:]) if isinstance(output, tuple) else new

            self.handle = module.register_forward_hook(hook)

        def __exit__(self, *error):
            self.handle.remove()

    return Hooked()


def sequences(model, tok, fact, contexts):
    """The fact in every context with its target, then the sentence of the KL term."""
    rows, places, starts = [], [], []
    for context in contexts:
        _, place = subject_last(tok, fact, context)
        ids, start = with_target(tok, context + fact.text, fact.target_new)
        rows.append(ids), places.append(place), starts.append(start)
    ids, offsets = encode(tok, f"{fact.subject} is a")
    rows.append(ids), places.append(last_token(offsets, 0, len(fact.subject)))
    return rows, torch.tensor(places), starts


def value(model, tok, fact, layer, h):
    """Target of one fact, site "block", and its losses (steps, 3): one whole pass for each step."""
    view = View(model)
    block = view.block(layer)
    rows, places, starts = sequences(model, tok, fact, h.contexts)
    batch = pad([ids[:-1] for ids in rows[:-1]] + [rows[-1]], tok)
    start, kept = {}, {}

    def keep(inward, outward):
        start["v0"] = outward[0, places[0]].detach().clone()

    with torch.no_grad(), hooked(block, keep):
        model(**batch, use_cache=False)
    v0 = start["v0"]
    delta = torch.zeros_like(v0, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=h.lr)
    losses = torch.full((h.steps, 3), float("nan"))

    def add(inward, outward):
        out = outward.clone()
        out[torch.arange(len(out)), places] += delta
        return out

    for step in range(h.steps):
        with hooked(block, add):
            log_p = model(**batch, use_cache=False).logits.float().log_softmax(-1)
        nll = 0.0
        for row, ids, first in zip(log_p, rows[:-1], starts, strict=False):
            n = len(ids) - first
            said = row[range(first - 1, len(ids) - 1), ids[first:]]
            nll = nll - said.sum() / (n * len(h.contexts))
        at = log_p[-1, places[-1]]
        p0 = kept.setdefault("p0", at.detach())
        kl = h.kl_factor * (at.exp() * (at - p0)).sum()
        decay = h.weight_decay * delta.norm() / v0.norm() ** 2
        total = nll + kl + decay
        losses[step] = torch.stack([nll, kl, decay]).detach()
        if step == h.steps - 1 or float(total.detach()) < h.early_stop:
            break
        (delta.grad,) = torch.autograd.grad(total, delta)
        adam.step()
        with torch.no_grad():
            delta *= min(1.0, float(h.clamp * v0.norm() / delta.norm()))
    return (v0 + delta.detach()).double(), losses


def forward_backward(model, tok, fact, layer, h):
    """A function that runs the sequences of `value` once, forward and backward to `layer`.

    What a step of `value` must cost at least: the whole model, the loss, the gradient at the block.
    """
    rows, *_ = sequences(model, tok, fact, h.contexts)
    batch = pad([ids[:-1] for ids in rows[:-1]] + [rows[-1]], tok)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    delta = torch.zeros(View(model).norm.weight.shape, requires_grad=True)
    block = View(model).block(layer)

    def once():
        with hooked(block, lambda inward, outward: outward + delta):
            loss = model(**batch, labels=labels, use_cache=False).loss
        torch.autograd.grad(loss, delta)

    return once


def key(model, tok, fact, layer, contexts):
    """(d_in,): half the bare prompt's key, half the mean of the other contexts'. A whole pass."""
    rows, places = zip(*(subject_last(tok, fact, c) for c in contexts), strict=True)
    found = {}

    def keep(inward, outward):
        found["k"] = inward[torch.arange(len(rows)), list(places)].double()

    with torch.no_grad(), hooked(View(model).down(layer), keep):
        model(**pad(list(rows), tok), use_cache=False)
    k = found["k"]
    return (k[0] + k[1:].mean(0)) / 2 if len(k) > 1 else k[0]


def now(model, tok, fact, layer):
    """(d_out,): the block's output at the subject's last token of the bare prompt."""
    ids, place = subject_last(tok, fact)
    found = {}

    def keep(inward, outward):
        found["z"] = outward[0, place].double()

    with torch.no_grad(), hooked(View(model).block(layer), keep):
        model(**pad([ids], tok), use_cache=False)
    return found["z"]


class _Enough(Exception):
    """Ends a pass after the layer whose keys are collected."""


def second_moment(model, tok, texts, layer, batch=8):
    """C0 (d_in, d_in) of one layer: a pass over all the texts that ends at the layer."""
    total, count = 0.0, 0
    rows = [encode(tok, text)[0] for text in texts]
    for i in range(0, len(rows), batch):
        chunk = pad(rows[i : i + batch], tok)
        real = chunk["attention_mask"].bool()

        def keep(inward, outward, real=real):
            nonlocal total, count
            K = inward.reshape(*real.shape, -1)[real].double()
            total, count = total + K.T @ K, count + len(K)
            raise _Enough

        try:
            with torch.no_grad(), hooked(View(model).down(layer), keep):
                model(**chunk, use_cache=False)
        except _Enough:
            pass
    return total / count


def update(R, K, C0, lam):
    """Delta (d_out, d_in) = R K^T (lam C0 + K K^T)^-1, one d x d system."""
    return torch.linalg.solve(lam * C0 + K @ K.T, K @ R.T).T


def memit(model, tok, facts, layers, C0, h, targets=None):
    """MEMIT as the paper's algorithm 1 says it. Returns {layer: Delta}; the model is changed."""
    view, deltas = View(model), {}
    if targets is None:
        targets = torch.stack([value(model, tok, f, layers[-1], h)[0] for f in facts], 1)
    for i, layer in enumerate(layers):
        K = torch.stack([key(model, tok, f, layer, h.contexts) for f in facts], 1)
        Z = torch.stack([now(model, tok, f, layers[-1]) for f in facts], 1)
        R = (targets - Z) / (len(layers) - i)
        deltas[layer] = update(R, K, C0[layer], h.lam)
        with torch.no_grad():
            view.weight(layer).add_(deltas[layer].to(view.weight(layer)))
    return deltas


def scores(model, tok, fact):
    """(ES, PS, NS) of one fact, in percent: each prompt with each target, a whole pass for both."""
    out = []
    for prompts, sign in (((fact.text,), 1), (fact.paraphrases, 1), (fact.neighborhood, -1)):
        right = []
        for prompt in prompts:
            pairs = [with_target(tok, prompt, t) for t in (fact.target_new, fact.target_true)]
            with torch.no_grad():
                batch = pad([ids for ids, _ in pairs], tok)
                log_p = model(**batch, use_cache=False).logits.float().log_softmax(-1)
            new, true = (
                float(row[range(start - 1, len(ids) - 1), ids[start:]].mean())
                for row, (ids, start) in zip(log_p, pairs, strict=True)
            )
            right.append(sign * (new - true) > 0)
        out.append(100 * sum(right) / len(right) if right else float("nan"))
    return out
