"""500 inputs that nobody should give: a right result or one line, and nothing is changed."""

from __future__ import annotations

import re

import pytest

import medit_teach as mt

from . import hostile

SEED, N = 0, 500


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIT_CACHE", str(folder / "cache"))
        patch.setenv("HOME", str(folder / "home"))
        for name in ("MEDIT_DEBUG", "MEDIT_MODEL", "MEDIT_FACTS", "MEDIT_TEXT"):
            patch.delenv(name, raising=False)
        yield hostile.Lab(folder / "lab")


@pytest.mark.slow
@pytest.mark.parametrize("entry", sorted(hostile.ENTRIES))
def test_hostile_inputs(lab, entry):
    mine = [probe for probe in hostile.probes(SEED, N) if probe.entry == entry]
    wrong = list(filter(None, map(lab.try_, mine)))
    assert not wrong, f"{len(wrong)} of {len(mine)}:\n" + "\n".join(wrong)


def test_there_are_500_and_each_is_the_same_again(lab):
    made = hostile.probes(SEED, N)
    assert len(made) >= 500 and {p.entry for p in made} == set(hostile.ENTRIES)
    for probe in made[:60]:
        one, two = (re.sub(r"0x\w+|scratch/\d+", "", probe.made(lab)[0]) for _ in range(2))
        assert one == two
    assert len({probe.made(lab)[0] for probe in made}) > 400


def raw(lab):
    return {}["raw"]


def two_lines(lab):
    raise mt.MeditError("one\ntwo")


def left_changed(lab):
    next(lab.model.parameters()).data += 1


def file_changed(lab):
    (lab.inputs / "text.txt").write_text("changed")


def unforeseen(lab):
    return hostile.run("edit", "--model", lab.inputs / "model", "--text", lab.inputs / "text.txt")


@pytest.mark.parametrize("outcome, word", [
    (raw, "KeyError"), (two_lines, "not one line"), (left_changed, "THE MODEL"),
    (file_changed, "AN INPUT FILE"), (unforeseen, "not foreseen"),
])  # fmt: skip
def test_a_wrong_outcome_is_noticed(outcome, word, tmp_path, monkeypatch):
    own = hostile.Lab(tmp_path)
    monkeypatch.setitem(hostile.ENTRIES, "made", lambda rng, lab: ("made", lambda: outcome(lab)))
    monkeypatch.setattr("medit_teach.cli._edit", lambda args: {}["unforeseen"])
    probe = hostile.Probe("made", 0, 0)
    assert word in own.try_(probe)
    monkeypatch.setitem(hostile.ENTRIES, "made", lambda rng, lab: ("made", lambda: None))
    assert own.try_(probe) is None
