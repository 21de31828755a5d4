"""The command line: what it prints, what it saves, and one line with exit code 2 for bad input."""

import json

import pytest
import torch

import medit_teach as mt
from medit_teach.cli import main

from .helpers import tiny_model, tiny_tokenizer
from .test_edit import FACTS, TEXTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder, a facts file and a text file, as a user would have them."""
    root = tmp_path_factory.mktemp("cli")
    tok = tiny_tokenizer()
    tiny_model("gpt2", tok, layers=3, d=16).save_pretrained(root / "model")
    tok.save_pretrained(root / "model")
    records = [f.to_record() for f in FACTS]
    for record in records:
        record["requested_rewrite"]["target_true"] = {"str": "near"}
        record["paraphrase_prompts"] = ["It is late. " + FACTS[0].text]
        record["neighborhood_prompts"] = ["The king of Bonn is"]
    (root / "facts.json").write_text(json.dumps(records))
    (root / "text.txt").write_text("\n".join(" ".join(t.split()) for t in TEXTS))
    return root


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDIT_CACHE", str(tmp_path / "cache"))


def run(folder, *args):
    return main([args[0], "--model", str(folder / "model"), "--quiet", *map(str, args[1:])])


COMMON = ("--layers", "1", "--set", "steps=4")


def test_edit_shows_before_and_after_and_undoes(folder, tmp_path, capsys):
    facts, text = folder / "facts.json", folder / "text.txt"
    args = ("--facts", facts, "--text", text, "--n", 1, "--save", tmp_path / "e", *COMMON)
    assert run(folder, "edit", *args) == 0
    out = capsys.readouterr().out
    for expected in (
        "Edit by ROME: 1 fact, applied",
        "before",
        "after",
        "prompt: ",
        "paraphrase: ",
    ):
        assert expected in out
    assert "neighbour: The king of Bonn is" in out
    assert "undone: all weights are as before, bit for bit" in out
    assert mt.Edit.load(tmp_path / "e").layers.keys() == {1}
    assert run(folder, "score", "--edit", tmp_path / "e") == 0
    out = capsys.readouterr().out
    assert "before" in out and "after the edit in" in out and out.count("ES ") == 2


def test_a_fact_on_the_command_line(folder, capsys):
    fact = ("--prompt", "The king of {} is", "--subject", "Rome", "--new", "old")
    assert run(folder, "edit", *fact, "--text", folder / "text.txt", *COMMON) == 0
    assert "The king of Rome is -> old   (was: not given)" in capsys.readouterr().out


def test_score_before_and_after(folder, capsys):
    args = ("--facts", folder / "facts.json", "--text", folder / "text.txt", "--n", 3, *COMMON)
    assert run(folder, "score", *args, "lam=0.1", "--method", "memit") == 0
    out = capsys.readouterr().out
    assert "before" in out and "Edit by MEMIT: 3 facts, applied" in out and "\nafter\n" in out
    assert out.count("teacher-forced") == 1


def test_stats_can_be_loaded(folder, tmp_path, capsys):
    args = ("--layers", "0,2", "--text", folder / "text.txt", "--out", tmp_path / "c0")
    assert run(folder, "stats", *args) == 0
    assert "layer 2: C0 64 x 64 from" in capsys.readouterr().out
    assert sorted(mt.Statistics.load(tmp_path / "c0").C0) == [0, 2]


def test_half_precision_with_one_c0_at_a_time(folder, tmp_path, capsys):
    """As GPT-J runs on a small GPU: from the first command to the last with these options."""
    text = ("--layers", "0,1", "--text", folder / "text.txt", "--tokens", 2000)
    for name, one in (("one", ("--one-at-a-time",)), ("all", ())):
        assert (
            run(folder, "stats", *text, "--dtype", "float16", "--out", tmp_path / name, *one) == 0
        )
    one, whole = (mt.Statistics.load(tmp_path / name) for name in ("one", "all"))
    assert all(torch.equal(one[layer], whole[layer]) for layer in (0, 1))
    half, _ = mt.load(folder / "model", dtype="float16")
    assert one.weights == mt.models.fingerprint(half)
    call = ("edit", "--facts", folder / "facts.json", "--method", "memit", "--layers", "0,1",
            "--c0", tmp_path / "one", "--one-at-a-time", "--set", "steps=3", "lam=0.1")  # fmt: skip
    capsys.readouterr()
    assert run(folder, *call, "--dtype", "float16") == 0
    assert "undone: all weights are as before" in capsys.readouterr().out
    assert run(folder, *call) == 2  # the C0 of other weights: float32
    assert "collected from a model with other weights" in capsys.readouterr().err


BAD = [
    (("edit", "--facts", "FACTS", "--revision", "old"), "only a hub name has a revision 'old'"),
    (("edit", "--facts", "missing.json"), "cannot read the facts file missing.json"),
    (
        ("edit", "--prompt", "Rome is", "--subject", "Oslo", "--new", "x"),
        "'Oslo' is not in the prompt",
    ),
    (("edit", "--prompt", "{} is"), "a fact needs --prompt, --subject and --new"),
    (("edit", "--facts", "FACTS", "--method", "nope"), "unknown method 'nope'"),
    (("edit", "--facts", "FACTS", "--layers", "9", "--text", "TEXT"), "layer 9 is out of range"),
    (("edit", "--facts", "FACTS", "--set", "lam"), "--set takes NAME=VALUE"),
    (
        ("edit", "--facts", "FACTS", "--layers", "1", "--text", "no.txt"),
        "cannot read the text file",
    ),
    (("edit", "--facts", "FACTS", "--n", "9"), "asked for 9 facts, there are 3"),
    (("score", "--facts", "FACTS", "--edit", "nowhere"), "nowhere holds no saved edit"),
    (("stats", "--out", "x"), "say which layers"),
    (("edit", "--n", "-3"), "argument --n: it must be at least 1, not -3"),
    (("score", "--n", "0"), "argument --n: it must be at least 1, not 0"),
    (("edit", "--n", "two"), "argument --n: 'two' is not a whole number"),
    (("stats", "--tokens", "-5", "--out", "x"), "argument --tokens: it must be at least 1"),
    (("edit", "--seed", "-1"), "argument --seed: it must be at least 0, not -1"),
    (("edit", "--layers", "1,x"), "argument --layers: '1,x' is not a list like 1,2,3"),
    (("edit", "--layers", ""), "argument --layers: it names no layer"),
    (("edit", "--save", "FACTS"), "facts.json is a file, not a folder"),
    (("stats", "--layers", "1", "--out", "FACTS/x"), "facts.json is a file, not a folder"),
    (("edit", "--nope"), "unrecognized arguments: --nope"),
    (("edit", "--facts", "FACTS", "--set", "lr=abc"), "lr must be a number, not 'abc'"),
    (("edit", "--facts", "FACTS", "--set", "steps=2.5"), "steps must be a whole number, not 2.5"),
    (("edit", "--facts", "FACTS", "--set", "lr="), "--set takes NAME=VALUE, not 'lr='"),
    (("edit", "--facts", "FACTS", "--set", "lr=1", "lr=2"), "lr is given twice"),
    (("edit", "--facts", "FACTS", "--layers", "1", "--set", "layers=2"), "layers is given twice"),
    (("edit", "--facts", "FACTS", "--set", "stepps=2"), "did you mean 'steps'?"),
    (("edit", "--facts", "FACTS", "--set", "model=2"), "no hyper-parameter 'model'"),
]


@pytest.mark.parametrize("args, message", BAD, ids=[message for _, message in BAD])
def test_bad_input(folder, capsys, args, message):
    facts, text = str(folder / "facts.json"), str(folder / "text.txt")
    args = (a.replace("FACTS", facts).replace("TEXT", text) for a in args)
    assert run(folder, *args) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and err.startswith("medit-teach: ")


OTHER = [
    (("train", "tiny-gptj", "--steps", "0"), "argument --steps: it must be at least 1, not 0"),
    (("train", "tiny-gptj", "--out", "FILE"), "is a file, not a folder"),
    (("check-models", "--seed", "-1"), "argument --seed: it must be at least 0"),
    (("check-models", "--table", "FILE"), "not a record of check-models"),
    (("check-models", "--out", "FOLDER"), "is a folder, not a file"),
    (("selftest", "--n", "-3"), "argument --n: it must be at least 1, not -3"),
    (("selftest", "--out", "FILE/x"), "is a file, not a folder"),
    (("sweep", "FOLDER"), "cannot read the sweep"),
    (("sweep", "FILE", "--seeds", "-1"), "argument --seeds: it must be at least 0"),
    (("assignment", "/x", "--out", "FOLDER"), "an assignment is a number or a master notebook"),
    (("assignment", "1", "--seed", "x", "--out", "FOLDER"), "argument --seed: 'x' is not a whole"),
    (("grade", "FOLDER", "--assignment", "1", "--jobs", "0"), "argument --jobs: it must be at"),
    (("grade", "FOLDER", "--assignment", "1", "--out", "FILE"), "is a file, not a folder"),
    (("nope",), "invalid choice: 'nope'"),
    ((), "the following arguments are required: COMMAND"),
]


@pytest.mark.parametrize("args, message", OTHER, ids=[message for _, message in OTHER])
def test_bad_input_of_the_other_commands(args, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.json").write_text("[1]")
    (tmp_path / "folder").mkdir()
    args = [a.replace("FILE", "file.json").replace("FOLDER", "folder") for a in args]
    assert main(args) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and err.startswith("medit-teach: ")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file.json", "folder"]


def test_what_is_not_foreseen_is_one_line_too(capsys, monkeypatch):
    def broken(args):
        raise KeyError("a\nb")

    monkeypatch.delenv("MEDIT_DEBUG", raising=False)
    monkeypatch.setattr("medit_teach.cli._edit", broken)
    assert main(["edit"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "KeyError" in err and "MEDIT_DEBUG=1" in err
    monkeypatch.setenv("MEDIT_DEBUG", "1")
    with pytest.raises(KeyError):
        main(["edit"])


def test_a_place_that_cannot_be_written_is_named(folder, tmp_path, capsys, monkeypatch):
    def full(self, folder):
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(mt.Edit, "save", full)
    text = ("--text", folder / "text.txt", "--facts", folder / "facts.json", "--n", 1)
    assert run(folder, "edit", *text, "--save", tmp_path / "e", *COMMON) == 2
    err = capsys.readouterr().err
    assert f"cannot write {tmp_path / 'e'}: No space left on device" in err


def test_none_can_be_said(folder, capsys):
    text = ("--text", folder / "text.txt", "--facts", folder / "facts.json", "--n", 1)
    assert run(folder, "edit", *text, "--layers", "1", "--set", "steps=3", "now_average=none") == 0
    assert run(folder, "edit", *text, "--layers", "1", "--set", "lr=none") == 2
    assert "lr must be a number, not None" in capsys.readouterr().err


def test_a_launchers_numbers_are_tested(capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "many")
    assert main(["edit"]) == 2
    assert "WORLD_SIZE is a whole number that a launcher gives" in capsys.readouterr().err


def test_a_model_that_is_not_there(capsys):
    assert main(["edit", "--model", "no-such-folder/at-all"]) == 2
    err = capsys.readouterr().err
    assert "cannot load 'no-such-folder/at-all'" in err and err.count("\n") == 1


@pytest.mark.parametrize("command", ["edit", "score", "stats"])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"  medit-teach {command} " in capsys.readouterr().out


def test_c0_that_is_kept(folder, tmp_path, capsys, monkeypatch):
    text = ("--text", folder / "text.txt", "--tokens", 2000)
    assert run(folder, "stats", "--layers", "1", *text, "--out", tmp_path / "c0") == 0
    passes = []
    monkeypatch.setattr("medit_teach.statistics._collect", lambda *a, **k: passes.append(a))
    call = ("edit", "--facts", folder / "facts.json", "--c0", tmp_path / "c0", *COMMON)
    assert run(folder, *call) == 0 and passes == []
    other = tiny_model("gpt2", tiny_tokenizer(), layers=3, d=16, seed=7)
    other.save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    capsys.readouterr()
    assert (
        main([str(x) for x in ("edit", "--model", tmp_path / "other", "--quiet", *call[1:])]) == 2
    )
    assert "collected from a model with other weights" in capsys.readouterr().err


def test_the_hub_is_told_after_the_folder(folder, tmp_path, monkeypatch, capsys):
    told = []
    monkeypatch.setattr(mt.Statistics, "push", lambda self, name: told.append(name))
    text = ("--text", folder / "text.txt", "--tokens", 2000)
    call = ("stats", "--layers", "1", *text, "--out", tmp_path / "c0", "--push", "someone/c0")
    assert run(folder, *call) == 0 and told == ["someone/c0"]
    assert mt.Statistics.load(tmp_path / "c0").tokens == 2000
