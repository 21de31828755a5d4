"""How well an edit went: every score with the protocol by which it was measured.

    scores = score(model, tok, facts)      # while the edit is applied
    print(scores)                          # a table with 95% intervals and the protocol
    scores.ES, scores.values["ES"]         # 98.4, (98.4, 95.3, 100.0, 64)

Probabilities are teacher-forced: the target's tokens are given, and each is predicted from the true
ones before it. Preferences (ES, PS, NS) ask which of two objects is likelier; accuracies (EA, PA,
NA) ask whether the model would say it by itself. The two can be far apart: look at both.
"""

import re
import textwrap
from collections import Counter
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from .edits import edits_of
from .errors import FactError, MeditError, ModelError
from .fact import as_facts, encode, with_target
from .hooks import evaluating
from .memory import Room
from .models import why_not_finite
from .processes import ALONE
from .running import LM
from .settings import MOST_SEED, number, shown, whole
from .texts import UNSPACED, WORD, as_texts, draws, ended, in_order, settled

# name: (prompts, what is averaged); prompts E = rewrite, P = paraphrases, N = neighborhood
SCORES = {
    "ES": ("E", "success", "rewrite prompt: P[new] > P[true]"),
    "PS": ("P", "success", "paraphrases: P[new] > P[true]"),
    "NS": ("N", "success", "neighborhood: P[true] > P[new]"),
    "EM": ("E", "margin", "rewrite prompt: P[new] - P[true]"),
    "PM": ("P", "margin", "paraphrases: P[new] - P[true]"),
    "NM": ("N", "margin", "neighborhood: P[true] - P[new]"),
    "EA": ("E", "accuracy", "rewrite prompt: says target_new"),
    "PA": ("P", "accuracy", "paraphrases: says target_new"),
    "NA": ("N", "accuracy", "neighborhood: says target_true"),
}
PROTOCOL = (
    "Prompt and target joined by one space and encoded in one piece, no context in front; teacher-"
    "forced; P[target] = exp of the mean log-probability of the target's tokens; target_new is "
    "compared with target_true on the same prompt; 'says' = every token of the target is the "
    "likeliest one. In percent, averaged over the prompts of a fact, then over facts. S = harmonic "
    "mean of ES, PS, NS."
)
NOTHING = (None, None, None, 0)
WORDS = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")  # characters, words, marks


# ------------------------------------------------------------------ log-probabilities


def target_logprobs(model, tok, prompts, targets, batch_size=64, processes=ALONE, joins=None):
    """log P of each token of targets[i] after prompts[i], teacher-forced.

    Edits that the model carries may put text in front of a prompt (Edit.asked). Returns (list of
    1-D float32 tensors, one entry a target token; list of bool: is every target token the likeliest
    one). processes: each runs its share of the batches; all have the whole lists. joins[i]: what
    stands between the two (Fact.join). FactError names a text that is too long or has an empty
    prompt.
    """
    prompts = _asked(model, prompts)
    targets = list(as_texts(targets, "targets"))
    joins = [None] * len(prompts) if joins is None else joins
    if not len(prompts) == len(targets) == len(joins):
        raise FactError(f"{len(prompts)} prompts and {len(targets)} targets; give one for each")
    pairs = [with_target(tok, *one) for one in zip(prompts, targets, joins, strict=True)]
    for (_, start), prompt in zip(pairs, prompts, strict=True):
        if start == 0:
            raise FactError(f"the prompt {prompt!r} has no token that could predict a target")
    out = _logprobs(model, tok, pairs, batch_size, processes)
    return [log_p for log_p, _ in out], [bool(said.all()) for _, said in out]


def _asked(model, prompts):
    """The questions that the model gets for `prompts`, by the edits that it carries."""
    prompts = list(as_texts(prompts, "prompts"))
    asked = {prompt: prompt for prompt in prompts}
    for edit in edits_of(model):
        asked = {prompt: edit.asked(text) for prompt, text in asked.items()}
    return [asked[prompt] for prompt in prompts]


def _logprobs(model, tok, pairs, batch_size, processes=ALONE):
    """For each (ids, start): log P(ids[start:] | ids before), and whether each is the likeliest.

    Rows are sorted by length, a row that serves several targets is run once, and the head sees
    only the positions that predict a target token.
    """
    readers = {}  # input ids -> the pairs that read it
    for i, (ids, _) in enumerate(pairs):
        readers.setdefault(tuple(ids[:-1]), []).append(i)
    rows = sorted(readers, key=len)
    parts, room, done = [], Room(batch_size, "batch_size"), 0
    share = processes.share(range(0, len(rows), room.size))
    mine = [ids for b in share for ids in rows[b : b + room.size]]
    with torch.no_grad(), evaluating(model):
        while done < len(mine):
            with room:
                chunk = mine[done : done + room.size]
                row, col, label, sizes, members = [], [], [], [], []
                for r, ids in enumerate(chunk):
                    for i in readers[ids]:
                        full, start = pairs[i]
                        members.append(i)
                        sizes.append(len(full) - start)
                        row += [r] * sizes[-1]
                        col += range(start - 1, len(full) - 1)
                        label += full[start:]
                log_p = torch.log_softmax(_logits(model, tok, chunk, row, col), -1)
                label = torch.tensor(label, device=log_p.device)
                said = (log_p.argmax(-1) == label).cpu()
                log_p = log_p.gather(1, label[:, None])[:, 0].cpu()
                if not torch.isfinite(log_p).all():
                    raise ModelError(f"the model gives NaN probabilities: {why_not_finite(model)}")
                parts.append((members, sizes, log_p, said))
                done += len(chunk)
    out = [None] * len(pairs)
    for members, sizes, log_p, said in chain.from_iterable(processes.gathered(parts)):
        for i, *found in zip(members, log_p.split(sizes), said.split(sizes), strict=True):
            out[i] = found
    return out


def _logits(model, tok, rows, row, col):
    """Logits (n, vocabulary), float32, at tokens col[i] of rows[row[i]]: no others are computed."""
    lm = LM(model)
    return lm.read(lm.batch(rows, tok), row, col)


def top_tokens(model, tok, prompts, k=5):
    """For each prompt the k likeliest next tokens: [(token as text, probability), ...]."""
    rows = [encode(tok, ended(prompt))[0] for prompt in _asked(model, prompts)]
    if not rows:
        return []
    last, k = [len(ids) - 1 for ids in rows], whole("k", k, 1, error=FactError)
    with torch.no_grad(), evaluating(model):
        p = torch.softmax(_logits(model, tok, rows, range(len(rows)), last), -1)
    return [
        [(tok.decode([t]), value) for t, value in zip(ids, values, strict=True)]
        for values, ids in zip(*(x.tolist() for x in p.topk(min(k, p.shape[-1]))), strict=True)
    ]


def perplexity(model, tok, texts, batch_size=8):
    """exp of the mean negative log-likelihood of a token, over all tokens of all texts.

    Each text is encoded separately; its first token has nothing before it and is not counted. A
    text longer than the model's context is cut into pieces that are read separately.
    """
    window = LM(model).window
    pieces = []
    for text in as_texts(texts):
        ids, _ = encode(tok, text)
        pieces += [ids[i : i + window] for i in range(0, len(ids), window)]
    pairs = [(ids, 1) for ids in pieces if len(ids) > 1]
    if not pairs:
        raise MeditError("perplexity needs a text of at least two tokens")
    log_p = torch.cat([log_p for log_p, _ in _logprobs(model, tok, pairs, batch_size)])
    return float(torch.exp(-log_p.double().mean()))


# ------------------------------------------------------------------ the scores of an edit


@dataclass(frozen=True)
class Scores:
    """What `score` found. values: name -> (value, low, high, number of facts), value None where
    the facts lack what it needs; per_fact: name -> (facts,) array, NaN where a fact lacks it. All
    in percent. scores.ES is values["ES"][0].
    """

    values: dict
    per_fact: dict
    protocol: str
    notes: tuple = ()

    def __getattr__(self, name):
        values = self.__dict__.get("values", {})
        if name not in values:
            raise AttributeError(f"no score {name!r}; there are {', '.join(values)}")
        return values[name][0]

    @property
    def table(self):
        """The values with their intervals, one line each, without the protocol."""
        lines = [f"{'':4}{'percent':>7}  {'interval':^16}{'facts':>7}"]
        about = {"S": "harmonic mean of ES, PS, NS"} | {k: v[2] for k, v in SCORES.items()}
        for name, (value, low, high, n) in self.values.items():
            v, a, b = ("-" if x is None else f"{x:z.1f}" for x in (value, low, high))
            lines.append(f"{name:4}{v:>7}  {a:>6} to {b:>6}{n:>7}  {about[name]}")
        return "\n".join(lines)

    def __str__(self):
        below = [textwrap.fill(text, 88) for text in (self.protocol, *self.notes)]
        return "\n".join([self.table, *below])

    def to_dict(self):
        """Plain dict for JSON: the values, the protocol and the notes; NaN becomes None."""
        fields = ("value", "low", "high", "facts")
        values = {k: dict(zip(fields, v, strict=True)) for k, v in self.values.items()}
        per_fact = {
            k: [None if np.isnan(x) else float(x) for x in v] for k, v in self.per_fact.items()
        }
        return {"values": values, "per_fact": per_fact, "protocol": self.protocol,
                "notes": list(self.notes)}  # fmt: skip


def score(model, tok, facts, batch_size=64, resamples=1000, seed=0, level=0.95, processes=ALONE):
    """Scores of `facts` on the model as it is now, by CounterFact's protocol.

    ROME paper sec. 3.3 and MEMIT paper sec. 5.2, as their evaluation code does it (see PROTOCOL).
    Intervals: `level` bootstrap over facts (`resamples` draws with `seed`). processes: as in
    target_logprobs.
    """
    facts, (resamples, seed, level) = as_facts(facts), _draws(resamples, seed, level)
    asked = [  # (fact, kind, prompt, the true object there)
        (i, kind, prompt, true)
        for i, fact in enumerate(facts)
        for kind, prompts in (
            ("E", [(fact.text, fact.target_true)]),
            ("P", [(prompt, fact.target_true) for prompt in fact.paraphrases]),
            ("N", fact.neighbors),
        )
        for prompt, true in prompts
    ]
    of, kinds = np.array([i for i, *_ in asked]), np.array([kind for _, kind, *_ in asked])
    known = np.array([true is not None for *_, true in asked])
    pairs = [
        (prompt, target)
        for i, _, prompt, true in asked
        for target in (facts[i].target_new, true or facts[i].target_new)
    ]
    joins = [facts[i].join for i, *_ in asked for _ in range(2)]
    log_p, said = target_logprobs(
        model, tok, *zip(*pairs, strict=True), batch_size, processes, joins
    )
    mean = np.array([float(x.double().mean()) for x in log_p]).reshape(-1, 2)  # log P[new], P[true]
    said = np.array(said, dtype=float).reshape(-1, 2)
    mean[~known, 1] = said[~known, 1] = np.nan
    new = [facts[i].target_new for i, *_ in asked]
    same = np.array([true == new for (*_, true), new in zip(asked, new, strict=True)])
    mean[same, 1] = np.nan  # one object on both sides: there is nothing to compare

    sign = np.where(kinds == "N", -1, 1)  # neighbours are to keep the true object
    lead = sign * (mean[:, 0] - mean[:, 1])
    measured = {
        "success": np.where(known & ~same, lead > 0, np.nan),
        "margin": sign * (np.exp(mean[:, 0]) - np.exp(mean[:, 1])),
        "accuracy": np.where(kinds == "N", said[:, 1], said[:, 0]),
    }
    per_fact = {}
    for name, (kind, what, _) in SCORES.items():
        mine = (kinds == kind) & ~np.isnan(measured[what])
        total = np.bincount(of[mine], 100 * measured[what][mine], len(facts))
        with np.errstate(invalid="ignore"):  # 0/0 for a fact without such prompts
            per_fact[name] = total / np.bincount(of[mine], minlength=len(facts))

    values = summary(per_fact, resamples, seed, level)
    notes = [f"Interval: {level:.0%} bootstrap over facts, {resamples} draws."]
    for name, needs in (("ES", ""), ("PS", " and paraphrases"), ("NS", " and neighborhood")):
        if (n := values[name][3]) < len(facts):
            notes.append(f"{name} from {n} of {len(facts)} facts: it needs target_true{needs}.")
    if same.any():
        notes.append(f"Nothing to compare on {same.sum()} prompts: target_new is true there.")
    used = [settled(one[2], join, tok)[1] for one, join in zip(asked, joins[::2], strict=True)]
    if apart := sum(join != " " for join in used):
        notes.append(f"{apart} of {len(used)} prompts: joined to their objects by no single space.")
    if any(fact.neighborhood_true for fact in facts):
        notes.append("Neighborhood prompts with answers of their own are compared with these.")
    return Scores(values, per_fact, PROTOCOL, tuple(notes))


def summary(per_fact, resamples=1000, seed=0, level=0.95):
    """{name: (value, low, high, number of facts)}: means over facts with bootstrap intervals.

    per_fact: {name: (facts,) array}, NaN where a fact lacks it. Where ES, PS and NS are among them
    there is S too, their harmonic mean.
    """
    drawn = _resampled(np.stack(list(per_fact.values()), 1), resamples, seed)
    drawn = dict(zip(per_fact, drawn.T, strict=True))
    values = {"S": NOTHING} if {"ES", "PS", "NS"} <= set(per_fact) else {}
    for name, x in per_fact.items():
        n = int((~np.isnan(x)).sum())
        values[name] = (*_interval(np.nanmean(x), drawn[name], level), n) if n else NOTHING
    found = [values[name] for name in ("ES", "PS", "NS") if "S" in values]
    if found and NOTHING not in found:
        mean = _harmonic([value[0] for value in found])
        draws = _harmonic([drawn[name] for name in ("ES", "PS", "NS")])
        values["S"] = (*_interval(mean, draws, level), min(value[3] for value in found))
    return values


def _harmonic(parts):
    """Harmonic mean over the first axis; 0 where any part is 0."""
    parts = np.asarray(parts, dtype=float)
    with np.errstate(divide="ignore"):
        return len(parts) / (1 / parts).sum(0)


def bootstrap(values, n=1000, seed=0, level=0.95):
    """(mean, low, high): the mean and its percentile interval when the values are drawn again.

    values (m,), numbers, NaN left out. n: draws.
    """
    values, (n, seed, level) = _numbers("values", values), _draws(n, seed, level)
    return _interval(values.mean(), _resampled(values[:, None], n, seed)[:, 0], level)


def _numbers(name, values):
    """Numbers (m,), those that are NaN left out; MeditError unless at least one is left."""
    try:
        values = np.asarray(values, dtype=float)
    except (TypeError, ValueError, RuntimeError):
        raise MeditError(f"{name} must be numbers, not {shown(values)}") from None
    if values.ndim != 1:
        raise MeditError(f"{name} must be a list of numbers, not of shape {values.shape}")
    values = values[~np.isnan(values)]
    if not len(values):
        raise MeditError(f"{name} must hold at least one number")
    return values


def _draws(n, seed, level):
    """How often, with which seed, and for which interval values are drawn again; or HyperError."""
    n, seed = whole("the number of draws", n, 1, 10**6), whole("seed", seed, 0, MOST_SEED)
    return n, seed, number("level", level, above=0, below=1)


def _resampled(values, n, seed):
    """Means (n, columns) over rows of `values` (m, columns) drawn m times with replacement.

    NaN entries are left out; the same rows are drawn for every column.
    """
    m = len(values)
    times = np.random.default_rng(seed).multinomial(m, np.full(m, 1 / m), size=n).astype(float)
    with np.errstate(invalid="ignore"):  # 0/0 where only NaN entries were drawn
        return (times @ np.nan_to_num(values)) / (times @ ~np.isnan(values))


def _interval(mean, draws, level):
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(mean), float(low), float(high)


# ------------------------------------------------------------------ generated text


def ngram_entropy(text):
    """Weighted entropy of bi- and trigrams in bits: (2/3 H_2 + 4/3 H_3) / 2.

    text: a string, split into words and punctuation marks (into characters where a script puts no
    spaces between words), or a list of tokens. Low values mean that the text repeats itself. ROME
    paper, app. B ("GE", printed there times 100); the original splits words by NLTK, which takes
    "don't" apart, so that its numbers differ a little.
    """
    split = isinstance(text, str)
    tokens = WORDS.findall(text) if split else list(in_order(text, "text", MeditError))
    total = 0.0
    for n, weight in ((2, 2 / 3), (3, 4 / 3)):
        counts = Counter(zip(*(tokens[i:] for i in range(n)), strict=False)).values()
        p = np.array(list(counts), dtype=float) / max(1, sum(counts))
        total += weight * float(-(p * np.log2(p)).sum()) / 2
    return total


def generate(model, tok, prompts, n_tokens=100, top_k=1, seed=0):
    """Each prompt with up to n_tokens more tokens, as text (fewer where the context ends).

    top_k 1 takes the likeliest token each time; top_k 5 draws among five, as the ROME paper does.
    The end-of-text token does not stop it. What an edit, or the tokenizer (a BOS), puts in front of
    a prompt is not returned.
    """
    n_tokens, top_k = [
        whole(name, value, least, error=FactError)
        for name, value, least in (("n_tokens", n_tokens, 0), ("top_k", top_k, 1))
    ]
    prompts = list(as_texts(prompts, "prompts"))
    asked = _asked(model, prompts)
    encoded = [encode(tok, ended(text)) for text in asked]
    rows = [ids for ids, _ in encoded]
    by_length = {}
    for i, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(i)
    generator, lm = draws(seed), LM(model)
    out = [None] * len(rows)
    with torch.no_grad(), evaluating(model):
        for length, members in by_length.items():  # equal lengths: no padding
            if not length:
                raise FactError(f"the prompt {asked[members[0]]!r} has no token to go on from")
            ids = step = lm.batch([rows[i] for i in members], tok)["input_ids"]
            cache = None
            for _ in range(min(n_tokens, lm.window - length)):
                logits, cache = lm.next(ids, step, cache)
                best, index = logits.topk(min(top_k, logits.shape[-1]))
                drawn = torch.multinomial(best.softmax(-1).cpu(), 1, generator=generator)
                step = index.gather(1, drawn.to(index.device)).to(ids.device)
                ids = torch.cat([ids, step], 1)
            for i, row in zip(members, ids.tolist(), strict=True):
                text = asked[i][: len(asked[i]) - len(prompts[i])]
                front = sum(end == 0 for _, end in encoded[i][1])
                if text:
                    front = with_target(tok, text.rstrip(), ended(prompts[i]), " ")[1]
                out[i] = tok.decode(row[front:]).removeprefix(" " if text else "")
    return out


def fluency(model, tok, facts, n_tokens=100, top_k=1, seed=0):
    """Mean n-gram entropy (bits) of texts generated from the facts' generation prompts.

    Averaged over the prompts of a fact, then over facts. The prompt counts as part of the text, as
    in the original. FactError if no fact has generation prompts.
    """
    facts = [fact for fact in as_facts(facts) if fact.generation]
    if not facts:
        raise FactError("fluency needs facts with generation prompts")
    prompts = [prompt for fact in facts for prompt in fact.generation]
    entropies = iter(map(ngram_entropy, generate(model, tok, prompts, n_tokens, top_k, seed)))
    return float(np.mean([np.mean([next(entropies) for _ in f.generation]) for f in facts]))


def consistency(model, tok, facts, references, n_tokens=100, top_k=1, seed=0):
    """Mean cosine (0 to 1) of TF-IDF vectors: texts about a subject against reference texts.

    The texts are generated from a fact's generation prompts (prompts included) and joined;
    references: for each fact a list of texts about other subjects that have target_new. ROME
    paper, sec. 3.3 ("RS"). The word weights come from all the references; the original takes them
    from Wikipedia, so that its numbers differ. FactError if no fact has both.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    facts, references = as_facts(facts), list(in_order(references, "references", FactError))
    if len(facts) != len(references):
        raise FactError(f"{len(references)} lists of references for {len(facts)} facts")
    references = [list(as_texts(refs, "references")) for refs in references]
    both = [(f, r) for f, r in zip(facts, references, strict=True) if f.generation and r]
    if not both:
        raise FactError("consistency needs facts with generation prompts and reference texts")
    if not any(re.search(WORD, text) for _, refs in both for text in refs):
        raise FactError("the references hold no words")
    words = TfidfVectorizer(token_pattern=WORD).fit([text for _, refs in both for text in refs])
    texts = iter(
        generate(model, tok, [p for f, _ in both for p in f.generation], n_tokens, top_k, seed)
    )
    made = words.transform([" ".join(next(texts) for _ in f.generation) for f, _ in both])
    told = words.transform([" ".join(refs) for _, refs in both])
    return float(made.multiply(told).sum(1).mean())  # rows have length 1
