"""Checks of the chapter on keys, values and C0: where a key is, what it hits, how to shrink."""

import torch

from ... import objective
from ...errors import MeditError
from ...fact import last_token, subject_last
from ...hooks import watch
from ...models import View
from .core import Wrong, call, exercise

# name: (offsets of the tokens, start, end) in characters
CASES = {
    "'Ann Bo plays': one token a word": ([(0, 3), (3, 6), (6, 12)], 0, 6),
    "'So Ann, she': the comma stuck to the name": ([(0, 2), (2, 7), (7, 11)], 3, 6),
    "'Anns are': the name's end merged with what follows": ([(0, 2), (2, 4), (4, 8)], 0, 3),
    "'Zoë is', one letter spread over two tokens": ([(0, 2), (2, 3), (2, 3), (3, 6)], 0, 3),
    "a token without characters in front": ([(0, 0), (0, 3), (3, 9)], 0, 3),
    "the subject at the very end": ([(0, 4), (4, 8), (8, 11)], 5, 11),
    "a name of one token in the middle": ([(0, 3), (3, 7), (7, 11)], 4, 7),
}


@exercise
def position(function):
    """function(offsets, start, end) must return the index of the subject's last token."""
    for name, (offsets, start, end) in CASES.items():
        found = call(function, list(offsets), start, end)
        if isinstance(found, bool) or not isinstance(found, int):
            raise Wrong(f"{name}: an index is an int, you return {found!r}")
        if not 0 <= found < len(offsets):
            raise Wrong(f"{name}: there is no token {found}; they go from 0 to {len(offsets) - 1}")
        first, last = offsets[found]
        if found != last_token(offsets, start, end):
            covers = first < end and last > start and last > first
            why = (
                "covers a part of the subject, but it is not the last that does"
                if covers
                else "has no character of the subject"
            )
            raise Wrong(
                f"{name}: token {found} (characters {first} to {last}) {why}; the subject goes "
                f"from {start} to {end}"
            )
    return f"in all {len(CASES)} cases, the traps included"


@exercise
def key(function, model, tok, facts, layer):
    """function(model, tok, fact, layer) must return the bare prompt's key (d_in,) of each fact."""
    view = View(model)
    d_out, d_in = view.weight(layer).shape
    for fact in facts[:3]:
        answer = call(function, model, tok, fact, layer)
        if not isinstance(answer, torch.Tensor):
            raise Wrong(f"a key is a tensor, yours is a {type(answer).__name__}")
        if tuple(answer.shape) == (d_out,):
            raise Wrong(f"your vector has {d_out} numbers: that is a value, or the matrix's output")
        if tuple(answer.shape) != (d_in,):
            raise Wrong(f"a key has the shape ({d_in},), yours has {tuple(answer.shape)}")
        if answer.requires_grad:
            raise Wrong("your key drags a gradient along; a look needs torch.no_grad()")
        ids, at = subject_last(tok, fact)
        with torch.no_grad(), watch({"down": view.down(layer)}, stop=True) as seen:
            model(input_ids=torch.tensor([ids], device=view.device))
        every = seen["down"].input[0].double()
        distance = (every - answer.to(every)).norm(dim=1) / every.norm(dim=1)
        if distance[at] > 1e-3:
            nearest = int(distance.argmin())
            if distance[nearest] < 1e-3:
                piece = tok.decode(ids[nearest])
                raise Wrong(f"{fact.text!r}: that is the key of token {nearest}, {piece!r}")
            raise Wrong(f"{fact.text!r}: no token of the prompt has this key at layer {layer}")
    return "the same as the library's, for three facts"


@exercise
def share(function):
    """function(others (d_in, n), k, C0) must return the n shares of ROME's update at k."""
    generator = torch.Generator().manual_seed(0)
    d_in, n = 6, 4
    randn = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    F, k, others = randn(d_in, 20), randn(d_in), randn(d_in, n)
    C0 = F @ F.T / 20
    found = torch.as_tensor(call(function, others, k, C0))
    if tuple(found.reshape(-1).shape) != (n,):
        raise Wrong(f"{n} other keys have {n} shares; you return the shape {tuple(found.shape)}")
    r = randn(3)
    delta = objective.rome(r, k, C0).delta
    true = r @ (delta @ others) / (r @ r)
    own = torch.as_tensor(call(function, k[:, None], k, C0)).reshape(-1)
    if abs(float(own[0]) - 1) > 1e-8:
        raise Wrong(f"the key that is written at receives the whole fact, you say {own[0]:.3g}")
    if (found.reshape(-1) - true).abs().max() > 1e-8:
        plain = others.T @ k / (k @ k)
        if (found.reshape(-1) - plain).abs().max() < 1e-8:
            raise Wrong("these are the shares of the update that writes along k; where is C0?")
        raise Wrong("an update made by the library gives the other keys other shares than yours")
    return "just what the library's update gives to other keys"


def _price(C, reference, K):
    """Mean price of the facts in K under `reference`, updates made with C; infinite if singular."""
    try:
        objective.factor(C)
    except MeditError:
        return float("inf")
    U = torch.linalg.solve(C, K)
    return float(((U * (reference @ U)).sum(0) / (K * U).sum(0) ** 2).mean())


@exercise
def alpha(function, K0, K):
    """function(few, held_out, K) must find a good alpha for shrinkage; judged on a third text."""
    d_in, N = K0.shape
    n = min(int(1.3 * d_in), N // 5)
    few, held_out, third = K0[:, :n], K0[:, n : (n + N) // 2], K0[:, (n + N) // 2 :]
    found = call(function, few, held_out, K)
    try:
        found = float(found)
    except (TypeError, ValueError):
        raise Wrong(f"alpha is a number, you return a {type(found).__name__}") from None
    if not 0 <= found <= 1:
        raise Wrong(f"alpha lies between 0 and 1, yours is {found:.3g}")
    C, reference = few @ few.T / n, third @ third.T / third.shape[1]
    price = lambda a: _price(objective.shrink(C, a), reference, K)  # noqa: E731
    best = min(price(a) for a in torch.logspace(-4, 0, 25).tolist())
    yours = price(found)
    if yours > 1.1 * best:
        low = price(min(1.0, 1.5 * found + 1e-5)) < yours
        raise Wrong(
            f"with alpha = {found:.2g} the facts cost {yours / best:.3g} times as much on a third "
            f"text as they could; {'more' if low else 'less'} shrinkage would be better"
        )
    return f"alpha = {found:.2g}: on a text that you have not seen, within 10% of the best price"


@exercise
def budget(tokens, d_in=16384, wanted=0.95):
    """The least number of independent keys that gives the wanted mean efficiency."""
    tokens = float(tokens)
    reached = (tokens + 2 - d_in) / (tokens + 1)
    if tokens < d_in:
        raise Wrong(f"from {tokens:,.0f} tokens C0 is singular: there are {d_in:,} dimensions")
    if reached < wanted - 1e-4:
        raise Wrong(f"{tokens:,.0f} tokens give {reached:.1%} efficiency, not {wanted:.0%}")
    if reached > wanted + 0.005:
        raise Wrong(f"{tokens:,.0f} tokens give {reached:.1%}: enough, but more than needed")
    return f"{tokens:,.0f} tokens, against the published 44 million"
