"""Checks of the exercises on the cells of a feed-forward layer."""

from itertools import pairwise

import torch

from ...fact import encode as _encode
from ...fact import with_target as _with_target
from ...hooks import evaluating as _evaluating
from ...models import View as _View
from .core import NoAnswer, Wrong, call, distance, exercise

CELLS = 60  # how many coefficients may be set to zero to silence an answer


def _randn(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def _vector(answer, length, name):
    if answer is ... or answer is None:
        raise NoAnswer
    if not isinstance(answer, torch.Tensor):
        raise Wrong(f"{name} is a vector, yours is a {type(answer).__name__}")
    if tuple(answer.shape) != (length,):
        raise Wrong(f"{name} has {length} numbers here, yours has shape {tuple(answer.shape)}")
    return answer.detach().double()


@exercise
def memories_words(function):
    """function(W_in, b_in, W, b, f, x, i) must return Geva's key and value, and the layer's."""
    d, n, i = 5, 9, 3
    W_in, b_in, W, b, x, other = _randn((n, d), (n,), (d, n), (d,), (d,), (d,))
    f = torch.nn.functional.gelu

    def coefficients(x, shift=0.0):
        at = torch.zeros(n, dtype=torch.float64)
        at[i] = shift
        return f(W_in @ x + b_in + at)

    answer = call(function, W_in, b_in, W, b, f, x, i)
    if not isinstance(answer, (tuple, list)) or len(answer) != 4:
        raise Wrong("return four vectors")
    sizes = {"Geva's key": d, "Geva's value": d, "the layer's key": n, "the layer's value": d}
    parts = [_vector(a, m, name) for a, (name, m) in zip(answer, sizes.items(), strict=True)]
    g_key, g_value, key, value = parts
    aside = other - g_key * (other @ g_key) / (g_key @ g_key)  # at right angles to the answer
    moved = coefficients(x + aside)[i] - coefficients(x)[i]
    if abs(moved) > 1e-9 or abs(coefficients(x + g_key)[i] - coefficients(x)[i]) < 1e-9:
        raise Wrong("Geva's key: cell 3 does not look at the input along your vector alone")
    if abs(g_key @ x - W_in[i] @ x) > 1e-9:
        raise Wrong("Geva's key points the right way, but has the wrong length")
    change = W @ (coefficients(x, 1.0) - coefficients(x))
    step = float(coefficients(x, 1.0)[i] - coefficients(x)[i])
    if distance(change, step * g_value) > 1e-9:
        raise Wrong("Geva's value: when cell 3 speaks louder, the output does not move along it")
    if distance(W @ key + b, W @ coefficients(x) + b) > 1e-9:
        raise Wrong("the layer's key: W times it, plus b, is not what the layer puts out")
    if distance(value, W @ coefficients(x)) < 1e-9:
        raise Wrong("the layer's value: something constant is missing")
    if distance(value, W @ coefficients(x) + b) > 1e-9:
        raise Wrong("the layer's value is what the layer puts out for x")
    return "two of them belong to a cell and stay; two belong to an input"


@exercise
def memories_rebuild(function):
    """function(k, W, b, n): b and the n longest sub-updates. More terms, closer to the output."""
    k, W, b = _randn((12,), (5, 12), (5,))
    W = W * torch.logspace(1, -1, 12, dtype=torch.float64)  # loud cells need not be long ones
    k = k * torch.logspace(-1, 1, 12, dtype=torch.float64)
    whole = _vector(call(function, k, W, b, 12), 5, "an output")
    if distance(whole, W @ k) < 1e-9:
        raise Wrong("with all cells you get W k, and the layer puts out more than that")
    if distance(whole, W @ k + b) > 1e-9:
        raise Wrong("with all cells you do not get the layer's output")
    if distance(_vector(call(function, k, W, b, 0), 5, "an output"), b) > 1e-9:
        raise Wrong("with no cell, what is left?")
    lengths, used = [], torch.zeros(5, dtype=torch.float64) + b
    for n in range(1, 13):
        now = _vector(call(function, k, W, b, n), 5, "an output")
        lengths.append(float((now - used).norm()))
        used = now
    if any(later > earlier + 1e-9 for earlier, later in pairwise(lengths)):
        raise Wrong("a later sub-update is longer than an earlier one: rank them as vectors")
    return "the longest first, and all of them together are the output"


@exercise
def memories_tie(function):
    """function(h, w, A_t, A_u, c_t, c_u, s) must give the coefficient at which two logits meet."""
    for seed in range(3):
        h, w, A_t, A_u, c = _randn((6,), (6,), (6,), (6,), (3,), seed=seed)
        c_t, c_u, s = float(c[0]), float(c[1]), float(c[2].abs() + 2)
        m = call(function, h, w, A_t, A_u, c_t, c_u, s)
        m = float(m)
        t, u = (float(A @ (h + m * w)) / s + c for A, c in ((A_t, c_t), (A_u, c_u)))
        flat = float((A_t - A_u) @ h + (A_t - A_u) @ w * m)
        if abs(t - u) > 1e-8 and abs(flat) < 1e-8:
            raise Wrong("you forgot what is added after the stream was read: the constants")
        if abs(t - u) > 1e-8:
            raise Wrong(f"at {m:.3g} the logits still differ by {abs(t - u):.2g}")
    return "the two logits meet there"


@exercise
def memories_agreement(function):
    """function(scores (vocabulary, cells), after (cells,), n) must give a share of cells."""
    (scores,) = _randn((30, 8))
    order = scores.argsort(dim=0, descending=True)
    after = torch.stack(
        [order[place, cell] for cell, place in enumerate((0, 0, 1, 2, 2, 9, 20, 29))]
    )
    truth = {1: 2 / 8, 2: 3 / 8, 3: 5 / 8, 10: 6 / 8, 30: 1.0}  # from how `after` was made
    for n, share in truth.items():
        found = float(call(function, scores, after, n))
        if abs(found - 8 * share) < 1e-6:
            raise Wrong("that is a number of cells, not a share of them")
        if abs(found - 100 * share) < 1e-4 and n > 1:
            raise Wrong("give the share as a number between 0 and 1")
        if abs(found - share) > 1e-6:
            raise Wrong(f"for n = {n} you find {found:.3g} in a case where it is another number")
    return "also when n is the whole vocabulary"


@exercise
def memories_silence(cells, model, tok, fact):
    """cells [(layer, cell)]: set to 0 at the last token, they must change the likeliest token."""
    view = _View(model)
    try:
        cells = sorted({(int(layer), int(cell)) for layer, cell in cells})
    except (TypeError, ValueError) as error:
        raise Wrong("give a list of pairs (layer, cell)") from error
    if not cells:
        raise NoAnswer
    if len(cells) > CELLS:
        raise Wrong(f"you silence {len(cells)} cells; at most {CELLS} are allowed")
    by_layer = {}
    for layer, cell in cells:
        if not 0 <= layer < view.n_layers or not 0 <= cell < view.weight(layer).shape[1]:
            raise Wrong(f"there is no cell {cell} in a layer {layer}")
        by_layer.setdefault(layer, []).append(cell)

    def silence(chosen):
        def hook(module, args):
            k = args[0].clone()
            k[:, -1, chosen] = 0
            return (k, *args[1:])

        return hook

    ids, start = _with_target(tok, fact.text, fact.target_true)
    answer = ids[start]
    ids = torch.tensor([_encode(tok, fact.text)[0]], device=view.device)
    handles = []
    try:
        for layer, chosen in by_layer.items():
            handles.append(view.down(layer).register_forward_pre_hook(silence(chosen)))
        with torch.no_grad(), _evaluating(model):
            logits = model(ids).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()
    says = int(logits.argmax())
    if says == answer:
        p = float(logits.softmax(0)[answer])
        raise Wrong(f"the model still says {tok.decode([answer])!r}, with probability {p:.2f}")
    return f"without {len(cells)} cells the model says {tok.decode([says])!r}"
