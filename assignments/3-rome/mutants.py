"""Wrong solutions: (what is wrong, old text of the solution, new text, areas that must be lost).

With an empty old text, the new text is the whole answer. tests/test_assignments.py runs them.
"""

LEFT = """def repaired(W, b, keys, weights, v, C0):
    k = keys @ ({share})
    r = v - W @ {residual} {bias}
    u = torch.linalg.solve(C0, k)
    return W + torch.outer(r, u) / (u @ {denominator})
"""
RIGHT = {"share": "weights / weights.sum()", "residual": "k", "bias": "- b", "denominator": "k"}
BUGS = {"share": "weights", "residual": "keys[:, 0]", "bias": "", "denominator": "keys[:, 0]"}

MUTANTS = {
    "rome_rows": [
        ("bias forgotten", "v - k @ M - b", "v - k @ M", ["bias", "mildest", "orientation"]),
        ("bias added", "v - k @ M - b", "v - k @ M + b", ["bias", "mildest", "orientation"]),
        ("along the key", "torch.linalg.solve(C0, k)", "k", ["mildest"]),
        ("C0 for its inverse", "torch.linalg.solve(C0, k)", "C0 @ k", ["mildest"]),
        (
            "C0 missing in the numerator",
            "torch.outer(u, v - k @ M - b)",
            "torch.outer(k, v - k @ M - b)",
            ["the fact", "bias", "mildest", "orientation"],
        ),
        (
            "C0 missing in the denominator",
            "/ (u @ k)",
            "/ (k @ k)",
            ["the fact", "bias", "mildest", "orientation"],
        ),
        ("not divided", " / (u @ k)", "", ["the fact", "bias", "mildest", "orientation"]),
        ("only the change", "M + torch", "torch", ["the fact", "bias", "mildest", "orientation"]),
        (
            "value for residual",
            "v - k @ M - b",
            "v",
            ["the fact", "bias", "mildest", "orientation"],
        ),
        (
            "transposed update",
            "torch.outer(u, v - k @ M - b)",
            "torch.outer(v - k @ M - b, u)",
            ["the fact", "bias", "mildest", "orientation"],
        ),
        (
            "works for columns only",
            "v - k @ M - b",
            "v - (M.T if M.shape[0] != M.shape[1] else M) @ k - b",
            ["orientation"],
        ),
        ("subtracted", "M + torch", "M - torch", ["the fact", "bias", "mildest", "orientation"]),
    ],
    "write_readout": [
        ("length of a forgotten", "((a @ a) * (u @ k))", "(u @ k)", ["length of a"]),
        ("length of a once", "(a @ a)", "a.norm()", ["length of a"]),
        ("along the key", "torch.linalg.solve(C0, k)", "k", ["mildest"]),
        ("C0 for its inverse", "torch.linalg.solve(C0, k)", "C0 @ k", ["mildest"]),
        (
            "C0 missing in the numerator",
            "torch.outer(a, u)",
            "torch.outer(a, k)",
            ["the constraint", "length of a", "mildest"],
        ),
        (
            "not divided by the key's part",
            " * (u @ k))",
            ")",
            ["the constraint", "length of a", "mildest"],
        ),
        ("c forgotten", "c * torch", "torch", ["the constraint", "length of a", "mildest"]),
        (
            "other outputs are moved as well",
            "torch.outer(a, u)",
            "torch.outer(a + torch.linalg.svd(a[None])[2][1], u)",
            ["mildest"],
        ),
        (
            "transposed",
            "return c * torch.outer(a, u)",
            "return c * torch.outer(u, a)",
            ["the constraint", "length of a", "mildest"],
        ),
        (
            "one output only",
            "torch.outer(a, u) / ((a @ a)",
            "torch.outer(torch.eye(len(a))[0], u) / (a[0]",
            ["mildest"],
        ),
        ("wrong sign", "c * torch", "-c * torch", ["the constraint", "length of a", "mildest"]),
    ],
    "achieved": [
        ("bias forgotten", "v - W @ k - b", "v - W @ k", ["bias"]),
        (
            "length of the change",
            "r @ (W_new - W) @ k / (r @ r)",
            "((W_new - W) @ k).norm() / r.norm()",
            ["share", "sideways"],
        ),
        (
            "residual of the new memory",
            "v - W @ k - b",
            "v - W_new @ k - b",
            ["share", "sideways", "bias"],
        ),
        (
            "one minus what is left",
            "r @ (W_new - W) @ k / (r @ r)",
            "1 - (r - (W_new - W) @ k).norm() / r.norm()",
            ["share", "sideways"],
        ),
        ("not normalised", " / (r @ r)", "", ["share", "sideways", "bias"]),
        ("normalised by the length", "(r @ r)", "r.norm()", ["share", "sideways", "bias"]),
        (
            "cosine",
            "/ (r @ r)",
            "/ (r.norm() * ((W_new - W) @ k).norm())",
            ["share", "sideways", "bias"],
        ),
        ("whole answer for change", "(W_new - W)", "W_new", ["share", "sideways", "bias"]),
        ("sign turned", "(W_new - W)", "(W - W_new)", ["share", "sideways", "bias"]),
        (
            "cut off at 0 and 1",
            "return float(r @ (W_new - W) @ k / (r @ r))",
            "return min(1.0, max(0.0, float(r @ (W_new - W) @ k / (r @ r))))",
            ["share"],
        ),
        ("always 1", "float(r @ (W_new - W) @ k / (r @ r))", "1.0", ["share", "sideways", "bias"]),
    ],
    "repaired": [
        (
            "as it was",
            "",
            "def repaired(W, b, keys, weights, v, C0):\n    k = keys @ weights\n    r = v - W @ keys[:, 0]\n    u = torch.linalg.solve(C0, k)\n    return W + torch.outer(r, u) / (u @ keys[:, 0])\n",
            ["weights", "bias", "denominator", "residual", "all together"],
        ),
        (
            "weights not normalised",
            "(weights / weights.sum())",
            "weights",
            ["weights", "all together"],
        ),
        *[
            (
                f"two bugs left: {a} and {b}",
                "",
                LEFT.format(**RIGHT | {a: BUGS[a], b: BUGS[b]}),
                areas,
            )
            for a, b, areas in (
                ("share", "bias", ["weights", "bias", "all together"]),
                ("share", "residual", ["weights", "residual", "all together"]),
                ("share", "denominator", ["weights", "denominator", "all together"]),
                ("bias", "residual", ["bias", "residual", "all together"]),
                ("bias", "denominator", ["weights", "bias", "denominator", "all together"]),
                ("residual", "denominator", ["weights", "denominator", "residual", "all together"]),
            )
        ],
        (
            "weights ignored",
            "keys @ (weights / weights.sum())",
            "keys.mean(1)",
            ["weights", "denominator", "residual", "all together"],
        ),
        (
            "bare key everywhere",
            "keys @ (weights / weights.sum())",
            "keys[:, 0]",
            ["weights", "denominator", "residual", "all together"],
        ),
        (
            "bare key in the denominator",
            "(u @ k)",
            "(u @ keys[:, 0])",
            ["weights", "denominator", "all together"],
        ),
        (
            "bare key in the residual",
            "v - W @ k - b",
            "v - W @ keys[:, 0] - b",
            ["residual", "all together"],
        ),
        ("bias forgotten", "- b", "", ["bias", "all together"]),
        (
            "bare key in the row",
            "torch.linalg.solve(C0, k)",
            "torch.linalg.solve(C0, keys[:, 0])",
            ["all together"],
        ),
        ("along the key", "torch.linalg.solve(C0, k)", "k", ["all together"]),
        ("only the change", "W + torch", "torch", ["bias", "residual", "all together"]),
        (
            "mean key of length 1",
            "    r = v",
            "    k = k / k.norm()\n    r = v",
            ["weights", "bias", "denominator", "residual", "all together"],
        ),
        (
            "transposed",
            "torch.outer(r, u)",
            "torch.outer(u, r)",
            ["weights", "bias", "denominator", "residual", "all together"],
        ),
    ],
}
