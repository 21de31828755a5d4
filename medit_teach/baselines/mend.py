"""MEND: a small network, trained beforehand, that turns a fine-tuning gradient into an edit.

    mt.edit(model, tok, facts, method="mend")          # with the editor that ships for this model
    python -m medit_teach.baselines.mend train         # trains that editor again (resumes)

For one text the gradient of the loss in W is a sum over tokens t of rank-one matrices,

    dL/dW = sum_t delta_t u_t^T,   u_t (d_in,) the input of W, delta_t = dL/d(output of W) (d_out,).

The editor maps every pair, normalised and joined to z = [u; delta], to a new pair:

    h = z + relu(s1 * (U1 V1 z + b1) + o1),   [u~; delta~] = h + s2 * (U2 V2 h + b2) + o2,
    W <- W - alpha sum_t delta~_t u~_t^T.

U, V, b are shared by the layers; s, o and alpha belong to one. It is trained through the edited
model: say the new object, in other words too, and leave the answers about others as they were.
Source: Mitchell et al. 2022, arXiv:2110.11309: rank-one gradient sec. 3.1, editor eq. 3a, 3b, loss
eq. 4a, 4b. Different here: only MLP down-projections; the second layer of the editor has no relu,
as in the authors' code; normalisation is fixed after a first look at 64 edits; log alpha is
trained; loss and locality by the built-in world.
"""

import argparse
import json
import math
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from .. import datasets, metrics
from ..errors import HyperError, MeditError, ModelError
from ..facts import as_facts, pad, with_target
from ..hooks import evaluating, first
from ..hyper import Hyper
from ..models import View, card, fingerprint, load

DATA = Path(__file__).parent.parent / "data"
HELD_OUT = 1000  # mt.facts("world", n=1000, seed=0): their subjects are never trained on
COMMAND = "python -m medit_teach.baselines.mend train"


class Editor(nn.Module):
    """g(u, delta) for matrices (d_out, d_in) of some layers; starts as the identity."""

    def __init__(self, layers, d_in, d_out, rank=64, alpha=1e-3, seed=0):
        super().__init__()
        self.layers, self.d_in, self.d_out, self.rank = tuple(layers), d_in, d_out, rank
        d, n = d_in + d_out, len(self.layers)
        generator = torch.Generator().manual_seed(seed)
        for i in "12":
            V = torch.randn(rank, d, generator=generator) / d**0.5
            setattr(self, f"V{i}", nn.Parameter(V))
            setattr(self, f"U{i}", nn.Parameter(torch.zeros(d, rank)))
            setattr(self, f"b{i}", nn.Parameter(torch.zeros(d)))
            setattr(self, f"s{i}", nn.Parameter(torch.ones(n, d)))
            setattr(self, f"o{i}", nn.Parameter(torch.zeros(n, d)))
        self.log_alpha = nn.Parameter(torch.full((n,), math.log(alpha)))
        self.register_buffer("mean", torch.zeros(n, d))
        self.register_buffer("std", torch.ones(n, d))

    def forward(self, layer, u, delta):
        """u (..., d_in), delta (..., d_out) of `layer` -> (u~, alpha delta~), same shapes."""
        i = self.layers.index(layer)
        z = (torch.cat([u, delta], -1) - self.mean[i]) / self.std[i]
        a = self.s1[i] * (z @ self.V1.T @ self.U1.T + self.b1) + self.o1[i]
        h = z + a.clamp(min=0)  # its derivative at 0 is 1: a network of zeros can learn
        g = h + self.s2[i] * (h @ self.V2.T @ self.U2.T + self.b2) + self.o2[i]
        return g[..., : self.d_in], self.log_alpha[i].exp() * g[..., self.d_in :]

    def normalise(self, pairs):
        """Set mean and std from pairs {layer: (u (n, d_in), delta (n, d_out))}."""
        for i, layer in enumerate(self.layers):
            z = torch.cat(pairs[layer], -1)
            self.mean[i], self.std[i] = z.mean(0), z.std(0).clamp(min=1e-8)

    def save(self, path, **about):
        """One safetensors file, float32; `about` (strings) and the shape go into its header."""
        about |= {"layers": json.dumps(self.layers), "rank": str(self.rank)}
        about |= {"d_in": str(self.d_in), "d_out": str(self.d_out)}
        tensors = {k: v.contiguous() for k, v in self.state_dict().items()}
        save_file(tensors, str(path), metadata=about)

    @classmethod
    def load(cls, path):
        """(Editor, about) of a file written by `save`; MeditError if there is none."""
        try:
            with safe_open(str(path), "pt") as f:
                about = f.metadata()
            editor = cls(
                json.loads(about["layers"]), *(int(about[k]) for k in ("d_in", "d_out", "rank"))
            )
            editor.load_state_dict(load_file(str(path)))
        except Exception as error:  # missing, not safetensors, or another one's
            raise MeditError(f"{path} holds no trained MEND editor: {error}") from error
        return editor.requires_grad_(False), about


def shipped(model):
    """The file with the editor of an embedded model, or None."""
    path = DATA / f"mend-{card(model).get('name')}.safetensors"
    return path if path.is_file() else None


# ------------------------------------------------------------------ gradients as pairs


@contextmanager
def adding(view, layers, change):
    """Inside, down(layer) of every layer gives output + change(layer, input)."""

    def hook(layer):
        return lambda module, args, output: first(output) + change(layer, args[0])

    handles = [view.down(layer).register_forward_hook(hook(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def nll(view, tok, rows):
    """(rows,): for each (ids, start) the mean of -log P over its target tokens ids[start:]."""
    batch = pad([ids[:-1] for ids, _ in rows], tok, view.device)
    hidden = view.model.base_model(**batch, use_cache=False).last_hidden_state
    row = [i for i, (ids, start) in enumerate(rows) for _ in ids[start:]]
    col = [c for ids, start in rows for c in range(start - 1, len(ids) - 1)]
    label = torch.tensor([t for ids, start in rows for t in ids[start:]], device=hidden.device)
    logits = view.model.get_output_embeddings()(hidden[row, col]).float()
    loss = nn.functional.cross_entropy(logits, label, reduction="none")
    share = torch.tensor([1 / (len(ids) - s) for ids, s in rows for _ in ids[s:]]).to(loss)
    where = torch.tensor(row, device=loss.device)
    return torch.zeros(len(rows)).to(loss).index_add(0, where, loss * share)


def pairs(view, tok, facts, layers):
    """The factors of the gradient of each fact's own loss -log P(target_new | prompt).

    Returns {layer: (u (E, T, d_in), delta (E, T, d_out))} and mask (E, T), False on padding, so
    that sum_t delta[e, t] u[e, t]^T is the gradient of fact e's loss in W. Paper, sec. 3.1.
    """
    rows = [with_target(tok, fact.text, fact.target_new) for fact in facts]
    mask = pad([ids[:-1] for ids, _ in rows], tok, view.device)["attention_mask"].bool()
    u, zero = {}, {}

    def look(layer, x):
        x = x.view(*mask.shape, -1)
        u[layer] = x.detach()
        zero[layer] = x.new_zeros(*mask.shape, len(view.weight(layer)), requires_grad=True)
        return zero[layer].view(*x.shape[:-1], -1)

    with torch.enable_grad(), adding(view, layers, look):
        loss = nll(view, tok, rows).sum()
        delta = torch.autograd.grad(loss, [zero[layer] for layer in layers])
    return {layer: (u[layer], d) for layer, d in zip(layers, delta, strict=True)}, mask


# ------------------------------------------------------------------ editing


@dataclass(frozen=True)
class MEND(Hyper):
    """Nothing is tuned at the time of the edit: all of it was learned before. No shared field
    counts here but `layers`, which are the editor's."""

    editor: str | None = None
    """A file of a trained editor; None: the one that ships for this model."""

    needs = None
    trained = True
    shared = False

    def settle(self, model):
        editor = Editor.load(self._path(model))[0]
        if self.layers and tuple(self.layers) != editor.layers:
            raise HyperError(f"this editor was trained for layers {list(editor.layers)}")
        return replace(self, layers=editor.layers)

    def _path(self, model):
        path = self.editor or shipped(model)
        if path is None:
            raise HyperError(
                f"MEND needs an editor trained for this very model, and none ships for it; train "
                f"one: {COMMAND} --model NAME --out FILE, then editor=FILE"
            )
        return path

    def train(self, view, tok, facts, batch_size=50):
        """({layer: (left, right)} float64 with Delta = left right^T, what to report)."""
        editor, about = Editor.load(self._path(view.model))
        first_weights = view.weight(self.layers[0])
        if first_weights.shape != (editor.d_out, editor.d_in):
            raise ModelError(
                f"this editor is for matrices of {editor.d_out} x {editor.d_in}, the model's have "
                f"{tuple(first_weights.shape)}"
            )
        known = {fingerprint(view.model)} | {
            e.before for e in getattr(view.model, "_medit_edits", [])
        }
        report = {"trained_for_these_weights": about.get("weights") in known}
        parts = {layer: ([], []) for layer in editor.layers}
        with evaluating(view.model):
            for i in range(0, len(facts), batch_size):
                found, mask = pairs(view, tok, facts[i : i + batch_size], editor.layers)
                for layer, (u, delta) in found.items():
                    u, delta = editor(layer, u[mask].float(), delta[mask].float())
                    parts[layer][0].append(-delta.T.double())
                    parts[layer][1].append(u.T.double())
        out = {}
        for layer, (left, right) in parts.items():
            left, right = torch.cat(left, 1), torch.cat(right, 1)
            if left.shape[1] > len(left):  # more tokens than dimensions: the product is shorter
                left, right = torch.eye(len(left)).to(left), right @ left.T
            out[layer] = (left, right)
        return out, report


# ------------------------------------------------------------------ training


def training_facts(model):
    """Records of the model's world whose subjects are not among the HELD_OUT facts."""
    held_out = {f.subject for f in datasets.facts("world", n=HELD_OUT, seed=0, model=model)}
    every = datasets.facts("world", distinct_subjects=False, model=model)
    return [f for f in every if f.subject not in held_out]


def step_loss(view, tok, editor, facts, everyone, rng, c_edit):
    """(loss, edit loss, locality loss): eq. 4a, 4b for single edits of `facts`, side by side.

    Every fact has its own edited model: its rows alone see its change.
    """
    found, mask = pairs(view, tok, facts, editor.layers)
    new = {layer: editor(layer, *pair) for layer, pair in found.items()}
    new = {layer: (u * mask[..., None], d * mask[..., None]) for layer, (u, d) in new.items()}
    said, kept = [], []
    for e, f in enumerate(facts):
        for question in (f.text, rng.choice(f.paraphrases)):
            said.append((e, with_target(tok, question, f.target_new)))
        other = rng.choice(everyone)
        near = rng.choice(f.neighborhood) if f.neighborhood else f.text
        questions = [(near, f.target_true)]
        if other.subject != f.subject:
            questions.append((other.text, other.target_true))
        kept += [(e, with_target(tok, q, a)) for q, a in questions]
    rows = [row for _, row in said + kept]
    of = torch.tensor([e for e, _ in said + kept])

    def edited(layer, x):
        u, d = (part[of] for part in new[layer])
        return -(x @ u.transpose(1, 2)) @ d

    def logits(rows):
        batch = pad([ids[:-1] for ids, _ in rows], tok, view.device)
        hidden = view.model.base_model(**batch, use_cache=False).last_hidden_state
        return view.model.get_output_embeddings()(hidden).float(), batch["attention_mask"].bool()

    with torch.no_grad():
        before, real = logits([row for _, row in kept])
        before = before[real].log_softmax(-1)
    with adding(view, editor.layers, edited):
        after, real = logits(rows)
    n = len(said)
    row = [i for i, (ids, s) in enumerate(rows[:n]) for _ in ids[s:]]
    col = [c for ids, s in rows[:n] for c in range(s - 1, len(ids) - 1)]
    label = torch.tensor([t for ids, s in rows[:n] for t in ids[s:]])
    share = torch.tensor([1 / (len(ids) - s) / n for ids, s in rows[:n] for _ in ids[s:]])
    nlls = nn.functional.cross_entropy(after[row, col], label, reduction="none")
    edit = (nlls * share).sum()
    after = after[n:][real[n:]].log_softmax(-1)
    local = (before.exp() * (before - after)).sum(-1).mean()
    return c_edit * edit + local, float(edit.detach()), float(local.detach())


def train(
    model, tok, out, layers, steps=600, batch=8, rank=64, lr=1e-3, alpha=1e-3, c_edit=0.1, seed=0,
    show=print,
):  # fmt: skip
    """Train an editor for `model` and save it to `out`. Killed and called again, it goes on.

    The draws of a step depend on (seed, step) only, so a resumed run ends as an unbroken one.
    """
    out, view = Path(out), View(model)
    progress = out.with_suffix(".progress")
    facts = training_facts(model)
    editor = Editor(layers, *reversed(view.weight(layers[0]).shape), rank, alpha, seed)
    settings = [list(layers), steps, batch, rank, lr, alpha, c_edit, seed, fingerprint(model)]
    slow = [editor.log_alpha]
    fast = [p for p in editor.parameters() if p is not editor.log_alpha]
    adam = torch.optim.Adam([{"params": fast, "lr": lr}, {"params": slow, "lr": 10 * lr}])
    start, seconds, losses = 0, 0.0, []
    with evaluating(model):
        if progress.is_file():
            state = torch.load(progress, weights_only=True)
            if state["settings"] != settings:
                raise MeditError(f"{progress} belongs to a training with other settings; remove it")
            editor.load_state_dict(state["editor"])
            adam.load_state_dict(state["adam"])
            start, seconds, losses = state["step"], state["seconds"], state["losses"]
            show(f"going on after step {start}")
        else:
            look, mask = pairs(view, tok, Random(f"{seed}/look").sample(facts, 64), layers)
            editor.normalise({k: (u[mask], d[mask]) for k, (u, d) in look.items()})
        began = time.process_time()
        for step in range(start, steps):
            rng = Random(f"{seed}/{step}")
            for group in adam.param_groups:  # linear decay over the last half
                group["lr"] = (lr if group["params"][0] is not slow[0] else 10 * lr) * min(
                    1.0, 2 * (1 - step / steps)
                )
            chosen = rng.sample(facts, batch)
            loss, edit, local = step_loss(view, tok, editor, chosen, facts, rng, c_edit)
            adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(editor.parameters(), 1.0)
            adam.step()
            losses.append([edit, local])
            if (step + 1) % 25 == 0 or step + 1 == steps:
                recent = torch.tensor(losses[-25:]).mean(0).tolist()
                used = seconds + time.process_time() - began
                show(
                    f"step {step + 1} of {steps}: edit {recent[0]:.3f}, locality {recent[1]:.4f}, "
                    f"{used:.0f} CPU seconds"
                )
                state = {"settings": settings, "editor": editor.state_dict(), "losses": losses}
                state |= {"adam": adam.state_dict(), "step": step + 1, "seconds": used}
                part = progress.with_suffix(".part")
                torch.save(state, part)
                os.replace(part, progress)
    seconds += time.process_time() - began
    about = {"weights": fingerprint(model), "model": str(card(model).get("name"))}
    names = ("layers", "steps", "batch", "rank", "lr", "alpha", "c_edit", "seed", "weights")
    about["training"] = json.dumps(dict(zip(names, settings, strict=True)))
    about["cpu_seconds"] = f"{seconds:.0f}"
    editor.save(out, **about)
    progress.unlink(missing_ok=True)
    return editor


def evaluate(model, tok, editor, facts):
    """(ES, PS, NS) of single edits of `facts`, one after another, each undone."""
    from ..edit import edit

    scores = []
    for fact in as_facts(facts):
        with edit(model, tok, [fact], "mend", editor=str(editor)):
            found = metrics.score(model, tok, [fact], resamples=1)
            scores.append([found.ES, found.PS, found.NS])
    return torch.tensor([[float("nan") if x is None else x for x in s] for s in scores]).nanmean(0)


def main(arguments=None):
    """The command line: train an editor, or say how good it is on facts that it never saw."""
    parser = argparse.ArgumentParser(prog=COMMAND.rsplit(" ", 1)[0])
    parser.add_argument("do", choices=("train", "evaluate"))
    parser.add_argument("--model", default="tiny-gptj")
    parser.add_argument("--out", type=Path, help="the editor's file (default: the shipped one's)")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, tok = load(a.model)
    out = a.out or DATA / f"mend-{card(model).get('name', 'model')}.safetensors"
    if a.do == "train":
        train(model, tok, out, a.layers, a.steps, seed=a.seed)
    facts = datasets.facts("world", n=50, seed=0, model=model)
    found = evaluate(model, tok, out, facts)
    print("50 single edits of facts that were held out:", end=" ")
    print(", ".join(f"{k} {v:.1f}" for k, v in zip(("ES", "PS", "NS"), found, strict=True)))


if __name__ == "__main__":
    main()
