"""Checks of the exercises on causal tracing."""

import numpy as np
import torch

from ...study import locate as _locate
from .core import NoAnswer, Wrong, call, exercise


def _traces():
    """Two made-up Traces whose strongest places are known from how they were made."""
    generator = np.random.default_rng(0)
    for token, layer, subject in ((3, 1, slice(2, 4)), (4, 3, slice(2, 5))):
        effect = 0.2 + 0.01 * generator.random((7, 5))
        effect[token, layer] = 0.6
        effect[-1, -1] = 0.9  # stronger, but not the subject's
        words = tuple("abcdefg")
        found = _locate.Trace(effect, 0.9, 0.2, words, subject, "x", "state", 1)
        yield found, (token, layer, 0.4)


@exercise
def locating_strongest(function):
    """function(found) must give (token, layer, indirect effect): the subject's strongest state."""
    for found, (token, layer, effect) in _traces():
        answer = call(function, found)
        if not isinstance(answer, (tuple, list)) or len(answer) != 3:
            raise Wrong("return three things: token, layer, indirect effect")
        t, at, e = int(answer[0]), int(answer[1]), float(answer[2])
        if t == len(found.tokens) - 1:
            raise Wrong("the strongest of all is the last token's, and that is not the subject's")
        if not found.subject.start <= t < found.subject.stop:
            raise Wrong(f"token {t} is not of the subject: count from the start of the prompt")
        if (t, at) != (token, layer):
            raise Wrong(f"token {t}, layer {at}: there is a stronger state")
        if abs(e - found.effect[token, layer]) < 1e-9:
            raise Wrong("that is the probability after restoring, not yet what restoring brought")
        if abs(e - effect) > 1e-9:
            raise Wrong("the place is right, the indirect effect is not")
    return "right place, and the effect is what restoring brought back"


@exercise
def locating_edges(predictions):
    """predictions {case: "clean", "corrupted" or "measured"}: what restoring one state gives."""
    if not any(predictions.values()):
        raise NoAnswer
    kinds = ("clean", "corrupted", "measured")
    for case, said in predictions.items():
        if said is None or said is ...:
            raise Wrong(f"{case}: still open")
        if said not in kinds:
            raise Wrong(f"{case}: answer {', '.join(kinds)}")
    found = _small_trace()
    a, b = found.subject.start, found.subject.stop
    cells = {
        "the last token, last layer": (-1, -1),
        "the subject's last token, last layer": (b - 1, -1),
        "a token before the subject, first layer": (a - 1, 0),
        "the subject's last token, first layer": (b - 1, 0),
    }
    if set(predictions) != set(cells):
        raise Wrong("keep the four cases as they are")
    for case, (token, layer) in cells.items():
        p = found.effect[token, layer]
        fits = {
            "clean": abs(p - found.clean) < 1e-6 * found.clean,
            "corrupted": abs(p - found.corrupted) < 1e-6 * found.corrupted,
        }
        fits["measured"] = not any(fits.values())
        if not fits[predictions[case]]:
            raise Wrong(f"{case}: a small model with random weights, just run, says otherwise")
    return "and so it is in a model with random weights, for no training is involved"


def _small_trace():
    """A Trace of a two-layer model with random weights, on a prompt of made-up tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    class Words:
        """A tokenizer of whole words."""

        is_fast, pad_token_id = True, 0

        def __call__(self, text, **_):
            ids, offsets, at = [], [], 0
            for word in text.split(" "):
                ids.append(1 + sum(map(ord, word)) % 30)
                offsets.append((max(0, at - 1), at + len(word)))
                at += len(word) + 1
            none = [0] * len(ids)
            return {"input_ids": ids, "offset_mapping": offsets, "special_tokens_mask": none}

        def decode(self, ids):
            return str(ids[0])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = dict(n_embd=16, n_layer=3, n_head=2, vocab_size=32, n_positions=32)
        model = GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.5)).eval()
    return _locate.trace(model, Words(), ("they say that {} was born in", "ada marlow", "rome"))


@exercise
def locating_restore(function):
    """function(x, clean, token): x with one token's states from `clean`, x itself untouched."""
    generator = torch.Generator().manual_seed(0)
    x, clean = (torch.randn(*s, generator=generator) for s in ((3, 5, 4), (5, 4)))
    for token in (2, 4):
        given = x.clone()
        out = call(function, given, clean.clone(), token)
        if not isinstance(out, torch.Tensor) or out.shape != x.shape:
            raise Wrong(f"the result must be a tensor of shape {tuple(x.shape)}, like x")
        if not torch.equal(given, x):
            raise Wrong("your function changes its input: whoever holds x now sees other numbers")
        others = [t for t in range(5) if t != token]
        if not torch.equal(out[:, others], x[:, others]):
            raise Wrong("other tokens changed too")
        if not torch.equal(out[:, token], clean[token].expand(3, 4)):
            raise Wrong("the token's states are not those of the clean run in every row")
    return "one token restored in every row, and the input left alone"


@exercise
def locating_noise(noise, model, tok, fact):
    """At this noise the answer must keep 40% to 60% of its clean probability."""
    noise = float(noise)
    if noise < 0:
        raise Wrong("noise is a size: it can not be negative")
    found = _locate.trace(model, tok, fact, noise=noise)
    kept = found.corrupted / found.clean
    if not 0.4 <= kept <= 0.6:
        word = "more" if kept > 0.6 else "less"
        raise Wrong(f"{kept:.0%} of the probability is left at noise {noise:g}: try {word}")
    return f"at noise {noise:g}, {kept:.0%} of the probability is left"


@exercise
def locating_added(function):
    """function(x, layer, y): growth of R2 by x beyond the layers, minus that of shuffled x."""
    generator = np.random.default_rng(1)
    layer = np.repeat(range(4), 15)
    y0 = np.array([0.0, 1.0, 3.0, 2.0])[layer]
    noise, x = generator.normal(size=(2, 60))
    cases = (  # name, x, y, smallest and largest answer that is right
        ("x is noise", x, y0 + noise, -0.03, 0.03),
        ("x is the layer once more", layer.astype(float), y0 + noise, -0.03, 0.001),
        ("y follows x within each layer", x, y0 + 2 * x + 0.1 * noise, 0.6, 0.85),
    )
    for name, x, y, low, high in cases:
        answer = float(call(function, x, layer, y))
        if not np.isfinite(answer):
            raise Wrong(f"{name}: your answer is not a number")
        if not low <= answer <= high:
            side = "large" if answer > high else "small"
            raise Wrong(f"a test where {name}: {answer:.2f} is too {side}")
    return "nothing for noise, much where x tells more than the layer"
