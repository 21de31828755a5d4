"""Trains MEND's editor on the built-in world, through the models that it edits.

    python -m medit_teach.methods.train_mend      # the editor that ships; goes on if killed

Every step takes a few facts, edits a model for each of them side by side, and asks the edited
models for the new object, in the words of the edit and in others (the edit loss), and for what
they said before about a neighbour and about somebody else (the locality loss, a KL divergence).
The subjects of mt.facts("world", n=1000, seed=0) are never seen.
Source: Mitchell et al. 2022, arXiv:2110.11309, sec. 3.2, eq. 4a, 4b and algorithm 1.
"""

import argparse
import json
import os
import time
from pathlib import Path
from random import Random

import torch
from torch import nn

from .. import datasets, kept, metrics
from ..edits import edit
from ..errors import MeditError
from ..fact import as_facts, with_target
from ..hooks import evaluating
from ..models import View, card, fingerprint, load
from .mend import COMMAND, DATA, Editor, adding, file_name, nll, pairs

HELD_OUT = 1000


def training_facts(model):
    """Records of the model's world whose subjects are not among the HELD_OUT facts."""
    held_out = {f.subject for f in datasets.facts("world", n=HELD_OUT, seed=0, model=model)}
    every = datasets.facts("world", distinct_subjects=False, model=model)
    return [f for f in every if f.subject not in held_out]


def step_loss(view, tok, editor, facts, everyone, rng, c_edit):
    """(loss, edit loss, locality loss): eq. 4a, 4b for single edits of `facts`, side by side.

    Every fact has its own edited model: its rows alone see its change.
    """
    found, mask = pairs(view, tok, facts, editor.layers)
    new = {layer: editor(layer, *pair) for layer, pair in found.items()}
    new = {layer: (u * mask[..., None], d * mask[..., None]) for layer, (u, d) in new.items()}
    said, kept = [], []
    for e, f in enumerate(facts):
        for question in (f.text, rng.choice(f.paraphrases)):
            said.append((e, with_target(tok, question, f.target_new, f.join)))
        other = rng.choice(everyone)
        near = rng.choice(f.neighborhood) if f.neighborhood else f.text
        questions = [(near, f.target_true)]
        if other.subject != f.subject:
            questions.append((other.text, other.target_true))
        kept += [(e, with_target(tok, q, a, f.join)) for q, a in questions]

    def edited(rows):
        """Inside, row i goes through the model that was edited for the fact rows[i][0]."""
        of = torch.tensor([e for e, _ in rows])

        def change(layer, x):
            u, d = (part[of] for part in new[layer])
            return -(x @ u.transpose(1, 2)) @ d

        return adding(view, editor.layers, change)

    def log_p(rows):
        batch = view.batch([ids[:-1] for _, (ids, _) in rows], tok)
        hidden, _ = view.run(batch)
        real = hidden[batch["attention_mask"].bool()]
        return view.head(real).float().log_softmax(-1)

    with edited(said):
        edit = nll(view, tok, [row for _, row in said]).mean()
    with torch.no_grad():
        before = log_p(kept)
    with edited(kept):
        local = (before.exp() * (before - log_p(kept))).sum(-1).mean()
    return c_edit * edit + local, float(edit.detach()), float(local.detach())


def train(
    model, tok, out, layers, steps=800, batch=8, rank=64, lr=1e-3, alpha=1e-3, c_edit=0.1, seed=0,
    show=print,
):  # fmt: skip
    """Train an editor for `model` and save it to `out`. Killed and called again, it goes on.

    The draws of a step depend on (seed, step) only, so a resumed run ends as an unbroken one.
    """
    out, view = Path(out), View(model)
    kept.ready(out)
    progress = out.with_suffix(".progress")
    facts = training_facts(model)
    editor = Editor(layers, *reversed(view.weight(layers[0]).shape), rank, alpha, seed)
    settings = [list(layers), steps, batch, rank, lr, alpha, c_edit, seed, fingerprint(model)]
    rates = [(p, lr * (10 if p is editor.log_alpha else 1)) for p in editor.parameters()]
    adam = torch.optim.Adam([{"params": [p], "lr": r, "first": r} for p, r in rates])
    start, seconds, losses, unwritten = 0, 0.0, [], False
    with evaluating(model):
        if os.path.exists(progress):
            start, seconds, losses = _resume(progress, settings, editor, adam)
            show(f"going on after step {start}")
        else:
            look, mask = pairs(view, tok, Random(f"{seed}/look").sample(facts, 64), layers)
            editor.normalise({k: (u[mask], d[mask]) for k, (u, d) in look.items()})
        began = time.process_time()
        for step in range(start, steps):
            rng = Random(f"{seed}/{step}")
            for group in adam.param_groups:  # linear decay over the last half
                group["lr"] = group["first"] * min(1.0, 2 * (1 - step / steps))
            chosen = rng.sample(facts, batch)
            loss, edit, local = step_loss(view, tok, editor, chosen, facts, rng, c_edit)
            adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(editor.parameters(), 1.0)
            adam.step()
            losses.append([edit, local])
            if (step + 1) % 25 == 0 or step + 1 == steps:
                recent = torch.tensor(losses[-25:]).mean(0).tolist()
                used = seconds + time.process_time() - began
                show(
                    f"step {step + 1} of {steps}: edit {recent[0]:.3f}, locality {recent[1]:.4f}, "
                    f"{used:.0f} CPU seconds"
                )
                state = {"settings": settings, "editor": editor.state_dict(), "losses": losses}
                state |= {"adam": adam.state_dict(), "step": step + 1, "seconds": used}
                try:
                    kept.save_state(progress, state)
                except OSError as error:
                    if not unwritten:
                        kept.warn(f"cannot write {progress}: {kept.reason(error)}; the training "
                                  "goes on, but could not be resumed")  # fmt: skip
                    unwritten = True
    seconds += time.process_time() - began
    about = {"weights": fingerprint(model), "model": str(card(model).get("name"))}
    names = ("layers", "steps", "batch", "rank", "lr", "alpha", "c_edit", "seed", "weights")
    about["training"] = json.dumps(dict(zip(names, settings, strict=True)))
    about["cpu_seconds"] = f"{seconds:.0f}"
    editor.save(out, **about)
    progress.unlink(missing_ok=True)
    return editor


def _resume(progress, settings, editor, adam):
    """(step, seconds, losses) as in the file `progress`; MeditError if it is not this run's."""
    try:
        state = kept.load_state(
            progress, ("settings", "editor", "adam", "step", "seconds", "losses")
        )
        if state["settings"] == settings:
            editor.load_state_dict(state["editor"])
            adam.load_state_dict(state["adam"])
            return state["step"], state["seconds"], state["losses"]
    except (MeditError, OSError, RuntimeError, ValueError, TypeError, LookupError) as error:
        raise MeditError(
            f"cannot go on from {progress}: {kept.reason(error)}; remove it to start anew"
        ) from error
    raise MeditError(f"{progress} belongs to a training with other settings; remove it")


def evaluate(model, tok, editor, facts):
    """(ES, PS, NS) of single edits of `facts`, one after another, each undone."""
    scores = []
    for fact in as_facts(facts):
        with edit(model, tok, [fact], "mend", editor=str(editor)):
            found = metrics.score(model, tok, [fact], resamples=1)
            scores.append([found.ES, found.PS, found.NS])
    return torch.tensor([[float("nan") if x is None else x for x in s] for s in scores]).nanmean(0)


def main(arguments=None):
    """The command line: train an editor, or say how good it is on facts that it never saw."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0])
    parser.add_argument("--evaluate", action="store_true", help="measure a trained one only")
    parser.add_argument("--model", default="tiny-gptj")
    parser.add_argument("--out", type=Path, help="the editor's file (default: the shipped one's)")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, tok = load(a.model)
    out = a.out or DATA / file_name(model)
    if not a.evaluate:
        train(model, tok, out, a.layers, a.steps, seed=a.seed)
    facts = datasets.facts("world", n=50, seed=0, model=model)
    found = evaluate(model, tok, out, facts)
    print("50 single edits of facts that were held out, in percent:", end=" ")
    print(", ".join(f"{k} {v:.1f}" for k, v in zip(("ES", "PS", "NS"), found, strict=True)))


if __name__ == "__main__":
    main()
