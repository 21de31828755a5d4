"""Target values by optimisation: the vector that, at the subject's last token, says the object.

For each fact the vector delta is found that, added at the subject's last token, minimises

    mean over contexts, mean over target tokens of -log P(target token)          (say the object)
    + kl_factor * KL(P_delta || P_0) at the subject in "{subject} is a"   (stay what it is)
    + weight_decay * ||delta|| / ||v0||^2                                        (stay small)

with ||delta|| <= clamp ||v0|| after each Adam step. The target is v* = v0 + delta (ROME paper,
eq. 4; its KL has the edited model first, as here and in its code).
The target lives on the MLP output (site "value", ROME) or on the block output (site "block",
MEMIT's z). Both are added to the residual stream after the block, so one optimisation serves both;
they differ in v0. All layers up to the edited one are run once, and the head only where needed.
"""

from dataclasses import dataclass

import torch

from .errors import HyperError, MeditError
from .facts import as_facts, encode, last_token, pad, subject_last, with_target
from .hooks import evaluating, first, watch
from .keys import at_subject
from .models import View


@dataclass(frozen=True)
class Values:
    """Targets of E facts: target = start + delta, all (d_out, E) float64.

    losses (E, steps, 3): negative log-likelihood, KL and decay terms before each update, NaN
    after an edit stopped.
    """

    target: torch.Tensor
    start: torch.Tensor
    delta: torch.Tensor
    losses: torch.Tensor


def optimise_values(model, tok, facts, layer, hyper, batch_size=32, progress=None):
    """Values for `facts` at `layer`. hyper: a medit_teach.hyper.Hyper (its fields name the terms).

    batch_size: facts optimised together; each keeps its own early stop and clamp, so the result
    does not depend on it (beyond rounding). progress: called with the number of facts done.
    MeditError names the fact whose loss is not finite.
    """
    facts = as_facts(facts)
    site = (hyper.site, layer)
    start = at_subject(model, tok, facts, [site], hyper.contexts, hyper.start_average)[site]
    parts = []
    with evaluating(model):
        for i in range(0, len(facts), batch_size):
            chunk = facts[i : i + batch_size]
            v0 = start[:, i : i + batch_size].T.float()  # (E, d_out)
            try:
                parts.append(_optimise(View(model), tok, chunk, layer, v0, hyper))
            except _NotFinite as error:
                fact = chunk[error.index]
                raise MeditError(
                    f"the loss for {fact.text!r} -> {fact.target_new!r} is not finite; "
                    "the model has NaN weights, or float16 overflowed: load it in float32"
                ) from None
            if progress:
                progress(len(chunk))
    delta = torch.cat([d for d, _ in parts]).T.double()
    return Values(start + delta, start, delta, torch.cat([losses for _, losses in parts]))


class _NotFinite(Exception):
    def __init__(self, index):
        self.index = index


def _optimise(view, tok, facts, layer, v0, hyper):
    """delta (E, d_out) and losses (E, steps, 3) for one chunk of facts."""
    batch = _rows(tok, facts, hyper)
    hidden, later = _cached(view, tok, batch["ids"], layer)
    device, E = hidden.device, len(facts)
    fact_of, position = batch["fact"].to(device), batch["position"].to(device)
    row, col, label = (batch[k].to(device) for k in ("row", "col", "label"))
    weight, target_fact = batch["weight"].to(device), fact_of[row]
    kl_row, kl_col = batch["kl_row"].to(device), batch["kl_col"].to(device)
    rows, cols = torch.cat([row, kl_row]), torch.cat([col, kl_col])
    v0 = v0.to(device)
    size = v0.norm(dim=1)
    delta = torch.zeros_like(v0, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=hyper.lr)
    active = torch.ones(E, dtype=torch.bool, device=device)
    losses = torch.full((E, hyper.steps, 3), float("nan"))
    log_p0 = None

    for step in range(hyper.steps):
        h = hidden.index_put(
            (torch.arange(len(hidden), device=device), position),
            delta[fact_of].to(hidden.dtype),
            accumulate=True,
        )
        for block, args, kwargs in later:
            h = first(block(h, *args, **kwargs))
        log_p = torch.log_softmax(view.logits(h[rows, cols]).float(), -1)
        said, at_subject_ = log_p[: len(row)], log_p[len(row) :]
        nll = -said.gather(1, label[:, None])[:, 0] * weight
        nll = torch.zeros(E, device=device).index_add(0, target_fact, nll)
        log_p0 = at_subject_.detach() if log_p0 is None else log_p0
        kl = hyper.kl_factor * (at_subject_.exp() * (at_subject_ - log_p0)).sum(1)
        norm = delta.norm(dim=1)
        decay = norm / size**2 if hyper.decay == "original" else (norm / size) ** 2
        decay = hyper.weight_decay * decay
        total = nll + kl + decay
        bad = ~torch.isfinite(total) & active
        if bad.any():
            raise _NotFinite(int(bad.nonzero()[0]))
        terms = torch.stack([nll, kl, decay], 1).detach().cpu()
        losses[active.cpu(), step] = terms[active.cpu()]
        active = active & (total.detach() >= hyper.early_stop)
        if step == hyper.steps - 1 or not active.any():
            break
        before = delta.detach().clone()
        (delta.grad,) = torch.autograd.grad(total[active].sum(), delta)
        adam.step()
        with torch.no_grad():
            delta[~active] = before[~active]
            too_long = delta.norm(dim=1) / (hyper.clamp * size)
            delta /= too_long.clamp(min=1)[:, None]
    return delta.detach(), losses


def _rows(tok, facts, hyper):
    """All sequences of a chunk: each fact in its contexts with the target, then the KL sentence."""
    out = {k: [] for k in ("ids", "fact", "position", "row", "col", "label", "weight")}
    out |= {"kl_row": [], "kl_col": []}
    for e, fact in enumerate(facts):
        for context in hyper.contexts:
            _, position = subject_last(tok, fact, context)
            ids, start = with_target(tok, context + fact.text, fact.target_new)
            n = len(ids) - start
            out["row"] += [len(out["ids"])] * n
            out["col"] += range(start - 1, len(ids) - 1)
            out["label"] += ids[start:]
            out["weight"] += [1 / (n * len(hyper.contexts))] * n
            out["ids"].append(ids[:-1])
            out["fact"].append(e)
            out["position"].append(position)
        ids, offsets = encode(tok, f"{fact.subject} is a")
        position = last_token(offsets, 0, len(fact.subject))
        out["kl_row"].append(len(out["ids"]))
        out["kl_col"].append(position if hyper.kl_position == "subject" else len(ids) - 1)
        out["ids"].append(ids)
        out["fact"].append(e)
        out["position"].append(position)
    return {k: v if k == "ids" else torch.tensor(v) for k, v in out.items()}


def _cached(view, tok, ids, layer):
    """Block outputs at `layer`, and the later blocks with the other arguments of their calls."""
    later = range(layer + 1, view.n_layers)
    modules = {layer: view.block(layer)} | {i: view.block(i) for i in later}
    with torch.no_grad(), watch(modules, stop=True) as seen:
        view.model(**pad(ids, tok, view.device), use_cache=False)
    calls = []
    for i in later:
        kwargs = {k: v for k, v in seen[i].kwargs.items() if k != "hidden_states"}
        calls.append((view.block(i), seen[i].args[1:], kwargs))
    return seen[layer].output, calls


def check_site(site):
    """HyperError unless site is "value" (MLP output) or "block" (block output)."""
    if site not in ("value", "block"):
        raise HyperError(
            f"site must be 'value' (MLP output) or 'block' (block output), not {site!r}"
        )
