"""What is kept on the disk: whole, checked, never lost; a disk that refuses is one line."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import resource
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import medit_teach as mt
from medit_teach import cli, kept, models, running, statistics, values
from medit_teach.errors import MeditError, StatisticsError
from medit_teach.hyper import hyper
from medit_teach.methods import mend, train_mend
from medit_teach.study import experiments, ripples
from medit_teach.tiny import acceptance, training
from medit_teach.world import World

from .helpers import tiny_model, tiny_tokenizer
from .test_edit import TEXTS
from .test_training import TINY

CALL = dict(tokens=600, batch_tokens=200)
FACTS = [mt.Fact("The king of {} is", name, "old", "new") for name in ("Rome", "Oslo", "Bonn")]
QUICK = dict(layers=[1], steps=2, contexts=("",))


@pytest.fixture(scope="module")
def case():
    tok = tiny_tokenizer()
    return tiny_model("gpt2", tok, layers=3, d=16), tok


@pytest.fixture(scope="module")
def whole(case):
    """C0 of two layers, and targets, as they are without any file."""
    h = hyper("memit", case[0], **QUICK)
    return mt.second_moment(*case, TEXTS, [1, 2], **CALL), values.Targets(*case)(FACTS, h)


@contextmanager
def told(number):
    """Inside, so many warnings are given, all of them at this file's own lines."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found
    found = [w for w in found if issubclass(w.category, UserWarning)]
    assert len(found) == number, [str(w.message) for w in found]
    assert all(w.filename == __file__ for w in found)


# ------------------------------------------------------------------ a file of each kind


class C0:
    """The C0 of a layer in the cache: a damaged one is made anew."""

    def __init__(self, case, whole, tmp_path, monkeypatch):
        self.ask = lambda: mt.second_moment(*case, TEXTS, [1, 2], cache=tmp_path, **CALL)
        self.right = [whole[0][1], whole[0][2]]
        self.ask()
        self.path, self.other = sorted(tmp_path.rglob("C0-*.safetensors"))

    def read(self):
        found = self.ask()
        return [found[1], found[2]]


class OneAtATime(C0):
    """The same, read when it is needed."""

    def __init__(self, case, whole, tmp_path, monkeypatch):
        super().__init__(case, whole, tmp_path, monkeypatch)
        call = dict(cache=tmp_path, one_at_a_time=True)
        self.ask = lambda: mt.second_moment(*case, TEXTS, [1, 2], **CALL, **call)


class Partial:
    """The unfinished sum of a layer: a damaged one is made anew."""

    def __init__(self, case, whole, tmp_path, monkeypatch):
        monkeypatch.setattr(statistics, "SAVE_EVERY", 0.0)
        monkeypatch.setattr(statistics, "SAVE_SHARE", 0.0)
        self.case, self.right = case, [whole[0][1], whole[0][2]]
        self.folder, real = tmp_path, running.pad
        calls = []

        def pad(*args):
            calls.append(args)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return real(*args)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(running, "pad", pad)
            mt.second_moment(*case, TEXTS, [1, 2], cache=tmp_path, **CALL)
        self.path, self.other = sorted(tmp_path.rglob("partial-*.safetensors"))
        self.whole = {p: p.read_bytes() for p in (self.path, self.other)}

    def read(self):
        for path in self.folder.rglob("C0-*"):
            path.unlink()
        found = mt.second_moment(*self.case, TEXTS, [1, 2], cache=self.folder, **CALL)
        self.other.write_bytes(self.whole[self.other])
        return [found[1], found[2]]


class Kept:
    """Targets of facts: those of a damaged file are made anew."""

    def __init__(self, case, whole, tmp_path, monkeypatch):
        self.case, self.right, self.folder = case, [whole[1]], tmp_path
        self.h = hyper("memit", case[0], **QUICK)
        self.read()
        self.path, self.other = sorted(tmp_path.glob("*.safetensors"))

    def read(self):
        return [values.Targets(*self.case, self.folder, chunk=2)(FACTS, self.h)]


class Folder:
    """Statistics in a folder of the user's: a damaged file is refused."""

    def __init__(self, case, whole, tmp_path, monkeypatch):
        whole[0].save(tmp_path)
        self.folder, self.right = tmp_path, [whole[0][1], whole[0][2]]
        self.path, self.other = sorted(tmp_path.glob("C0-*.safetensors"))

    def read(self):
        found = mt.Statistics.load(self.folder)
        return [found[1], found[2]]


class Mend:
    """A trained editor: a damaged one is refused."""

    def __init__(self, case, whole, tmp_path, monkeypatch):
        self.path, self.other = tmp_path / "e.safetensors", None
        mend.Editor((0, 1), 6, 4, rank=2).save(self.path, weights="of this model")
        self.right = self.read()

    def read(self):
        editor, about = mend.Editor.load(self.path)
        order = sorted(editor.state_dict().items())
        return [editor.layers, sorted(about.items()), *(x for _, x in order)]


class State:
    """Where a training stands: a damaged file is refused."""

    def __init__(self, case, whole, tmp_path, monkeypatch):
        model = torch.nn.Linear(3, 2)
        adam = torch.optim.AdamW(model.parameters())
        model(torch.ones(1, 3)).sum().backward()
        adam.step()
        self.path, self.other = tmp_path / "checkpoint.pt", None
        state = {"model": model.state_dict(), "adam": adam.state_dict(), "step": 7}
        kept.save_state(self.path, state)
        self.right = self.flat(state)

    def flat(self, x):
        return (
            [repr(x)] if not isinstance(x, dict) else [y for v in x.values() for y in self.flat(v)]
        )

    def read(self):
        return self.flat(kept.load_state(self.path, ("model", "adam", "step")))


class Records:
    """Records of a sweep, a line each: a damaged line is left out."""

    def __init__(self, case, whole, tmp_path, monkeypatch):
        self.path, self.other = tmp_path / "x.jsonl", None
        for size in (1, 2):
            row = {"key": f"k{size}", "label": "memit", "size": size, "error": None}
            row |= {"ES": [90.0 + size, 1.5, 99.0], "per_fact": {"ES": [100.0, 0.0]}}
            experiments._append(self.path, row)
        self.right = experiments.read(self.path)

    def read(self):
        for row in experiments.read(self.path):
            (known,) = [x for x in self.right if x["key"] == row["key"]]
            assert {k: row.get(k) for k in known} == known
        return self.right


class Acceptance:
    """The record of check-models: a damaged one is set aside, and measured again."""

    def __init__(self, case, whole, tmp_path, monkeypatch):
        self.path, self.other = tmp_path / "check.json", None
        self.asked = dict.fromkeys(("seed", "quick", "versions", "device", "sizes"), 0)
        found = {"hash": "a", "preset": {}, "rows": ["recall"], "seconds": 1.5, "details": {}}
        found["measures"] = [{"key": "recall", "value": 98.25}]
        record = kept.seal(self.asked | {"models": [found]})
        kept.write_text(self.path, json.dumps(record))
        self.right = self.read()

    def read(self):
        return [acceptance._earlier(self.path, self.asked)]


ANEW = [C0, OneAtATime, Partial, Kept]
REFUSED = [Folder, Mend, State]
EVERY = [*ANEW, *REFUSED, Records, Acceptance]


def same(a, b):
    """Equal; what was computed anew in other company to rounding only."""
    return len(a) == len(b) and all(
        torch.allclose(x, y, rtol=1e-5, atol=1e-9) if isinstance(x, torch.Tensor) else x == y
        for x, y in zip(a, b, strict=True)
    )


def damages(kind, content):
    """(name, bytes) of many damages: a bit flipped all over the file, pieces cut off, and more."""
    for i in range(0, len(content), max(1, len(content) // 40)):
        bit = 1 << (i % 8)
        yield f"bit {bit} of byte {i}", content[:i] + bytes([content[i] ^ bit]) + content[i + 1 :]
    for i in range(8, min(400, len(content)), 9):  # the header, closely
        yield f"byte {i}", content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :]
    for n in (0, 1, 7, 8, 100, len(content) // 2, len(content) - 1):
        yield f"{n} bytes", content[:n]
    yield "longer", content + b"\0\0\0\0\0\0\0\0"
    yield "zeros", bytes(len(content))
    yield "text", b"nothing of the kind\n"


@pytest.mark.parametrize("kind", EVERY)
def test_a_damaged_file_never_gives_a_wrong_number(kind, case, whole, tmp_path, monkeypatch):
    """Any damage: the right numbers (computed anew, the damaged file still there), or one line."""
    one = kind(case, whole, tmp_path, monkeypatch)
    assert same(one.read(), one.right)
    content = one.whole[one.path] if kind is Partial else one.path.read_bytes()
    for name, damaged in damages(kind, content):
        one.path.write_bytes(damaged)
        before = len(list(one.path.parent.glob("*.damaged*")))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = one.read()
            except MeditError as error:
                assert kind not in (*ANEW, Records), (name, error)
                assert "\n" not in str(error), error
                assert one.path.read_bytes() == damaged
                continue
        if kind is Acceptance:
            assert found in ([{}], one.right), name
        else:
            assert same(found, one.right), name
        aside = list(one.path.parent.glob("*.damaged*"))
        if len(aside) > before:
            assert damaged in [path.read_bytes() for path in aside], name


@pytest.mark.parametrize("kind", ANEW)
def test_what_is_computed_anew_is_told_once_and_kept(kind, case, whole, tmp_path, monkeypatch):
    one = kind(case, whole, tmp_path, monkeypatch)
    content = bytearray(one.path.read_bytes())
    content[-3] ^= 4
    one.path.write_bytes(content)
    with told(1) as notes:
        assert same(one.read(), one.right)
    assert "is damaged: its content is not what was written" in str(notes[0].message)
    assert one.path.with_name(f"{one.path.name}.damaged").read_bytes() == content
    with told(0):
        assert same(one.read(), one.right)


@pytest.mark.parametrize("kind", [C0, OneAtATime, Partial, Kept, Folder])
def test_files_that_change_places(kind, case, whole, tmp_path, monkeypatch):
    """Two layers' files swapped, or one copied over the other; targets of another kind."""
    one = kind(case, whole, tmp_path, monkeypatch)
    a, b = one.path.read_bytes(), one.other.read_bytes()
    for first, second in ((b, a), (a, a)):
        one.path.write_bytes(first)
        one.other.write_bytes(second)
        if kind is Folder:
            with pytest.raises(StatisticsError, match="holds the C0 of layer"):
                one.read()
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert same(one.read(), one.right)


@pytest.mark.parametrize("kind", [C0, Partial, Kept, Folder, Mend])
@pytest.mark.parametrize("change", ["nan", "wide", "dtype", "names", "about", "empty"])
def test_a_file_that_somebody_else_wrote(kind, change, case, whole, tmp_path, monkeypatch):
    """The same names and words around other numbers, without a hash or with that of the old ones;
    with the right hash around numbers that cannot be."""
    one = kind(case, whole, tmp_path, monkeypatch)
    tensors, about = kept.load(one.path)
    name = next(x for x in ("C0", "sum", "target", "U1") if x in tensors)
    x = tensors[name].clone()
    changed = {
        "nan": {name: torch.full_like(x, float("nan"))}, "wide": {name: torch.cat([x, x], 1)},
        "dtype": {name: x.to(torch.int64)}, "names": {"other": x}, "about": {}, "empty": {},
    }[change]  # fmt: skip
    tensors = {} if change in ("empty", "names") else tensors
    about = {} if change == "about" else about
    kept.save(one.path, tensors | changed, about)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind in REFUSED and not (kind is Folder and change == "about"):
            with pytest.raises(MeditError):
                one.read()
        elif kind is Mend:
            with pytest.raises(MeditError, match="holds no trained"):
                one.read()
        else:
            assert same(one.read(), one.right)
    if kind in (Partial, Kept) and change == "nan":  # and without a hash: not trusted at all
        save_file({k: v * 2 for k, v in tensors.items()}, str(one.path), metadata=about)
        with told(1):
            assert same(one.read(), one.right)


@pytest.mark.parametrize("done", [-1, 10**6])
def test_a_partial_sum_of_a_wrong_count(done, case, whole, tmp_path, monkeypatch):
    one = Partial(case, whole, tmp_path, monkeypatch)
    tensors, about = kept.load(one.path)
    kept.save(one.path, tensors | {"done": torch.tensor(done)}, about)
    with told(1):
        assert same(one.read(), one.right)


# ------------------------------------------------------------------ errors that are not damage


@pytest.mark.parametrize("kind", ANEW)
@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_out_of_memory_leaves_the_file_alone(kind, error, case, whole, tmp_path, monkeypatch):
    one = kind(case, whole, tmp_path, monkeypatch)
    content = one.path.read_bytes()

    def no_room(*args, **more):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(kept, "digest", no_room)
        with pytest.raises(type(error)):
            one.read()
    assert one.path.read_bytes() == content and not list(tmp_path.rglob("*.damaged*"))
    with told(0):
        assert same(one.read(), one.right)


def test_out_of_memory_for_statistics_is_one_line(case, whole, tmp_path, monkeypatch):
    whole[0].save(tmp_path)

    def no_room(path, **more):
        raise MemoryError

    monkeypatch.setattr(kept, "load", no_room)
    with pytest.raises(StatisticsError, match=r"out of memory .*one_at_a_time"):
        mt.Statistics.load(tmp_path)


@pytest.mark.parametrize("kind", [C0, Kept])
def test_a_file_that_cannot_be_read_stays_as_it_is(kind, case, whole, tmp_path, monkeypatch):
    one = kind(case, whole, tmp_path, monkeypatch)
    content, real = one.path.read_bytes(), open

    def refuse(path, *args, **more):
        if Path(path) == one.path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        with told(1) as notes:
            assert same(one.read(), one.right)
    assert "Permission denied" in str(notes[0].message)
    assert one.path.read_bytes() == content


# ------------------------------------------------------------------ whose C0 it is


@pytest.fixture
def other(case):
    return tiny_model("gpt2", case[1], layers=3, d=16, seed=5)


def test_a_folder_holds_the_C0_of_one_model(case, other, whole, tmp_path):
    model, tok = case
    whole[0].save(tmp_path)
    files = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    second = mt.second_moment(other, tok, TEXTS, [0], **CALL)
    for found in (second, mt.second_moment(model, tok, TEXTS, [0, 1, 2], tokens=500)):
        with pytest.raises(StatisticsError, match=r"holds a C0 of weights .* another folder"):
            found.save(tmp_path)
    assert files == {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    mt.second_moment(model, tok, TEXTS, [0], **CALL).save(tmp_path)  # more of the same: together
    assert sorted(mt.Statistics.load(tmp_path).C0) == [0, 1, 2]


def test_files_of_two_models_in_one_folder_are_told_apart(case, other, whole, tmp_path):
    """However they came there; asked for the layers of one alone, it is loaded."""
    model, tok = case
    second = mt.second_moment(other, tok, TEXTS, [0], **CALL)
    whole[0].save(tmp_path / "one")
    second.save(tmp_path / "two")
    for name in ("C0-0.safetensors", "statistics.json"):
        os.replace(tmp_path / "two" / name, tmp_path / "one" / name)
    for one_at_a_time in (False, True):
        with pytest.raises(StatisticsError, match="of several origins"):
            mt.Statistics.load(tmp_path / "one", one_at_a_time=one_at_a_time)
    found = mt.Statistics.load(tmp_path / "one", [1, 2])
    found.check(models.View(model), [1, 2])
    assert (found.tokens, found.text) == (whole[0].tokens, whole[0].text)
    with pytest.raises(StatisticsError, match="other weights"):
        mt.Statistics.load(tmp_path / "one", [0]).check(models.View(model), [0])


def old_folder(whole, folder):
    """As earlier versions wrote it: nothing but a statistics.json says whose C0 it is."""
    folder.mkdir()
    for layer in (1, 2):
        save_file({"C0": whole[0][layer]}, str(folder / f"C0-{layer}.safetensors"))
    about = {"tokens": whole[0].tokens, "weights": whole[0].weights, "text": whole[0].text}
    (folder / "statistics.json").write_text(json.dumps(about))


def test_a_folder_of_an_earlier_version(case, other, whole, tmp_path):
    folder = tmp_path / "old"
    old_folder(whole, folder)
    found = mt.Statistics.load(folder)
    assert found.origin == whole[0].origin and torch.equal(found[2], whole[0][2])
    with pytest.raises(StatisticsError, match="holds a C0 of weights"):
        mt.second_moment(other, case[1], TEXTS, [0], **CALL).save(folder)
    whole[0].save(folder)  # the same C0: each file says it now
    assert kept.header(folder / "C0-1.safetensors")[1]["weights"] == whole[0].weights


@pytest.mark.parametrize(
    "about",
    [b"", b"{", b"[]", b"3", b'{"tokens": 5}', b'{"tokens": "5", "weights": "a", "text": "b"}',
     b'{"tokens": true, "weights": "a", "text": "b"}', b"[" * 10**5, b"\xff\xfe\x00", None],
)  # fmt: skip
def test_what_vouches_for_old_files_must_be_whole(about, whole, tmp_path):
    folder = tmp_path / "old"
    old_folder(whole, folder)
    (folder / "statistics.json").unlink()
    if about is not None:
        (folder / "statistics.json").write_bytes(about)
    with pytest.raises(StatisticsError, match=r"statistics\.json"):
        mt.Statistics.load(folder)
    with pytest.raises(StatisticsError, match="of an unknown model"):
        mt.Statistics({0: whole[0][1]}, *whole[0].origin[::-1][:1], *whole[0].origin[:2]).save(
            folder
        )


def test_a_repository_of_another_model_is_not_added_to(case, other, whole, tmp_path, monkeypatch):
    """push: what lies there is looked at first."""
    there = tmp_path / "there"
    there.mkdir()
    uploads = []

    class HfApi:
        def create_repo(self, repository, exist_ok, **kwargs):
            pass

        def upload_folder(self, repo_id, folder_path):
            uploads.append(sorted(os.listdir(folder_path)))
            for path in Path(folder_path).iterdir():
                (there / path.name).write_bytes(path.read_bytes())

    monkeypatch.setattr("huggingface_hub.HfApi", HfApi)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: str(there))
    whole[0].push("someone/c0")
    whole[0].push("someone/c0")  # once more the same
    with pytest.raises(StatisticsError, match=r"someone/c0 holds a C0 of weights .* another repos"):
        mt.second_moment(other, case[1], TEXTS, [0], **CALL).push("someone/c0")
    assert uploads == [["C0-1.safetensors", "C0-2.safetensors", "statistics.json"]] * 2


def test_a_C0_on_the_disk_is_read_once_a_layer(case, whole, tmp_path, monkeypatch):
    """Its shape is in the header: an edit reads each matrix once, to factor it."""
    model, tok = case
    whole[0].save(tmp_path)
    reads, real = [], kept.load
    monkeypatch.setattr(kept, "load", lambda path, **k: reads.append(path.name) or real(path, **k))
    found = mt.Statistics.load(tmp_path, [1, 2], one_at_a_time=True)
    assert found.shape(1) == (64, 64) and found.tokens == whole[0].tokens
    found.check(models.View(model), [1, 2])
    assert reads == []
    call = dict(layers=[1, 2], steps=2, contexts=("",))
    for C0 in (found, tmp_path):
        reads.clear()
        with mt.edit(model, tok, FACTS, "memit", statistics=C0, **call):
            assert sorted(reads) == ["C0-1.safetensors", "C0-2.safetensors"]
    with pytest.raises(StatisticsError, match=r"shape \(64, 64\), the model needs \(128, 128\)"):
        found.check(models.View(tiny_model("gpt2", tok, layers=3, d=32)), [1])
    with pytest.raises(StatisticsError, match="no C0 for layer 0"):
        found.shape(0)


# ------------------------------------------------------------------ a disk that refuses


def full(errnumber, monkeypatch, where):
    """From now on the disk refuses: at the renaming, at the writing of tensors, or at a folder."""

    def refuse(*args, **more):
        raise OSError(errnumber, os.strerror(errnumber))

    monkeypatch.setattr(*{
        "replace": (os, "replace"), "tensors": (kept, "save_file"), "folder": (Path, "mkdir"),
    }[where], refuse)  # fmt: skip


REFUSALS = pytest.mark.parametrize("number", [
    errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG, errno.EDQUOT, errno.EIO,
])  # fmt: skip
WHERE = pytest.mark.parametrize("where", ["replace", "tensors", "folder"])


@REFUSALS
@WHERE
def test_a_cache_that_cannot_be_written_only_warns(
    number, where, case, whole, tmp_path, monkeypatch
):
    model, tok = case
    monkeypatch.setattr(statistics, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(statistics, "SAVE_SHARE", 0.0)
    full(number, monkeypatch, where)
    with told(1) as notes:
        found = mt.second_moment(model, tok, TEXTS, [1, 2], cache=tmp_path / "c", **CALL)
    assert torch.equal(found[1], whole[0][1]) and torch.equal(found[2], whole[0][2])
    assert os.strerror(number) in str(notes[0].message)
    h = hyper("memit", model, **QUICK)
    with told(1):
        targets = values.Targets(model, tok, tmp_path / "t", chunk=1)
        assert torch.allclose(targets(FACTS, h), whole[1], rtol=1e-5, atol=1e-9)
    with pytest.raises(MeditError, match=os.strerror(number)):
        mt.second_moment(model, tok, TEXTS, [1], cache=tmp_path, one_at_a_time=True, **CALL)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and where != "folder"]


@pytest.mark.parametrize("place", ["file/below", "n" * 300, "n" * 300 + "/below"])
def test_a_cache_where_no_folder_can_be(place, case, whole, tmp_path):
    model, tok = case
    (tmp_path / "file").write_text("a file")
    with told(1):
        found = mt.second_moment(model, tok, TEXTS, [1, 2], cache=tmp_path / place, **CALL)
    assert torch.equal(found[1], whole[0][1])
    with told(1):
        kept_here = values.Targets(model, tok, tmp_path / place)
        kept_here(FACTS, hyper("memit", model, **QUICK))
    for write in (
        whole[0].save, mend.Editor((0,), 3, 2).save, kept.ready,
        lambda place: kept.write_text(place, "x"),
    ):  # fmt: skip
        with pytest.raises(MeditError, match="cannot write") as error:
            write(tmp_path / place)
        assert "\n" not in str(error.value) and isinstance(error.value.__cause__, OSError)
    with pytest.raises(StatisticsError, match="cannot read statistics"):
        mt.Statistics.load(tmp_path / place)


@REFUSALS
@WHERE
def test_a_place_that_the_user_named_is_one_line(number, where, whole, tmp_path, monkeypatch):
    full(number, monkeypatch, where)
    for write in (whole[0].save, mend.Editor((0,), 3, 2).save):
        with pytest.raises(MeditError, match=f"cannot write .*{os.strerror(number)}"):
            write(tmp_path / "here")
        with pytest.raises(MeditError):
            write(str(tmp_path / "here"))
    if where != "tensors":
        with pytest.raises(MeditError, match=os.strerror(number)):
            kept.write_text(tmp_path / "here", "x")


def test_a_really_full_disk(case, whole, tmp_path):
    """The system's own refusal, at 2,000 bytes a file: as the writers of tensors tell it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with told(1) as notes:
            found = mt.second_moment(*case, TEXTS, [1, 2], cache=tmp_path / "c", **CALL)
        with pytest.raises(MeditError) as refused:
            whole[0].save(tmp_path / "s")
        with pytest.raises(OSError, match="File too large"):
            kept.save_state(tmp_path / "state", {"x": torch.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.equal(found[1], whole[0][1]) and "too large" in str(notes[0].message)
    assert "too large" in str(refused.value) and "\n" not in str(refused.value)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]  # no draft is left


def test_a_file_that_is_written_over_is_the_old_one_until_it_is_the_new_one(
    whole, tmp_path, monkeypatch
):
    whole[0].save(tmp_path)
    content = (tmp_path / "C0-1.safetensors").read_bytes()
    full(errno.ENOSPC, monkeypatch, "replace")
    with pytest.raises(MeditError):
        whole[0].save(tmp_path)
    assert (tmp_path / "C0-1.safetensors").read_bytes() == content


@pytest.mark.parametrize("where", ["replace", "folder"])
def test_a_training_whose_checkpoint_cannot_be_written(where, tmp_path, monkeypatch):
    small = dict(steps=3, world=World.small(), batch=2, shape=TINY, progress=False)
    (tmp_path / "file").write_text("a file")
    for more in ({"work": tmp_path / "file" / "w"}, {"work": tmp_path / "file"}):
        with pytest.raises(MeditError, match="cannot write"):
            training.train("tiny-gptj", tmp_path / "m", **small, **more)
    with pytest.raises(MeditError, match=r"cannot write .*file"):
        training.train("tiny-gptj", tmp_path / "file", work=tmp_path / "w", **small)
    if where == "folder":
        full(errno.ENOSPC, monkeypatch, where)
        with pytest.raises(MeditError, match="No space left"):
            training.train("tiny-gptj", tmp_path / "m", **small)
        return
    real = os.replace

    def refuse(draft, path):  # the checkpoint; the model itself can be written
        if Path(path).name == training.CHECKPOINT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(draft, path)

    monkeypatch.setattr(os, "replace", refuse)
    with told(1) as notes:
        training.train("tiny-gptj", tmp_path / "m", checkpoint_every=0.0, **small)
    assert "No space left" in str(notes[0].message) and "goes on" in str(notes[0].message)
    assert (tmp_path / "m" / "model.safetensors").is_file()
    full(errno.ENOSPC, monkeypatch, "replace")
    with pytest.raises(MeditError, match=r"cannot write .*m.*No space left"):
        training.train("tiny-gptj", tmp_path / "m", **small)


@pytest.mark.parametrize("out", ["file/x.json", "n" * 300, "folder"])
@pytest.mark.parametrize("command", [["check-models", "tiny-gptj", "--quick"], ["selftest"]])
def test_a_report_that_cannot_be_written_is_told_before_the_work(
    command, out, tmp_path, monkeypatch, capsys
):
    for module in ("tiny.acceptance", "study.selftest"):
        monkeypatch.setattr(f"medit_teach.{module}.load", None)  # a call would be an error
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder").mkdir()
    assert cli.main([*command, "--out", str(tmp_path / out)]) == 2
    error = capsys.readouterr().err
    assert re.search("cannot be written|too long|not a file", error) and error.count("\n") == 1


def test_a_record_of_another_run_is_renamed_not_lost(tmp_path, capsys):
    one = Acceptance(None, None, tmp_path, None)
    content = one.path.read_bytes()
    assert acceptance._earlier(one.path, one.asked | {"seed": 1}) == {}
    assert (tmp_path / "check.json.earlier").read_bytes() == content and not one.path.exists()
    assert "other seed: it is now check.json.earlier" in capsys.readouterr().out


# ------------------------------------------------------------------ no code from data


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


STATE = dict(key={}, step=1, seconds=0.0, settings=[], losses=[])


@pytest.mark.parametrize("write", [
    lambda path, x: torch.save(x, path),
    lambda path, x: path.write_bytes(pickle.dumps(x)),
    lambda path, x: torch.save(
        STATE | dict.fromkeys(("model", "optimizers", "editor", "adam", kept.CHECK), x), path
    ),
])  # fmt: skip
def test_a_checkpoint_runs_no_code(write, case, tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    saved = tmp_path / "m.work" / training.CHECKPOINT
    saved.parent.mkdir()
    write(saved, Evil(ran))
    small = dict(steps=2, world=World.small(), batch=2, shape=TINY, progress=False)
    with pytest.raises(MeditError, match=r"cannot go on from .*--fresh") as error:
        training.train("tiny-gptj", tmp_path / "m", **small)
    assert "\n" not in str(error.value)
    monkeypatch.setattr(train_mend, "training_facts", lambda model: FACTS)
    write(tmp_path / "e.progress", Evil(ran))
    with pytest.raises(MeditError, match=r"cannot go on from .*remove it"):
        train_mend.train(*case, tmp_path / "e.safetensors", [0], steps=1, show=len)
    assert not ran.exists() and saved.exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The state in a checkpoint of a small training, and how it was called."""
    folder = tmp_path_factory.mktemp("trained")
    small = dict(steps=4, world=World.small(), batch=2, shape=TINY, progress=False)
    training.train("tiny-gptj", folder / "m", stop_after=2, **small)
    names = ("key", "step", "seconds", "model", "optimizers")
    return kept.load_state(folder / "m.work" / training.CHECKPOINT, names), small


@pytest.mark.parametrize("change", [
    {"step": "two"}, {"step": -1}, {"step": 99}, {"step": None}, {"model": {}}, {"model": 3},
    {"optimizers": []}, {"optimizers": [{}, {}]}, {"optimizers": None}, {"seconds": "x"},
    {"key": 3}, {"key": {}}, {"key": {"name": "tiny-gpt2"}}, "missing", "shapes", "no hash",
])  # fmt: skip
def test_a_checkpoint_that_does_not_fit_is_one_line(change, trained, tmp_path):
    state, small = dict(trained[0]), trained[1]
    saved = tmp_path / "m.work" / training.CHECKPOINT
    saved.parent.mkdir()
    if change == "missing":
        del state["seconds"]
    elif change == "shapes":
        state["model"] = {k: v[:1] for k, v in state["model"].items()}
    elif change != "no hash":
        state |= change
    kept.save_state(saved, state)
    if change == "no hash":
        torch.save(state, saved)
    content = saved.read_bytes()
    with pytest.raises(MeditError, match="--fresh") as error:
        training.train("tiny-gptj", tmp_path / "m", **small)
    assert "\n" not in str(error.value) and saved.read_bytes() == content


@pytest.mark.parametrize(
    "name", ["../x", "/far/x", "a/b", "..", "", " ", ".", "a\\b", "c:x", "a\nb", "a\0b", "x" * 201]
)
def test_a_name_from_a_file_is_no_path(name, case, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiments, "load", None)  # a call would be an error
    asked = {"name": name, "model": "tiny-gptj", "methods": [{"method": "none"}]}
    (tmp_path / "s.json").write_text(json.dumps(asked))
    assert cli.main(["sweep", str(tmp_path / "s.json")]) == 2
    error = capsys.readouterr().err
    assert "cannot name a file" in error and error.count("\n") == 1 and "s.json" in error
    model = tiny_model("gpt2", case[1], layers=2, d=16)
    model.config.medit_teach = {"name": name}
    if name:
        with pytest.raises(MeditError, match="cannot name a file"):
            mend.shipped(model)


@pytest.mark.parametrize("name", ["../../x", "/far/x", "a/b", 3, ["x"], {"a": 1}])
def test_an_assignment_is_written_into_the_folder_that_was_named(name, tmp_path, capsys):
    about = {"nbgrader": {"schema_version": 3, "grade_id": "a", "grade": False, "solution": True}}
    cell = {"cell_type": "code", "metadata": about, "source": "x = 1", "outputs": []}
    whole = {"metadata": {"medit_teach": {"assignment": name}}, "cells": [cell]}
    path = tmp_path / "master.ipynb"
    path.write_text(json.dumps(whole | {"nbformat": 4, "nbformat_minor": 5}))
    assert cli.main(["assignment", str(path), "--out", str(tmp_path / "a" / "b")]) == 2
    error = capsys.readouterr().err
    assert "cannot name a file" in error and error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["master.ipynb"]


def test_names_that_can_name_a_file():
    for name in ("ridges", "batch-size 2", "Übung.1", "北京", "x" * 200):
        assert kept.plain_name(name, "it") == name


# ------------------------------------------------------------------ what a hash is of


def test_a_hash_is_of_every_name_type_shape_and_number():
    x = torch.arange(6.0)
    every = [
        x, x.double(), x.view(2, 3), x.view(3, 2), -x, x[:0], x.to(torch.bfloat16),
        torch.tensor(0.0), {"a": x}, {"b": x}, [x], [[x]], [], {}, None, 0, 0.0, False, "0", "",
        [0, [1]], [[0], 1],
    ]  # fmt: skip
    assert len({kept.digest(one) for one in every}) == len(every)
    assert kept.digest({"a": 1, "b": 2}) == kept.digest({"b": 2, "a": 1})
    assert kept.digest(x) == kept.digest(x.clone()) == kept.digest(x.repeat(2, 1).T[:, 0])
    assert kept.digest((1, 2)) == kept.digest([1, 2])  # JSON has no tuples


def test_the_editor_that_ships_carries_no_hash_and_is_read():
    path = mend.DATA / "mend-tiny-gptj.safetensors"
    editor, about = mend.Editor.load(path)
    assert kept.CHECK not in about and editor.rank == int(about["rank"])
    assert all(torch.equal(x, load_file(path)[k]) for k, x in editor.state_dict().items())


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"{}\n[]\n", b"{}\n3\n", b"{}\n{}\n", b"{}\n" + b"[" * 10**5, b"\xff\xfe", None,
     b'{}\n{"says": {}, "edit": [0], "kind": ["x"], "path": [3], "stated": [1], "moves": ["a"]}'],
)  # fmt: skip
def test_a_file_that_holds_no_ripples(content, tmp_path):
    path = tmp_path / "r.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MeditError, match="holds no records of ripples") as error:
        ripples.load(path)
    assert "\n" not in str(error.value)
