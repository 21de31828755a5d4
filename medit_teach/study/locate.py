"""Causal tracing: at which token and layer does a model hold what it needs to answer?

The subject's embeddings are blurred with noise, so that the answer is lost; then one hidden state
is put back to what it was in the clean run. If the answer returns, that state carried it. ROME
paper, sec. 2.1 and app. B. It shows where information is sufficient, not where it is stored.

    found = trace(model, tok, fact)
    found.effect                           # (tokens, layers): P(answer) with that state restored
"""

from dataclasses import dataclass

import numpy as np
import torch

from ..errors import FactError, HyperError, ModelError
from ..fact import Fact, as_facts, encode, with_target
from ..hooks import by_row, evaluating, watch
from ..metrics import target_logprobs
from ..models import View
from ..settings import MOST_SEED, number, whole
from ..texts import as_texts, is_text

PLACES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first after",
    "further tokens",
    "last token",
)


@dataclass(frozen=True)
class Trace:
    """What `trace` found for one prompt.

    effect (tokens, layers): P(answer) after noise with that state restored, mean over the noise
    samples. clean, corrupted: P(answer) without noise, and with noise and nothing restored.
    effect - corrupted is the paper's indirect effect. tokens: the prompt's tokens as text;
    subject: the slice of those that are the subject's; answer: the token P is about, as text.
    """

    effect: np.ndarray
    clean: float
    corrupted: float
    tokens: tuple
    subject: slice
    answer: str
    kind: str
    window: int


def trace(model, tok, fact, kind="state", noise=3.0, samples=10, window=1, seed=0, sigma=None,
          answer=None, batch_size=128):  # fmt: skip
    """Trace of one fact: a Fact, or a tuple (prompt, subject, answer).

    kind: what is restored, at one token: "state" (a block's output), "mlp" or "attention" (that
    module's output). window: how many layers around each are restored together (1; the paper
    takes 10 for mlp and attention). noise: standard deviation of the noise, in units of `sigma`,
    which is `subject_noise` of this fact unless given (give one that many facts share, to compare
    them). The same `samples` draws (CPU generator with `seed`) serve every cell. batch_size: rows
    in a forward pass. The answer is the first token of " " + answer, by default the target_true; a
    token that is the space alone counts as the prompt's last.
    """
    fact, answer = _asked(fact, answer)
    view = View(model)
    parts = {"state": view.block, "mlp": view.mlp, "attention": view.attention}
    if not isinstance(kind, str) or kind not in parts:
        raise HyperError(f"unknown kind {kind!r}; choose from {', '.join(parts)}")
    for name, value in (("samples", samples), ("window", window), ("batch_size", batch_size)):
        whole(name, value, 1)
    noise, seed = number("noise", noise, low=0), whole("seed", seed, 0, MOST_SEED)
    sigma = number("sigma", sigma, low=0, none=True)
    ids, subject = subject_tokens(tok, fact)
    full, start = with_target(tok, fact.text, answer, fact.join)
    real = next((i for i in range(start, len(full)) if tok.decode([full[i]]).strip()), start)
    ids = ids if real == start else full[:real]  # a space alone is no answer: it is read too
    answer = full[real]
    sigma = subject_noise(model, tok, fact) if sigma is None else sigma
    modules = {"embedding": view.embedding}
    modules |= {layer: parts[kind](layer) for layer in range(view.n_layers)}
    width = view.embedding.weight.shape[1]
    blur = torch.randn(
        samples, subject.stop - subject.start, width, generator=torch.Generator().manual_seed(seed)
    )
    blur = (noise * sigma * blur).to(view.device, view.embedding.weight.dtype)
    clean_states = {}

    def probability(rows, replace):
        """P(answer) (rows,) float64, with the outputs of some modules replaced."""
        with watch({name: modules[name] for name in replace or modules}, replace) as seen:
            batch = view.batch([ids] * rows, tok)  # equal rows: the mask is all ones
            hidden, _ = view.run(batch)
        if not replace:  # the clean run
            clean_states.update({i: by_row(seen[i].output, rows)[0] for i in range(view.n_layers)})
        return torch.softmax(view.head(hidden[:, -1]).float(), -1)[:, answer].cpu().double()

    def restored(tokens, layers):
        """P(answer) (len(tokens),): each token restored at `layers`, mean over noise samples."""
        at = torch.tensor(tokens).repeat_interleave(samples)  # indices may lie on the host
        row = torch.arange(len(at))

        def corrupt(x):  # (rows, tokens, d)
            x = x.clone()
            x[:, subject] += blur.repeat(len(tokens), 1, 1)
            return x

        def restore(layer):
            state = clean_states[layer]
            return lambda x: by_row(x, len(at)).index_put((row, at), state[at]).view_as(x)

        replace = {"embedding": corrupt} | {layer: restore(layer) for layer in layers}
        return probability(len(at), replace).view(len(tokens), samples).mean(1)

    effect = np.empty((len(ids), view.n_layers))
    step = max(1, batch_size // samples)
    with torch.no_grad(), evaluating(model):
        clean = float(probability(1, {}))
        corrupted = float(restored([0], []))
        for layer in range(view.n_layers):
            # the original's window: `window` layers, one more below than above if it is even
            near = range(max(0, layer - window // 2), min(view.n_layers, layer + (window + 1) // 2))
            for t in range(0, len(ids), step):
                tokens = list(range(t, min(t + step, len(ids))))
                effect[tokens, layer] = restored(tokens, near)
    words = tuple(tok.decode([i]) for i in ids)
    return Trace(effect, clean, corrupted, words, subject, tok.decode([answer]), kind, window)


def _asked(fact, answer):
    """The Fact, and the answer to trace."""
    if isinstance(fact, tuple):
        if len(fact) != 3:
            raise FactError(
                f"a tuple to trace is (prompt, subject, answer), not {len(fact)} things"
            )
        prompt, subject, answer = fact
        fact = Fact(prompt, subject, target_new=answer)
    facts = as_facts(fact)
    if len(facts) > 1:
        raise FactError(f"trace takes one fact, not {len(facts)}; trace_many takes several")
    answer = facts[0].target_true if answer is None else answer
    if answer is None:
        raise FactError(f"{facts[0].text!r} has no target_true; give the answer to trace")
    is_text(answer, "answer", FactError)
    return facts[0], answer


def trace_many(model, tok, facts, kind="state", noise=3.0, samples=10, window=1, seed=0,
               batch_size=128, known_only=True):  # fmt: skip
    """Mean effects by place in the prompt, over the facts that the model gets right.

    known_only=False: over all facts with a target_true.

    Returns a dict: "places" (6 names), "effect" (6, layers) the mean, "indirect" (6, layers) the
    mean of effect - corrupted (the paper's AIE), "per_fact" (facts, 6, layers) the effects,
    "clean" and "corrupted" (facts,), "used" (facts,) the indices of the facts that were right
    (every token of target_true is the likeliest). A subject of one token has only a last one;
    "further tokens" lie between the first after the subject and the prompt's last. A prompt
    without such a token is left out there (NaN), so that a place may average over fewer facts:
    compare places by "indirect". One sigma for all: `subject_noise` of all facts.
    """
    facts = as_facts(facts)
    asked = [i for i, fact in enumerate(facts) if fact.target_true is not None]
    prompts, answers = [facts[i].text for i in asked], [facts[i].target_true for i in asked]
    right = [True] * len(asked)
    if known_only:
        joins = [facts[i].join for i in asked]
        right = target_logprobs(model, tok, prompts, answers, joins=joins)[1]
    used = [i for i, r in zip(asked, right, strict=True) if r]
    if not used:
        raise FactError(f"the model is right about none of {len(asked)} facts with a target_true")
    sigma = subject_noise(model, tok, facts)
    how = dict(kind=kind, noise=noise, samples=samples, window=window, seed=seed, sigma=sigma)
    found = [trace(model, tok, facts[i], batch_size=batch_size, **how) for i in used]
    per_fact = np.stack([by_place(t) for t in found])
    corrupted = np.array([t.corrupted for t in found])
    there = ~np.isnan(per_fact)
    with np.errstate(invalid="ignore"):  # 0/0 where no prompt has such a token
        mean = np.nansum(per_fact, 0) / there.sum(0)
        indirect = np.nansum(per_fact - corrupted[:, None, None], 0) / there.sum(0)
    return {
        "places": PLACES,
        "effect": mean,
        "indirect": indirect,
        "per_fact": per_fact,
        "clean": np.array([t.clean for t in found]),
        "corrupted": corrupted,
        "used": np.array(used),
    }


def by_place(found):
    """(6, layers): the effects of a Trace averaged over the tokens of each of PLACES."""
    n, a, b = len(found.tokens), found.subject.start, found.subject.stop
    rows = [range(a, min(a + 1, b - 1)), range(a + 1, b - 1), [b - 1],
            range(b, min(b + 1, n - 1)), range(b + 1, n - 1), [n - 1]]  # fmt: skip
    nothing = np.full(found.effect.shape[1], np.nan)
    return np.stack([found.effect[list(r)].mean(0) if len(r) else nothing for r in rows])


def subject_tokens(tok, fact):
    """Token ids of the prompt, and the slice of them that cover the subject."""
    ids, offsets = encode(tok, fact.text)
    start, end = fact.span
    hits = [i for i, (a, b) in enumerate(offsets) if a < end and b > start and b > a]
    return ids, slice(hits[0], hits[-1] + 1)


def subject_noise(model, tok, facts):
    """Standard deviation of the embedding entries of the facts' subject tokens.

    The noise must be large for *subjects*. The whole table would not do: many of its rows were
    hardly trained (rare tokens, special tokens) and their spread says nothing about names.
    """
    ids = [i for fact in as_facts(facts) for i in _subject_ids(tok, fact)]
    table = View(model).embedding.weight.detach()
    return float(table[torch.tensor(ids, device=table.device)].float().std())


def _subject_ids(tok, fact):
    ids, subject = subject_tokens(tok, fact)
    return ids[subject]


# ------------------------------------------------------------------ the cells of an MLP
#
# Cell i of an MLP is one entry k_i of its key and the column w_i of W: the MLP adds sum_i k_i w_i
# (and the bias) to the stream. Geva et al. (2021) call k_i the memory coefficient, w_i the value.


@dataclass(frozen=True)
class Triggers:
    """Where in a text each cell of some layers answered most strongly.

    strength {layer: (n, d_in)}: the n largest coefficients of each cell, the largest first.
    place {layer: (n, d_in)}: where, an index into `before` (the text up to and with the token read
    there) and `after` (the id of the token that follows it in the text).
    """

    strength: dict
    place: dict
    before: tuple
    after: torch.Tensor

    def of(self, layer, cell):
        """[(coefficient, text before, id of the next token), ...], the strongest first."""
        places = self.place[layer][:, cell].tolist()
        strengths = self.strength[layer][:, cell].tolist()
        return [
            (k, self.before[p], int(self.after[p])) for k, p in zip(strengths, places, strict=True)
        ]


def triggers(model, tok, texts, layers, tokens=4000, n=5, batch_size=32):
    """Triggers of every cell of `layers` over the first `tokens` tokens of `texts`."""
    view = View(model)
    layers = view.layers(layers)
    tokens, n = whole("tokens", tokens, 1), whole("n", n, 1)
    batch_size = whole("batch_size", batch_size, 1)
    limit = view.window
    rows, left = [], tokens
    for text in as_texts(texts):
        if left <= 0:
            break
        ids = encode(tok, text)[0][: min(limit, left + 1)]
        if len(ids) > 1:
            rows.append(ids)
            left -= len(ids) - 1
    if not rows:
        raise FactError("triggers needs a text of at least two tokens")
    modules = {layer: view.down(layer) for layer in layers}
    before, after, known, best = [], [], set(), dict.fromkeys(layers)
    with torch.no_grad(), evaluating(model):
        for b in range(0, len(rows), batch_size):
            chunk = rows[b : b + batch_size]
            real = []  # (row, token): a beginning of a text that was read before is left out
            for r, ids in enumerate(chunk):
                for t in range(len(ids) - 1):
                    if (start := tuple(ids[: t + 1])) not in known:
                        known.add(start)
                        real.append((r, t))
            if not real:
                continue
            with watch(modules, stop=True) as seen:
                view.run(view.batch(chunk, tok))
            r, t = torch.tensor(real, device=view.device).T
            place = torch.arange(len(before), len(before) + len(real))
            for layer in layers:
                k = by_row(seen[layer].input, len(chunk))[r, t].float().cpu()  # (tokens, d_in)
                at = place[:, None].expand_as(k)
                if best[layer]:
                    k, at = torch.cat([best[layer][0], k]), torch.cat([best[layer][1], at])
                k, order = k.topk(min(n, len(k)), dim=0)
                best[layer] = k, at.gather(0, order)
            before += [tok.decode(chunk[r][: t + 1], skip_special_tokens=True) for r, t in real]
            after += [chunk[r][t + 1] for r, t in real]
    strength, place = ({layer: best[layer][i] for layer in layers} for i in (0, 1))
    return Triggers(strength, place, tuple(before), torch.tensor(after))


def unembedding(model):
    """A (vocabulary, d_out) and c (vocabulary,): logits(h) = A h / spread(h) + c, float32.

    The final norm's gain (and a LayerNorm's subtraction of the mean) are folded into A, its shift
    and the head's bias into c. What is left of the norm is a division by one number, `spread`.
    ModelError for a norm that is neither a LayerNorm nor an RMSNorm, and for a model whose logits
    are something else (Gemma's norm, Cohere's scale): one random h is tried.
    """
    view, centred = View(model), _centred(model)
    norm, head = view.norm, view.model.get_output_embeddings()
    E = head.weight.detach().float()
    A = E * norm.weight.detach().float()
    c = torch.zeros(len(E), device=E.device)
    if getattr(norm, "bias", None) is not None:
        c = c + E @ norm.bias.detach().float()
    if getattr(head, "bias", None) is not None:
        c = c + head.bias.detach().float()
    A = A - A.mean(1, keepdim=True) if centred else A
    h = torch.randn(A.shape[1], generator=torch.Generator().manual_seed(0)).to(A.device)
    with torch.no_grad():
        own = view.logits(h.to(norm.weight)[None])[0].to(A.device)
    made = A @ h / spread(model, h) + c
    if (made - own).norm() > max(1e-3, 8 * torch.finfo(own.dtype).eps) * own.norm():
        raise ModelError(
            f"the logits of this {view.model.config.model_type} model are not A h / spread(h) + c: "
            "its norm or its head does more"
        )
    return A, c


def spread(model, h):
    """What the final norm divides h (..., d_out) by: (...,), its entries' deviation (LayerNorm:
    from their mean, RMSNorm: from zero)."""
    h, norm = h.float(), View(model).norm
    if _centred(model):
        return (h.var(-1, unbiased=False) + norm.eps).sqrt()
    return (h.square().mean(-1) + norm.variance_epsilon).sqrt()


def _centred(model):
    """Whether the final norm subtracts the mean: True for LayerNorm, False for RMSNorm."""
    norm = View(model).norm
    if isinstance(norm, torch.nn.LayerNorm):
        return True
    if hasattr(norm, "variance_epsilon"):  # how transformers writes an RMSNorm
        return False
    raise ModelError(f"the final norm is a {type(norm).__name__}, neither LayerNorm nor RMSNorm")


def promoted(model, layer, n=1, unembed=None, cells=1024):
    """Ids (n, d_in): the n tokens that each value of `layer` raises most, the most raised first.

    unembed: the A of `unembedding`, if it is at hand. cells: how many values at a time.
    """
    A = unembedding(model)[0] if unembed is None else unembed
    n, cells = whole("n", n, 1, len(A)), whole("cells", cells, 1)
    W = View(model).weight(layer).detach().float().to(A.device)
    parts = [(A @ W[:, i : i + cells]).topk(n, dim=0).indices for i in range(0, W.shape[1], cells)]
    return torch.cat(parts, 1).cpu()
