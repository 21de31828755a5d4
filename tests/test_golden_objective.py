"""Our solver on the recorded inputs of the original implementations gives their updates.

Keys, residuals and second moments are taken as recorded, so no model is needed here.
`tests/golden/PROVENANCE.md` says where the numbers come from and how well to agree.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from medit_teach import objective as o

pytestmark = pytest.mark.golden
FOLDER = Path(__file__).parent / "golden"
RTOL, RTOL_ALPHAEDIT = 1e-5, 1e-4


@cache
def recorded(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])).double() for key in file.files}


def runs(name, ending):
    """("given3", 2) for every array like given3_L2_<ending>."""
    with np.load(FOLDER / f"{name}.npz") as file:
        keys = [key.removesuffix(f"_{ending}") for key in file.files if key.endswith(f"_{ending}")]
    return [(run, int(layer)) for run, layer in (key.rsplit("_L", 1) for key in keys)]


def keys_of(data, run, layer):
    """K (d_in, E): recorded for the layer, or the random keys that all layers of a stub share."""
    return data.get(f"{run}_L{layer}_K", data.get("stub1_K"))


def close(found, wanted, rtol=RTOL):
    assert found.shape == wanted.shape
    distance = float((found - wanted).norm() / wanted.norm())
    assert distance < rtol, f"relative distance {distance:.1e}"


def adjusted(solution):
    """The originals' adj_k (d_in, E): Delta = R adj_k^T."""
    return solution.right


@pytest.mark.parametrize(("run", "layer"), runs("memit", "adj_k"))
def test_memit(run, layer):
    data, C0 = recorded("memit"), recorded("stats")[f"C{layer}"]
    R, K = data[f"{run}_L{layer}_resid"], keys_of(data, run, layer)
    found = o.memit(R, K, C0, lam=20)
    wanted = data[f"{run}_L{layer}_adj_k"]
    close(adjusted(found), wanted)
    close(found.delta.T, wanted @ R.T)


def emmet_settings(run):
    """lam, eps and w of C' = lam C0 + w I."""
    lam = 1 if run.endswith("w1") else 20
    eps = 0 if run.endswith(("lam0", "1n1")) else 0.1
    return lam, eps, 0.5 if run.endswith("norm") else 0


@pytest.mark.parametrize(("run", "layer"), runs("emmet", "adj_k"))
def test_emmet(run, layer):
    data, C0 = recorded("emmet"), recorded("stats")[f"C{layer}"]
    R, K = data[f"{run}_L{layer}_resid"], keys_of(data, run, layer)
    lam, eps, w = emmet_settings(run)
    wanted = data[f"{run}_L{layer}_adj_k"]
    C = C0 + w / lam * torch.eye(len(C0), dtype=torch.float64)
    found = o.emmet(R, K, lam * C, ridge=eps)
    close(adjusted(found), wanted)
    close(found.delta.T, wanted @ R.T)
    if eps:  # the published EMMET with a ridge is MEMIT with lam * eps
        close(adjusted(o.memit(R, K, C, lam * eps)), wanted)
    else:  # and only without one does it meet the facts exactly
        close(wanted.T @ K, torch.eye(K.shape[1], dtype=torch.float64))


def test_the_emmet_runs_cover_every_setting():
    settings = {emmet_settings(run) for run, _ in runs("emmet", "adj_k")}
    assert settings == {(20, 0.1, 0), (20, 0, 0), (1, 0.1, 0), (20, 0.1, 0.5)}
    assert ("given1n1", 2) in runs("emmet", "adj_k")


@pytest.mark.parametrize("fact", range(4))
@pytest.mark.parametrize("target", ["opt", "given"])
@pytest.mark.parametrize("variant", ["rome", "rrome", "prome"])
def test_rome(variant, target, fact):
    data = {
        key.removeprefix(f"{target}{fact}_"): value
        for key, value in recorded(variant).items()
        if key.startswith(f"{target}{fact}_")
    }
    r, k, C0 = data["v_star"] - data["v_prompt"], data["k_mean"], recorded("stats")["C2"]
    wanted = torch.outer(data["u"], data["right"])
    found = o.rome(r, k, C0, divide_by=data["k_prompt"])
    close(found.right[:, 0] / found.right.norm(), data["u"])
    close(found.delta.T, wanted)
    one_key = float((k - data["k_prompt"]).norm() / k.norm())
    if variant == "rome":  # two keys: the mean key does not get the wanted value
        assert one_key > 0.1
        assert float((o.rome(r, k, C0).delta.T - wanted).norm() / wanted.norm()) > 0.01
    else:  # one key on both sides: the plain formula
        assert one_key < 1e-6
        close(o.rome(r, k, C0).delta.T, wanted)


@pytest.mark.parametrize(("run", "layer"), runs("alphaedit", "deltaW"))
def test_alphaedit(run, layer):
    data, C0 = recorded("alphaedit"), recorded("stats")[f"C{layer}"]
    layers_left = 1 if run in ("given1", "stub1") else 4 - layer
    now = data.get(f"{run}_L{layer}_curz", data.get("stub1_curz"))
    R, K = (data[f"{run}_zs"] - now) / layers_left, keys_of(data, run, layer)
    kept = data[f"seqA_L{layer}_K_after"] if run == "seqB" else None
    wanted, U = data[f"{run}_L{layer}_deltaW"], data[f"nullspace_U_L{layer}"]
    theirs = o.HardPreservation(U, condition=float("nan"), largest_kept=1e-3)
    close(o.alphaedit(R, K, theirs, L2=0.1, kept=kept).delta.T, wanted, RTOL_ALPHAEDIT)
    # with our own float64 null space: the same dimensions, the projector within float32's reach
    ours = o.null_space(C0, threshold=1e-3)
    assert ours.U.shape == U.shape
    close(ours.U @ ours.U.T, U @ U.T, 1e-3)
    close(o.alphaedit(R, K, ours, L2=0.1, kept=kept).delta.T, wanted, 1e-3)
