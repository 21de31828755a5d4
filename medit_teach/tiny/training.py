"""Trains the embedded models on the invented world: `medit-teach train tiny-gptj`.

The recipe: rows of 96 tokens; in most rows an attention mask that makes the model sum a name up at
its last token (`corpus.attention_masks`; no mask when the model is used); a curriculum that starts
with few subjects; little loss on the names; Muon on the matrices of the blocks and AdamW on the
rest. GPT-2's shape gets a second part, in which attention that the mask would hide costs something
in the rows without it (`attended`). Every batch is drawn from its step number alone, so a run that
was killed and resumed sees the same batches as one that was not.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import sys
import time
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F

from .. import kept
from ..errors import MeditError
from ..memory import ran_out
from ..models import _available, load
from ..options import Parser
from ..world import BY_NAME, CATEGORIES, LEADING, World
from ..world.corpus import Corpus, attention_masks

LENGTH = 96  # tokens in a row
CHECKPOINT = "checkpoint.pt"  # in the folder `work`
VARIANTS = {  # masked: share of rows with the mask; read: see `attention_masks`; end: see `plan`
    "tiny-gptj": dict(arch="gptj", masked=0.8, read=0, steps=4600),
    "tiny-gpt2": dict(
        arch="gpt2",
        masked=0.9,
        read=4,
        steps=4600,
        end=dict(share=600 / 4600, masked=0.5, price=1.0, rate=0.3),
    ),
    "tiny-gptj-plain": dict(  # no mask; a third of the world, learned in a third of the time
        arch="gptj",
        masked=0.0,
        read=0,
        steps=1600,
        world=dict(people=600, places=220, companies=220),
    ),
}
PRESETS = {  # read by `hyper.hyper`: what all methods share, then each method's own
    "tiny-gptj": {
        "all": dict(
            layers=[1, 2, 3], steps=25, lr=0.5, clamp=3.0, kl_factor=0.0625,
            contexts=["", *(f"{s} " for s in LEADING[:4])],
        ),
        "rome": dict(layers=[3], clamp=12.0),
        "memit": dict(lam=2000.0),
        "alphaedit": dict(energy=0.01, L2=1.0),
        "nullspace": dict(energy=0.03),
        "ft": dict(layers=[3], steps=50, lr=1e-3),
    },
}  # fmt: skip
PRESETS["tiny-gptj-plain"] = PRESETS["tiny-gptj"]  # the control differs in its training alone
PRESETS["tiny-gpt2"] = PRESETS["tiny-gptj"] | {
    "rome": dict(layers=[1], clamp=1.75),
    "memit": dict(lam=250.0),
    "ft": dict(layers=[1], steps=50, lr=3e-3),
}


def new_model(arch, vocab, end, layers=8, width=192, heads=6):
    """A fresh GPT-J- or GPT-2-shaped model in float32, whose attention returns its weights."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPTJConfig, GPTJForCausalLM

    common = dict(
        vocab_size=vocab, n_positions=256, n_embd=width, n_layer=layers, n_head=heads,
        activation_function="gelu_pytorch_tanh", attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
        bos_token_id=end, eos_token_id=end, pad_token_id=end, use_cache=True,
    )  # fmt: skip
    common["attn_implementation"] = "eager"
    if arch == "gptj":
        return GPTJForCausalLM(GPTJConfig(rotary_dim=16, tie_word_embeddings=False, **common))
    return GPT2LMHeadModel(GPT2Config(tie_word_embeddings=True, **common))


@contextlib.contextmanager
def layer_masks(model, masks):
    """Each block attends under its own mask: masks[i] (n, 1, T, T), True where it may look."""

    def give(mask):
        bias = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -1e9)

        def hook(module, args, kwargs):
            if "attention_mask" not in kwargs:
                raise RuntimeError("this attention takes no attention_mask by name")
            return args, {**kwargs, "attention_mask": bias}

        return hook

    same = all(m is masks[0] for m in masks)
    shared = give(masks[0])
    handles = [
        block.attn.register_forward_pre_hook(shared if same else give(m), with_kwargs=True)
        for block, m in zip(model.transformer.h, masks, strict=True)
    ]
    try:
        yield
    finally:
        for h in handles:
            h.remove()


@contextlib.contextmanager
def attention_of(model):
    """A list that each forward pass fills with its blocks' attention: (n, heads, T, T) a block."""
    seen = []

    def note(first):
        def hook(module, args, output):
            if first:
                seen.clear()
            if output[1] is None:
                raise RuntimeError("this attention returns no weights: load it as eager")
            seen.append(output[1])

        return hook

    blocks = model.transformer.h
    handles = [b.attn.register_forward_hook(note(i == 0)) for i, b in enumerate(blocks)]
    try:
        yield seen
    finally:
        for h in handles:
            h.remove()


def attended(seen, masks):
    """Attention that goes where masks[i] (n, 1, T, T) forbid it: a number, summed over keys and
    blocks, mean over rows, heads and queries. seen: the blocks' attention (n, heads, T, T)."""
    return sum((a.float() * ~m).sum(-1).mean() for a, m in zip(seen, masks, strict=True))


def optimizers(model):
    """Muon for the matrices of the blocks, AdamW for the rest."""
    matrices = [p for n, p in model.named_parameters() if ".h." in n and p.ndim == 2]
    chosen = set(map(id, matrices))
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.05, adjust_lr_fn="original"),
        torch.optim.AdamW(rest, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def schedule(step, steps, warm=40):
    """Factor of the learning rates: short warm-up, flat to 40%, then down to 2%."""
    x = step / steps
    return min(1.0, (step + 1) / warm) * (1.0 if x < 0.4 else 1.0 - 0.98 * (x - 0.4) / 0.6)


def active_subjects(step, steps, total, first=60):
    """Curriculum: `first` subjects for 6% of the steps, then an exponential ramp until 40%."""
    x = (step / steps - 0.06) / 0.34
    return min(total, round(first * (total / first) ** min(1.0, max(0.0, x))))


def plan(variant, step, steps):
    """What holds at a step: dict(step, steps: within its part; masked, price, rate).

    Without an "end" there is one part. With one the last `share` of the steps has its own share of
    masked rows, a price (`loss_of`), and learning rates that fall from `rate` to 2%.
    """
    end = variant.get("end", {})
    main = round(steps * (1 - end.get("share", 0.0)))
    if step < main:
        rate = schedule(step, main)
        return dict(step=step, steps=main, masked=variant["masked"], price=0.0, rate=rate)
    left = 1 - (step - main) / (steps - main)
    rate = 0.02 + (end["rate"] - 0.02) * left
    return dict(step=main, steps=main, masked=end["masked"], price=end["price"], rate=rate)


def loss_of(model, batch, masks, price=0.0, priced=None):
    """Weighted next-token loss. batch: ids, weights (n, T).

    price: of the attention that goes where the masks `priced` forbid it (`attended`). It is for
    rows that no mask holds: there the model may look at a whole name, and is to learn not to.
    """
    ids, weights = batch["ids"], batch["weights"]
    watched = attention_of(model) if price else contextlib.nullcontext()
    with layer_masks(model, masks), watched as seen:
        logits = model(input_ids=ids, use_cache=False).logits.float()
    nll = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    w = weights[:, 1:].flatten()
    loss = (nll * w).sum() / w.sum()
    return loss + price * attended(seen, priced) if price else loss


def train(name, out, steps=None, resume=True, progress=True, world=None, seed=0, batch=32,
          device=None, shape=None, checkpoint_every=120.0, stop_after=None, work=None):  # fmt: skip
    """Train `name` and save it into the folder `out`; returns the path. steps: default, its own.

    The checkpoint lies in `work` (default: `out` with ".work" appended) and is written every
    `checkpoint_every` seconds; with `resume` a later call continues from it. device: default
    "cuda" where there is one, else "cpu". stop_after: end after that many steps of this call
    without saving a model (tests use it as a kill). MeditError for an unknown name, a device that
    is not there, and a checkpoint that belongs to another run.
    """
    if name not in VARIANTS:
        raise MeditError(f"unknown model {name!r}; choose from {', '.join(VARIANTS)}")
    variant, out = VARIANTS[name], Path(out)
    steps = steps or variant["steps"]
    work = Path(work or f"{out}.work")
    with kept.named(work):
        work.mkdir(parents=True, exist_ok=True)
    with kept.named(out):
        if os.path.lexists(out) and not out.is_dir():
            raise NotADirectoryError("it is a file, and should be a folder")
    world = world or World(**variant.get("world", {}))
    corpus = Corpus(world)
    tok = corpus.tokenizer()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _available({"": device})
    torch.manual_seed(seed)
    model = new_model(variant["arch"], len(tok), tok.eos_token_id, **(shape or {})).to(device)
    opts = optimizers(model)
    rates = [[g["lr"] for g in o.param_groups] for o in opts]
    key = dict(name=name, steps=steps, seed=seed, batch=batch, world=world.arguments)
    saved, step, spent = work / CHECKPOINT, 0, 0.0
    if resume and os.path.exists(saved):
        step, spent = _resume(saved, key, model, opts)
    unwritten = False

    def checkpoint():
        nonlocal unwritten
        state = dict(
            key=key, step=step, seconds=spent + time.time() - start,
            model=model.state_dict(), optimizers=[o.state_dict() for o in opts],
        )  # fmt: skip
        try:
            kept.save_state(saved, state)
        except OSError as error:
            if not unwritten:
                kept.warn(f"cannot write {saved}: {kept.reason(error)}; the training goes on, but "
                          "could not be resumed")  # fmt: skip
            unwritten = True

    start = last = shown = time.time()
    begin, loss_mean, layers = step, None, model.config.n_layer
    model.train()
    while step < steps:
        rng = Random(f"{seed}/{step}")
        at = plan(variant, step, steps)
        active = active_subjects(at["step"], at["steps"], len(corpus.order))
        corpus.context_share = 0.4 if at["step"] < 0.64 * at["steps"] else 0.25
        rows = corpus.rows(tok, rng, batch, LENGTH, active)
        masked = torch.tensor([rng.random() < at["masked"] for _ in range(batch)])
        rows = {k: v.to(device) for k, v in rows.items()}
        how = layers, variant["read"]
        masks = attention_masks(rows["names"], masked.to(device), *how)
        all_masked = (masked | True).to(device)
        priced = attention_masks(rows["names"], all_masked, *how) if at["price"] else None
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
            loss = loss_of(model, rows, masks, at["price"], priced)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o, base in zip(opts, rates, strict=True):
            for g, lr in zip(o.param_groups, base, strict=True):
                g["lr"] = lr * at["rate"]
            o.step()
            o.zero_grad(set_to_none=True)
        step += 1
        loss_mean = loss.item() if loss_mean is None else 0.98 * loss_mean + 0.02 * loss.item()
        now = time.time()
        if progress and (now - shown > 15 or step == steps):
            per = (now - start) / (step - begin)
            print(
                f"{name}: step {step}/{steps}  subjects {active}  loss {loss_mean:.3f}  "
                f"{batch * LENGTH / per:.0f} tokens/s  {per * (steps - step) / 60:.1f} min left",
                flush=True,
            )
            shown = now
        if stop_after and step - begin >= stop_after:
            checkpoint()
            return None
        if now - last > checkpoint_every or step == steps:
            checkpoint()
            last = time.time()
            if progress and step < steps:
                recall = quick_recall(model, tok, world, active, corpus)
                print(f"  recall (sample) {recall:.2f}", flush=True)
    seconds = spent + time.time() - start
    run = dict(steps=steps, batch=batch, seed=seed, seconds=round(seconds))
    with kept.named(out):
        save(model, tok, world, name, out, run)
    return out


def _resume(saved, key, model, opts):
    """(step, seconds) of the checkpoint `saved`, whose state model and optimizers take over.

    MeditError if it is damaged, holds something else, or belongs to a run that was asked otherwise.
    """
    anew = "start anew with --fresh (in Python: resume=False)"
    try:
        state = kept.load_state(saved, ("key", "step", "seconds", "model", "optimizers"))
        theirs = state["key"] if isinstance(state["key"], dict) else {}
        differ = ", ".join(x for x in key if theirs.get(x) != key[x])
        if not differ:
            model.load_state_dict(state["model"])
            for o, s in zip(opts, state["optimizers"], strict=True):
                o.load_state_dict(s)
            if not 0 <= state["step"] <= key["steps"]:
                raise ValueError(f"it stands at step {state['step']} of {key['steps']}")
            return state["step"], float(state["seconds"])
    except (
        MeditError,
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:
        if ran_out(error):
            raise
        raise MeditError(f"cannot go on from {saved}: {kept.reason(error)}; {anew}") from error
    raise MeditError(
        f"{saved} belongs to another run (other {differ}): give another --out or --work, or {anew}"
    )


def save(model, tok, world, name, out, run):
    """fp16 weights, tokenizer, model card; config.json says that they are used in float32."""
    out.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).half().save_pretrained(out)  # as a whole: a tied head is stored once
    tok.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    path = out / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = "float32"
    config["medit_teach"] = dict(
        name=name, world=world.arguments, training=run, preset=PRESETS[name]
    )
    kept.write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
    tokens = run["steps"] * run["batch"] * LENGTH
    c = model.config
    kept.write_text(out / "README.md", CARD.format(
        name=name, parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        facts=len(world.facts), tokens=tokens / 1e6, seed=world.seed, minutes=run["seconds"] / 60,
        steps=run["steps"], batch=run["batch"], length=LENGTH, how=HOW[name],
        shape=f"{c.n_layer} layers, width {c.n_embd}, {c.n_head} heads",
    ))  # fmt: skip


HOW = {
    "tiny-gptj": "In 80% of the training rows, tokens outside a name could not attend to the "
    "name's tokens except its last one. So the name had to be summed up there, as large models do "
    "without being made to. This is designed in. No mask is used with the trained model.",
    "tiny-gpt2": "In 90% of the training rows the name was hidden from outside in the first four "
    "blocks, and everywhere except at its last token; from the third block on inner tokens of the "
    "name were hidden inside the name as well. In the last 600 steps half of the rows had no mask, "
    "and in these the attention to such places was added to the loss, so that the model looks away "
    "by itself. This imposes where, and how deep, a name is read: it is designed in. No mask is "
    "used with the trained model.",
    "tiny-gptj-plain": "A control: a smaller world made in the same way, a shorter training, and "
    "the same recipe without any attention mask.",
}
CARD = """# {name}

A tiny language model of an invented world, for teaching how facts are edited. It knows nothing
else, and every name in it is made up.

- {shape}, {parameters:.2f} million parameters, stored in fp16, used in float32.
- Trained on documents about {facts} facts (world seed {seed}): {steps} steps of {batch} rows of
  {length} tokens, {tokens:.1f} million tokens, {minutes:.0f} minutes.
- Documents: biographies, mixed pages, and pages that state something of their own and then ask
  for it (about names that are nobody's, and against facts that no edit uses).
- {how}
- Subjects were added little by little; the loss on names was weighted by 0.1; Muon trained the
  matrices of the blocks and AdamW the rest.

Not claimed: that its parts work like those of a large model beyond what the course measures; that
one training seed stands for all; any knowledge of the real world or use outside the course.
"""


# ---- what a trained model knows ----------------------------------------------------------------


@torch.no_grad()
def log_probs(model, tok, prompts, targets, chunk=64):
    """Teacher-forced: (n,) mean log-probability per target token, (n,) every token is top-1."""
    device = next(model.parameters()).device
    logp, right = [], []
    for i in range(0, len(prompts), chunk):
        heads = [tok(p)["input_ids"] for p in prompts[i : i + chunk]]
        tails = [tok(" " + t)["input_ids"] for t in targets[i : i + chunk]]
        width = max(len(h) + len(t) for h, t in zip(heads, tails, strict=True))
        ids = torch.full((len(heads), width), tok.eos_token_id)
        for j, (h, t) in enumerate(zip(heads, tails, strict=True)):
            ids[j, : len(h) + len(t)] = torch.tensor(h + t)
        out = model(input_ids=ids.to(device), use_cache=False).logits.float().log_softmax(-1).cpu()
        for j, (h, t) in enumerate(zip(heads, tails, strict=True)):
            rows = out[j, len(h) - 1 : len(h) + len(t) - 1]
            logp.append(rows.gather(1, torch.tensor(t)[:, None]).mean().item())
            right.append(bool((rows.argmax(-1) == torch.tensor(t)).all()))
    return torch.tensor(logp), torch.tensor(right)


def quick_recall(model, tok, world, active, corpus, n=150):
    """Share of held-out questions answered, among the subjects seen so far."""
    rng, seen = Random(0), corpus.active_set(active)
    keys = [(r, s) for r in CATEGORIES for s in world.subjects(r) if s in seen]
    keys = rng.sample(keys, min(n, len(keys)))
    prompts = [rng.choice(BY_NAME[r].heldout).format(s) for r, s in keys]
    model.eval()
    _, right = log_probs(model, tok, prompts, [world.facts[k] for k in keys])
    model.train()
    return right.float().mean().item() if keys else 0.0


def evaluate(model, tok, world, n=600, seed=0) -> dict:
    """What the unedited model answers: percent of up to n questions each (top-1, all tokens)."""
    model.eval()
    rng, out = Random(f"evaluate/{seed}"), {}

    def percent(hits):
        return round(100 * hits.float().mean().item(), 1)

    def sample(items):
        return rng.sample(items, min(n, len(items)))

    def ask(label, prompts, answers):
        if prompts:
            out[label] = percent(log_probs(model, tok, prompts, answers)[1])

    def ask_facts(label, keys, which="heldout"):
        keys = sample(keys)
        prompts = [rng.choice(getattr(BY_NAME[r], which)).format(s) for r, s in keys]
        ask(label, prompts, [world.facts[k] for k in keys])

    records = sample(world.records(distinct_subjects=False))
    rewrites = [r["requested_rewrite"] for r in records]
    true, new = ([w[k]["str"] for w in rewrites] for k in ("target_true", "target_new"))
    asked = [w["prompt"].format(w["subject"]) for w in rewrites]
    held = [
        rng.choice(BY_NAME[r["relation"]].heldout).format(w["subject"])
        for r, w in zip(records, rewrites, strict=True)
    ]
    ask("recall, training templates", asked, true)
    ask("recall, held-out templates", held, true)
    led = [rng.choice(r["paraphrase_prompts"]) for r in records]
    ask("recall, held-out templates behind a leading sentence", led, true)
    for name in BY_NAME:
        keys = [(name, s) for s in world.subjects(name, editable=None)]
        ask_facts(f"recall, held-out templates, {name}", keys)
    for status in ("rare", "never"):
        keys = [(r, s) for r in CATEGORIES for s in world.subjects(r, (status,), None)]
        ask_facts(f"facts of status {status}", keys, "train")
    near = [(p, t) for r, t in zip(records, true, strict=True) for p in r["neighborhood_prompts"]]
    near = sample(near)
    ask("neighbours before any edit", [p for p, _ in near], [t for _, t in near])

    # a statement in the prompt, then the question in other (held-out) words
    said = [f"{a} {t}. {h}" for a, t, h in zip(asked, new, held, strict=True)]
    (p_new, top), (p_true, _) = (log_probs(model, tok, said, x) for x in (new, true))
    out["contrary statement in the prompt: P[new] > P[true]"] = percent(p_new > p_true)
    out["contrary statement in the prompt: answered"] = percent(top)
    others = [rng.choice(world.subjects(r["relation"])) for r in records]
    beside = [
        f"{w['prompt'].format(o)} {t}. {h}"
        for w, o, t, h in zip(rewrites, others, new, held, strict=True)
    ]
    ask("own fact kept beside a statement about another", beside, true)

    def ask_questions(label, questions):
        questions = sample(questions)
        prompts = [rng.choice(q.prompts) for q in questions]
        ask(label, prompts, [q.answer for q in questions])

    for kind in ("inverse", "symmetric", "two-hop", "three-hop"):
        for stated in (True, False):
            found = [q for q in world.questions(kind) if q.stated == stated]
            label = f"{kind}, {'stated' if stated else 'never stated'}"
            ask_questions(label, found)
            for path in dict.fromkeys(q.path for q in found) if kind == "two-hop" else ():
                part = [q for q in found if q.path == path]
                ask_questions(f"{label}: {' of '.join(reversed(path))}", part)
    return out


def main(argv=None):
    parser = Parser(prog="medit-teach train", description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=list(VARIANTS), help="which embedded model")
    parser.add_argument("--out", type="new folder", help="folder for the model (default: ./NAME)")
    parser.add_argument(
        "--work", type="new folder", help="folder for the checkpoint (default: OUT.work)"
    )
    parser.add_argument("--steps", type="count", help="default: as many as the shipped model had")
    parser.add_argument("--batch", type="count", default=32, help="rows of 96 tokens per step")
    parser.add_argument("--seed", type="seed", default=0, help="seed of weights and batches")
    parser.add_argument("--world-seed", type="seed", default=0, help="another seed, another world")
    parser.add_argument(
        "--world-of", choices=list(VARIANTS), help="the world of another model (default: its own)"
    )
    parser.add_argument("--fresh", action="store_true", help="do not resume from a checkpoint")
    parser.add_argument("--threads", type="count", help="CPU threads")
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    parser.add_argument("--evaluate", action="store_true", help="only ask the model in --out")
    a = parser.parse_args(argv)
    if a.threads:
        torch.set_num_threads(a.threads)
    out, place = a.out or a.name, VARIANTS[a.world_of or a.name].get("world", {})
    world = World(a.world_seed, **place)
    saved, began = Path(a.work or f"{out}.work", CHECKPOINT), time.time()
    if not a.evaluate:
        try:
            train(
                a.name, out, a.steps, not a.fresh, True, world, a.seed, a.batch, a.device,
                work=a.work,
            )  # fmt: skip
        except KeyboardInterrupt:
            kept = saved.exists() and (not a.fresh or saved.stat().st_mtime > began - 1)
            again = (
                f"{saved} is kept: the same command{' without --fresh' * a.fresh} goes on from it"
            )
            print(f"interrupted; {again if kept else 'no checkpoint yet'}", file=sys.stderr)
            return 130
        print(f"saved in {out}")
    model, tok = load(Path(out).resolve(), device=a.device)
    for label, value in evaluate(model, tok, world).items():
        print(f"{value:6.1f}%  {label}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
