"""The Edit object and every way to misuse it: weights are bit-identical before and after."""

import copy
import json
import random
import string

import pytest
import torch

import medit_teach as mt
from medit_teach import hyper, keys, models, values
from medit_teach.errors import FactError, HyperError, ModelError, SingularError, StatisticsError

from .helpers import tiny_model, tiny_tokenizer

LETTERS = random.Random(0)
TEXTS = ["".join(LETTERS.choices(string.printable, k=40)) for _ in range(60)]
FACTS = [
    mt.Fact("The king of {} is", "Rome", "old"),
    mt.Fact("The town of {} is", "Oslo", "far away"),
    mt.Fact("{} lies by the river of", "Bonn", "new"),
]
QUICK = dict(steps=6, lr=0.5, clamp=4.0, contexts=("", "It is late. ", "{odd} words. "))


@pytest.fixture(scope="module", params=["gpt2", "gptj"])
def case(request):
    tok = tiny_tokenizer()
    model = tiny_model(request.param, tok, layers=3, d=16)
    return model, tok, mt.second_moment(model, tok, TEXTS, [0, 1, 2])


@pytest.fixture(autouse=True)
def unchanged(request):
    """Whatever a test does, the model's bits, modes and gradients are the same afterwards."""
    if "case" not in request.fixturenames:
        yield
        return
    model = request.getfixturevalue("case")[0]

    def state():
        weights = {k: v.clone() for k, v in model.state_dict().items()}
        return weights, model.training, [p.requires_grad for p in model.parameters()]

    before = state()
    yield
    after = state()
    assert all(torch.equal(before[0][k], after[0][k]) for k in before[0])
    assert before[1:] == after[1:]
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert mt.edits_of(model) == []


def logits(model, tok, text):
    with torch.no_grad():
        return model(**tok(text, return_tensors="pt", return_token_type_ids=False)).logits[0, -1]


METHODS = [
    ("rome", dict(layers=[1])),
    ("memit", dict(layers=[0, 1, 2], lam=1e-3)),
    ("memit", dict(layers=[1], lam=1e-3)),
    ("emmet", dict(layers=[1])),
    ("emmet", dict(layers=[1, 2], ridge=0.0)),
    ("alphaedit", dict(layers=[1], energy=0.2, L2=1e-3)),
    ("nullspace", dict(layers=[1], energy=0.5)),
]


@pytest.mark.parametrize("method, fields", METHODS)
def test_edit_writes_keys_and_undoes(case, method, fields):
    model, tok, C0 = case
    before = copy.deepcopy(model.state_dict())
    with mt.edit(model, tok, FACTS, method, statistics=C0, **fields, **QUICK) as e:
        assert e.applied and mt.edits_of(model) == [e]
        changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
        assert len(changed) == len(fields["layers"])
        view = models.View(model)
        for layer in fields["layers"]:
            stored = before[next(k for k in changed if f"h.{layer}." in k)]
            W0 = stored.T if view.architecture.transposed else stored
            assert torch.allclose(
                view.weight(layer).double(), W0.double() + e.delta(layer), atol=1e-6
            )
        assert str(len(FACTS)) in repr(e)
    assert not e.applied


def test_exact_methods_reach_their_targets(case):
    """The MLP output (one layer) at the averaged key is the target; MEMIT comes close."""
    model, tok, C0 = case
    for method, fields, bound in [("rome", {}, 1e-5), ("emmet", dict(ridge=0.0), 1e-5)]:
        facts = FACTS[:1] if method == "rome" else FACTS
        with mt.edit(model, tok, facts, method, layers=[1], statistics=C0, **fields, **QUICK) as e:
            h = e.hyper
            site = (h["site"], 1)
            now = keys.at_subject(model, tok, facts, [site], h["contexts"], h["average"])[site]
            target = e.values[0].target
            assert float((now - target).norm() / target.norm()) < bound


def test_an_edit_raises_the_probability_of_its_object(case):
    model, tok, C0 = case
    fact = mt.Fact("The king of {}", "Rome", "old")  # asked right after the subject
    first = tok(" " + fact.target_new)["input_ids"][0]
    p = lambda: float(torch.softmax(logits(model, tok, fact.text), -1)[first])  # noqa: E731
    before = p()
    free = dict(steps=20, lr=0.5, clamp=100.0, weight_decay=0.0)
    with mt.edit(model, tok, fact, "rome", layers=[1], statistics=C0, **free):
        assert p() > 2 * before
    assert p() == before


def test_key_is_what_a_plain_forward_pass_shows(case):
    model, tok, _ = case
    view = models.View(model)
    for fact in FACTS:
        seen = []
        handle = view.down(1).register_forward_pre_hook(lambda m, a, seen=seen: seen.append(a[0]))
        position = len(tok(fact.text[: fact.span[1]])["input_ids"]) - 1
        logits(model, tok, fact.text)
        handle.remove()
        K = keys.keys(model, tok, fact, 1)
        assert torch.allclose(K[:, 0], seen[0][0, position].double(), atol=1e-6)


def test_nested_edits_come_off_in_order(case):
    model, tok, C0 = case
    a = mt.edit(model, tok, FACTS[0], "rome", layers=[1], statistics=C0, **QUICK)
    b = mt.edit(model, tok, FACTS[1], "memit", layers=[1, 2], lam=1e-3, statistics=C0, **QUICK)
    assert mt.edits_of(model) == [a, b]
    with pytest.raises(mt.MeditError, match="undo later edits first"):
        a.undo()
    assert a.applied
    b.undo()
    a.undo()
    with pytest.raises(mt.MeditError, match="nothing to undo"):
        a.undo()
    a.apply()
    with pytest.raises(mt.MeditError, match="applied already"):
        a.apply()
    a.undo()


def test_a_weight_changed_by_hand_is_noticed(case):
    model, tok, C0 = case
    e = mt.edit(model, tok, FACTS[0], "rome", layers=[1], statistics=C0, **QUICK)
    weight = models.View(model).parameter(1)
    edited = weight.detach().clone()
    weight.data.mul_(1.001)  # leaves the version counter alone
    with pytest.raises(mt.MeditError, match="changed after this edit"):
        e.undo()
    with torch.no_grad():
        weight.copy_(edited)
    e.undo()


def test_save_and_load(case, tmp_path):
    model, tok, C0 = case
    e = mt.edit(model, tok, FACTS, "memit", layers=[0, 1], lam=1e-3, statistics=C0, **QUICK)
    edited = {k: v.clone() for k, v in model.state_dict().items()}
    e.save(tmp_path / "e")
    e.undo()
    back = mt.Edit.load(tmp_path / "e")
    assert back.facts == e.facts and back.hyper["lam"] == 1e-3 and not back.applied
    with pytest.raises(mt.MeditError, match="say which model"):
        back.apply()
    with back.apply(model):
        assert all(torch.equal(edited[k], v) for k, v in model.state_dict().items())
    other = copy.deepcopy(model)
    with torch.no_grad():
        models.View(other).parameter(2).mul_(2)
    with pytest.raises(mt.MeditError, match="other weights"):
        back.apply(other)
    back.apply(other, force=True).undo()
    with pytest.raises(mt.MeditError, match="made for another model"):
        back.apply(tiny_model("gptj", tok, layers=3, d=32))
    with pytest.raises(mt.MeditError, match="holds no saved edit"):
        mt.Edit.load(tmp_path / "nothing")
    (tmp_path / "e" / "edit.safetensors").write_bytes(b"broken")
    with pytest.raises(mt.MeditError, match="holds no saved edit"):
        mt.Edit.load(tmp_path / "e")


def test_remembered_keys_make_sequence_and_batch_agree(case):
    """One layer, given targets, MEMIT: two edits in sequence with memory equal one batch."""
    model, tok, C0 = case
    g = torch.Generator().manual_seed(0)
    call = dict(layers=[1], lam=0.01, statistics=C0, site="value", contexts=("",))
    start = keys.at_subject(model, tok, FACTS, [("value", 1)])["value", 1]
    T = start + torch.randn(start.shape, generator=g, dtype=torch.float64)
    batch = mt.edit(model, tok, FACTS, "memit", targets=T, **call)
    together = batch.delta(1)
    batch.undo()
    with mt.edit(model, tok, FACTS[:2], "memit", targets=T[:, :2], **call) as a:
        last = dict(targets=T[:, 2:], remember=[a], **call)
        with mt.edit(model, tok, FACTS[2:], "memit", **last) as b:
            ours = a.delta(1) + b.delta(1)
        with mt.edit(model, tok, FACTS[2:], "memit", **last | {"remember": []}) as b:
            forgetful = a.delta(1) + b.delta(1)
    off = lambda D: float((D - together).norm() / together.norm())  # noqa: E731
    assert off(ours) < 1e-4  # the weights in between are float32
    assert off(forgetful) > 1e-2


def test_rules_and_a_rule_of_ones_own(case):
    model, tok, C0 = case

    def half(step):
        return 0.5 * step.missing

    norms = {}
    for rule in ("spread", "last", "root", "even", half):
        call = dict(layers=[0, 1, 2], lam=1e-3, statistics=C0, distribution=rule, **QUICK)
        with mt.edit(model, tok, FACTS, "memit", **call) as e:
            norms[getattr(rule, "__name__", rule)] = {k: float(e.delta(k).norm()) for k in e.layers}
    assert set(norms["last"]) == {2}
    assert set(norms["spread"]) == set(norms["half"]) == {0, 1, 2}
    assert norms["root"][0] > norms["spread"][0]


BAD = [
    (dict(method="nope"), HyperError, "unknown method 'nope'; choose from rome"),
    (dict(method="memit", layers=[3]), ModelError, "layer 3 is out of range: the model has 0 to 2"),
    (dict(method="memit", layers=[-1]), ModelError, "layer -1 is out of range"),
    (dict(method="rome", layers=[0, 1]), HyperError, "ROME edits one layer"),
    (dict(method="memit", layers=[1], lam=-1.0), HyperError, "lam must be positive, not -1.0"),
    (dict(method="memit", layers=[1], lam=0.0), mt.MeditError, "lam must be positive"),
    (dict(method="memit", layers=[1], lamda=1.0), HyperError, "no hyper-parameter 'lamda'"),
    (
        dict(method="emmet", layers=[1], ridge="big"),
        HyperError,
        "ridge must be a number or 'least'",
    ),
    (dict(method="memit", layers=[1], steps=0), HyperError, "steps must be positive"),
    (dict(method="memit", layers=[1], site="mlp"), HyperError, "site must be"),
    (dict(method="memit", layers=[1], contexts=("x ",)), HyperError, "contexts must begin with"),
    (dict(method="memit", layers=[1], distribution="no"), HyperError, "unknown distribution"),
    (
        dict(method="memit", layers=[1], targets=torch.zeros(16, 2)),
        mt.MeditError,
        "2 columns for 3",
    ),
    (dict(method="alphaedit", layers=[1], threshold=1e-30), SingularError, "counts as null"),
    (dict(method="memit", layers=[1], facts=[]), FactError, "no facts were given"),
    (dict(method="memit", layers=[1], facts=[{"subject": "x"}]), FactError, "record 0: lacks"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=lambda x: None)
def test_bad_input(case, call, error, message):
    model, tok, C0 = case
    call = {"facts": FACTS, "statistics": C0} | QUICK | call
    with pytest.raises(error, match=message):
        mt.edit(model, tok, **call)


def test_a_model_without_preset_gets_a_guess_that_says_so(case):
    model, _, _ = case
    with pytest.warns(UserWarning, match=r"no preset .* editing \[0, 1\]"):
        assert hyper.hyper("memit", model).layers == (0, 1)
    with pytest.warns(UserWarning, match=r"editing \[1\]"):
        assert hyper.hyper("rome", model).layers == (1,)


def test_duplicate_keys_are_named_and_nothing_changes(case):
    model, tok, C0 = case
    twice = [*FACTS, mt.Fact(FACTS[0].prompt, FACTS[0].subject, "near")]
    call = dict(layers=[1], statistics=C0, **QUICK)
    with pytest.raises(SingularError, match="keys of fact 0 and fact 3 are the same") as caught:
        mt.edit(model, tok, twice, "emmet", ridge=0.0, **call)
    assert caught.value.condition > 1e13
    with mt.edit(model, tok, twice, "emmet", **call) as e:  # the least ridge that solves
        assert 0 < e.diagnostics[1]["ridge"] < 1e-3


def test_statistics_of_other_weights_or_size(case):
    model, tok, C0 = case
    call = dict(layers=[1], **QUICK)
    alien = tiny_model("gpt2", tok, layers=3, d=16, seed=1)
    other = mt.second_moment(alien, tok, TEXTS, [1])
    with pytest.raises(StatisticsError, match="other weights"):
        mt.edit(model, tok, FACTS, "memit", statistics=other, **call)
    wide = tiny_model("gpt2", tok, layers=3, d=32)
    with pytest.raises(StatisticsError, match="the model needs"):
        mt.edit(
            model, tok, FACTS, "memit", statistics=mt.second_moment(wide, tok, TEXTS, [1]), **call
        )
    with pytest.raises(StatisticsError, match="no C0 for layer 1; there is one for"):
        part = mt.Statistics({0: C0[0]}, C0.tokens, C0.weights, C0.text)
        mt.edit(model, tok, FACTS, "memit", statistics=part, **call)


def test_no_network_names_the_local_alternative(case, monkeypatch):
    model, tok, _ = case
    monkeypatch.setattr("datasets.load_dataset", _no_network)
    with pytest.raises(StatisticsError, match="environment variable MEDIT_TEXT"):
        mt.edit(model, tok, FACTS, "memit", layers=[1], **QUICK)
    with pytest.raises(FactError, match="environment variable MEDIT_FACTS"):
        mt.facts(model=model)


def test_local_text_and_facts_by_environment(case, monkeypatch, tmp_path):
    model, tok, _ = case
    (tmp_path / "t.txt").write_text(
        "\n".join(t.replace("\n", " ").replace("\r", " ") for t in TEXTS)
    )
    (tmp_path / "f.json").write_text(json.dumps([f.to_record() for f in FACTS]))
    monkeypatch.setenv("MEDIT_TEXT", str(tmp_path / "t.txt"))
    monkeypatch.setenv("MEDIT_FACTS", str(tmp_path / "f.json"))
    monkeypatch.setenv("MEDIT_CACHE", str(tmp_path))
    facts = mt.facts(model=model)
    assert facts == FACTS
    try:
        mt.edit(model, tok, facts, "memit", layers=[1], lam=0.1, **QUICK).undo()
    finally:
        del model._medit_statistics


def _no_network(*args, **kwargs):
    raise ConnectionError("no network")


def test_nan_weights(case):
    model, tok, C0 = case
    sick = copy.deepcopy(model)
    with torch.no_grad():
        models.View(sick).parameter(1)[0, 0] = float("nan")
    with pytest.raises(ModelError, match="layer 1 contains NaN"):
        mt.edit(sick, tok, FACTS, "memit", layers=[1], statistics=C0, **QUICK)
    with torch.no_grad():
        models.View(sick).parameter(1)[0, 0] = 0.0
        models.View(sick).parameter(2)[0, 0] = float("inf")
    C0 = mt.Statistics(C0.C0, C0.tokens, models.fingerprint(sick), C0.text)
    before = {k: v.clone() for k, v in sick.state_dict().items()}
    with pytest.raises(mt.MeditError, match=r"The king of Rome is.*is not finite"):
        mt.edit(sick, tok, FACTS, "memit", layers=[1], statistics=C0, **QUICK)
    assert all(torch.equal(before[k], v) for k, v in sick.state_dict().items())


def test_unknown_architecture():
    with pytest.raises(ModelError, match=r"unsupported architecture 'Linear'.*Declare it"):
        models.View(torch.nn.Linear(2, 2))


def test_a_declared_architecture_works(case, monkeypatch):
    model, tok, C0 = case
    known = models.ARCHITECTURES[model.config.model_type]
    monkeypatch.delitem(models.ARCHITECTURES, model.config.model_type)
    with pytest.raises(ModelError, match="unsupported architecture"):
        mt.edit(model, tok, FACTS, "memit", layers=[1], statistics=C0, **QUICK)
    monkeypatch.setitem(models.ARCHITECTURES, model.config.model_type, known)
    mt.edit(model, tok, FACTS, "memit", layers=[1], lam=0.1, statistics=C0, **QUICK).undo()


@pytest.mark.parametrize("when", ["values", "second layer"])
def test_ctrl_c_leaves_the_model_as_it_was(case, monkeypatch, when):
    model, tok, C0 = case
    call = dict(layers=[0, 1, 2], lam=1e-3, statistics=C0, **QUICK)
    if when == "values":
        monkeypatch.setattr(values, "_optimise", _interrupt)
    else:
        real, calls = mt.Edit._add, []

        def add(self, *args):
            calls.append(args)
            real(self, *args)
            if len(calls) == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(mt.Edit, "_add", add)
    with pytest.raises(KeyboardInterrupt):
        mt.edit(model, tok, FACTS, "memit", **call)


def _interrupt(*args):
    raise KeyboardInterrupt


def test_an_interrupted_undo_can_be_repeated(case, monkeypatch):
    model, tok, C0 = case
    e = mt.edit(model, tok, FACTS, "memit", layers=[0, 1], lam=0.1, statistics=C0, **QUICK)
    second = e._saved.pop(1)  # as if the undo had been stopped after the first layer
    with torch.no_grad():
        models.View(model).parameter(0).copy_(e._saved[0])
    e._saved[1] = second
    e.undo()
    e2 = mt.edit(model, tok, FACTS, "memit", layers=[0], lam=0.1, statistics=C0, **QUICK)
    e2.undo()
    monkeypatch.setitem(mt.edit.__globals__, "fingerprint", _interrupt_second())
    with pytest.raises(KeyboardInterrupt):
        e2.apply()


def _interrupt_second():
    """fingerprint, interrupted at its second call: when the edit is already written."""
    calls = []

    def fingerprint(model):
        calls.append(model)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return models.fingerprint(model)

    return fingerprint


def test_training_mode_and_gradients_are_kept(case):
    model, tok, C0 = case
    model.train()
    first = next(model.parameters())
    first.requires_grad_(False)
    try:
        with mt.edit(model, tok, FACTS, "memit", layers=[1], lam=0.1, statistics=C0, **QUICK):
            assert model.training and not first.requires_grad
    finally:
        first.requires_grad_(True)
        model.eval()


def test_published_presets_and_conventions():
    class Config:
        model_type, num_hidden_layers, hidden_size = "gpt2", 48, 1600

    class XL:
        config = Config

    h = hyper.hyper("memit", XL)
    assert (h.layers, h.lam, h.clamp) == ((13, 14, 15, 16, 17), 20000.0, 0.75)
    assert hyper.hyper("rome", XL, clamp=2).clamp == 2
    assert hyper.hyper("emmet", XL).ridge == 1000 * 0.1
    assert hyper.EMMET.original(lam=1, eps=0.1, layers=[5]).ridge == 0.1
    original = hyper.ROME.original(layers=[5])
    assert (original.now_average, original.divide_by, original.average) == (
        "bare",
        "bare",
        "uniform",
    )
    assert json.dumps(original.record())


def test_another_number_of_tokens_or_text_is_collected_anew(case):
    model, tok, _ = case
    statistics_for = mt.edit.__globals__["statistics_for"]
    found = {n: statistics_for(model, tok, [1], TEXTS, n) for n in (200, 300)}
    assert [found[n].tokens for n in found] == [200, 300]
    assert statistics_for(model, tok, [1]) is found[300]
    assert statistics_for(model, tok, [1], tokens=300) is found[300]
    assert statistics_for(model, tok, [1], TEXTS[1:], 300).text != found[300].text
    del model._medit_statistics


def test_tokens_for_c0_grow_with_the_key(case, monkeypatch):
    model, tok, _ = case
    asked = []
    monkeypatch.setitem(
        mt.edit.__globals__, "second_moment", lambda *a, **k: asked.append(a[4]) or a[4]
    )
    statistics_for = mt.edit.__globals__["statistics_for"]
    for per_dimension in (16, 10_000):  # keys of 64 dimensions
        monkeypatch.setitem(mt.edit.__globals__, "C0_PER_DIMENSION", per_dimension)
        statistics_for(model, tok, [1], TEXTS)
        del model._medit_statistics
    statistics_for(model, tok, [1], TEXTS, 300)
    del model._medit_statistics
    assert asked == [50_000, 640_000, 300]
