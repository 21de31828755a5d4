"""Training: it runs, resumes after a kill to the same weights, learns; the masks really block."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from medit_teach import cli
from medit_teach.errors import MeditError
from medit_teach.hyper import METHODS, hyper
from medit_teach.tiny import training
from medit_teach.world import World
from medit_teach.world.corpus import NAME, NOISE, Corpus, attention_masks, inner

TINY = dict(layers=3, width=32, heads=2)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world():
    return World.small()


@pytest.fixture(scope="module")
def corpus(world):
    return Corpus(world)


@pytest.fixture(scope="module")
def tok(corpus):
    return corpus.tokenizer()


def run(world, out, **kw):
    return training.train(
        "tiny-gptj",
        out,
        **{**dict(steps=20, world=world, batch=4, shape=TINY, progress=False), **kw},
    )


def test_a_killed_run_resumes_to_the_same_model(world, tmp_path, capsys):
    run(world, tmp_path / "whole", progress=True)
    line = capsys.readouterr().out
    assert "step 20/20" in line and "tokens/s" in line and "min left" in line
    assert run(world, tmp_path / "cut", stop_after=9) is None
    state = torch.load(tmp_path / "cut.work" / "checkpoint.pt", weights_only=False)
    assert state["step"] == 9 and not (tmp_path / "cut").exists()
    run(world, tmp_path / "cut")
    assert torch.load(tmp_path / "cut.work" / "checkpoint.pt", weights_only=False)["step"] == 20
    a, b = (AutoModelForCausalLM.from_pretrained(tmp_path / x) for x in ("whole", "cut"))
    for (n, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.allclose(p, q, atol=2e-3), n
    with pytest.raises(MeditError, match=r"another run \(other steps\).*--fresh"):
        run(world, tmp_path / "cut", steps=21)
    with pytest.raises(MeditError, match="unknown model"):
        training.train("tiny", tmp_path)


CHILD = """
import sys, torch
from medit_teach.tiny import training
from medit_teach.world import World
torch.set_num_threads(1)
training.train("tiny-gptj", sys.argv[1], world=World.small(), checkpoint_every=0.0, **{more})
"""


def test_a_process_that_is_killed_while_it_writes_checkpoints_goes_on(world, tmp_path):
    """SIGKILL while a checkpoint is written after every step; then the same weights."""
    more = dict(steps=80, batch=4, shape=TINY, progress=False)
    cut = tmp_path / "cut"
    checkpoint = Path(f"{cut}.work", training.CHECKPOINT)
    code = CHILD.replace("{more}", repr(more))
    child = subprocess.Popen([sys.executable, "-c", code, str(cut)])
    while child.poll() is None and not checkpoint.exists():
        time.sleep(0.002)
    child.kill()
    assert child.wait() == -signal.SIGKILL and not cut.exists()
    assert 0 < torch.load(checkpoint, weights_only=False)["step"] < 80
    run(world, cut, **more)
    whole = run(world, tmp_path / "whole", **more)
    a, b = (load_file(folder / "model.safetensors") for folder in (whole, cut))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_command_on_a_device_and_its_errors(tmp_path, capsys, monkeypatch):
    asked, out = [], tmp_path / "m"
    monkeypatch.setattr(training, "evaluate", lambda model, *_: asked.append(model.device) or {})
    command = ["train", "tiny-gptj-plain", "--out", str(out), "--steps", "1", "--batch", "1"]
    assert cli.main([*command, "--device", "cpu"]) == 0
    assert asked == [torch.device("cpu")] and (out / "model.safetensors").exists()
    assert cli.main([*command, "--device", "nonsense", "--fresh"]) == 2
    assert "no device 'nonsense'" in capsys.readouterr().err
    assert cli.main([*command, "--seed", "1"]) == 2
    assert "(other seed)" in (error := capsys.readouterr().err) and "--fresh" in error


def test_a_model_may_learn_the_world_of_another(tmp_path, monkeypatch):
    asked = []

    def stopped(name, out, *args, **kw):
        asked.append((name, args[3].arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", stopped)
    command = ["train", "tiny-gptj", "--world-of", "tiny-gptj-plain", "--work", str(tmp_path)]
    assert cli.main(command) == 130
    ((name, world),) = asked
    assert name == "tiny-gptj" and (world["people"], world["places"]) == (600, 220)


@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
def test_an_interrupted_command_says_what_is_kept(fresh, tmp_path, capsys, monkeypatch):
    work = tmp_path / "work"

    def stopped(*args, **kw):
        work.mkdir(exist_ok=True)
        if asked[0]:
            (work / training.CHECKPOINT).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", stopped)
    for asked in ([False], [True]):
        assert cli.main(["train", "tiny-gptj-plain", "--work", str(work), *fresh]) == 130
        error = capsys.readouterr().err
        assert error.startswith("interrupted; ") and error.count("\n") == 1
        assert ("no checkpoint yet" in error) != asked[0]
        assert ("goes on from it" in error) == asked[0]
        assert ("without --fresh" in error) == (asked[0] and bool(fresh))
    if fresh:  # a checkpoint of an earlier run is not this one's
        os.utime(work / training.CHECKPOINT, (0, 0))
        asked = [False]
        assert cli.main(["train", "tiny-gptj-plain", "--work", str(work), *fresh]) == 130
        assert "no checkpoint yet" in capsys.readouterr().err


def test_the_saved_folder_loads_plainly_in_float32(world, tmp_path):
    run(world, tmp_path / "m", steps=2)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    tok = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    text = "Here is what we know about nobody."
    assert tok.decode(tok(text)["input_ids"]) == text
    assert tok.bos_token == tok.eos_token == tok.pad_token == "<|endoftext|>"
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["dtype"] == "float32" and "auto_map" not in config
    note = config["medit_teach"]
    assert World(**note["world"]).facts == world.facts and note["name"] == "tiny-gptj"
    for method in set(METHODS) & set(note["preset"]) | {"emmet"}:
        chosen = hyper(method, model)
        assert chosen.layers and chosen.contexts[0] == "" and chosen.kl_factor == 0.0625
    assert hyper("rome", model).layers == (3,) and hyper("memit", model).lam == 2000.0
    assert (tmp_path / "m" / "README.md").read_text().startswith("# tiny-gptj")
    assert "model.safetensors" in {p.name for p in (tmp_path / "m").iterdir()}
    result = training.evaluate(model, tok, world, n=20)
    assert all(0 <= v <= 100 for v in result.values())
    assert "recall, held-out templates behind a leading sentence" in result


@pytest.mark.parametrize("name", list(training.VARIANTS))
def test_every_variant_learns(name, world, tok, corpus):
    torch.manual_seed(0)
    variant = training.VARIANTS[name]
    model = training.new_model(variant["arch"], len(tok), tok.eos_token_id, **TINY)
    losses = []
    opts = training.optimizers(model)
    for step in range(30):
        rng = Random(step)
        rows = corpus.rows(tok, rng, 4, 48, 10)
        masked = torch.tensor([rng.random() < variant["masked"] for _ in range(4)])
        masks, priced = (
            attention_masks(rows["names"], m, 3, variant["read"]) for m in (masked, masked | True)
        )
        price = variant.get("end", {}).get("price", 0.0)
        loss = training.loss_of(model, rows, masks, price, priced)
        loss.backward()
        for o in opts:
            o.step()
            o.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4]), losses


def test_schedule_and_curriculum():
    assert training.schedule(0, 1000) == 1 / 40 and training.schedule(390, 1000) == 1.0
    assert training.schedule(999, 1000) == pytest.approx(0.02, abs=0.002)
    assert training.active_subjects(0, 1000, 2830) == 60
    assert training.active_subjects(230, 1000, 2830) == pytest.approx((60 * 2830) ** 0.5, abs=1)
    assert training.active_subjects(400, 1000, 2830) == 2830


def test_the_two_parts_of_a_training():
    plain, two = training.VARIANTS["tiny-gptj"], training.VARIANTS["tiny-gpt2"]
    for step in (0, 100, 2000, 4599):
        at = training.plan(plain, step, 4600)
        assert (at["step"], at["steps"], at["price"]) == (step, 4600, 0)
        assert at["rate"] == training.schedule(step, 4600)
    at = [training.plan(two, step, 4600) for step in range(4600)]
    assert [x["price"] > 0 for x in at] == [False] * 4000 + [True] * 600
    assert {x["masked"] for x in at[:4000]} == {0.9} and {x["masked"] for x in at[4000:]} == {0.5}
    assert at[2600]["rate"] == training.schedule(2600, 4000) and at[4000]["rate"] == 0.3
    rates = [x["rate"] for x in at[4000:]]
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.021
    assert training.active_subjects(at[4599]["step"], at[4599]["steps"], 2830) == 2830
    assert training.plan(two, 1, 2)["price"] == 0  # a run of two steps has no second part


def test_rows_say_which_tokens_belong_to_a_name(world, tok, corpus):
    rows = corpus.rows(tok, Random(0), 8, 96)
    assert {k: tuple(v.shape) for k, v in rows.items()} == {
        k: (8, 96) for k in ("ids", "weights", "names", "inner")
    }
    everyone = {n for c in world.names for n in world.names[c] + world.spare[c]}
    seen = 0
    for ids, names, in_row in zip(rows["ids"], rows["names"], rows["inner"], strict=True):
        for number in names.unique().tolist():
            if number and number != names.max():  # the last one may be cut off
                at = (names == number).nonzero().flatten()
                assert tok.decode(ids[at]).strip() in everyone
                assert at.tolist() == list(range(at[0], at[-1] + 1))
                assert in_row[at].tolist() == [True] * (len(at) - 1) + [False]
                seen += 1
        assert not in_row[names == 0].any()
    assert seen > 30


def test_weights_of_names_answers_and_false_statements(world, tok, corpus):
    s, company = world.names["person"][0], world.names["company"][0]
    sentence = corpus.sentence("{} works for", s, company)
    ids, weights, names = corpus.encode(tok, sentence)
    text = [tok.decode(i) for i in ids]
    n = len(tok(s)["input_ids"])
    assert weights == [NAME] * n + [1.0] * (len(ids) - n)
    assert "".join(text[i] for i in range(len(ids)) if names[i] == 1) == s
    assert "".join(text[i] for i in range(len(ids)) if names[i] == 2) == " " + company
    _, weights, names = corpus.encode(tok, corpus.sentence("{} plays the", s, "harp", NOISE))
    assert weights[-2:] == [NOISE, 1.0] and names[-2:] == [0, 0]


def test_masks_by_hand():
    names = torch.tensor([[0, 1, 1, 1, 0, 2, 2, 0]])
    assert inner(names)[0].tolist() == [False, True, True, False, False, True, False, False]
    full = torch.ones(8, 8, dtype=torch.bool).tril()
    plain = attention_masks(names, torch.tensor([False]), 4)
    assert len(plain) == 4 and all((m[0, 0] == full).all() for m in plain)
    m = attention_masks(names, torch.tensor([True]), 1)[0][0, 0]
    assert m[7].tolist() == [True, False, False, True, True, False, True, True]
    assert m[3].tolist() == [True, True, True, True, False, False, False, False]
    assert m[6].tolist() == [True, False, False, True, True, True, True, False]
    early, _, deep = attention_masks(names, torch.tensor([True]), 3, read=2)
    assert early[0, 0, 7].tolist() == [True, False, False, False, True, False, False, True]
    assert early[0, 0, 3].tolist() == [True, True, True, True, False, False, False, False]
    assert deep[0, 0, 7].tolist() == [True, False, False, True, True, False, True, True]
    assert deep[0, 0, 3].tolist() == [True, False, False, True, False, False, False, False]


@pytest.mark.parametrize("arch", ["gptj", "gpt2"])
def test_a_masked_position_is_really_blocked(arch, tok):
    torch.manual_seed(0)
    model = training.new_model(arch, len(tok), tok.eos_token_id, **TINY).eval()
    names = torch.tensor([[0, 1, 1, 1, 0, 0, 0, 0]])
    ids = torch.randint(300, 400, (1, 8))
    other = ids.clone()
    other[0, 1] = 401  # an inner token of the name

    def states(x, masked):
        masks = attention_masks(names, torch.tensor([masked]), 3)
        with training.layer_masks(model, masks), torch.no_grad():
            return model(x, output_hidden_states=True, use_cache=False).hidden_states

    # with the mask one layer can tell the end of the name, and only later layers those behind it
    a, b = states(ids, True), states(other, True)
    assert not torch.allclose(a[1][0, 3], b[1][0, 3])
    assert torch.equal(a[1][0, 4:], b[1][0, 4:]) and not torch.allclose(a[2][0, 5], b[2][0, 5])
    # without it the first layer already carries the inner token everywhere
    a, b = states(ids, False), states(other, False)
    assert not torch.allclose(a[1][0, 5], b[1][0, 5])
    # and the masks are gone afterwards
    assert not any(block.attn._forward_pre_hooks for block in model.transformer.h)


@pytest.mark.parametrize("arch", ["gptj", "gpt2"])
def test_the_price_is_of_the_attention_that_the_mask_forbids(arch, tok):
    torch.manual_seed(0)
    model = training.new_model(arch, len(tok), tok.eos_token_id, **TINY).eval()
    names = torch.tensor([[0, 1, 1, 1, 0, 2, 2, 0], [1, 1, 0, 0, 0, 0, 0, 0]])
    batch = {"ids": torch.randint(300, 400, (2, 8)), "weights": torch.ones(2, 8)}
    free, half, all_ = (
        attention_masks(names, torch.tensor(rows), 3, read=2)
        for rows in ([False, False], [True, False], [True, True])
    )
    training.loss_of(model, batch, free, 1.0, all_)
    assert not any(block.attn._forward_hooks for block in model.transformer.h)  # none is left
    found = {}
    for label, masks in (("free", free), ("half", half), ("all", all_)):
        plain = training.loss_of(model, batch, masks).item()
        found[label] = training.loss_of(model, batch, masks, 1.0, all_).item() - plain
        with training.layer_masks(model, masks), torch.no_grad():
            seen = model(batch["ids"], output_attentions=True, use_cache=False).attentions
        by_hand = 0.0
        for layer, a in enumerate(seen):  # a loop over every query and key
            for row in range(2):
                for q in range(8):
                    for k in range(q + 1):
                        if not all_[layer][row, 0, q, k]:
                            by_hand += a[row, :, q, k].mean().item() / (2 * 8)
        assert found[label] == pytest.approx(by_hand, abs=1e-5)
    assert found["all"] == pytest.approx(0, abs=1e-6) and found["free"] > found["half"] > 0.05


def test_a_price_teaches_the_model_to_look_away(world, tok, corpus):
    left = {}
    for price in (0.0, 3.0):
        torch.manual_seed(0)
        model = training.new_model("gpt2", len(tok), tok.eos_token_id, **TINY)
        opts = training.optimizers(model)
        for step in range(40):
            rows = corpus.rows(tok, Random(step), 4, 48, 10)
            masked = torch.tensor([True, False, False, False])
            masks, priced = (
                attention_masks(rows["names"], m, 3, 2) for m in (masked, masked | True)
            )
            training.loss_of(model, rows, masks, price, priced).backward()
            for o in opts:
                o.step()
                o.zero_grad()
        with training.layer_masks(model, masks), training.attention_of(model) as seen:
            model(rows["ids"], use_cache=False)
            left[price] = training.attended(seen, priced).item()
    assert left[3.0] < 0.5 * left[0.0], left


def test_a_tied_head_is_stored_once(world, tmp_path):
    training.train("tiny-gpt2", tmp_path / "m", steps=2, world=world, batch=4, shape=TINY,
                   progress=False)  # fmt: skip
    assert "lm_head.weight" not in load_file(tmp_path / "m" / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert model.lm_head.weight is model.transformer.wte.weight
