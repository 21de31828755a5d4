"""Whole edits against the outputs of the original ROME, r-ROME, p-ROME, MEMIT, EMMET and AlphaEdit
code on a small trained GPT-2: keys, targets, residuals, updates, the loss step by step, the effect.

Tolerances are those of the reference data's own description: relative 1e-5 where the target is
given (1e-4 for AlphaEdit, whose original solves in float32), 1e-4 where it is optimised; the
optimised ones are compared in the units of the whole matrix.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import medit_teach as mt
from medit_teach.hyper import EMMET, MEMIT, ROME, AlphaEdit
from medit_teach.keys import at_subject, keys
from medit_teach.models import View
from medit_teach.objective import HardPreservation, null_space
from medit_teach.statistics import Statistics

CONTEXTS = (
    "",
    "The first song of the album. ",
    "In the early 1990s. ",
    "It was not until. ",
    "He said. ",
    "A new species of. ",
)
REQUESTS = [
    ("{} plays the sport of", "Nathan Abbott", "golf"),
    ("The mother tongue of {} is", "Greta Dalton", "English"),
    ("{} was born in the city of", "Louis Abbott", "London"),
    ("The occupation of {} is", "Boris Larsen", "artist"),
    ("{} plays the sport of", "Greta Abbott", "football"),
    ("The mother tongue of {} is", "Quentin Ivanov", "Russian"),
    ("{} was born in the city of", "Quentin Ivanov", "San Francisco"),
    ("The occupation of {} is", "Nathan Jensen", "lawyer"),
]
FACTS = [mt.Fact(*request) for request in REQUESTS]
COMMON = dict(contexts=CONTEXTS, steps=20, lr=0.1, early_stop=0.05)


@pytest.fixture(scope="module")
def golden(reference):
    """The small model, its tokenizer, its C0, and a loader of the reference arrays."""
    model, tok = mt.load(reference("golden/model"))
    stats = np.load(reference("golden/stats.npz"))
    C0 = {layer: torch.tensor(stats[f"C{layer}"]).double() for layer in (1, 2, 3, 4)}
    statistics = Statistics(C0, int(stats["count"]), mt.models.fingerprint(model), "golden")
    files = {}

    def array(file, name):
        if file not in files:
            files[file] = np.load(reference(f"golden/{file}.npz"))
        return torch.tensor(files[file][name]).double()

    return SimpleNamespace(model=model, tok=tok, statistics=statistics, array=array)


def error(a, b):
    return float((a - b).norm() / b.norm())


@torch.no_grad()
def first_token_probability(golden, fact):
    """P(first token of the new object | prompt), by a plain forward pass."""
    logits = golden.model(**golden.tok(fact.text, return_tensors="pt")).logits
    p = torch.softmax(logits[0, -1].double(), -1)
    return float(p[golden.tok(" " + fact.target_new)["input_ids"][0]])


def test_second_moment_matches_the_original(golden, reference):
    texts = reference("golden/text.txt").read_text().splitlines()
    ours = mt.second_moment(golden.model, golden.tok, texts, [1, 2, 3, 4], tokens=10**9)
    assert ours.tokens == 36289
    for layer in (1, 2, 3, 4):
        assert error(ours[layer], golden.statistics[layer]) < 1e-6


@pytest.mark.parametrize("target", ["given", "opt"])
@pytest.mark.parametrize("name", ["rome", "rrome", "prome"])
@pytest.mark.parametrize("i", range(4))
def test_rome(golden, name, target, i):
    g = lambda key: golden.array(name, f"{target}{i}_{key}")  # noqa: E731
    make = {"rome": ROME.original, "rrome": ROME.r_rome, "prome": ROME.p_rome}[name]
    h = make(layers=[2], clamp=4, **COMMON)
    given = g("v_star")[:, None] if target == "given" else None
    tol = 1e-5 if target == "given" else 1e-4
    call = dict(statistics=golden.statistics, targets=given)
    with mt.edit(golden.model, golden.tok, FACTS[i], h, **call) as e:
        assert error(e.keys[2][:, 0], g("k_mean")) < 1e-5
        delta = torch.outer(g("right"), g("u"))
        assert error(e.delta(2), delta) < tol
        if target == "opt":
            found = e.values[0]
            assert error(found.start[:, 0], g("target_init")) < 1e-5
            assert error(found.target[:, 0], g("v_star")) < tol
            losses = found.losses[0].double()
            done = ~torch.isnan(losses[:, 0])
            assert done.sum() == len(g("loss"))
            assert torch.allclose(losses[done], g("loss"), rtol=1e-3, atol=1e-5)
            assert abs(first_token_probability(golden, FACTS[i]) - g("post_p_target_tok0")) < 1e-4


def run_batch(golden, file, prefix, h, facts, remember=()):
    """One edit of a batch; returns it after comparing everything that the reference holds."""
    g = lambda key: golden.array(file, f"{prefix}_{key}")  # noqa: E731
    optimised = prefix.startswith("opt")
    tol = 1e-4 if optimised or file == "alphaedit" else 1e-5
    given = None if optimised else g("zs")
    e = mt.edit(
        golden.model,
        golden.tok,
        facts,
        h,
        statistics=golden.statistics,
        targets=given,
        remember=remember,
    )
    try:
        if optimised:
            assert error(e.values[0].start, g("z_init")) < 1e-5
            assert error(e.values[0].delta, g("z_delta")) < tol
            ours, theirs = e.values[0].losses.double(), g("loss")
            assert torch.equal(torch.isnan(ours), torch.isnan(theirs))
            seen = ~torch.isnan(theirs)
            assert torch.allclose(ours[seen], theirs[seen], rtol=1e-3, atol=1e-5)
        for layer in h.layers:
            left, right = e.layers[layer]
            assert error(e.keys[layer], g(f"L{layer}_K")) < tol
            if file == "alphaedit":
                assert error(left @ right.T, g(f"L{layer}_deltaW").T) < tol
            else:
                assert error(left, g(f"L{layer}_resid")) < tol
                assert error(left @ right.T, g(f"L{layer}_resid") @ g(f"L{layer}_adj_k").T) < tol
        for i, fact in enumerate(facts):
            p = first_token_probability(golden, fact)
            assert abs(p - g("post_p_target_tok0")[i]) < 1e-4
    except BaseException:
        e.undo()
        raise
    return e


@pytest.mark.parametrize(
    "prefix, layers", [("opt3", [1, 2, 3]), ("given3", [1, 2, 3]), ("given1", [2])]
)
def test_memit(golden, prefix, layers):
    run_batch(
        golden, "memit", prefix, MEMIT.original(lam=20.0, layers=layers, **COMMON), FACTS
    ).undo()


@pytest.mark.parametrize(
    "prefix, layers, lam, eps, n",
    [
        ("opt3", [1, 2, 3], 20, 0.1, 8),
        ("opt1", [2], 20, 0.1, 8),
        ("given3", [1, 2, 3], 20, 0.1, 8),
        ("given1", [2], 20, 0.1, 8),
        ("given3lam0", [1, 2, 3], 20, 0.0, 8),
        ("given1lam0", [2], 20, 0.0, 8),
        ("given1w1", [2], 1, 0.1, 8),
        ("given1n1", [2], 20, 0.1, 1),
    ],
)
def test_emmet(golden, prefix, layers, lam, eps, n):
    h = EMMET.original(lam=lam, eps=eps, layers=layers, **COMMON)
    run_batch(golden, "emmet", prefix, h, FACTS[:n]).undo()


def test_emmet_with_the_original_norm_term_is_emmet_with_another_C0(golden):
    """update_norm_lambda adds 0.5 I to lam C0: the same as C0 + (0.5 / lam) I."""
    C0 = golden.statistics[2] + 0.5 / 20 * torch.eye(256, dtype=torch.float64)
    other = SimpleNamespace(**vars(golden))
    other.statistics = Statistics({2: C0}, 1, golden.statistics.weights, "golden")
    h = EMMET.original(lam=20, eps=0.1, layers=[2], **COMMON)
    run_batch(other, "emmet", "given1norm", h, FACTS).undo()


def alphaedit(layers):
    both = {"start_average": "bare", "now_average": "bare"}
    return AlphaEdit(L2=0.1, threshold=1e-3, layers=layers, **both, **COMMON)


@pytest.fixture
def original_null_space(golden):
    """Statistics whose null spaces are the original's eigenvectors, which it found in float32."""
    for layer in (1, 2, 3):
        U = golden.array("alphaedit", f"nullspace_U_L{layer}")
        factor = HardPreservation(U, float("nan"), float("nan"))
        golden.statistics._factors["hard", layer, 1e-3, None] = factor
    yield
    golden.statistics._factors.clear()


@pytest.mark.parametrize(
    "prefix, layers", [("opt3", [1, 2, 3]), ("given3", [1, 2, 3]), ("given1", [2])]
)
def test_alphaedit(golden, original_null_space, prefix, layers):
    run_batch(golden, "alphaedit", prefix, alphaedit(layers), FACTS).undo()


def test_alphaedit_in_sequence(golden, original_null_space):
    """The original accumulates keys computed again after all layers were edited."""
    h = alphaedit([1, 2, 3])
    with run_batch(golden, "alphaedit", "seqA", h, FACTS[:4]):
        after = {}
        for layer in (1, 2, 3):
            after[layer] = keys(golden.model, golden.tok, FACTS[:4], layer, CONTEXTS)
            assert error(after[layer], golden.array("alphaedit", f"seqA_L{layer}_K_after")) < 1e-4
        remember = [SimpleNamespace(keys=after)]
        run_batch(golden, "alphaedit", "seqB", h, FACTS[4:], remember).undo()


@pytest.mark.parametrize("layer, dimensions", [(1, 6), (2, 18), (3, 42)])
def test_our_null_space_differs_from_the_original_by_its_float32(golden, layer, dimensions):
    """Ours is found in float64. Theirs is as far from it as a float32 decomposition of the same
    C0 is, and that distance (not the solve) is what an edit with our own null space shows."""
    theirs = golden.array("alphaedit", f"nullspace_U_L{layer}")
    ours = null_space(golden.statistics[layer], threshold=1e-3).U
    assert ours.shape[1] == theirs.shape[1] == dimensions
    rough = torch.linalg.svd(golden.statistics[layer].float())[0][:, -dimensions:].double()
    P, P_theirs, P_rough = (U @ U.T for U in (ours, theirs, rough))
    assert 1e-6 < error(P_theirs, P) < 1e-3
    assert error(P_rough, P) > error(P_theirs, P) / 30
    h = alphaedit([layer])
    g = torch.Generator().manual_seed(0)
    R, K = (torch.randn(n, 8, dtype=torch.float64, generator=g) for n in (64, 256))
    a = h.solve(R, K, HardPreservation(ours, 1.0, 1.0)).delta
    b = h.solve(R, K, HardPreservation(theirs, 1.0, 1.0)).delta
    assert error(a, b) < 30 * error(P_theirs, P)


def test_values_do_not_depend_on_the_batch(golden):
    from medit_teach.values import optimise_values

    h = MEMIT.original(lam=20.0, layers=[3], **COMMON)
    one = optimise_values(golden.model, golden.tok, FACTS[:4], 3, h, batch_size=1)
    all_ = optimise_values(golden.model, golden.tok, FACTS[:4], 3, h, batch_size=4)
    assert error(one.delta, all_.delta) < 1e-4


def test_the_asymmetric_key_misses_its_target(golden):
    """With the original's two keys, W_new k is not v*; with one key everywhere it is."""
    view = View(golden.model)

    def miss(h):
        with mt.edit(golden.model, golden.tok, FACTS[0], h, statistics=golden.statistics) as e:
            site = ("value", 2)
            now = at_subject(golden.model, golden.tok, FACTS[0], [site], CONTEXTS, h.average)[site]
            return error(now, e.values[0].target)

    assert view.n_layers == 6
    assert miss(ROME(layers=[2], **COMMON)) < 1e-5
    assert miss(ROME.original(layers=[2], **COMMON)) > 1e-2
