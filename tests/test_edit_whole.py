"""The Edit object when things go wrong: torch's modes, files, other threads, wrong arguments."""

import copy
import json
import os
import random
import shutil
import sys
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import medit_teach as mt
from medit_teach import guard, models, objective
from medit_teach.cli import main
from medit_teach.errors import MeditError, ModelError, SingularError, StatisticsError
from medit_teach.methods import mend

from .helpers import tiny_model, tiny_tokenizer

MODULE = sys.modules["medit_teach.edit"]
TEXTS = ["".join(random.Random(i).choices("abcdefgh ijk", k=40)) for i in range(40)]
FACTS = [
    mt.Fact("The king of {} is", "Rome", "old", "new"),
    mt.Fact("The town of {} is", "Oslo", "far away", "near"),
]
OTHER = mt.Fact("{} lies by the river of", "Bonn", "new", "old")
QUICK = dict(layers=[1], steps=3, contexts=("",))
METHODS = {
    "rome": QUICK,
    "memit": QUICK | dict(layers=[0, 1], lam=0.1),
    "emmet": QUICK,
    "alphaedit": QUICK | dict(threshold=None, energy=0.5, L2=0.1),
    "nullspace": QUICK | dict(threshold=None, energy=0.5),
    "ft": QUICK,
    "grace": dict(layers=[1], steps=3),
    "prompt": {},
    "ike": dict(examples=[OTHER], shots=1),
    "mend": {},
}


@pytest.fixture(scope="module")
def tok():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def plain(tok, tmp_path_factory):
    """Model, C0, and a function that edits."""
    model = tiny_model("gpt2", tok, layers=2, d=16)
    C0 = mt.second_moment(model, tok, TEXTS, [0, 1])
    d_out, d_in = models.View(model).weight(0).shape
    path = tmp_path_factory.mktemp("mend") / "editor.safetensors"
    mend.Editor((0, 1), d_in, d_out, rank=2, alpha=1e-2).save(path)

    def edit(method, facts=FACTS[:1], on=model, **more):
        given = {"editor": str(path)} if method == "mend" else METHODS[method]
        if method in ("rome", "memit", "emmet", "alphaedit", "nullspace"):
            given = given | {"statistics": C0}
        return mt.edit(on, tok, facts, method, **given | more)

    return model, C0, edit


@pytest.fixture(autouse=True)
def unchanged(plain):
    """Whatever a test does, the model has its bits, hooks and modes afterwards."""
    model = plain[0]
    before = bits(model)
    yield
    assert mt.edits_of(model) == []
    assert same(model, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not model.training and all(p.requires_grad for p in model.parameters())


def bits(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


# ------------------------------------------------------------------ torch's modes

MODES = {
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "off": lambda: torch.set_grad_enabled(False),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("method", METHODS)
def test_an_edit_is_the_same_in_every_mode_and_comes_off_in_another(plain, method):
    model, _, edit = plain
    before = bits(model)
    with edit(method) as e:
        expected, weights, named = bits(model), e.after, models.fingerprint(model)
    assert named == weights
    for made in MODES:
        for undone in (
            ("inference", "autocast", None) if made == "inference" else (None, "inference")
        ):
            with MODES[made]():
                e = edit(method)
                assert e.applied and same(model, expected) and models.fingerprint(model) == weights
            with MODES[undone]() if undone else guard.plain():
                e.undo()
            assert same(model, before)
            with MODES[undone]() if undone else guard.plain():
                e.apply()
            assert same(model, expected)
            with MODES[made]():
                e.undo()
            assert same(model, before)


def test_autocast_does_not_go_on_with_the_old_weights(plain, tok):
    model, _, edit = plain
    ids = tok("The king of Rome is", return_tensors="pt")["input_ids"]
    e = edit("memit").undo()
    with torch.autocast("cpu", torch.bfloat16):
        old = model(ids).logits
        with e:
            new = model(ids).logits
        assert torch.equal(model(ids).logits, old)
    with e, torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(ids).logits, new) and not torch.equal(new, old)


def test_weights_made_under_inference_mode_are_refused_before_any_write(plain, tok):
    _, _, edit = plain
    with torch.inference_mode():
        model = tiny_model("gpt2", tok, layers=2, d=16)
        known = models.fingerprint(model)
    assert models.fingerprint(model) == known == models.fingerprint(plain[0])
    e = edit("rome").undo()
    for call in (
        lambda: e.apply(model),
        lambda: edit("ft", on=model),
        lambda: edit("rome", on=model),
    ):
        for mode in (guard.plain, torch.inference_mode):
            with pytest.raises(ModelError, match="made under torch"), mode():
                call()
    assert models.fingerprint(model) == known and not mt.edits_of(model)


# ------------------------------------------------------------------ commit


def held(model):
    return sum(x.nbytes for e in mt.edits_of(model) for x in e._saved.values())


def test_committed_edits_hold_no_copies(plain, tmp_path):
    model, _, edit = plain
    before = bits(model)
    one = models.View(model).parameter(1).nbytes
    first, second = edit("rome"), edit("rome", FACTS[1:])
    assert held(model) == 2 * one
    with pytest.raises(MeditError, match="commit it first"):
        second.commit()
    first.commit()
    assert held(model) == one and "committed: it cannot be undone" in repr(first)
    second.undo()
    for again in (first.undo, first.apply):
        with pytest.raises(MeditError, match=r"committed|applied already"):
            again()
    with first:
        pass
    assert first.applied and mt.edits_of(model) == [first]
    first.save(tmp_path)
    with edit("memit", FACTS[1:], layers=[0], remember=[]) as last:
        assert mt.edits_of(model) == [first, last]
    after = bits(model)
    with edit("rome", FACTS[1:]) as later:
        later.commit()
    with pytest.raises(MeditError, match="is committed: its copy"):
        later.undo()
    assert not same(model, after)
    model.load_state_dict(before)
    del mt.edits_of(model)[:]
    with mt.Edit.load(tmp_path).apply(model) as back:
        assert torch.equal(back.delta(1), first.delta(1))
        assert torch.equal(bits(model)["transformer.h.1.mlp.c_proj.weight"],
                           after["transformer.h.1.mlp.c_proj.weight"])  # fmt: skip
    with pytest.raises(MeditError, match="nothing to commit"):
        back.commit()


def test_an_edit_under_a_committed_one_says_why_it_stays(plain):
    model, _, edit = plain
    before = bits(model)
    first = edit("rome")
    over = edit("memit", layers=[0]).commit()
    first.undo()  # another matrix
    assert mt.edits_of(model) == [over]
    model.load_state_dict(before)
    del mt.edits_of(model)[:]


# ------------------------------------------------------------------ errors inside `with`


def test_the_users_own_error_is_seen_and_all_is_undone(plain):
    model, _, edit = plain
    before = bits(model)
    with pytest.raises(KeyError, match="mine") as caught, edit("rome"):
        edit("memit", FACTS[1:])
        edit("prompt")
        raise KeyError("mine")
    assert same(model, before) and not mt.edits_of(model)
    assert caught.value.__notes__ == ["medit_teach undid 2 later edits too"]
    with pytest.raises(KeyError, match="mine") as caught, edit("rome") as e:
        stored = models.View(model).parameter(1)
        edited = stored.detach().clone()
        stored.data.mul_(2)
        raise KeyError("mine")
    assert "could not undo the edit: the weights of layer 1 changed" in caught.value.__notes__[0]
    stored.data.copy_(edited)
    e.undo()


def test_undo_names_the_true_reason(plain, tok):
    model, _, edit = plain
    model = copy.deepcopy(model)
    e = edit("rome", on=model)
    model.to(torch.bfloat16)
    with pytest.raises(
        MeditError, match=r"they were float32 and are bfloat16.*model has this edit"
    ):
        e.undo()
    other = copy.deepcopy(plain[0])
    with pytest.raises(MeditError, match="something other than an edit wrote"):
        with edit("rome", on=other):
            other.load_state_dict(plain[0].state_dict())
            with torch.no_grad():
                models.View(other).parameter(1).mul_(3)
    with pytest.raises(MeditError, match="undo later edits first"):
        with edit("rome") as first:
            second = edit("rome", FACTS[1:])
    second.undo()
    first.undo()


# ------------------------------------------------------------------ two threads


def test_two_threads_take_turns(plain, tok):
    """Keys that are read while another thread edits and undoes are those of one of two models."""
    model, _, edit = plain
    e = edit("memit", FACTS).undo()
    sites = [("key", 1), ("block", 1)]
    from medit_teach.keys import at_subject

    def read():
        return torch.cat(list(at_subject(model, tok, FACTS, sites).values()))

    old = read()
    with e:
        new = read()
    assert not torch.equal(old, new)
    ends, errors = threading.Event(), []

    def work():
        try:
            while not ends.is_set():
                e.apply().undo()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(60):
            found = read()
            assert torch.equal(found, old) or torch.equal(found, new)
    finally:
        ends.set()
        thread.join()
    assert not errors


# ------------------------------------------------------------------ arguments

BAD_TARGETS = {
    "rows": torch.zeros(1, 1),
    "columns": torch.zeros(16, 2),
    "flat": torch.zeros(16),
    "list": [[0.0]] * 15,
    "ragged": [[0.0], [0.0, 1.0]],
    "complex": torch.zeros(16, 1, dtype=torch.complex64),
    "bool": torch.zeros(16, 1, dtype=torch.bool),
    "nan": torch.full((16, 1), float("nan")),
    "inf": np.full((16, 1), np.inf),
    "words": [["a"]] * 16,
    "text": "abc",
    "object": object(),
    "number": 3.0,
    "dict": {"target": 1},
}


@pytest.mark.parametrize("name", BAD_TARGETS)
def test_targets_of_a_wrong_form_are_one_line(plain, name):
    with pytest.raises(MeditError, match="targets must be finite real numbers, 16") as caught:
        plain[2]("rome", targets=BAD_TARGETS[name])
    assert "\n" not in str(caught.value)


def test_targets_of_any_right_form_write_the_same(plain):
    T = torch.arange(16.0)[:, None] / 16
    with plain[2]("rome", targets=T) as e:
        expected = e.delta(1)
    forms = [T.numpy(), T.tolist(), T.double(), T.clone().requires_grad_(), T.half()]
    for form in [*forms, T.numpy().astype("float64")]:
        with plain[2]("rome", targets=form) as e:
            assert torch.equal(e.delta(1), expected)
    with plain[2]("rome", targets=torch.ones(16, 1)) as e:
        expected = e.delta(1)
    with plain[2]("rome", targets=np.ones((16, 1), dtype=int)) as e:
        assert torch.equal(e.delta(1), expected)


def test_remember_takes_edits_of_this_layer(plain, tok):
    edit = plain[2]
    with edit("rome") as first, edit("prompt") as asked:
        with edit("rome", FACTS[1:], remember=first) as one:
            expected = one.delta(1)
        for several in ([first], iter([first]), (first,)):
            with edit("rome", FACTS[1:], remember=several) as e:
                assert torch.equal(e.delta(1), expected)
        with edit("rome", FACTS[1:]) as e:
            assert not torch.equal(e.delta(1), expected)
        wide = mt.Edit("ROME", {}, FACTS, None)
        wide.keys = {1: torch.ones(9, 1, dtype=torch.float64)}
        for wrong, reason in (
            ([first, 3], "number 1 is int 3"),
            (3, "number 0 is int 3"),
            ("abc", "number 0 is str"),
            ({"keys": 1}, "number 0 is dict"),
            (asked, "number 0 is PromptEdit"),
            (wide, "the key of edit 0 in layer 1 is float64"),
        ):
            with pytest.raises(MeditError, match=reason):
                edit("rome", FACTS[1:], remember=wrong)
        with pytest.raises(MeditError, match=r"keys of layers \[1\], none of \[0\]"):
            edit("rome", FACTS[1:], layers=[0], remember=first)


@pytest.mark.parametrize("method", ["ft", "grace", "prompt", "ike", "mend"])
def test_baselines_refuse_what_they_do_not_use(plain, method):
    _, C0, edit = plain
    with edit("rome") as first:
        for name, value in (
            ("statistics", C0),
            ("targets", torch.ones(16, 1)),
            ("remember", first),
        ):
            with pytest.raises(MeditError, match=f"makes no use of {name}="):
                edit(method, **{name: value})
    edit(method, remember=[]).undo()


def test_statistics_of_another_type_are_refused(plain):
    for wrong in (3, {}, torch.eye(3), [1]):
        with pytest.raises(StatisticsError, match="statistics must be Statistics, or where"):
            plain[2]("rome", statistics=wrong)


def test_a_key_to_divide_by_that_is_orthogonal_is_an_error():
    C0, k = torch.eye(3, dtype=torch.float64), torch.tensor([1.0, 0.0, 0.0])
    r = torch.ones(2)
    for other in ([0.0, 1.0, 0.0], [1e-9, 1.0, 0.0], [0.0, 0.0, 0.0]):
        with pytest.raises(SingularError, match="orthogonal"):
            objective.rome(r, k, C0, divide_by=torch.tensor(other, dtype=torch.float64))
    for other in ([1.0, 0.0], [float("nan"), 0.0, 0.0]):
        with pytest.raises(MeditError, match=r"keys have 2 dimensions, C0 has 3|finite"):
            objective.rome(r, k, C0, divide_by=torch.tensor(other))
    found = objective.rome(r, k, C0, divide_by=torch.tensor([0.5, 1.0, 0.0]))
    assert torch.allclose(found.delta @ k.double(), 2 * r.double())


@pytest.mark.parametrize(
    ("method", "more"),
    [("memit", dict(early_stop=1e6)), ("rome", dict(steps=1)), ("ft", dict(lr=1e-30))],
)
def test_an_edit_that_wrote_nothing_says_so(plain, method, more):
    with plain[2](method, **more) as e:
        assert "nothing was written" in repr(e)
    assert "nothing was written" not in repr(e)
    with plain[2](method) as e:
        assert "nothing was written" not in repr(e)


def test_prompts_need_a_word_to_be_found_by(plain):
    with pytest.raises(MeditError, match="no word of two letters"):
        plain[2]("prompt", mt.Fact("{} =", "X", "Y"))


# ------------------------------------------------------------------ compiled models


@pytest.mark.filterwarnings("ignore")
def test_grace_acts_in_compiled_models_and_leaves_them(plain, tok):
    model, _, edit = plain
    ids = tok("The king of Rome is", return_tensors="pt")["input_ids"]
    e = edit("grace", lr=0.5).undo()
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager")
        old = compiled(ids).logits.clone()
        with e:
            new = compiled(ids).logits.clone()
            assert torch.allclose(new, model(ids).logits, atol=1e-5)
            assert not torch.allclose(new, old, atol=1e-5)
        assert torch.equal(compiled(ids).logits, old)
    torch.compiler.reset()


# ------------------------------------------------------------------ saving


def both(folder):
    """(facts, deltas) of the edit in `folder`."""
    e = mt.Edit.load(folder)
    return e.facts, {layer: e.delta(layer) for layer in e.layers}


def is_one_of(found, edits):
    for i, e in enumerate(edits):
        if found[0] == e.facts and all(torch.equal(x, e.delta(k)) for k, x in found[1].items()):
            return i
    return None


@pytest.fixture(scope="module")
def two(plain):
    edit = plain[2]
    return edit("memit", FACTS[:1]).undo(), edit("memit", FACTS[1:]).undo()


class AtLine:
    """Calls act() at the n-th line of edit.py that is run."""

    def __init__(self, n, act):
        self.left, self.act = n, act

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename != MODULE.__file__:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.act()
        return self


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("older", ["saved", "in the old format"])
def test_killed_at_any_line_of_save_the_folder_holds_one_edit_whole(two, tmp_path, older):
    folder, n, seen = tmp_path / "e", 0, set()
    ended = False
    while not ended:
        n += 1
        shutil.rmtree(folder, ignore_errors=True)
        two[0].save(folder)
        (folder / "edit.notes").write_text("mine")
        if older != "saved":
            in_the_old_format(folder)
        child = os.fork()
        if child == 0:
            sys.settrace(AtLine(n, lambda: os._exit(9)))
            two[1].save(folder)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        which = is_one_of(both(folder), two)
        assert which is not None, n
        seen.add(which)
        two[1].save(folder)  # goes on, and leaves nothing behind
        assert is_one_of(both(folder), two) == 1
        names = {p.name for p in folder.iterdir()}
        assert names == {"edit.json", "edit.safetensors", "edit.notes"}
    assert seen == {0, 1} and n > 20


def in_the_old_format(folder):
    """The folder as it was saved before there was a number of the format, and a hash."""
    about = json.loads((folder / "edit.json").read_text())
    for name in ("format", "tensors"):
        del about[name]
    (folder / "edit.json").write_text(json.dumps(about, indent=1))


def test_a_disk_that_refuses_leaves_the_older_edit(two, tmp_path, monkeypatch):
    folder = two[0].save(tmp_path / "e")

    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    real = os.replace
    for n in range(3):
        calls = []

        def replace(a, b, n=n, calls=calls):
            calls.append(a)
            return refuse() if len(calls) == n + 1 else real(a, b)

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(MeditError, match=r"cannot save the edit in .*No space left"):
            two[1].save(folder)
        monkeypatch.undo()
        assert is_one_of(both(folder), two) is not None
    for name in ("fsync", "replace"):
        two[0].save(folder)
        monkeypatch.setattr(os, name, refuse)
        with pytest.raises(MeditError, match=r"cannot save the edit in .*No space left"):
            two[1].save(folder)
        monkeypatch.undo()
        assert is_one_of(both(folder), two) == 0
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "x", tmp_path / ("x" * 300), "/proc/no/x"):
        with pytest.raises(MeditError, match="cannot save the edit in"):
            two[0].save(place)


def test_a_mixture_and_a_flipped_bit_are_refused(two, tmp_path):
    a, b = two[0].save(tmp_path / "a"), two[1].save(tmp_path / "b")
    shutil.copy(b / "edit.json", a / "edit.json")
    with pytest.raises(MeditError, match="does not belong to"):
        mt.Edit.load(a)
    content = bytearray((b / "edit.safetensors").read_bytes())
    content[-3] ^= 1
    (b / "edit.safetensors").write_bytes(content)
    with pytest.raises(MeditError, match="does not belong to"):
        mt.Edit.load(b)


@pytest.mark.parametrize("method", ["memit", "ft", "grace", "ike", "mend"])
def test_every_kind_is_saved_and_loaded_also_in_the_old_format(plain, tmp_path, method):
    model, _, edit = plain
    with edit(method) as e:
        e.save(tmp_path)
        after, told = bits(model), repr(e)
    for change in (lambda folder: None, in_the_old_format):
        change(tmp_path)
        with mt.Edit.load(tmp_path).apply(model) as back:
            assert same(model, after) and repr(back) == told and back.facts == e.facts


def changed(about, name, value):
    return {k: v for k, v in (about | {name: value}).items() if v is not ...}


ABOUT = {
    f"{name} {i}": (lambda about, name=name, value=value: changed(about, name, value))
    for name, values in {
        "kind": ("Nope", 3, None, [], "x" * 999),
        "method": (3, None, ..., [], {}),
        "hyper": (3, None, ..., [], "x"),
        "facts": (3, None, ..., {}, "x", [], [3], [None], [[]], ["x"], [{}], [{"prompt": "x"}],
                  [{"requested_rewrite": 3}], [{"requested_rewrite": {"prompt": 1, "subject": 2,
                  "target_new": {"str": 3}}}], [{"prompt": "{}", "subject": [], "target_new": {}}]),
        "before": (3, ..., [], {}),
        "diagnostics": (3, None, ..., [], {"x": {}}, {"1": 3}, {"1": {"ridge": "x"}},
                        {"1": {"steps": None}}),
        "format": (3, "x", None, [], -1, 10**30),
        "tensors": (3, [], "x", "../../etc/passwd", "0" * 32, "0" * 9999),
    }.items()
    for i, value in enumerate(values)
}  # fmt: skip


@pytest.mark.parametrize("name", ABOUT)
def test_a_malformed_edit_json_is_one_line(two, tmp_path, name):
    two[0].save(tmp_path)
    about = ABOUT[name](json.loads((tmp_path / "edit.json").read_text()))
    (tmp_path / "edit.json").write_text(json.dumps(about))
    refused(tmp_path)


def refused(folder):
    with pytest.raises(MeditError, match="holds no saved edit: ") as caught:
        mt.Edit.load(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


RAW = {
    "empty": b"",
    "list": b"[]",
    "null": b"null",
    "text": b'"x"',
    "latin": b'{"kind": "\xe9"}',
    "deep": b"[" * 200_000,
    "deep object": b'{"a":' * 200_000,
    "digits": b'{"before": ' + b"9" * 10_000 + b"}",
    "half": b'{"kind": "Edit", ',
    "zeros": b"\0" * 1000,
}


@pytest.mark.parametrize("name", RAW)
def test_an_edit_json_that_is_no_such_json_is_one_line(two, tmp_path, name):
    two[0].save(tmp_path)
    (tmp_path / "edit.json").write_bytes(RAW[name])
    refused(tmp_path)


def test_folders_in_the_place_of_files_and_a_huge_file(two, tmp_path, monkeypatch):
    for name in ("edit.json", "edit.safetensors"):
        folder = two[0].save(tmp_path / name)
        (folder / name).unlink()
        refused(folder)
        (folder / name).mkdir()
        refused(folder)
    folder = two[0].save(tmp_path / "huge")
    monkeypatch.setattr(MODULE, "LARGEST", 100)
    refused(folder)
    refused(folder / "edit.json")
    text = (folder / "edit.json").read_text()
    monkeypatch.undo()
    (folder / "edit.json").write_text("\ufeff" + text, encoding="utf-8")
    assert mt.Edit.load(folder).facts == two[0].facts


f64 = torch.float64
TENSORS = {
    "nan": lambda t: t | {"left.1": t["left.1"] * float("nan")},
    "inf key": lambda t: t | {"keys.0": t["keys.0"] / 0},
    "float32": lambda t: t | {"left.1": t["left.1"].float()},
    "integers": lambda t: t | {"keys.1": t["keys.1"].long()},
    "complex": lambda t: t | {"right.1": t["right.1"].to(torch.complex64)},
    "widths": lambda t: t | {"left.1": torch.ones(16, 3, dtype=f64)},
    "flat": lambda t: t | {"left.1": torch.ones(16, dtype=f64)},
    "three": lambda t: t | {"right.1": torch.ones(64, 1, 1, dtype=f64)},
    "short key": lambda t: t | {"keys.1": torch.ones(3, 1, dtype=f64)},
    "no key": lambda t: {k: v for k, v in t.items() if k != "keys.1"},
    "no right": lambda t: {k: v for k, v in t.items() if k != "right.0"},
    "no left": lambda t: {k: v for k, v in t.items() if k != "left.0"},
    "one more": lambda t: t | {"more": torch.ones(1)},
    "keys only": lambda t: t | {"keys.5": t["keys.1"]},
    "layer x": lambda t: t | {"left.x": t["left.1"]},
    "layer": lambda t: t | {"left": t["left.1"]},
    "codebook": lambda t: t | {"codebook.keys": torch.ones(1, 1)},
}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("old", [True, False])
def test_malformed_tensors_are_one_line(two, tmp_path, name, old):
    """Also with a hash that vouches for them."""
    two[0].save(tmp_path)
    tensors = TENSORS[name](
        {k: v.clone() for k, v in load_file(tmp_path / "edit.safetensors").items()}
    )
    save_file({k: v.clone() for k, v in tensors.items()}, tmp_path / "edit.safetensors")
    about = json.loads((tmp_path / "edit.json").read_text())
    about["tensors"] = MODULE._digest({k: v for k, v in tensors.items() if not v.is_complex()})
    (tmp_path / "edit.json").write_text(json.dumps(about))
    if old:
        in_the_old_format(tmp_path)
    refused(tmp_path)


def test_a_malformed_codebook_or_prompt_is_one_line(plain, tmp_path):
    edit = plain[2]
    kinds = {
        "grace": edit("grace").undo(),
        "prompt": edit("prompt").undo(),
        "ike": edit("ike").undo(),
    }
    for method, hyper in (
        ("grace", {"layers": []}), ("grace", {"layers": 3}), ("grace", {}),
        ("grace", {"layers": ["x"]}), ("prompt", {}), ("prompt", {"k": 0, "at_least": 0.0}),
        ("prompt", {"k": "x", "at_least": 0.0}),
        ("prompt", {"k": 1, "at_least": 7}), ("ike", {"k": 1, "at_least": 0.0, "examples": 3}),
        ("ike", {"k": 1, "at_least": 0.0, "shots": 0, "examples": [vars(OTHER)]}),
    ):  # fmt: skip
        kinds[method].save(tmp_path)
        about = json.loads((tmp_path / "edit.json").read_text())
        (tmp_path / "edit.json").write_text(json.dumps(about | {"hyper": hyper}))
        refused(tmp_path)
    kinds["grace"].save(tmp_path)
    in_the_old_format(tmp_path)
    tensors = {k: v.clone() for k, v in load_file(tmp_path / "edit.safetensors").items()}
    for change in (
        {"codebook.radii": torch.ones(9)}, {"codebook.owners": torch.ones(1)},
        {"codebook.keys": torch.full_like(tensors["codebook.keys"], float("nan"))},
        {"codebook.values": torch.ones(16)},
    ):  # fmt: skip
        save_file(tensors | change, tmp_path / "edit.safetensors")
        refused(tmp_path)
    save_file({k: v for k, v in tensors.items() if "radii" not in k}, tmp_path / "edit.safetensors")
    refused(tmp_path)


def test_a_place_that_is_none(two):
    for place in (None, 3, [], "a\0b"):
        with pytest.raises(MeditError, match="holds no saved edit"):
            mt.Edit.load(place)
        with pytest.raises(MeditError, match="cannot save the edit in"):
            two[0].save(place)


@pytest.mark.parametrize("method", ["memit", "grace"])
def test_a_copy_of_an_edited_model_has_its_own_edit(plain, tok, method):
    model, _, edit = plain
    before, ids = bits(model), tok("The king of Rome is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        old = model(ids).logits
        with edit(method) as e:
            other = copy.deepcopy(model)
            (own,) = mt.edits_of(other)
            assert own is not e and own.undo().model is other
            assert same(other, before) and torch.equal(other(ids).logits, old)
            assert e.applied and not torch.equal(model(ids).logits, old)


def test_the_command_line_says_it_in_one_line(two, tmp_path, capsys):
    two[0].save(tmp_path)
    (tmp_path / "edit.json").write_text("[]")
    assert main(["score", "--edit", str(tmp_path), "--quiet"]) == 2
    out = capsys.readouterr()
    assert out.err.count("\n") == 1 and "holds no saved edit" in out.err
