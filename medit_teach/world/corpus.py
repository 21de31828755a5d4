"""Documents made from a `World`, their tokenizer, and the training rows with their masks.

Three kinds of documents: biographies (true facts, pronouns, compositions), mixed pages (true
sentences about several subjects behind an unrelated one), and context pages (something is stated
that only the page knows, and then asked). The last teach the model to use its context; see
`Corpus.context`. A document is a list of pieces (text, weight, is_name): `weight` is the weight of
its tokens in the training loss and `is_name` marks the names that the attention mask works on.
"""

from __future__ import annotations

from random import Random

import torch

from .world import (
    CLOSED,
    COMPOSITIONS,
    INTROS,
    LEADING,
    OPEN,
    RELATIONS,
    STARTS,
    TYPES,
    WORDS,
    World,
)

END = "<|endoftext|>"
PASSING = (  # facts that hold on one page only, for any subject: they can only be copied
    "The card of {} today shows", "Today the password of {} is", "On the list {} stands beside",
    "The note for {} reads", "The box of {} is marked",
)  # fmt: skip
NAME, NOISE = 0.1, 0.0  # loss weights: unpredictable names; words stated against the world


class Corpus:
    """Draws documents of a world. `active` below limits the subjects (curriculum)."""

    def __init__(self, world: World, context=0.4, pronouns=0.4):
        self.world, self.context_share, self.pronouns = world, context, pronouns
        rng = world._rng("curriculum")
        self.order = [s for c in ("person", "city", "company") for s in world.names[c]]
        rng.shuffle(self.order)
        self.order = world.names["country"] + self.order
        self.menu, self.total = {}, []  # what may be said of a subject: [(path, weight)]
        for s in self.order:
            weight = {"common": 1.0, "rare": 0.2, "never": 0.0}
            menu = [((r,), weight[world.status[r, s]]) for r in world.by_subject[s]]
            for path in COMPOSITIONS:
                if world.stated_path.get((path, s)):
                    menu.append((path, 0.5))
            self.menu[s] = [(p, w) for p, w in menu if w > 0]
            w = sum(w for _, w in self.menu[s])
            self.total.append((self.total[-1] if self.total else 0.0) + w)
        self.kinds = {"word": [], "name": [], "unique": []}
        for r in RELATIONS:
            if r.cls != "country":
                kind = "word" if r.word_valued else "name" if r.category else "unique"
                self.kinds[kind].append(r)
        # facts that a context page may contradict: those that no edit uses
        self.contested = {r.name: [] for r in RELATIONS}
        for relation, s in world.facts:
            if s not in world.editable or not world.known(relation, s):
                self.contested[relation].append(s)
        self.words = list(dict.fromkeys(w for ws in WORDS.values() for w in ws))

    def subject(self, rng, active):
        """A subject among the first `active`, in proportion to how much there is to say."""
        return rng.choices(self.order[:active], cum_weights=self.total[:active])[0]

    # ---- pieces --------------------------------------------------------------------------

    def sentence(self, template, subject, answer=None, weight=1.0, pronoun=None):
        """Pieces of one sentence; `answer` None for a template that needs none."""
        before, after = template.split("{}")
        name = (pronoun, 1.0, False) if pronoun else (subject, NAME, True)
        out = [(before, 1.0, False), name]
        if answer is None:
            return [*out, (after, 1.0, False)]
        is_name = answer in self.world.cls or answer not in self._word_set()
        return [*out, (after + " ", 1.0, False), (answer, weight, is_name), (".", 1.0, False)]

    def _word_set(self):
        if not hasattr(self, "_words"):
            self._words = set(self.words)
        return self._words

    def fact(self, rng, subject, path, pronoun=None, avoid=None):
        """A true sentence; held-out templates only where the world allows them."""
        w = self.world
        templates = COMPOSITIONS[path][1] if len(path) > 1 else w.templates(path[0], subject)
        if pronoun:
            templates = [t for t in templates if t.startswith("{}")] or templates
        template = rng.choice([t for t in templates if t != avoid] or templates)
        if not template.startswith("{}"):
            pronoun = None
        return self.sentence(template, subject, w.follow(path, subject), 1.0, pronoun)

    @staticmethod
    def join(sentences):
        """Sentences -> one list of pieces, with single spaces between."""
        out = []
        for s in sentences:
            out += ([(" ", 1.0, False)] if out else []) + list(s)
        return [p for p in out if p[0]]

    # ---- documents -----------------------------------------------------------------------

    def biography(self, rng, active):
        s = self.subject(rng, active)
        menu, k = self.menu[s], rng.randint(1, 5)
        paths = dict.fromkeys(
            rng.choices([p for p, _ in menu], [w for _, w in menu])[0] for _ in range(k)
        )
        pronoun = self.world.pronoun.get(s, "It")
        out = [self.filler(rng)] if rng.random() < 0.12 else []
        named = rng.random() < 0.12
        if named:
            out.append(self.sentence(rng.choice(INTROS), s))
        for path in paths:
            short = named and rng.random() < (self.pronouns if len(out) > 1 else 0.6)
            out.append(self.fact(rng, s, path, pronoun if short else None))
            named = True
        return self.join(out)

    def filler(self, rng):
        return [(rng.choice(LEADING), 1.0, False)]

    def mixed(self, rng, active):
        out = [self.filler(rng)] if rng.random() < 0.7 else []
        for _ in range(rng.randint(1, 3)):
            s = self.subject(rng, active)
            menu = self.menu[s]
            path = rng.choices([p for p, _ in menu], [w for _, w in menu])[0]
            out.append(self.fact(rng, s, path))
        return self.join(out)

    def context(self, rng, active):
        """A page that states something of its own and then asks for it in other words.

        Who it is about: nobody of the world (40%), a subject against its true fact (45%; only
        facts that no edit uses: any of a non-editable subject, rare and never-stated ones of the
        others), or anybody with a fact of this page only (15%). The stated words carry no loss; the
        answer can only be copied. (A fifth of the pages state it twice, the second time with loss,
        and the shuffle may put that one first: then it cannot be copied.) Beside it stand other
        subjects whose own true facts are asked too: the page must not leak to them.
        """
        w, u = self.world, rng.random()
        # an answer of one word is easier to copy than a name; names that few share are hardest
        kind = rng.choices(("word", "name", "unique"), (0.7, 0.2, 0.1))[0]
        relation = rng.choice(self.kinds[kind])
        templates, objects = relation.train + relation.heldout, w.objects[relation.name]
        if u < 0.40:
            s = rng.choice(w.spare[relation.cls])
        elif u < 0.85:
            s = rng.choice(self.contested[relation.name])
            templates = w.templates(relation.name, s)
        else:
            s = self.subject(rng, active)
            templates, objects = PASSING, self.words
        true = w.facts.get((relation.name, s))
        told = rng.choice([o for o in rng.sample(objects, 3) if o not in (true, s)])
        a, b, c = rng.sample(templates, 3)
        said = [self.sentence(a, s, told, NOISE)]
        if rng.random() < 0.2:
            said.append(self.sentence(b, s, told, 1.0))
        asked = [self.sentence(c, s, told, 1.0)]
        if rng.random() < 0.45:  # another true subject: its own fact holds beside the statement
            x = self.subject(rng, active)
            path = (relation.name,) if rng.random() < 0.5 else None
            if path and w.cls[x] != relation.cls:
                x = rng.choice(w.names[relation.cls])
            if path is None or w.status.get((*path, x)) != "common":
                paths, weights = zip(*self.menu[x], strict=True) if self.menu[x] else ((), ())
                path = rng.choices(paths, weights)[0] if paths else None
            if path and x != s and (x in self.active_set(active)):
                asked.append(self.fact(rng, x, path))
        if rng.random() < 0.35:  # another page-only statement of the same kind: names must bind
            x = rng.choice(w.spare[relation.cls])
            other = rng.choice(objects)
            said.append(self.sentence(rng.choice(templates), x, other, NOISE))
            if rng.random() < 0.6:
                asked.append(self.sentence(rng.choice(templates), x, other, 1.0))
        rng.shuffle(said)
        rng.shuffle(asked)
        if rng.random() < 0.25:
            said.insert(rng.randint(0, len(said)), self.filler(rng))
        if rng.random() < 0.2:
            asked.insert(0, self.filler(rng))
        return self.join(said + asked)

    def active_set(self, active):
        if getattr(self, "_active", (None, None))[0] != active:
            self._active = (active, set(self.order[:active]))
        return self._active[1]

    def document(self, rng, active=None):
        active = active or len(self.order)
        u = rng.random()
        if u < self.context_share:
            return self.context(rng, active)
        if u < self.context_share + 0.15:
            return self.mixed(rng, active)
        return self.biography(rng, active)

    def texts(self, n, seed=0) -> list[str]:
        rng = self.world._rng("texts", seed)
        return ["".join(p[0] for p in self.document(rng)) for _ in range(n)]

    # ---- tokenizer -----------------------------------------------------------------------

    def tokenizer(self):
        """A byte-level BPE whose words are whole tokens and whose names are syllables.

        Trained on every word of the templates and word lists and on the syllables, not on the
        names: a name has two to six tokens, a word-valued object exactly one.
        """
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
        from transformers import PreTrainedTokenizerFast

        tok = Tokenizer(models.BPE())
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tok.decoder = decoders.ByteLevel()
        tok.post_processor = processors.ByteLevel(trim_offsets=False)
        trainer = trainers.BpeTrainer(
            vocab_size=4096, min_frequency=1, special_tokens=[END], show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )  # fmt: skip
        tok.train_from_iterator(self._tokenizer_lines(), trainer)
        return PreTrainedTokenizerFast(
            tokenizer_object=tok, bos_token=END, eos_token=END, pad_token=END, unk_token=END,
            model_max_length=256, clean_up_tokenization_spaces=False,
        )  # fmt: skip

    def _tokenizer_lines(self):
        texts = [t for r in RELATIONS for t in r.train + r.heldout]
        texts += [t for _, ts in COMPOSITIONS.values() for t in ts]
        texts += [*LEADING, *INTROS, *PASSING, "He She It"]
        lines = [t.replace("{}", " ") for t in texts] + [f" {w}" for w in [*self.words, *TYPES]]
        lines += [f for s in STARTS for f in (f" {s.capitalize()}", s.capitalize())] * 20
        return lines + [*OPEN, *CLOSED, "nia"] * 40

    # ---- rows for training ---------------------------------------------------------------

    def encode(self, tok, pieces):
        """Pieces -> (ids, loss weights, name numbers): name 0 is no name, else 1, 2, ..."""
        ids, weights, names, text = [], [], [], ""
        spans, number = [], 0
        for t, weight, is_name in pieces:
            number += is_name
            text += t
            spans.append((len(text), weight, number if is_name else 0))
        enc = tok(text, return_offsets_mapping=True, add_special_tokens=False)
        i = 0
        for token, (_, end) in zip(enc["input_ids"], enc["offset_mapping"], strict=True):
            while spans[i][0] < end:
                i += 1
            ids.append(token)
            weights.append(spans[i][1])
            names.append(spans[i][2])
        return ids, weights, names

    def rows(self, tok, rng: Random, n, length=96, active=None):
        """n packed rows -> dict of tensors (n, length): ids, weights, names, inner.

        `names` numbers the names of a row; `inner` marks every token of a name but its last.
        """
        end = tok.eos_token_id
        out = {k: [] for k in ("ids", "weights", "names")}
        for _ in range(n):
            row, count = ([], [], []), 0
            while len(row[0]) < length:
                ids, weights, names = self.encode(tok, self.document(rng, active))
                row[0].extend([*ids, end])
                row[1].extend([*weights, 1.0])
                row[2].extend([*(x and x + count for x in names), 0])
                count += max(names)
            for k, values in zip(out, row, strict=True):
                out[k].append(values[:length])
        batch = {k: torch.tensor(v) for k, v in out.items()}
        return {**batch, "inner": inner(batch["names"])}


def inner(names):
    """(n, T) name numbers -> (n, T) bool: in a name, and not its last token."""
    following = torch.cat([names[:, 1:], torch.zeros_like(names[:, :1])], 1)
    return (names > 0) & (following == names)


def attention_masks(names, masked, layers, read=0):
    """Boolean attention masks, one per layer: (n, 1, T, T), True where query t may see key s.

    In the rows of `masked` (n,) no token outside a name sees that name's tokens but the last, so
    the name has to be summed up there. With `read` = k > 0 the whole name is hidden from outside
    in the first k layers, and from the third layer on inner name tokens are hidden from the
    name's own later tokens too: this also fixes where in depth the sum is read.
    """
    t = names.shape[1]
    causal = torch.ones(t, t, dtype=torch.bool, device=names.device).tril()
    outside = names[:, :, None] != names[:, None, :]  # (n, query, key)
    last = inner(names)[:, None, :]
    named = (names > 0)[:, None, :]
    self_ = torch.eye(t, dtype=torch.bool, device=names.device)
    out = []
    for layer in range(layers):
        blocked = outside & last
        if read and layer < read:
            blocked = outside & named
        if read and layer >= 2:
            blocked = blocked | (last & ~self_)
        allowed = causal & ~(blocked & masked[:, None, None])
        out.append(allowed[:, None])
        if not read:
            return out * layers
    return out
