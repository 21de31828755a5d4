"""Checks of the exercises of the map of methods: gradients, codebooks, boxes, demonstrations."""

import torch

from ...fact import Fact
from ...methods.grace import Codebook
from ...methods.in_context import statement
from ...methods.mend import Editor
from .core import NoAnswer, Wrong, as_update, call, exercise, judge


def _random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@exercise
def gradient(function):
    """function(U, D): the gradient in W of a loss whose gradient in the outputs U W^T is D."""
    for T, d_in, d_out in ((1, 4, 3), (5, 4, 3), (2, 6, 6)):
        U, W = _random(T, d_in, seed=T), _random(d_out, d_in, seed=T + 1).requires_grad_()
        out = U @ W.T
        loss = (out**3).sum() + out.sin().sum()
        D, right = torch.autograd.grad(loss, [out, W])
        found = as_update(call(function, U.clone(), D.clone()), d_out, d_in)
        if not torch.allclose(found, right, rtol=1e-9, atol=1e-12):
            if torch.allclose(found * T, right):
                raise Wrong(f"with {T} tokens yours is {T} times too small: a sum, not a mean")
            if d_in == d_out and torch.allclose(found.T, right):
                raise Wrong("where the matrix is square yours is the transpose: rows are outputs")
            error = float((found - right).norm() / right.norm())
            raise Wrong(f"{T} tokens: yours is off by {error:.0%} of what autograd finds")
    return "it is autograd's gradient, also where the matrix is square"


@exercise
def look_up(function):
    """function(k, v, keys, values, radii): what a codebook gives for one key."""
    keys, values = _random(6, 5, seed=1), _random(6, 3, seed=2)
    radii = torch.tensor([0.3, 1.0, 2.0, 0.1, 4.0, 0.5], dtype=torch.float64)
    asked = [("a stored key itself", keys[3]), ("far from all", 20 + keys[0])]
    asked += [(f"a random key ({i})", _random(5, seed=10 + i)) for i in range(12)]
    toward = keys[4] - keys[3]
    asked.append(("near a narrow entry, within a wide one", keys[3] + 0.2 * toward))
    for name, k in asked:
        v = _random(3, seed=99)
        found = call(function, k.clone(), v.clone(), keys.clone(), values.clone(), radii.clone())
        if not isinstance(found, torch.Tensor) or found.shape != v.shape:
            raise Wrong(f"give back one value, of shape {tuple(v.shape)}")
        distance = [float((k - key).norm()) for key in keys]
        near = distance.index(min(distance))
        reached = [i for i, d in enumerate(distance) if d <= float(radii[i])]
        if near in reached:
            if not torch.equal(found, values[near]):
                raise Wrong(f"{name}: the nearest entry is within its radius, but it is not used")
        elif not torch.equal(found, v):
            if any(torch.equal(found, values[i]) for i in reached):
                raise Wrong(f"{name}: you used an entry that reaches, but is not the nearest one")
            raise Wrong(f"{name}: the nearest entry does not reach it, so v must keep its bits")
    return "the nearest entry within its radius, and else the old value to the bit"


@exercise
def box_step(function):
    """function(W, W0, gradient, lr, eps): one step down the gradient, back into the box."""
    W0, g = _random(4, 5, seed=3), _random(4, 5, seed=4)
    for eps, lr in ((0.1, 0.02), (0.1, 5.0), (0.5, 0.3)):
        W = W0 + eps * (2 * torch.sigmoid(_random(4, 5, seed=5)) - 1)
        found = as_update(call(function, W.clone(), W0.clone(), g.clone(), lr, eps), 4, 5)
        far = float((found - W0).abs().max())
        if far > eps * (1 + 1e-9):
            raise Wrong(f"eps = {eps}, lr = {lr}: an entry ends {far:.3f} away from W0")
        free = W - lr * g
        inside = (free - W0).abs() <= eps
        if not torch.allclose(found[inside], free[inside]):
            if torch.allclose(found[inside], (W + lr * g)[inside]):
                raise Wrong("you go up the gradient")
            raise Wrong("an entry that stays inside the box must take the whole step")
        # the nearest point of the box: no other point of it may be closer to the free step
        best = (free - W0).abs().sub(eps).clamp(min=0).norm()
        if float((found - free).norm()) > float(best) * (1 + 1e-9) + 1e-12:
            raise Wrong("entries outside do not go to the wall next to them")
    return "it never leaves the box, and inside it is plain gradient descent"


@exercise
def demonstrations(function):
    """function(fact): {"copy": text, "update": text, "retain": text}."""
    facts = [
        Fact(
            "{} plays the", "Anna Lind", "harp", "drum", ["Anna Lind practises the"], ["Otto has a"]
        ),
        Fact("{} is a", "Ida Stone", "baker", "tailor", ["Ida Stone works as a"], ["Bo Lind is a"]),
    ]
    for fact in facts:
        found = call(function, fact)
        if not isinstance(found, dict) or set(found) != {"copy", "update", "retain"}:
            raise Wrong('give back a dict with the keys "copy", "update" and "retain"')
        told = statement(fact)
        asks = {"copy": fact.text, "update": fact.paraphrases[0], "retain": fact.neighborhood[0]}
        for kind, text in found.items():
            if not isinstance(text, str):
                raise Wrong(f"{kind}: give back a text")
            if not text.startswith(told):
                raise Wrong(f"{kind}: a demonstration begins with the new fact, {told!r}")
            rest = text[len(told) :].strip()
            if not rest.startswith(asks[kind]):
                raise Wrong(f"{kind}: then a question of that kind is asked, yours is {rest!r}")
            answer = rest[len(asks[kind]) :].strip(" .")
            if answer in (fact.target_new, fact.target_true):
                if (answer == fact.target_true) != (kind == "retain"):
                    raise Wrong(f"{kind}: {answer!r} is not what should be said there")
            else:
                raise Wrong(f"{kind}: the answer is missing or strange: {answer!r}")
    return "copied, used in other words, and kept away from others"


def _editor():
    """A small editor that is not the identity."""
    g = Editor((0,), 8, 6, rank=4, alpha=1.0).requires_grad_(False)
    g.U1.copy_(0.5 * _random(14, 4, seed=7))
    return g


def _cases():
    """{sentence: function that runs it}: (is it so, what was seen)."""

    def bits():
        keys = _random(3, 4, seed=1).float()
        book = Codebook(keys, torch.full((3,), 0.1), torch.arange(3), _random(3, 2).float())
        k, v = 10 + _random(50, 4, seed=2).float(), _random(50, 2, seed=3).float()
        same = torch.equal(book(k, v), v)
        return same, f"50 keys far from a codebook, outputs equal to the bit: {same}"

    def norm():
        change = torch.full((20, 30), 0.1)
        size = float(change.norm())
        return size <= 0.1, f"all entries moved by eps = 0.1, Frobenius norm {size:.2f}"

    def rank():
        g = _editor()
        u, d = g(0, _random(3, 8).float(), _random(3, 6, seed=1).float())
        found = int(torch.linalg.matrix_rank(d.T @ u))
        return found <= 3, f"a text of 3 tokens, an edit of rank {found}"

    def alike():
        g = _editor()
        u, delta = _random(3, 8).float(), _random(3, 6, seed=1).float()
        new_u, new_d = g(0, u, delta)
        a, b = (delta.T @ u).flatten(), (new_d.T @ new_u).flatten()
        cosine = float(a @ b / (a.norm() * b.norm()))
        return (
            cosine > 0.99,
            f"an editor that learned something: cosine with the gradient {cosine:.2f}",
        )

    def memory():
        facts = [Fact("{} plays the", name, "harp") for name in ("Anna Berg", "Otto Berg")]
        from ...methods.in_context import Memory

        found = Memory(facts).find("The sport of Anna Lind is", 1)
        return (
            not found,
            f"a question about Anna Lind, who is not stored, finds {len(found)} sentence",
        )

    return {
        "outside every radius, GRACE gives the old output to the bit": bits,
        "FT-L with eps keeps the Frobenius norm of the change below eps": norm,
        "MEND's edit for a text of T tokens has at most rank T in a layer": rank,
        "a trained MEND editor gives the gradient again, only longer or shorter": alike,
        "a search by words finds nothing for a person who is not in the store": memory,
    }


@exercise
def referee(verdicts):
    """verdicts: {sentence: True or False}; each sentence is run."""
    return judge(verdicts, _cases())


@exercise
def choose(answers, table):
    """answers: {customer: method}; table: {method: {measure: (mean, low, high)}}."""
    if not any(answers.values()):
        raise NoAnswer
    wishes = {  # what counts, and which methods may be considered
        "closed": (("ES", "PS", "NS"), {"in the prompt", "IKE"}),
        "subject": (("ES", "PS", "own"), None),
        "words": (("ES", "PS"), {"FT", "FT-L", "FT-W"}),
    }
    for customer, (counts, allowed) in wishes.items():
        chosen = answers.get(customer)
        if chosen is None or chosen is ...:
            raise Wrong(f"the customer {customer!r} still waits")
        if chosen not in table or chosen == "nothing":
            raise Wrong(f"{chosen!r} is no method of the table; there are {', '.join(table)}")
        if allowed is not None and chosen not in allowed:
            raise Wrong(f"{customer!r} cannot use {chosen!r}: read again what is allowed")

        def worst(name, counts=counts):
            return min(table[name][m][0] if table[name].get(m) else 0.0 for m in counts)

        names = [m for m in table if m != "nothing" and (allowed is None or m in allowed)]
        best = max(map(worst, names))
        if worst(chosen) < best - 1e-9:
            raise Wrong(
                f"{customer!r}: the smallest of {', '.join(counts)} is {worst(chosen):.0f} for "
                f"{chosen!r}; another one has {best:.0f}"
            )
    return "three choices, each by what was measured"
