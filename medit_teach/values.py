"""Target values by optimisation: the vector that, at the subject's last token, says the object.

For each fact the vector delta is found that, added at the subject's last token, minimises

    mean over contexts, mean over target tokens of -log P(target token)          (say the object)
    + kl_factor * KL(P_delta || P_0) at the subject in "{subject} is a"   (stay what it is)
    + weight_decay * ||delta|| / ||v0||^2                                        (stay small)

with ||delta|| <= clamp ||v0|| after each Adam step. The target is v* = v0 + delta (ROME paper,
eq. 4; its KL has the edited model first, as here and in its code).
The target lives on the MLP output (site "value", ROME) or on the block output (site "block",
MEMIT's z). Both are added to the residual stream after the block, so one optimisation serves both;
they differ in v0. What cannot change is computed once: all layers up to the edited one, and the
attention keys and values of the tokens before the subject's last one, which cannot see delta. The
head is run only where a probability is needed.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import torch

from .errors import HyperError, MeditError
from .fact import as_facts, encode, fact_tokens, last_token, pad, subject_last
from .hooks import by_row, evaluating, first, watch
from .kept import Damaged, load, reason, save, set_aside, warn, warn_unwritten, write_whole
from .keys import at_subject
from .memory import Room
from .models import View, fingerprint, why_not_finite
from .processes import ALONE
from .running import exact, home

BATCH = 32  # facts optimised together


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


def optimise_values(model, tok, facts, layer, hyper, batch_size=BATCH, progress=None):
    """Values for `facts` at `layer`. hyper: a medit_teach.hyper.Hyper (its fields name the terms).

    batch_size: facts optimised together; each keeps its own early stop and clamp, so the result
    does not depend on it (beyond rounding); it is halved if memory runs out (medit_teach.memory).
    Facts with as many tokens after the subject go together: nothing is spent on padding.
    progress: called with the number of facts done.
    MeditError names the fact whose loss is not finite, and says whether float16 overflowed.
    """
    facts = as_facts(facts)
    site = (hyper.site, layer)
    View(model).as_value(*site, torch.zeros(0))  # such a target can be written, or an error
    start = at_subject(model, tok, facts, [site], hyper.contexts, hyper.start_average)[site]
    parts, room, done = [], Room(batch_size, "batch_size"), 0
    order = sorted(range(len(facts)), key=lambda e: _tail(tok, facts[e]))
    with evaluating(model):
        while done < len(facts):
            with room:
                chunk = sorted(order[done : done + room.size])
                v0 = start[:, chunk].T.float()  # (E, d_out)
                try:
                    found = _optimise(View(model), tok, [facts[e] for e in chunk], layer, v0, hyper)
                    parts += zip(chunk, *found, strict=True)
                except _NotFinite as error:
                    fact = facts[chunk[error.index]]
                    raise MeditError(
                        f"the loss for {fact.text!r} -> {fact.target_new!r} is not finite: "
                        f"{why_not_finite(model)}"
                    ) from None
                done += len(chunk)
                if progress:
                    progress(len(chunk))
    _, deltas, losses = zip(*sorted(parts, key=lambda part: part[0]), strict=True)
    delta = exact(torch.stack(deltas, 1))
    return Values(start + delta, start, delta, torch.stack(losses))


class Targets:
    """The targets of facts on the model as it is now, optimised once and then remembered.

    targets(facts, hyper) is (d_out, E) float64, to be used by every method, lam and batch size:
    they depend on the fact and on the fields of `hyper` named in OPTIMISATION alone. folder: they
    are kept there too, chunk by chunk, so that work that was killed goes on where it stopped.
    """

    OPTIMISATION = (
        "site", "contexts", "start_average", "steps", "lr", "weight_decay", "decay", "kl_factor",
        "kl_position", "clamp", "early_stop",
    )  # fmt: skip
    CHUNK = 4  # facts optimised together, and kept in one file

    def __init__(self, model, tok, folder=None, chunk=CHUNK):
        self.chunk = chunk
        self.model, self.tok, self.weights = model, tok, fingerprint(model)
        self.folder = Path(folder) if folder else None
        self._writes = True  # until the folder refuses
        self._known = {}  # kind: {what identifies a fact: its target (d_out,)}

    def kind(self, hyper):
        """What tells targets apart that are not the same (hex)."""
        told = [self.weights, hyper.layers[-1], *(getattr(hyper, x) for x in self.OPTIMISATION)]
        return hashlib.blake2b(json.dumps(told).encode(), digest_size=8).hexdigest()

    def __call__(self, facts, hyper, progress=None, processes=ALONE):
        """(d_out, E) float64. progress: called with the number of facts optimised. processes: each
        optimises, and keeps, its share of the chunks; all have all targets in the end."""
        facts = as_facts(facts)
        kind, missing = self.kind(hyper), self.missing(facts, hyper)
        known = self._known[kind]
        lacking = {name for names in processes.gathered(self._names(missing)) for name in names}
        missing = [f for f in dict.fromkeys(facts) if self._name(f) in lacking]
        missing.sort(key=lambda f: _tail(self.tok, f))  # chunks of one length: no padding
        if missing and fingerprint(self.model) != self.weights:
            raise MeditError("targets belong to the unedited model; undo the edits first")
        mine = []
        chunks = [missing[i : i + self.chunk] for i in range(0, len(missing), self.chunk)]
        for chunk in processes.share(chunks):
            found = optimise_values(self.model, self.tok, chunk, hyper.layers[-1], hyper).target
            known.update(zip(self._names(chunk), found.T, strict=True))
            mine.append((self._names(chunk), found.T.cpu()))
            if self.folder:
                self._save(kind, *mine[-1])
            if progress:
                progress(len(chunk))
        for names, rows in chain.from_iterable(processes.gathered(mine)):
            known.update(zip(names, rows.to(home(self.model.device)), strict=True))
        return torch.stack([known[self._name(f)] for f in facts], 1)

    def missing(self, facts, hyper):
        """Those of `facts` whose targets are not known, each once."""
        kind = self.kind(hyper)
        if kind not in self._known:
            self._known[kind] = self._load(kind, hyper.layers[-1])
        known = self._known[kind]
        return [f for f in dict.fromkeys(facts) if self._name(f) not in known]

    @staticmethod
    def _name(fact):
        own = [] if fact.join is None else [fact.join]
        return json.dumps([fact.prompt, fact.subject, fact.target_new, *own])

    def _names(self, facts):
        return [self._name(f) for f in facts]

    def _save(self, kind, names, rows):
        """Keep the targets `rows` (facts, d_out); that it cannot be done is told once."""
        named = {"facts": json.dumps(names), "kind": kind}
        mark = hashlib.blake2b(named["facts"].encode(), digest_size=8).hexdigest()
        write = partial(save, tensors={"target": rows}, about=named)
        try:
            if self._writes:
                write_whole(self.folder / f"{kind}-{mark}.safetensors", write)
        except OSError as error:
            self._writes = False
            warn_unwritten(self.folder, error)

    def _load(self, kind, layer):
        """{what identifies a fact: its target} of all files of this kind. A damaged one is set
        aside, and one that cannot be read stays: both only cost the time to optimise again."""
        known, d_out = {}, len(View(self.model).weight(layer))
        there = self.folder and os.path.isdir(self.folder)
        for path in sorted(self.folder.glob(f"{kind}-*.safetensors")) if there else ():
            try:
                tensors, about = load(path)
                names, rows = json.loads(about.get("facts", "[]")), tensors.get("target")
                fits = rows is not None and rows.shape == (len(names), d_out)
                if about.get("kind") != kind or not fits or rows.dtype != torch.float64:
                    raise Damaged("it holds other targets")
                if not torch.isfinite(rows).all():
                    raise Damaged("its targets are not finite")
                known.update(zip(names, rows.to(home(self.model.device)), strict=True))
            except Damaged as error:
                set_aside(path, error)
            except OSError as error:
                self._writes = False  # what cannot be read is not written over either
                warn(f"cannot read {path}: {reason(error)}; its targets are made anew")
        return known


class _NotFinite(Exception):
    def __init__(self, index):
        self.index = index


def _optimise(view, tok, facts, layer, v0, hyper):
    """delta (E, d_out) and losses (E, steps, 3) for one chunk of facts."""
    batch = _rows(tok, facts, hyper)
    with torch.no_grad():
        hidden, value, later = _restart(view, tok, batch["ids"], batch["position"], layer)
    device, E = hidden.device, len(facts)
    batch = {k: v if k in ("ids", "position") else v.to(device) for k, v in batch.items()}
    row, label, weight = batch["row"], batch["label"], batch["weight"]
    fact_of, target_fact = batch["fact"], batch["fact"][row]
    rows = torch.cat([row, batch["kl_row"]])
    cols = torch.cat([batch["col"], batch["kl_col"]])
    v0 = v0.to(device)
    size = v0.norm(dim=1)
    delta = torch.zeros_like(v0, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=hyper.lr)
    active = torch.ones(E, dtype=torch.bool, device=device)
    losses = torch.full((E, hyper.steps, 3), float("nan"))
    log_p0 = None

    for step in range(hyper.steps):
        moved = delta[fact_of, None].to(hidden.dtype)
        if hyper.site == "value":
            moved = view.arrives(layer, value, moved)
        h = torch.cat([hidden[:, :1] + moved, hidden[:, 1:]], 1)
        for block, args, kwargs in later:
            h = first(block(h, *args, **kwargs))
        read = h[rows.to(h.device), cols.to(h.device)]  # the last blocks may lie elsewhere
        log_p = torch.log_softmax(view.logits(read).float(), -1).to(device)
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


def _tail(tok, fact):
    """Number of tokens from the subject's last one on, the target's with them."""
    ids, _ = fact_tokens(tok, fact)
    return len(ids) - subject_last(tok, fact)[1]


def _rows(tok, facts, hyper):
    """All sequences of a chunk: each fact in its contexts with the target, then the KL sentence.

    ids: token ids of each row; position: where its subject's last token is; fact: whose it is. At
    row `row`, `col` tokens after `position`, the token `label` is wanted, with `weight`; the KL is
    taken at (kl_row, kl_col).
    """
    out = {k: [] for k in ("ids", "fact", "position", "row", "col", "label", "weight")}
    out |= {"kl_row": [], "kl_col": []}
    for e, fact in enumerate(facts):
        for context in hyper.contexts:
            _, position = subject_last(tok, fact, context)
            ids, start = fact_tokens(tok, fact, context)
            n = len(ids) - start
            out["row"] += [len(out["ids"])] * n
            out["col"] += range(start - 1 - position, len(ids) - 1 - position)
            out["label"] += ids[start:]
            out["weight"] += [1 / (n * len(hyper.contexts))] * n
            out["ids"].append(ids[:-1])
            out["fact"].append(e)
            out["position"].append(position)
        ids, offsets = encode(tok, f"{fact.subject} is a")
        position = last_token(offsets, 0, len(fact.subject))
        last = position if hyper.kl_position == "subject" else len(ids) - 1
        out["kl_row"].append(len(out["ids"]))
        out["kl_col"].append(last - position)
        out["ids"].append(ids[: last + 1])
        out["fact"].append(e)
        out["position"].append(position)
    return {k: v if k == "ids" else torch.tensor(v) for k, v in out.items()}


def _restart(view, tok, ids, position, layer):
    """Outputs of block `layer` from each row's `position` on, and the later blocks' calls there.

    Returns hidden (rows, tokens, d), its column 0 being the subject's last token, the output of the
    down-projection there (rows, 1, d), and a list of (block, args, kwargs) with which each later
    block gives what it gives in the whole model.
    """
    device, position = view.device, position.to(view.device)
    whole = view.cache()
    view.run(view.batch(ids, tok), whole)
    # what lies before `position`, moved to the right, so that all rows go on at the same column
    longest = int(position.max())
    column = torch.arange(longest, device=device) - (longest - position)[:, None]  # (rows, longest)
    past = []
    for kept in whole.layers:
        index = column.clamp(min=0)[:, None, :, None].to(kept.keys.device)
        past.append(tuple(
            torch.take_along_dim(x, index.expand(-1, x.shape[1], -1, x.shape[3]), 2)
            for x in (kept.keys, kept.values)
        ))  # fmt: skip
    tails = [row[p:] for row, p in zip(ids, position.tolist(), strict=True)]
    batch = pad(tails, tok, device)
    batch["attention_mask"] = torch.cat([(column >= 0).long(), batch["attention_mask"]], 1)
    step = torch.arange(batch["input_ids"].shape[1], device=device)
    batch["position_ids"] = (position[:, None] + step).clamp(max=max(map(len, ids)) - 1)
    modules = {i: view.block(i) for i in range(layer, view.n_layers)}
    modules["down"] = view.down(layer)
    with watch(modules) as seen:
        view.run(batch, view.cache(past))
    fixed = view.fixed(past)
    calls = []
    for i in range(layer + 1, view.n_layers):
        kwargs = {k: fixed(v) for k, v in seen[i].kwargs.items() if k != "hidden_states"}
        calls.append((view.block(i), [fixed(x) for x in seen[i].args[1:]], kwargs))
    return seen[layer].output, by_row(seen["down"].output, len(ids))[:, :1], calls


def check_site(site):
    """HyperError unless site is "value" (MLP output) or "block" (block output)."""
    if site not in ("value", "block"):
        raise HyperError(
            f"site must be 'value' (MLP output) or 'block' (block output), not {site!r}"
        )
