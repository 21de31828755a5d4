"""GRACE: a codebook beside one layer, which answers for keys that it knows and else keeps quiet.

    with mt.edit(model, tok, facts, method="grace", layers=[5]) as e:    # no weight has changed
        print(len(e.codebook), e.codebook.radii)

The layer is an MLP down-projection v = W k + b. The codebook has entries (key k_i, value v_i,
deferral radius eps_i). For an input k with the nearest key i,

    v = v_i  if ||k - k_i|| <= eps_i,   else W k + b, to the bit.

A new edit with key k, at distance d of the nearest key: *add* an entry if d > eps_i + eps_init;
else, if the object is the same, *expand* (eps_i <- max(eps_i, d), no new entry); else *split*: add
an entry, and both radii become d/2. Values are found by gradient descent.
Source: Hartvigsen et al. 2023, arXiv:2211.11031, sec. 3 and algorithm 1. Different here: eps_init
is relative, radius * ||k||; every token is looked up, not only the prompt's last one; values are
optimised together, each without the other entries; `at` may put the key at the subject.
"""

import sys
from dataclasses import dataclass, replace

import torch

from ..edits import Edit, need
from ..errors import HyperError, MeditError
from ..hooks import first
from ..hyper import Hyper
from ..keys import at_subject
from ..running import text_config
from ..settings import setting
from ..values import optimise_values


class Codebook:
    """Entries in the order of the edits: keys (n, d_in), values (n, d_out), radii (n,), float32.

    owners (n,): the number of the fact whose value an entry holds.
    """

    def __init__(self, keys, radii, owners, values=None):
        self.keys, self.radii, self.owners, self.values = keys, radii, owners, values

    def __len__(self):
        return len(self.keys)

    @classmethod
    def build(cls, K, objects, radius):
        """Entries without values for keys K (E, d_in) of facts with these objects (algorithm 1)."""
        kept, eps = [], []  # numbers of the facts that own an entry, their radii
        for e, key in enumerate(K):
            start = radius * float(key.norm())
            distance = (K[kept] - key).norm(dim=1)
            near = int(distance.argmin()) if kept else None
            d = float(distance[near]) if kept else float("inf")
            if d > start + (eps[near] if kept else 0.0):
                kept.append(e), eps.append(start)
            elif objects[e] == objects[kept[near]]:
                eps[near] = max(eps[near], d)
            else:
                if d == 0:
                    raise MeditError(
                        f"facts {kept[near]} and {e} have the same key and different objects; "
                        "no radius can tell them apart"
                    )
                eps[near] = d / 2 * (1 - 1e-5)  # the border itself belongs to the new entry
                kept.append(e), eps.append(d / 2)
        return cls(K[kept].float(), torch.tensor(eps), torch.tensor(kept))

    def nearest(self, k):
        """(number of the nearest entry, is it within its radius) for keys k (..., d_in)."""
        distance, near = torch.cdist(k.float().reshape(-1, k.shape[-1]), self.keys).min(-1)
        inside = distance <= self.radii[near]
        return near.view(k.shape[:-1]), inside.view(k.shape[:-1])

    def __call__(self, k, v):
        """v (..., d_out) with the entries' values where a key of k (..., d_in) is within reach."""
        near, inside = self.nearest(k)
        return torch.where(inside[..., None], self.values[near].to(v.dtype), v)


class CodebookEdit(Edit):
    """While it is applied, its codebook stands behind the down-projection of one layer."""

    beside = True
    codebook = None
    _hook = None

    @property
    def layer(self):
        return self.hyper["layers"][0]

    def _check(self, view):
        shape = tuple(view.weight(self.layer).shape)
        own = (self.codebook.values.shape[1], self.codebook.keys.shape[1])
        if shape != own:
            raise MeditError(f"this codebook is for a layer of {own}, the model's is {shape}")

    def _attach(self, view):
        device = view.parameter(self.layer).device
        for name in ("keys", "radii", "values"):
            setattr(self.codebook, name, getattr(self.codebook, name).to(device))

        def look_up(module, args, output):
            return self.codebook(args[0], first(output))

        self._hook = view.down(self.layer).register_forward_hook(look_up)
        forget_compiled()

    def _detach(self):
        if self._hook is not None:
            self._hook.remove()
            forget_compiled()
        self._hook = None

    def _more(self):
        c = self.codebook
        tensors = {"keys": c.keys, "radii": c.radii, "owners": c.owners, "values": c.values}
        return {f"codebook.{name}": x.cpu().contiguous() for name, x in tensors.items()}

    def _take(self, tensors):
        names = ("keys", "radii", "owners", "values")
        keys, radii, owners, values = (tensors.pop(f"codebook.{name}") for name in names)
        n = len(keys)
        need("codebook.keys", keys, (n, None), torch.float32)
        need("codebook.radii", radii, (n,), torch.float32)
        need("codebook.owners", owners, (n,), torch.int64)
        need("codebook.values", values, (n, None), torch.float32)
        if not n or not isinstance(self.layer, int):
            raise MeditError("a codebook needs an entry, and the number of its layer")
        self.codebook = Codebook(keys, radii, owners, values)


def forget_compiled():
    """Let torch.compile compile anew: its code does not see a hook that comes or goes."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


@dataclass(frozen=True)
class GRACE(Hyper):
    """Of the shared fields layers (one), steps, lr, early_stop and clamp count here."""

    site: str = "value"
    contexts: tuple = ("",)
    steps: int = 100
    clamp: float = 50.0
    weight_decay: float = 0.0
    kl_factor: float = 0.0
    radius: float = setting(0.5, above=0)
    """First deferral radius of an entry, as a share of the norm of its key."""
    at: str = setting("end", choices=("end", "subject"))
    """Where the key is read: "end", the prompt's last token (the original), or "subject", the
    subject's last token."""

    needs = None
    beside = True
    shared = False

    def __post_init__(self):
        super().__post_init__()
        if len(self.layers) > 1:
            raise HyperError(f"GRACE has its codebook at one layer, got {list(self.layers)}")

    def settle(self, model):
        """One layer late in the model, where none is given."""
        late = (int(0.75 * text_config(model).num_hidden_layers),)
        return self if self.layers else replace(self, layers=late)

    def make(self, model, tok, facts, plain, progress):
        """A CodebookEdit, not applied yet."""
        read = [at_end(fact) for fact in facts] if self.at == "end" else facts
        site = ("key", self.layers[0])
        K = at_subject(model, tok, read, [site])[site].T.float()
        codebook = Codebook.build(K, [fact.target_new for fact in facts], self.radius)
        owned = [read[i] for i in codebook.owners.tolist()]
        found = optimise_values(model, tok, owned, self.layers[0], self)
        codebook.values = found.target.T.float().contiguous()
        edit = CodebookEdit(type(self).__name__, plain, facts, None)
        edit.codebook, edit.values = codebook, [found]
        edit.diagnostics = {self.layers[0]: {"entries": len(codebook)}}
        return edit


def at_end(fact):
    """The same question with its last word as "subject": keys and values are then read there."""
    word = fact.text.split()[-1]
    return replace(fact, prompt=fact.text[: -len(word)] + "{}", subject=word)
