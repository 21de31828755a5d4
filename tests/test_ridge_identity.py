"""The published EMMET code, with its eps, gave MEMIT's update with lam = weight * eps.

Keys and update factors are outputs of the original code on a small GPT-2; C0 is its own too.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medit_teach import objective

RUNS = [  # record, layers, weight of C0, eps; all with eight facts
    ("opt3", (1, 2, 3), 20, 0.1),
    ("opt1", (2,), 20, 0.1),
    ("given3", (1, 2, 3), 20, 0.1),
    ("given1", (2,), 20, 0.1),
    ("given1w1", (2,), 1, 0.1),
    ("given3lam0", (1, 2, 3), 20, 0.0),
    ("given1lam0", (2,), 20, 0.0),
]
UPDATES = [(name, layer, a, eps) for name, layers, a, eps in RUNS for layer in layers]


@pytest.mark.golden
@pytest.mark.parametrize(("name", "layer", "a", "eps"), UPDATES)
def test_the_published_update_is_memit_or_exact(name, layer, a, eps, reference):
    emmet, stats = (np.load(reference(f"golden/{file}.npz")) for file in ("emmet", "stats"))
    K = torch.tensor(emmet[f"{name}_L{layer}_K"]).double()
    theirs = torch.tensor(emmet[f"{name}_L{layer}_adj_k"]).double().T  # Delta = R @ theirs
    C0 = torch.tensor(stats[f"C{layer}"]).double()
    eye = torch.eye(K.shape[1], dtype=torch.float64)  # R = I: the factor itself
    ours = objective.memit(eye, K, C0, a * eps) if eps else objective.emmet(eye, K, C0)
    assert float((ours.delta - theirs).norm() / theirs.norm()) < 1e-11
    left = float((eye - theirs @ K).norm() / eye.norm())
    assert (left < 1e-11) == (eps == 0), "only without eps are the facts met"
