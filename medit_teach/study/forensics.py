"""What an edit leaves behind: which matrices changed, at what rank, for whom, saying what.

    D = differences(model, reference)["layer 3"]     # W_new - W_ref, (d_out, d_in)
    spectrum(D, rounding_floor(W_new, W_ref))        # {"rank": 1, "effective_rank": 1.0, ...}
    shares(D, K, statistics.soft(3), rank=1)         # how much of each suspect's key its rows hold
    suspicion(W_new, K)                              # without a reference: whose value is unusual
    doubt(answers(model, tok, suspects, prompts))    # and: about whom is the model unsure

All of it needs the weights, a list of suspects, or both; none of it needs to know the edit.
Sources: detecting, tracing and reversing edits as tasks: Youssef et al., arXiv:2405.02765 and
arXiv:2505.20819. They train their detectors; nothing here is trained. The share follows from the
closed forms of `objective` and is derived in the book.
"""

import numpy as np
import torch

from ..errors import FactError, MeditError, ModelError
from ..fact import encode
from ..hooks import evaluating
from ..metrics import _draws, _logits, _numbers
from ..models import View
from ..objective import HardPreservation, SoftPreservation
from ..running import exact, unwrapped
from ..settings import number, shown, tensor, whole
from ..texts import as_texts, ended

# ------------------------------------------------------------------ with a reference: W_new - W_ref


def differences(model, reference):
    """{name: W_new - W_ref, float64} of every parameter whose bits differ, in the model's order.

    An MLP down-projection is called "layer 3" and comes as (d_out, d_in); any other parameter
    keeps its own name and shape. ModelError if the two models have other parameters or shapes.
    """
    view, reference = View(model), unwrapped(reference)
    down = {id(view.parameter(i)): i for i in range(view.n_layers)}
    transposed = view.architecture.transposed
    new, old = dict(view.model.named_parameters()), dict(reference.named_parameters())
    if {k: v.shape for k, v in new.items()} != {k: v.shape for k, v in old.items()}:
        raise ModelError("the two models have different parameters; compare a model with its own")
    found = {}
    for name, p in new.items():
        if torch.equal(p, old[name]):
            continue
        D = exact(p.detach()) - exact(old[name].detach())
        if id(p) in down:
            found[f"layer {down[id(p)]}"] = D.T if transposed else D
        else:
            found[name] = D
    return found


def rounding_floor(new, old, dtype=None):
    """The largest singular value that rounding alone gives new - old: a number, rather too large.

    An entry w kept in `dtype` (default: that of `new`) lies on a grid of spacing
    g = eps 2^floor(log2 |w|), and rounding it leaves an error of variance g^2 / 12. A matrix of
    independent errors with standard deviations s_ij has a norm of about
    max_i (sum_j s_ij^2)^(1/2) + max_j (sum_i s_ij^2)^(1/2) (Bandeira and van Handel 2016).
    """
    info = torch.finfo(dtype or new.dtype)
    variance = 0
    for W in (new, old):
        size = W.detach().double().abs().clamp(min=info.tiny)
        variance = variance + (info.eps * torch.exp2(torch.floor(torch.log2(size)))) ** 2 / 12
    return float(variance.sum(1).max().sqrt() + variance.sum(0).max().sqrt())


def spectrum(D, floor=0.0):
    """{"values": singular values (descending), "norm", "rank": how many exceed `floor`,
    "effective_rank": exp of the entropy of the values as shares of their sum}.

    With floor 0 a value counts if it exceeds float64's rounding of the largest. Effective rank:
    Roy and Vetterli (2007). MeditError for a D that is zero or not finite.
    """
    D = tensor("D", D, None, None, finite=False)
    floor = number("floor", floor, low=0, error=MeditError)
    if not torch.isfinite(D).all() or not D.any():
        raise MeditError("a spectrum needs a difference that is finite and not zero")
    S = torch.linalg.svdvals(D.double())
    share = S / S.sum()
    entropy = -(share * share.clamp(min=1e-300).log()).sum()
    floor = max(floor, float(S[0]) * max(D.shape) * torch.finfo(torch.float64).eps)
    return {
        "values": S,
        "norm": float(D.double().norm()),
        "rank": int((S > floor).sum()),
        "effective_rank": float(entropy.exp()),
    }


def split(W, n):
    """(top, rest) with W = top + rest: `top` has the n largest singular values, `rest` the others.

    top is the nearest matrix of rank n (Eckart and Young 1936); rest of an *edited* W is the
    bottom-rank approximation by which Youssef et al. (arXiv:2505.20819) reverse edits.
    """
    W = tensor("W", W, None, None)
    if not 0 <= whole("n", n, error=MeditError) <= min(W.shape):
        raise MeditError(f"cannot take {n} singular values of a {tuple(W.shape)} matrix")
    U, S, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    top = (U[:, :n] * S[:n]) @ Vh[:n]
    return top, W.double() - top


def shares(D, K, preserve, rank):
    """Share of each suspect's whitened key that lies in the whitened rows of D: (E,) in [0, 1].

    D (d_out, d_in), K (d_in, E) suspects' keys, preserve = factor(C0) or null_space(C0, ...).
    With Z = B K and Q the first `rank` right singular vectors of D B^-1: share = |Q^T z|^2 / |z|^2.
    Every update of the family is R S^-1 Z^T B, so it holds its own keys entirely: share 1. A
    random key has rank / d_in on average.
    """
    if not isinstance(preserve, (SoftPreservation, HardPreservation)):
        raise MeditError(f"give factor(C0) or null_space(C0, ...), not {shown(preserve)}")
    D, K = tensor("D", D, None, None), tensor("K", K, D.shape[1], None)
    rank = whole("rank", rank, 1, min(D.shape), error=MeditError)
    whitened = D.double() @ (preserve.L if isinstance(preserve, SoftPreservation) else preserve.U)
    Q = torch.linalg.svd(whitened, full_matrices=False).Vh[:rank].T
    Z = preserve.whiten(K.double())
    return (Q.T @ Z).square().sum(0) / Z.square().sum(0)


# ------------------------------------------------------------------ without a reference


def suspicion(W, K):
    """How far each suspect's value W k lies from the others': (E,), in units of their median.

    |W k - median over suspects| (the median of each entry). W (d_out, d_in), K (d_in, E). Written
    values tend to be long: a target has to outweigh what later layers know.
    """
    W = tensor("W", W, None, None)
    V = W @ tensor("K", K, W.shape[1], None)
    far = (V - V.median(1, keepdim=True).values).norm(dim=0)
    return far / far.median()


def answers(model, tok, subjects, prompts, batch_size=64):
    """log P of the next token after each prompt about each subject: (subjects, prompts, words).

    prompts: templates with "{}". Two such tables, of the model and of its reference, show where
    they differ; the largest entry of a row is how sure the model is of its answer.
    """
    subjects, prompts = list(as_texts(subjects, "subjects")), list(as_texts(prompts, "prompts"))
    if not subjects or not prompts:
        raise FactError("answers needs at least one subject and one prompt")
    rows = [encode(tok, ended(p.replace("{}", s)))[0] for s in subjects for p in prompts]
    parts, batch_size = [], whole("batch_size", batch_size, 1)
    with torch.no_grad(), evaluating(model):
        for i in range(0, len(rows), batch_size):
            chunk = rows[i : i + batch_size]
            last = [len(ids) - 1 for ids in chunk]
            logits = _logits(model, tok, chunk, range(len(chunk)), last)
            parts.append(torch.log_softmax(logits, -1).cpu())
    return torch.cat(parts).view(len(subjects), len(prompts), -1)


def doubt(table):
    """How unsure the model is about each subject: (subjects,), from `answers`.

    -log P of the likeliest next token, mean over prompts. An edit is written at the subject's last
    token, which every other question about the subject reads as well.
    """
    return -table.max(-1).values.double().mean(1)


# ------------------------------------------------------------------ how good is a detector?


def auc(positive, negative, n=1000, seed=0, level=0.95):
    """(AUC, low, high): P(score of a positive > score of a negative), ties counting half.

    0.5 is guessing. Interval: percentile bootstrap, n draws of positives and of negatives. The
    area under the ROC curve (Hanley and McNeil 1982).
    """
    positive, negative = _numbers("positive", positive), _numbers("negative", negative)
    n, seed, level = _draws(n, seed, level)
    wins = np.sign(positive[:, None] - negative[None]) / 2 + 0.5
    rng = np.random.default_rng(seed)
    a, b = (rng.multinomial(m, np.full(m, 1 / m), size=n) / m for m in wins.shape)
    low, high = np.quantile(((a @ wins) * b).sum(1), [(1 - level) / 2, (1 + level) / 2])
    return float(wins.mean()), float(low), float(high)
