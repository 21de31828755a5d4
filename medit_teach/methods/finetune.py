"""Fine-tuning of one matrix: free (FT), inside a box (FT-L), or with weight decay (FT-W).

    mt.edit(model, tok, facts, method="ft", layers=[3], lr=1e-3)               # FT
    mt.edit(model, tok, facts, method="ft", layers=[3], lr=1e-3, eps=5e-4)     # FT-L
    mt.edit(model, tok, facts, method="ft", layers=[3], lr=1e-3, weight_decay=0.1)  # FT-W

The MLP down-projection of one layer is changed by Adam to minimise the mean negative
log-likelihood of the new targets. With eps every entry is clipped after each step, so that
||W - W0||_inf <= eps. With weight_decay = w the loss has the term w/2 ||W - A||^2, where the anchor
A is W0 (anchor="old") or 0 (anchor="zero", as torch's Adam has it). Training ends at the first step
after which all facts are right.
Sources: ROME arXiv:2202.05262, app. E.1 (both baselines: Adam, one MLP matrix, early stopping);
the norm constraint: Zhu et al. 2020, arXiv:2012.00363; weight decay: MEMIT arXiv:2210.07229,
sec. 5.2, whose code decays towards 0; our default is the old weights, which are to be kept.
"""

from dataclasses import dataclass

import torch

from ..errors import HyperError
from ..fact import fact_tokens
from ..guard import afterwards
from ..hooks import evaluating
from ..hyper import Hyper
from ..metrics import target_logprobs
from ..running import exact
from ..settings import setting


@dataclass(frozen=True)
class FineTuning(Hyper):
    """Of the shared fields only layers (one), contexts, steps and lr count here."""

    steps: int = 50
    """Largest number of Adam steps."""
    lr: float = 5e-4
    eps: float | None = setting(None, above=0)
    """Largest change of any entry of W (FT-L); None: no limit (FT)."""
    weight_decay: float = 0.0
    """Weight w of the decay term (FT-W); 0: none."""
    anchor: str = setting("old", choices=("old", "zero"))
    """What W decays towards: "old", its old values, or "zero"."""

    needs = None  # no C0
    trained = True

    def __post_init__(self):
        super().__post_init__()
        if len(self.layers) > 1:
            raise HyperError(f"fine-tuning changes one layer, got {list(self.layers)}")

    def train(self, view, tok, facts):
        """Change W in the model; returns ({layer: (left, right)} float64, what to report).

        Delta = left right^T with left = I: the change has no low rank.
        """
        p = view.parameter(self.layers[0])
        old = p.detach().clone()
        W0 = old.float()
        W = W0.clone()  # Adam works in float32, whatever the model's type
        anchor = W0 if self.anchor == "old" else torch.zeros_like(W0)
        adam = torch.optim.Adam([W], lr=self.lr)
        losses, done = [], False
        rows = _rows(tok, facts, self.contexts)
        with evaluating(view.model):
            for _ in range(self.steps):
                loss, gradient = loss_and_gradient(view, tok, rows, p)
                losses.append(loss)
                W.grad = gradient.float() + self.weight_decay * (W - anchor)
                adam.step()
                if self.eps is not None:
                    W.clamp_(W0 - self.eps, W0 + self.eps)
                with torch.no_grad():
                    p.copy_(W)
                if done := all_right(view.model, tok, facts):
                    break
        Delta = exact(p.detach()) - exact(old)
        report = {"steps": len(losses), "all_right": done, "losses": losses}
        right_ = Delta if view.architecture.transposed else Delta.T  # (d_in, d_out)
        return {self.layers[0]: (torch.eye(right_.shape[1]).to(right_), right_)}, report


def loss_and_gradient(view, tok, rows, p, batch_size=128):
    """Mean negative log-likelihood (float) of rows [(ids, start, weight)], its gradient in p."""
    total, gradient, wanted = 0.0, torch.zeros_like(p), p.requires_grad
    with afterwards(lambda: p.requires_grad_(wanted)):
        p.requires_grad_(True)
        for b in range(0, len(rows), batch_size):
            row, col, label, weight = [], [], [], []
            for i, (ids, start, w) in enumerate(rows[b : b + batch_size]):
                n = len(ids) - start
                row += [i] * n
                col += range(start - 1, len(ids) - 1)
                label += ids[start:]
                weight += [w / n] * n
            batch = view.batch([ids[:-1] for ids, _, _ in rows[b : b + batch_size]], tok)
            logits = view.read(batch, row, col)
            label = torch.tensor(label, device=logits.device)
            nll = torch.nn.functional.cross_entropy(logits, label, reduction="none")
            loss = (nll * torch.tensor(weight, device=nll.device)).sum()
            gradient += torch.autograd.grad(loss, p)[0]
            total += float(loss.detach())
    return total, gradient


def _rows(tok, facts, contexts):
    """Every fact in every context, with its target: (ids, where the target starts, weight)."""
    weight = 1 / (len(facts) * len(contexts))
    return [(*fact_tokens(tok, fact, context), weight) for fact in facts for context in contexts]


def all_right(model, tok, facts, batch_size=32):
    """Are all of them `right`? Looks no further than the first batch that holds one that is not."""
    batches = (facts[b : b + batch_size] for b in range(0, len(facts), batch_size))
    return all(all(right(model, tok, batch)) for batch in batches)


def right(model, tok, facts):
    """For each fact: P[new] > P[true] on its prompt; without another true object: says new."""
    texts = [fact.text for fact in facts]
    joins = [fact.join for fact in facts]
    known = [f.target_true or f.target_new for f in facts]
    new, said = target_logprobs(model, tok, texts, [f.target_new for f in facts], joins=joins)
    true, _ = target_logprobs(model, tok, texts, known, joins=joins)
    pairs = zip(facts, new, true, said, known, strict=True)
    return [bool(n.mean() > t.mean()) if k != f.target_new else s for f, n, t, s, k in pairs]
