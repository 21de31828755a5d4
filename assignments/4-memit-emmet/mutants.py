"""Wrong solutions: (what is wrong, old text of the solution, new text, areas that must be lost).

With an empty old text, the new text is the whole answer. tests/test_assignments.py runs them.
"""

EVERYWHERE = ["the plain case", "lam", "weights", "sizes"]
HARD = ["all hard", "hard facts met", "the best of all"]

MUTANTS = {
    "memit_weighted": [
        ("weights ignored", "(K * w)", "K", ["weights"]),
        ("weights on the right side only", "(K * w) @ K.T", "K @ K.T", ["weights"]),
        ("weights on the left side only", "(K * w) @ R.T", "K @ R.T", ["weights"]),
        ("weights squared", "(K * w)", "(K * w**2)", ["weights"]),
        ("weights divided out", "(K * w)", "(K / w)", ["weights"]),
        ("weights made a mean", "(K * w)", "(K * w / w.sum())", EVERYWHERE),
        ("lam forgotten", "lam * C0", "C0", ["lam"]),
        ("lam at the facts", "lam * C0 + (K * w) @ K.T", "C0 + lam * (K * w) @ K.T", ["lam"]),
        ("C0 missing", "lam * C0", "lam * torch.eye(len(C0))", EVERYWHERE),
        (
            "exact",
            "",
            "def memit_weighted(R, K, C0, lam, w):\n    U = torch.linalg.solve(C0, K)\n    return R @ torch.linalg.pinv(K.T @ U) @ U.T\n",
            EVERYWHERE,
        ),
        (
            "solution for one fact only",
            "(K * w) @ K.T, (K * w) @ R.T",
            "(K * w)[:, :1] @ K[:, :1].T, (K * w)[:, :1] @ R[:, :1].T",
            EVERYWHERE,
        ),
        (
            "mean for sum",
            "(K * w) @ K.T, (K * w) @ R.T",
            "(K * w) @ K.T / len(w), (K * w) @ R.T / len(w)",
            EVERYWHERE,
        ),
        ("transposed", "R.T).T", "R.T)", EVERYWHERE),
    ],
    "mixed": [
        (
            "hard facts as soft ones",
            "",
            "def mixed(R, K, C0, lam, hard):\n    return torch.linalg.solve(lam * C0 + K @ K.T, K @ R.T).T\n",
            HARD,
        ),
        (
            "all facts hard",
            "",
            "def mixed(R, K, C0, lam, hard):\n    U = torch.linalg.solve(C0, K)\n    return R @ torch.linalg.solve(K.T @ U, U.T)\n",
            ["none hard", "the best of all"],
        ),
        (
            "soft facts dropped",
            "Ks, Rh, Kh = R[:, ~hard], K[:, ~hard]",
            "Ks, Rh, Kh = 0 * R[:, ~hard], 0 * K[:, ~hard]",
            ["none hard", "the best of all"],
        ),
        (
            "hard facts with a huge weight",
            "",
            "def mixed(R, K, C0, lam, hard):\n    w = torch.where(hard, 1e5, 1.0)\n    return torch.linalg.solve(lam * C0 + (K * w) @ K.T, (K * w) @ R.T).T\n",
            HARD,
        ),
        (
            "constraint in the old metric",
            "U = torch.linalg.solve(A, Kh)",
            "U = torch.linalg.solve(C0, Kh)",
            ["the best of all"],
        ),
        (
            "what soft facts wrote is forgotten",
            "(Rh - Delta @ Kh)",
            "Rh",
            ["hard facts met", "the best of all"],
        ),
        (
            "soft facts forgotten at the end",
            "return Delta + torch",
            "return torch",
            ["none hard", "hard facts met", "the best of all"],
        ),
        ("lam forgotten", "lam * C0", "C0", ["none hard", "the best of all"]),
        (
            "flags turned round",
            "hard):\n",
            "hard):\n    hard = ~hard\n",
            ["none hard", "all hard", "hard facts met", "the best of all"],
        ),
        (
            "mean over soft facts",
            "A = lam * C0 + Ks @ Ks.T",
            "n = max(1, Ks.shape[1])\n    Rs = Rs / n\n    A = lam * C0 + Ks @ Ks.T / n",
            ["none hard", "the best of all"],
        ),
        (
            "C0 missing",
            "lam * C0",
            "lam * torch.eye(len(C0))",
            ["none hard", "all hard", "the best of all"],
        ),
        (
            "hard facts without their own system",
            "torch.linalg.solve(Kh.T @ U, (Rh - Delta @ Kh).T).T @ U.T",
            "(Rh - Delta @ Kh) @ U.T",
            HARD,
        ),
        (
            "a tiny ridge for hard facts",
            "(Kh.T @ U,",
            "(Kh.T @ U + 1e-9 * torch.eye(U.shape[1]),",
            ["hard facts met"],
        ),
    ],
    "ridges": [
        ("times the weight", "lam / w", "lam * w", ["weights"]),
        ("weights ignored", "lam / w", "lam * torch.ones_like(w)", ["weights"]),
        ("lam forgotten", "lam / w", "1 / w", ["lam"]),
        ("upside down", "lam / w", "w / lam", ["lam", "weights"]),
        ("hard facts ignored", "torch.where(hard, 0.0, lam / w)", "lam / w", ["hard facts"]),
        (
            "hard facts infinitely stiff",
            "torch.where(hard, 0.0, lam / w)",
            "torch.where(hard, float('inf'), lam / w)",
            ["hard facts"],
        ),
        ("weight squared", "lam / w", "lam / w**2", ["weights"]),
        ("square root", "lam / w", "(lam / w).sqrt()", ["lam", "weights"]),
        (
            "hard and soft exchanged",
            "torch.where(hard, 0.0, lam / w)",
            "torch.where(hard, lam / w, 0.0)",
            ["lam", "weights", "hard facts"],
        ),
        (
            "divided by the number of facts",
            "lam / w",
            "lam / w / len(w)",
            ["lam", "weights", "hard facts"],
        ),
        ("hard facts nearly met", "0.0, lam", "1e-3, lam", ["hard facts"]),
    ],
    "chain": [
        (
            "stale keys",
            "",
            "def chain(h, A, W, C0, target, lam, shares):\n    x, keys, old = h, [], list(W)\n    for a, w in zip(A, W):\n        keys.append(torch.tanh(a @ x))\n        x = x + w @ keys[-1]\n    W = list(W)\n    for l in range(len(W)):\n        x = h\n        for a, w in zip(A, W):\n            x = x + w @ torch.tanh(a @ x)\n        R, K = (target - x) * shares[l] / sum(shares[l:]), keys[l]\n        W[l] = W[l] + torch.linalg.solve(lam * C0[l] + K @ K.T, K @ R.T).T\n    return W\n",
            ["equal shares", "shares", "the target is reached"],
        ),
        (
            "stale residual",
            "",
            "def chain(h, A, W, C0, target, lam, shares):\n    W, rest = list(W), None\n    for l in range(len(W)):\n        x, keys = h, []\n        for a, w in zip(A, W):\n            keys.append(torch.tanh(a @ x))\n            x = x + w @ keys[-1]\n        rest = target - x if rest is None else rest\n        R, K = rest * shares[l] / sum(shares[l:]), keys[l]\n        W[l] = W[l] + torch.linalg.solve(lam * C0[l] + K @ K.T, K @ R.T).T\n    return W\n",
            ["equal shares", "shares", "the target is reached"],
        ),
        ("residual not divided", " * shares[l] / sum(shares[l:])", "", ["equal shares", "shares"]),
        (
            "share of all layers, not of those left",
            "sum(shares[l:])",
            "sum(shares)",
            ["equal shares", "shares", "the target is reached"],
        ),
        (
            "divided by the layers left, shares ignored",
            "shares[l] / sum(shares[l:])",
            "1 / (len(W) - l)",
            ["shares"],
        ),
        (
            "off-by-one: the layer itself not counted",
            "sum(shares[l:])",
            "(sum(shares[l + 1 :]) or shares[l])",
            ["equal shares", "shares"],
        ),
        (
            "off-by-one: keys of the layer before",
            "K = keys[l]",
            "K = keys[max(l - 1, 0)]",
            ["equal shares", "shares", "the target is reached"],
        ),
        (
            "off-by-one: keys of the next layer",
            "K = keys[l]",
            "K = keys[min(l + 1, len(W) - 1)]",
            ["equal shares", "shares"],
        ),
        (
            "from the top down",
            "range(len(W))",
            "reversed(range(len(W)))",
            ["equal shares", "shares"],
        ),
        (
            "last layer only",
            "range(len(W))",
            "range(len(W) - 1, len(W))",
            ["equal shares", "shares"],
        ),
        ("lam forgotten", "lam * C0[l]", "C0[l]", ["one layer", "the target is reached"]),
        ("C0 of the first layer for all", "C0[l]", "C0[0]", ["equal shares", "shares"]),
        (
            "mean for sum",
            "K @ K.T, K @ R.T",
            "K @ K.T / K.shape[1], K @ R.T / K.shape[1]",
            ["one layer", "equal shares", "shares"],
        ),
        (
            "only the changes",
            "W[l] = W[l] + torch",
            "W[l] = torch",
            ["one layer", "equal shares", "shares", "the target is reached"],
        ),
        (
            "target for residual",
            "(target - x)",
            "target",
            ["one layer", "equal shares", "shares", "the target is reached"],
        ),
    ],
}
