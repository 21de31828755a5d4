"""MEND: a small network, trained beforehand, that turns a fine-tuning gradient into an edit.

    mt.edit(model, tok, facts, method="mend")          # with the editor that ships for this model
    python -m medit_teach.methods.train_mend         # trains that editor again

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

import json
import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from .. import kept
from ..errors import HyperError, MeditError, ModelError
from ..fact import fact_tokens, pad
from ..guard import afterwards
from ..hooks import evaluating, first
from ..hyper import Hyper
from ..kept import write_whole
from ..models import card, fingerprint
from ..running import exact

DATA = Path(__file__).parent
COMMAND = "python -m medit_teach.methods.train_mend"


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
        """One safetensors file, float32; `about` (strings) and the shape go into its header.
        MeditError where it cannot be written."""
        about |= {"layers": json.dumps(self.layers), "rank": str(self.rank)}
        about |= {"d_in": str(self.d_in), "d_out": str(self.d_out)}
        with kept.named(path):
            write_whole(path, partial(kept.save, tensors=self.state_dict(), about=about))

    @classmethod
    def load(cls, path):
        """(Editor, about) of a file written by `save`; MeditError if there is none."""
        try:
            tensors, about = kept.load(path, old=True)
            editor = cls(
                json.loads(about["layers"]), *(int(about[k]) for k in ("d_in", "d_out", "rank"))
            )
            editor.load_state_dict(tensors)
        except Exception as error:  # missing, not safetensors, damaged, or another one's
            raise MeditError(
                f"{path} holds no trained MEND editor: {kept.reason(error)}; train one: {COMMAND}"
            ) from error
        for name, x in tensors.items():
            if not x.is_floating_point() or not torch.isfinite(x).all():
                raise MeditError(f"{path}: {name} is not finite; train the editor again: {COMMAND}")
        return editor.requires_grad_(False), about


def shipped(model):
    """The file with the editor of an embedded model, or None."""
    path = DATA / file_name(model)
    return path if path.is_file() else None


def file_name(model):
    """What an editor for this model is called; MeditError if the model's own name is a path."""
    return f"mend-{kept.plain_name(card(model).get('name', 'model'), 'the model')}.safetensors"


# ------------------------------------------------------------------ gradients as pairs


@contextmanager
def adding(view, layers, change):
    """Inside, down(layer) of every layer gives output + change(layer, input)."""

    def hook(layer):
        return lambda module, args, output: first(output) + change(layer, args[0])

    handles = []

    def remove():
        for handle in handles:
            handle.remove()

    with afterwards(remove):
        for layer in layers:
            handles.append(view.down(layer).register_forward_hook(hook(layer)))
        yield


def nll(view, tok, rows):
    """(rows,): for each (ids, start) the mean of -log P over its target tokens ids[start:]."""
    hidden, _ = view.run(view.batch([ids[:-1] for ids, _ in rows], tok))
    row = [i for i, (ids, start) in enumerate(rows) for _ in ids[start:]]
    col = [c for ids, start in rows for c in range(start - 1, len(ids) - 1)]
    label = torch.tensor([t for ids, start in rows for t in ids[start:]], device=hidden.device)
    logits = view.head(hidden[row, col]).float()
    loss = nn.functional.cross_entropy(logits, label, reduction="none")
    share = torch.tensor([1 / (len(ids) - s) for ids, s in rows for _ in ids[s:]]).to(loss)
    where = torch.tensor(row, device=loss.device)
    return torch.zeros(len(rows)).to(loss).index_add(0, where, loss * share)


def pairs(view, tok, facts, layers):
    """The factors of the gradient of each fact's own loss -log P(target_new | prompt).

    Returns {layer: (u (E, T, d_in), delta (E, T, d_out))} and mask (E, T), False on padding, so
    that sum_t delta[e, t] u[e, t]^T is the gradient of fact e's loss in W. Paper, sec. 3.1.
    """
    rows = [fact_tokens(tok, fact) for fact in facts]
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
                    parts[layer][0].append(-exact(delta.T))
                    parts[layer][1].append(exact(u.T))
        out = {}
        for layer, (left, right) in parts.items():
            left, right = torch.cat(left, 1), torch.cat(right, 1)
            if left.shape[1] > len(left):  # more tokens than dimensions: the product is shorter
                left, right = torch.eye(len(left)).to(left), right @ left.T
            out[layer] = (left, right)
        return out, report
