"""Sweeps: bad input is refused before any work; kills and damaged lines do no harm."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import signal
import sys
import time
from dataclasses import fields, replace

import numpy as np
import pytest

import medit_teach as mt
from medit_teach import cli, values
from medit_teach.errors import FactError, MeditError
from medit_teach.study import experiments
from medit_teach.study.experiments import Facts, Method, Sweep, load_sweep, plan, read, repair, run

CHEAP = {"layers": [3], "steps": 2, "contexts": ["", "It rained all night. "]}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Model, tokenizer, and a file of a few facts; C0 of few tokens is known to the model."""
    model, tok = mt.load("tiny-gptj")
    model._medit_statistics = mt.second_moment(
        model, tok, mt.datasets.texts_for(model), [3], tokens=2000
    )
    path = tmp_path_factory.mktemp("facts") / "facts.json"
    few = mt.facts("world", n=12, seed=3, model=model)
    path.write_text(json.dumps([fact.to_record() for fact in few]))
    return model, tok, str(path)


@pytest.fixture
def sweep(loaded):
    """Make a small sweep; keywords replace its fields."""

    def make(**fields):
        given = {
            "name": "small", "sizes": [1, 2], "scored": 2, "measures": ["scores", "update"],
            "facts": [Facts(source=loaded[2])], "tokens": 2000,
            "methods": [Method("memit", CHEAP), Method("emmet", CHEAP)],
        }  # fmt: skip
        return Sweep(**given | fields)

    return make


def go(sweep, path, loaded, **more):
    return run(sweep, path, progress=False, loaded=loaded[:2], **more)


def plain(rows):
    """Records without what another run changes."""
    return [{k: v for k, v in row.items() if k not in experiments.TIMES} for row in rows]


def counting():
    """A measure that counts how often it was called."""
    calls = []

    def count(state):
        calls.append(len(state.facts))
        return {"count": float(len(state.facts))}

    return calls, {"count": count}


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"methods": [Method("memit", {"layers": [9]})]}, MeditError, "9"),
        ({"methods": [{"method": "memit", "size": 3}]}, MeditError, "unknown field 'size'"),
        ({"methods": [{"label": "x"}]}, MeditError, "missing"),
        ({"methods": ["memit"]}, MeditError, "expected fields and values"),
        ({"methods": []}, MeditError, "methods is empty"),
        ({"methods": [Method("rome"), Method("rome")]}, MeditError, "same cell"),
        ({"sizes": [0]}, MeditError, "sizes: 0 is not a number of facts"),
        ({"sizes": [13]}, FactError, "asked for 13 facts, there are 12"),
        ({"facts": [Facts("W99")]}, FactError, "no facts of relation 'W99'"),
        ({"facts": [Facts(["W01", "W06"])], "sizes": [5000]}, MeditError, "asked for 5000 facts"),
        ({"measures": ["beauty"]}, MeditError, "unknown measure 'beauty'"),
        ({"measures": ["medit_teach.metrics:beauty"]}, MeditError, "has no attribute 'beauty'"),
    ],
)
def test_bad_input_is_refused_before_any_work(fields, error, message, sweep, loaded, tmp_path):
    with pytest.raises(error, match=message):
        go(sweep(**fields), tmp_path / "x.jsonl", loaded)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": 3}, "name: expected str, found 3"),
        ({"model": 3}, "model: expected str | None, found 3"),
        ({"sizes": 16}, "sizes: expected list, found 16"),
        ({"sizes": ["16"]}, "sizes: expected int, found '16'"),
        ({"sizes": [True]}, "sizes: expected int, found True"),
        ({"seeds": 0}, "seeds: expected list, found 0"),
        ({"seeds": [0.5]}, "seeds: expected int, found 0.5"),
        ({"measures": "scores"}, "measures: expected list, found 'scores'"),
        ({"keep": "ES"}, "keep: expected list, found 'ES'"),
        ({"keep": [1]}, "keep: expected str, found 1"),
        ({"scored": 2.0}, "scored: expected int, found 2.0"),
        ({"scored": 0}, "scored: 0 is not a number of facts"),
        ({"tokens": 0}, "tokens must be positive, not 0"),
        ({"texts": -1}, "texts must be positive, not -1"),
        ({"methods": {"method": "memit"}}, "methods: expected list"),
        ({"methods": [{"method": "memitt"}]}, "methods: unknown method 'memitt'; choose from none"),
        ({"methods": [{"method": 5}]}, "methods: method: expected str, found 5"),
        ({"methods": [{"method": "memit", "hyper": [1]}]}, "methods: hyper: expected dict"),
        ({"methods": [{"method": "memit", "hyper": {"lambda": 1}}]}, "no hyper-parameter 'lambda'"),
        ({"methods": [{"method": "memit", "sizes": 4}]}, "methods: sizes: expected list | None"),
        ({"methods": [{"method": "memit", "sizes": [0]}]}, "sizes of a method: 0 is not a number"),
        ({"methods": [{"method": "memit", "step": 0}]}, "step: 0 is not a number of facts"),
        ({"methods": [{"method": "memit", "remember": 1}]}, "remember: expected bool, found 1"),
        ({"facts": [{"relations": 4}]}, "facts: relations: expected list, found 4"),
        ({"facts": [{"relations": [4]}]}, "facts: relations: expected str, found 4"),
        ({"facts": [{"source": 4}]}, "facts: source: expected str | None, found 4"),
        ({"facts": ["W01"]}, "facts: expected fields and values, found 'W01'"),
    ],
)
def test_a_field_of_a_wrong_kind_is_named_before_the_model_is_loaded(
    fields, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(experiments, "load", None)  # a call would be an error
    asked = {"name": "x", "model": "tiny-gptj", "methods": [{"method": "none"}]} | fields
    (tmp_path / "s.json").write_text(json.dumps(asked))
    assert cli.main(["sweep", str(tmp_path / "s.json")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.toml", 'name = "x"\nmethod = "memit"', "unknown field 'method'"),
        ("s.toml", 'name = "x', "cannot read the sweep"),
        ("s.json", "{", "cannot read the sweep"),
        ("s.json", "[]", "expected fields and values"),
        ("s.json", '{"name": "x"}', "missing"),
    ],
)
def test_a_bad_sweep_file_is_named(name, text, message, tmp_path, capsys):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(MeditError, match=message):
        load_sweep(path)
    assert cli.main(["sweep", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_the_records_say_what_was_done_and_what_came_out(sweep, loaded, tmp_path):
    model, tok, _ = loaded
    before = mt.models.fingerprint(model)
    asked = sweep(methods=[
        Method("none", sizes=(2,)), Method("memit", CHEAP | {"lam": 50.0}),
        Method("emmet", CHEAP | {"ridge": 50.0}, label="same"),
        Method("nullspace", CHEAP | {"energy": 1e-9}, sizes=(2,)),
    ])  # fmt: skip
    rows = go(asked, tmp_path / "x.jsonl", loaded)
    assert mt.models.fingerprint(model) == before == rows[0]["hash"]
    assert [(r["label"], r["size"]) for r in rows] == [
        ("none", 2), ("memit", 1), ("memit", 2), ("same", 1), ("same", 2), ("nullspace", 2),
    ]  # fmt: skip
    none, one, two, _, same, nullspace = rows
    facts = Facts(source=loaded[2]).draw(2, 0, model)
    assert none["NS"][0] == pytest.approx(mt.score(model, tok, facts).NS, abs=0.01)
    assert one["groups"] == 2 and two["groups"] == 1
    assert two["hyper"]["lam"] == 50 and two["hyper"]["contexts"] == CHEAP["contexts"]
    assert two["versions"]["torch"] and two["device"] == "cpu" and two["seconds"] >= 0
    for name in ("ES", "PS", "NS", "EM", "NM", "relative_norm", "per_fact", "condition_gram"):
        assert two[name] == same[name]  # the ridge identity
    assert two["ridge"] == 50 and 0 < two["relative_norm"] and two["condition_gram"] > 1
    targets = experiments.Targets(model, tok)(facts, plan(asked, model, tok)[2].hyper)
    with mt.edit(model, tok, facts, "memit", targets=targets, **CHEAP, lam=50.0) as e:
        found = mt.score(model, tok, facts)
    assert two["per_fact"]["NS"] == pytest.approx(found.per_fact["NS"], rel=1e-3)
    assert two["NM"][0] == pytest.approx(found.NM, rel=1e-3)
    assert two["relative_norm"] == pytest.approx(e.diagnostics[3]["relative_norm"], rel=1e-4)
    assert "direction" in nullspace["error"] and "ES" not in nullspace


def test_in_sequence_and_at_once(sweep, loaded, tmp_path):
    lam = CHEAP | {"lam": 50.0}
    rows = go(sweep(sizes=[4], scored=4, methods=[
        Method("memit", lam), Method("memit", lam, "kept", step=2, remember=True),
        Method("memit", lam, "forgotten", step=1),
    ]), tmp_path / "x.jsonl", loaded)  # fmt: skip
    at_once, kept, forgotten = (row["relative_norm"] for row in rows)
    assert kept == pytest.approx(at_once, rel=1e-4)  # recursive least squares
    assert abs(forgotten / at_once - 1) > 1e-3


def test_a_finished_sweep_replays_and_a_longer_one_makes_what_is_missing(sweep, loaded, tmp_path):
    path, (calls, own) = tmp_path / "x.jsonl", counting()
    first = go(sweep(measures=["count"]), path, loaded, measures=own)
    assert calls == [1, 1, 2, 1, 1, 2] and [r["count"] for r in first] == [1, 2, 1, 2]
    assert go(sweep(measures=["count"]), path, loaded, measures=own) == first and len(calls) == 6
    began = time.perf_counter()
    go(sweep(measures=["count"]), path, loaded, measures=own)
    assert time.perf_counter() - began < 2
    longer = sweep(measures=["count"], sizes=[1, 2, 3])
    assert len(go(longer, path, loaded, measures=own)) == 6 and calls[6:] == [3, 3]
    assert len(read(path, size=[2, 3])) == 4 and len(read(path, label="emmet", size=3)) == 1
    changed = sweep(measures=["count"], methods=[Method("memit", CHEAP | {"lam": 1.0})])
    go(changed, path, loaded, measures=own)
    assert len(calls) == 11


def listed(state):
    """A measure with a list: found by its module and name."""
    return {"odd": [100.0 * (len(f.subject) % 2) for f in state.scored]}


def test_a_measure_by_module_and_name_and_its_interval(sweep, loaded, tmp_path):
    asked = sweep(
        measures=[f"{__name__}:listed"], sizes=[6], scored=6, keep=["odd"],
        methods=[Method("none")],
    )  # fmt: skip
    (row,) = go(asked, tmp_path / "x.jsonl", loaded)
    kept = row["per_fact"]["odd"]
    assert len(kept) == 6 and row["odd"][0] == pytest.approx(np.mean(kept), rel=1e-4)
    assert row["odd"][1:] == pytest.approx(mt.metrics.bootstrap(kept)[1:], rel=1e-4)


def test_a_record_without_the_lists_that_are_wanted_is_made_again(sweep, loaded, tmp_path):
    path, calls = tmp_path / "x.jsonl", []

    def two(state):
        calls.append(len(state.facts))
        return {"a": [1.0] * len(state.scored), "b": [2.0] * len(state.scored), "c": 3.0}

    def asked(*keep):
        some = sweep(measures=["two"], keep=keep, sizes=[2, 3], methods=[Method("none")])
        return go(some, path, loaded, measures={"two": two})

    assert [list(row["per_fact"]) for row in asked("a", "never", "c")] == [["a"], ["a"]]
    assert asked("a") == asked() and calls == [2, 3]  # what was not measured is not waited for
    both = asked("b")
    assert [row["per_fact"] for row in both] == [{"b": [2, 2], "a": [1, 1]}] * 2  # none is lost
    assert read(path) == both == asked("a", "b") == asked("a") and calls == [2, 3, 2, 3]
    assert len(path.read_bytes().splitlines()) == 4  # the later line of a cell stands


def test_targets_and_C0_are_computed_once_for_all_methods(sweep, loaded, tmp_path, monkeypatch):
    model, known = loaded[0], loaded[0]._medit_statistics
    optimise, facts, layers = mt.values.optimise_values, [], []

    def targets(model, tok, some, *rest):
        facts.extend(some)
        return optimise(model, tok, some, *rest)

    def moment(model, tok, texts, some, *rest, **more):
        layers.append(some)
        return known

    monkeypatch.setattr("medit_teach.values.optimise_values", targets)
    monkeypatch.setitem(mt.edit.__globals__, "second_moment", moment)
    monkeypatch.delattr(model, "_medit_statistics")
    lams = [Method("memit", CHEAP | {"lam": lam}, f"lam {lam}") for lam in (1.0, 50.0)]
    ridges = [Method("emmet", CHEAP | {"ridge": r}, f"ridge {r}") for r in (0.0, 50.0)]
    rows = go(sweep(methods=[*lams, *ridges]), tmp_path / "x.jsonl", loaded)
    assert len(rows) == 8 and len({row["relative_norm"] for row in rows if row["size"] == 2}) == 3
    assert len(facts) == len(set(facts)) == 2 and layers == [(3,)]


def test_neighbours_that_are_edited_themselves_do_not_count(loaded, monkeypatch):
    model, tok, _ = loaded
    pool = mt.facts("world", "landmark", distinct_subjects=False, model=model)
    a = next(f for f in pool if len(f.neighborhood) > 2)
    b = next(f for f in pool if any(f.subject in prompt for prompt in a.neighborhood))
    true = tuple("abcdefghijklmnop"[: len(a.neighborhood)])
    seen = []

    def score(model, tok, facts, resamples):
        seen.append(facts)
        return type("Scores", (), {"per_fact": {}})

    def neighbours(*edited):
        experiments.untouched(experiments.State(model, tok, edited, edited[:1], [], 0, None, None))
        return seen[-1][0]

    monkeypatch.setattr(experiments.metrics, "score", score)
    assert neighbours(a) == a and neighbours(a, replace(b, relation="W99")) == a
    left = neighbours(replace(a, neighborhood_true=true), b)
    at = next(i for i, prompt in enumerate(a.neighborhood) if b.subject in prompt)
    assert left.neighborhood == a.neighborhood[:at] + a.neighborhood[at + 1 :]
    assert left.neighborhood_true == true[:at] + true[at + 1 :]


def test_a_damaged_line_is_named_kept_aside_and_made_again(sweep, loaded, tmp_path):
    path, (calls, own) = tmp_path / "x.jsonl", counting()
    asked = sweep(measures=["count"])
    first = go(asked, path, loaded, measures=own)
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = lines[1][:50] + b"\x00#" + lines[1][60:]
    path.write_bytes(b"".join([lines[0], damaged, *lines[2:]]))
    calls.clear()
    with pytest.warns(UserWarning, match="line 2 is damaged"):
        again = go(asked, path, loaded, measures=own)
    assert plain(again) == plain(first) and calls == [2]
    assert (tmp_path / "x.jsonl.damaged").read_bytes() == damaged
    assert len(read(path)) == 4


def test_a_torn_last_line_is_dropped(sweep, loaded, tmp_path, recwarn):
    path, (calls, own) = tmp_path / "x.jsonl", counting()
    asked = sweep(measures=["count"])
    first = go(asked, path, loaded, measures=own)
    whole = path.read_bytes()
    for cut in (1, 30, 400):
        path.write_bytes(whole[:-cut])
        calls.clear()
        assert plain(go(asked, path, loaded, measures=own)) == plain(first) and calls == [2]
        assert len(read(path)) == 4
    assert not (tmp_path / "x.jsonl.damaged").exists()
    assert not [w for w in recwarn if "damaged" in str(w.message)]
    repair(tmp_path / "none.jsonl")
    with pytest.raises(MeditError, match="there are no records"):
        read(tmp_path / "none.jsonl")


def child(work):
    """Fork: the child does `work` and ends; returns its process number."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def test_a_second_process_is_refused(sweep, loaded, tmp_path):
    path = tmp_path / "x.jsonl"

    def slow(state):
        (tmp_path / "started").touch()
        time.sleep(60)

    asked = sweep(measures=["slow"], methods=[Method("none")])
    pid = child(lambda: go(asked, path, loaded, measures={"slow": slow}))
    try:
        while not (tmp_path / "started").exists():
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)
            time.sleep(0.05)
        with pytest.raises(MeditError, match="another process is writing"):
            go(asked, path, loaded, measures={"slow": slow})
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    _, own = counting()  # the lock of a killed process does not stay
    assert len(go(asked, path, loaded, measures={"slow": own["count"]})) == 2


def test_ten_kills_and_a_resume_give_the_same_records(sweep, loaded, tmp_path):
    asked = sweep(sizes=[1, 2, 3], seeds=[0, 1], scored=3)
    began = time.time()
    expected = plain(go(asked, tmp_path / "whole.jsonl", loaded))
    assert all(
        row["NS"] and len(row["per_fact"]["NS"]) == 2 + (row["size"] != 2) for row in expected
    )
    took, moment, number, killed = time.time() - began, random.Random(0), 0, 0
    for _ in range(40):
        path = tmp_path / f"killed-{number}.jsonl"
        pid = child(lambda path=path: go(asked, path, loaded))
        time.sleep(moment.uniform(0.02, took / 4))
        os.kill(pid, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        if killed == 10:
            break
        if path.is_file() and len(read(path)) == len(expected):
            number += 1  # it got through: the next kills meet a new file
    assert killed == 10
    for path in sorted(tmp_path.glob("killed-*.jsonl")):
        assert plain(go(asked, path, loaded)) == expected
        keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
        assert sorted(keys) == sorted(row["key"] for row in expected)  # nothing twice
        assert not path.with_suffix(".jsonl.damaged").exists()


def test_targets_are_kept_beside_the_records(sweep, loaded, tmp_path, monkeypatch):
    go(sweep(), tmp_path / "x.jsonl", loaded)
    folder = tmp_path / "x.targets"
    assert list(folder.glob("*.safetensors"))
    model, tok, _ = loaded
    cell = plan(sweep(), model, tok)[1]
    fresh = experiments.Targets(model, tok)(cell.facts, cell.hyper)
    monkeypatch.setattr("medit_teach.values.optimise_values", None)  # a call would be an error
    kept = experiments.Targets(model, tok, folder)(cell.facts, cell.hyper)
    assert (kept - fresh).norm() < 1e-4 * fresh.norm()


def test_facts_with_as_long_a_rest_share_a_chunk(loaded, sweep, tmp_path, monkeypatch):
    model, tok, _ = loaded
    cell = plan(sweep(sizes=[12]), model, tok)[0]
    alone = experiments.Targets(model, tok, chunk=1)(cell.facts, cell.hyper)
    chunks, real = [], values.optimise_values

    def optimise(model, tok, facts, *rest):
        chunks.append([values._tail(tok, fact) for fact in facts])
        return real(model, tok, facts, *rest)

    monkeypatch.setattr(values, "optimise_values", optimise)
    found = experiments.Targets(model, tok, tmp_path)(cell.facts, cell.hyper)
    lengths = [values._tail(tok, fact) for fact in cell.facts]
    assert len(set(lengths)) > 1 and lengths != sorted(lengths)
    assert [len(chunk) for chunk in chunks] == [4, 4, 4]
    assert [length for chunk in chunks for length in chunk] == sorted(lengths)
    assert (found - alone).norm() < 1e-4 * alone.norm()  # in the order of the facts
    sorted(tmp_path.glob("*.safetensors"))[0].unlink()  # of what is lost, and only of that
    again = experiments.Targets(model, tok, tmp_path)(cell.facts, cell.hyper)
    assert len(chunks) == 4 and len(chunks[3]) == 4
    assert (again - alone).norm() < 1e-4 * alone.norm()


def test_targets_are_refused_on_an_edited_model(loaded, sweep):
    model, tok, _ = loaded
    cell = plan(sweep(), model, tok)[1]
    targets = experiments.Targets(model, tok)
    with mt.edit(model, tok, cell.facts[:1], "memit", **CHEAP):
        with pytest.raises(MeditError, match="unedited model"):
            targets(cell.facts, cell.hyper)


def test_selections_share_their_facts(loaded):
    model = loaded[0]
    mix = Facts(["W01", "W06"]).draw(30, 0, model)
    assert [f.relation for f in mix[:4]] == ["W01", "W06", "W01", "W06"]
    assert len({f.subject for f in mix}) == 30
    assert Facts(["W01", "W06"]).draw(10, 0, model) == mix[:10]
    pure = Facts("W01").draw(30, 0, model)
    assert pure[0] == mix[0] and len(set(mix[::2]) & set(pure)) >= 12  # of 15
    assert Facts("W01").draw(30, 1, model) != pure
    assert Facts("W01").label == "W01" and Facts().label == "all"


def test_groups_are_disjoint_and_large_ones_are_sampled(loaded, sweep):
    model, tok, _ = loaded
    small, large = plan(sweep(scored=5, sizes=[2, 12], methods=[Method("none")]), model, tok)
    assert [len(facts) for facts, _ in small.groups] == [2, 2]
    assert len({f for facts, _ in small.groups for f in facts}) == 4
    ((facts, scored),) = large.groups
    assert len(facts) == 12 and len(scored) == 5 and scored != facts[:5]


def test_the_command_shows_a_table_and_is_silent_when_asked(loaded, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = {
        "name": "asked", "model": "tiny-gptj", "sizes": [2], "scored": 2, "measures": ["scores"],
        "facts": [{"source": loaded[2]}], "methods": [{"method": "none"}],
    }  # fmt: skip
    (tmp_path / "s.json").write_text(json.dumps(asked))
    assert cli.main(["sweep", "s.json", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert cli.main(["sweep", "s.json"]) == 0
    out = capsys.readouterr().out
    assert "NS" in out and "1 records: asked.jsonl" in out
    os.remove("asked.jsonl")  # a bar while it runs, with the time left, and the same table
    assert cli.main(["sweep", "s.json"]) == 0
    again, bar = capsys.readouterr()
    assert again.split() == out.split()
    assert re.search(r"asked: +0%.*00:00<\?", bar) and re.search(r"asked: 100%.*<00:00", bar)
    more = ["--seeds", "0", "1", "--scored", "1"]
    assert cli.main(["sweep", "s.json", *more, "--quiet"]) == 0
    asked_for = [(row["seed"], row["scored"]) for row in read("asked.jsonl")]
    assert asked_for == [(0, 2), (0, 1), (1, 1)]
    assert cli.main(["sweep", "s.json", "--scored", "0"]) == 2
    assert "must be at least 1, not 0" in capsys.readouterr().err


# ------------------------------------------------------------------ what a file may ask for


WRONG = [
    True, 3, -1, 0, 1.5, float("nan"), "", "x", "../x", [], [[]], {}, {"a": 1}, [None], [""], [{}],
    [True], 10**30, [10**30], [-1], [1.5], "x" * 5000, ["os:system"], {"a": {"b": [1]}}, None,
]  # fmt: skip
RIGHT = {  # (field, value) that are no errors: the rest must be refused
    "Sweep": {"name": ["x"], "facts": [[{}]], "seeds": [[-1], [10**30]], "measures": [[""]],
              "model": ["", "x", "../x", "x" * 5000, None], "keep": [[], [""], ["os:system"]],
              "scored": [3], "tokens": [3], "texts": [3]},
    "Method": {"hyper": [{}], "label": ["", "x", "../x", "x" * 5000, None], "step": [3, None],
               "remember": [True], "anew": [True], "sizes": [[], None]},
    "Facts": {"relations": ["", "x", "../x", "x" * 5000, [], [""], ["os:system"]],
              "label": ["", "x", "../x", "x" * 5000, None],
              "source": ["", "x", "../x", "x" * 5000, None]},
}  # fmt: skip


@pytest.mark.parametrize("kind", [Sweep, Method, Facts])
def test_every_field_of_a_file_is_checked(kind, tmp_path):
    """Each wrong value in each field: one line that names the file and the field."""
    path = tmp_path / "s.json"
    for field in fields(kind):
        for value in WRONG:
            asked = {"name": "x", "methods": [{"method": "memit"}]}
            if kind is Sweep:
                asked[field.name] = value
            elif kind is Method:
                asked["methods"] = [{"method": "memit", field.name: value}]
            else:
                asked["facts"] = [{field.name: value}]
            path.write_text(json.dumps(asked))
            if any(value is x or (type(value) is type(x) and value == x)
                   for x in RIGHT[kind.__name__].get(field.name, [])):  # fmt: skip
                load_sweep(path)
                continue
            with pytest.raises(MeditError) as error:
                load_sweep(path)
            text = str(error.value)
            assert field.name in text and str(path) in text and "\n" not in text, (field.name, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 100_000, "cannot read the sweep"), (b"\xff\xfe\x00", "cannot read the sweep"),
        (b"", "cannot read the sweep"), (b"null", "expected fields and values"),
        (b'\xef\xbb\xbf{"name": "x"}', "missing"),  # a byte order mark is skipped
        (b'{"name": "x", "methods": [{"method": "none"}], "out": "/far/x"}', "unknown field 'out'"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_sweep(text, message, tmp_path):
    (tmp_path / "s.json").write_bytes(text)
    with pytest.raises(MeditError, match=message):
        load_sweep(tmp_path / "s.json")


FOREIGN = ["os:system", "subprocess:run", "antigravity:fly", "medit_teach:os.system", "os:",
           ":x", "medit_teach.cli.os:system", f"{__name__}:listed", "medit_teach.__main__:x",
           "medit_teach.cli:main", "medit_teach.study.experiments:load",
           "medit_teach.study.experiments:_gram", "medit_teach.study.experiments:Path",
           "medit_teach.nothing:x", "builtins:exit"]  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("file", ["s.toml", "s.json", None])
def test_a_measure_is_no_way_to_run_code(name, file, sweep, loaded, tmp_path, monkeypatch):
    """In a file, only functions of this package; in Python, only measures of imported modules."""
    ran = []
    monkeypatch.setattr(os, "system", lambda *x: ran.append(x))
    monkeypatch.setattr("builtins.exit", lambda *x: ran.append(x), raising=False)
    asked = {"name": "x", "measures": [name], "methods": [{"method": "none"}], "sizes": [2]}
    if file is None:
        if name.endswith(":listed"):  # a measure, and the caller imported it
            return
        asked = sweep(measures=[name], methods=[Method("none")])
    elif file == "s.toml":
        body = f'name = "x"\nsizes = [2]\nmeasures = ["{name}"]\n[[methods]]\nmethod = "none"\n'
        (tmp_path / file).write_text(body)
    else:
        (tmp_path / file).write_text(json.dumps(asked))
    modules = set(sys.modules)
    with pytest.raises(MeditError, match="measure") as error:
        asked = load_sweep(tmp_path / file) if file else asked
        go(asked, tmp_path / "x.jsonl", loaded)
    assert "\n" not in str(error.value) and not ran and not (tmp_path / "x.jsonl").exists()
    assert "antigravity" not in set(sys.modules) - modules


def test_measures_of_this_package_and_of_the_caller_serve_a_file(loaded, tmp_path):
    asked = {"name": "x", "measures": ["medit_teach.study.experiments:untouched", "mine"]}
    asked |= {"methods": [{"method": "none"}], "facts": [{"source": loaded[2]}]}
    asked |= {"sizes": [2], "scored": 2}
    (tmp_path / "s.json").write_text(json.dumps(asked))
    mine = {"mine": lambda state: {"mine": 1.0}}
    (row,) = go(load_sweep(tmp_path / "s.json"), tmp_path / "x.jsonl", loaded, measures=mine)
    assert row["mine"] == 1 and row["NS"]


@pytest.mark.parametrize("hyper", [{"steps": [1]}, {"steps": "2"}, {"layers": "x"}])
def test_a_hyper_parameter_of_a_wrong_kind_is_one_line(hyper, sweep, loaded, tmp_path):
    with pytest.raises(MeditError) as error:
        go(sweep(methods=[Method("memit", hyper)]), tmp_path / "x.jsonl", loaded)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ records that do not lie


def test_a_list_that_is_new_is_measured_and_told(sweep, loaded, tmp_path):
    """A column that the measure gives since today: asked for by name it is measured, and without
    being asked for it is said."""
    path, give = tmp_path / "x.jsonl", {"a": 1.0}

    def asked(*keep, sizes=(1, 2)):
        some = sweep(measures=["mine"], keep=keep, sizes=sizes, methods=[Method("none")])
        mine = {"mine": lambda state: {k: [x] * len(state.scored) for k, x in give.items()}}
        return go(some, path, loaded, measures=mine)

    assert [row["columns"] for row in asked("a")] == [["a"], ["a"]]
    give["b"] = 2.0
    with pytest.warns(UserWarning, match="2 of 3 records of 'none' lack b, which the others have"):
        asked("a", sizes=(1, 2, 3))
    rows = asked("a", "b", sizes=(1, 2, 3))
    assert all(set(row["per_fact"]) == {"a", "b"} == set(row["columns"]) for row in rows)
    before = path.read_bytes()
    asked("a", "b", "never", sizes=(1, 2, 3))
    grown = path.read_bytes()
    assert len(grown.splitlines()) == len(before.splitlines()) + 3
    asked("a", "never", sizes=(1, 2, 3))  # it was asked for, and is not there: not waited for
    assert path.read_bytes() == grown


def test_a_score_that_an_earlier_version_did_not_know_is_measured(sweep, loaded, tmp_path):
    path = tmp_path / "x.jsonl"
    asked = sweep(measures=["scores"], methods=[Method("none")])
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(experiments.metrics.SCORES, "NA")
        patch.setitem(experiments.COLUMNS, "scores", tuple(experiments.metrics.SCORES))
        assert all("NA" not in row for row in go(asked, path, loaded))
    rows = go(asked, path, loaded)
    assert all("NA" in row and "NA" in row["columns"] for row in rows)
    assert go(asked, path, loaded) == rows and len(path.read_bytes().splitlines()) == 4


def test_a_digit_that_changed_in_a_record_is_seen(sweep, loaded, tmp_path):
    path, (_, own) = tmp_path / "x.jsonl", counting()
    asked = sweep(measures=["count"])
    first = go(asked, path, loaded, measures=own)
    whole = path.read_bytes()
    assert b'"count": 2' in whole
    path.write_bytes(whole.replace(b'"count": 2', b'"count": 7', 1))
    with pytest.warns(UserWarning, match="line 2 is damaged"):
        again = go(asked, path, loaded, measures=own)
    assert plain(again) == plain(first) and len(read(path)) == 4
    assert all(row in read(path) for row in again)
    assert b'"count": 7' in (tmp_path / "x.jsonl.damaged").read_bytes()


@pytest.mark.parametrize(
    "line",
    [b"[" * 100_000, b"\xff\xfe{}", b"null", b"3", b'"key size per_fact"',
     b'["key", "size", "per_fact"]', b"{}", b'{"key": [1], "size": 1, "per_fact": {}}',
     b'{"key": "a", "size": "1", "per_fact": {}}', b'{"key": "a", "size": 1, "per_fact": 3}',
     b'{"key": "a", "size": 1, "per_fact": {}}{"key": "b", "size": 1, "per_fact": {}}',
     b'{"key": "a", "size": 1, "per_fa', bytes(500)],
)  # fmt: skip
def test_a_line_that_is_no_record(line, sweep, loaded, tmp_path):
    path, (_, own) = tmp_path / "x.jsonl", counting()
    asked = sweep(measures=["count"])
    first = go(asked, path, loaded, measures=own)
    whole = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\n" + whole)
    with pytest.warns(UserWarning, match="line 1 is damaged"):
        assert read(path) == first
    repair(path)
    assert path.read_bytes() == whole and line in (tmp_path / "x.jsonl.damaged").read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + whole)
    assert read(path) == first


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_records_that_cannot_be_written_are_one_line_and_the_run_goes_on_later(
    number, sweep, loaded, tmp_path, monkeypatch
):
    path, (calls, own) = tmp_path / "x.jsonl", counting()
    asked = sweep(measures=["count"])
    real = os.fsync

    def refuse(file):
        if len(calls) == 3:
            os.ftruncate(file, os.fstat(file).st_size - 20)  # half a line
            raise OSError(number, os.strerror(number))
        return real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(MeditError, match=f"cannot write .*{os.strerror(number)}") as error:
            go(asked, path, loaded, measures=own)
    assert "\n" not in str(error.value)
    done = len(read(path))
    assert 0 < done < 4
    calls.clear()
    assert len(go(asked, path, loaded, measures=own)) == 4 == len(read(path)) and calls


@pytest.mark.parametrize("place", ["file/x.jsonl", "n" * 300, "folder", "n" * 254])
def test_a_place_for_records_that_cannot_be_is_one_line(place, sweep, loaded, tmp_path):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder").mkdir()
    _, own = counting()
    with pytest.raises(MeditError, match="cannot write") as error:
        go(sweep(measures=["count"]), tmp_path / place, loaded, measures=own)
    assert "\n" not in str(error.value)


def test_targets_that_cannot_be_kept_only_warn(sweep, loaded, tmp_path):
    (tmp_path / "x.targets").write_text("a file where the folder of targets would be")
    with pytest.warns(UserWarning, match=r"cannot write .*x\.targets.*the result is right"):
        rows = go(sweep(), tmp_path / "x.jsonl", loaded)
    assert plain(rows) == plain(go(sweep(), tmp_path / "y.jsonl", loaded))


@pytest.mark.parametrize("name", ["size", "keep", "per_fact", "blake2b", "seconds"])
def test_a_measure_does_not_hide_a_field_of_the_record(name, sweep, loaded, tmp_path):
    asked = sweep(measures=["mine"], methods=[Method("none")])
    with pytest.raises(MeditError, match=f"gives '{name}', a field"):
        go(asked, tmp_path / "x.jsonl", loaded, measures={"mine": lambda state: {name: 1.0}})
