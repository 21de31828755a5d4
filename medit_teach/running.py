"""How a causal language model is run: the one place that knows how transformers is called.

    lm = LM(model)
    hidden, _ = lm.run(lm.batch(rows, tok))    # after the final norm, (rows, tokens, d)
    lm.head(hidden[:, -1])                     # the logits that model(...) gives there
    lm.read(lm.batch(rows, tok), row, col)     # the same at some tokens, for any model

It needs no declared architecture; `models.View` adds what editing needs.
"""

import copy
import inspect
from contextlib import contextmanager

import torch

from .errors import FactError, ModelError
from .fact import pad
from .hooks import evaluating

ENDLESS = 2**20  # tokens, for a model that names no limit
WINDOWS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
PROBE = 5  # tokens of the short passes in which a model is looked at


def home(device):
    """Where float64 is computed for what lies on `device`: there, or on the host (MPS has none)."""
    device = torch.device(device)
    return torch.device("cpu") if device.type == "mps" else device


def exact(x):
    """The tensor in float64, at its `home`."""
    return x.to(home(x.device)).double()


def unwrapped(model):
    """The model inside a compiled, parallel or adapted (PEFT) one, with the same weights.

    ModelError for a PEFT model that puts learned prompts in front: the model inside lacks them.
    """
    while True:
        if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
            raise ModelError(
                "this PEFT model puts learned prompts in front of each text; edit the model inside "
                "it: model.get_base_model()"
            )
        if hasattr(model, "_orig_mod"):  # torch.compile
            model = model._orig_mod
        elif isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            model = model.module
        elif hasattr(model, "get_base_model"):  # PEFT: its layers stay in the model inside
            model = model.get_base_model()
        else:
            return model


def is_compiled(model):
    """Whether calls of `model` run compiled code, which does not see hooks that are set later."""
    return hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None


def text_config(model):
    """The settings of the model's text part, which some models nest: config.text_config."""
    config = unwrapped(model).config
    nested = getattr(config, "get_text_config", None)
    return nested(decoder=True) if nested else config


class LM:
    """A causal language model as it is run. model: the model inside wrappers; device: where its
    inputs go; window: the most tokens it takes; vocabulary: the number of its logits."""

    def __init__(self, model):
        self.model = model = unwrapped(model)
        if not hasattr(model, "config") or not hasattr(model, "get_input_embeddings"):
            raise ModelError(
                f"{type(model).__name__} is no language model of transformers; load one with "
                "medit_teach.load or AutoModelForCausalLM.from_pretrained"
            )
        self.decoder = model.base_model  # gives hidden states after the final norm, no logits
        takes = inspect.signature(type(self.decoder).forward).parameters
        self._takes = {"input_ids", "attention_mask", *takes}
        self._cache = "cache" if "cache" in takes else "past_key_values"  # the former since 5.24

    @property
    def device(self):
        return self.model.get_input_embeddings().weight.device

    @property
    def window(self):
        config = text_config(self.model)
        named = (getattr(config, name, None) for name in WINDOWS)
        return next((n for n in named if isinstance(n, int) and n > 0), ENDLESS)

    @property
    def vocabulary(self):
        return self.model.get_output_embeddings().weight.shape[0]

    def check(self, ids, tok):
        """FactError, with the text's beginning, for token ids that the model cannot read."""
        known = self.model.get_input_embeddings().weight.shape[0]
        if 0 < len(ids) <= self.window and max(ids) < known:
            return
        start = tok.decode(list(ids[:9]))
        if not 0 < len(ids) <= self.window:
            raise FactError(
                f"{start!r}... has {len(ids)} tokens; the model takes 1 to {self.window}"
            )
        raise FactError(
            f"{start!r}... has the token {tok.decode([max(ids)])!r} with number {max(ids)}; the "
            f"model knows 0 to {known - 1}: call model.resize_token_embeddings(len(tok))"
        )

    def batch(self, rows, tok):
        """`run`'s arguments for rows of token ids, padded; FactError as `check`."""
        for ids in rows:
            self.check(ids, tok)
        return pad([list(ids) for ids in rows], tok, self.device)

    def run(self, batch, cache=None, keep=False):
        """(hidden states after the final norm (n, tokens, d), the cache or None).

        batch: input_ids, attention_mask, position_ids, ... cache: attention's earlier keys and
        values, which grow; keep: begin a new one.
        """
        given = {name: x for name, x in batch.items() if name in self._takes}
        if cache is not None:
            given[self._cache] = cache
        out = self.decoder(**given, use_cache=keep or cache is not None)
        return out.last_hidden_state, getattr(out, self._cache, None)

    @staticmethod
    def cache(layers=()):
        """A cache with attention's keys and values [(keys, values), ...] of each layer; empty."""
        from transformers import DynamicCache

        return DynamicCache(list(layers)) if layers else DynamicCache()

    @staticmethod
    def fixed(layers):
        """A function that puts in a cache's place one that holds these keys and values at every
        call, whatever is added; and leaves all else as it is."""
        from transformers import DynamicCache

        class Fixed(DynamicCache):
            def update(self, keys, values, layer, *args, **kwargs):
                before = layers[layer]
                return torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)

            def get_seq_length(self, *args, **kwargs):
                return layers[0][0].shape[2]

        cache = Fixed()
        return lambda x: cache if isinstance(x, DynamicCache) else x

    def head(self, hidden):
        """Logits (..., vocabulary) of states after the final norm (..., d), as model(...) has them.

        The model's own forward makes them, with the decoder replaced by one that gives `hidden`: so
        what it does beside its head (scales, caps) is done. ModelError if it cannot be run so.
        """
        kind = self._kind_of_output()
        if kind is None:
            raise ModelError(
                f"the logits of a {type(self.model).__name__} cannot be computed from its hidden "
                "states: such a model can be scored, but not edited"
            )
        return self._head(hidden, kind)

    def _head(self, hidden, kind):
        shell = copy.copy(self.model)
        part = next(n for n, x in self.model._modules.items() if x is self.decoder)
        flat = hidden.reshape(1, -1, hidden.shape[-1])
        shell._modules = self.model._modules | {part: _Given(kind(last_hidden_state=flat))}
        ids = torch.zeros(flat.shape[:2], dtype=torch.long, device=hidden.device)
        logits = type(self.model).forward(shell, input_ids=ids, use_cache=False).logits
        return logits.view(*hidden.shape[:-1], -1)

    def read(self, batch, row, col):
        """Logits (n, vocabulary), float32, of model(**batch) at tokens col[i] of rows row[i].

        The head is run there only, in every model of which that is known to give the same.
        """
        if self._kind_of_output() is None:
            given = {k: x for k, x in batch.items() if k in ("input_ids", "attention_mask")}
            return self.model(**given).logits[row, col].float()
        return self.head(self.run(batch)[0][row, col]).float()

    def next(self, ids, step, cache):
        """(logits (n, vocabulary) float32 of the token after ids (n, tokens), the cache).

        step: those at the end of ids that `cache` does not hold yet.
        """
        mask = torch.ones_like(ids)
        if self._kind_of_output() is None:
            batch = {"input_ids": ids, "attention_mask": mask}
            return self.read(batch, slice(None), -1), None
        hidden, cache = self.run({"input_ids": step, "attention_mask": mask}, cache, keep=True)
        return self.head(hidden[:, -1]).float(), cache

    def _kind_of_output(self):
        """The class of the decoder's outputs; None if `_head` does not give the model's logits.

        Found once a model, in one short pass.
        """
        known = known_of(self.model)
        if "output" not in known:
            known["output"] = self._compare_head()
        return known["output"]

    def _compare_head(self):
        with looking(self.model):
            own = self.model(**self.probe()).logits
            try:
                out = self.decoder(**self.probe())
                made = self._head(out.last_hidden_state, type(out))
            except Exception:  # whatever a foreign forward raises when it is run so
                return None
        return type(out) if alike(made, own) else None

    def probe(self):
        """`run`'s arguments for a short row of tokens."""
        known = self.model.get_input_embeddings().weight.shape[0]
        ids = torch.arange(1, PROBE + 1, device=self.device)[None] % known
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}


class _Given(torch.nn.Module):
    """Stands for a decoder, and for any part of it (OPT calls one): gives one output."""

    def __init__(self, output):
        super().__init__()
        self.__dict__["output"] = output

    def forward(self, *args, **kwargs):
        return self.output

    def __getattr__(self, name):
        return self


def alike(made, own):
    """Whether two tensors are equal, up to the rounding of one operation in their own types."""
    eps = max(torch.finfo(x.dtype).eps for x in (made, own))
    made, own = exact(made), exact(own.to(made.device))
    near = 16 * eps * float(own.abs().nan_to_num(posinf=0).max())
    if made.shape != own.shape:
        return False
    return torch.allclose(made, own, rtol=0, atol=near, equal_nan=True)


@contextmanager
def looking(model):
    """Inside, `model` is looked at in its own precision: no dropout, no gradients, no autocast."""
    kind = model.get_input_embeddings().weight.device.type
    with torch.no_grad(), evaluating(model), torch.autocast(kind, enabled=False):
        yield


def known_of(model):
    """What was found out about the model (dict), as long as it has the same kinds of modules."""
    kinds = hash(tuple(type(module) for module in model.modules()))
    known = model.__dict__.setdefault("_medit_known", {})
    if known.get("kinds") != kinds:
        known.clear()
        known["kinds"] = kinds
    return known
