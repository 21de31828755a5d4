"""Wrong solutions: (what is wrong, old text of the solution, new text, areas that must be lost).

With an empty old text, the new text is the whole answer. tests/test_assignments.py runs them.
"""

MUTANTS = {
    "key_at": [
        (
            "last token of the text",
            'max(i for i, (a, b) in enumerate(text["offset_mapping"]) if a < end)',
            'len(text["input_ids"]) - 1',
            ["position"],
        ),
        (
            "first token of the text",
            "max(i for",
            "min(i for",
            ["position", "layer", "contexts", "weights"],
        ),
        (
            "length of the context forgotten",
            "len(context) + prompt",
            "prompt",
            ["position", "contexts", "weights"],
        ),
        (
            "the subject's first mention",
            'len(context) + prompt.index("{}") + len(subject)',
            "(context + prompt.format(subject)).index(subject) + len(subject)",
            ["position"],
        ),
        ("the token after the subject", "if a < end)", "if a <= end)", ["position"]),
        (
            "a layer too early",
            ".down(layer)",
            ".down(max(layer - 1, 0))",
            ["position", "layer", "contexts", "weights"],
        ),
        (
            "a layer too late",
            ".down(layer)",
            ".down(layer + 1)",
            ["position", "layer", "contexts", "weights"],
        ),
        (
            "output instead of input",
            "register_forward_pre_hook(lambda m, x: seen.append(x[0][0]))",
            "register_forward_hook(lambda m, x, y: seen.append(y[0]))",
            ["position", "layer", "contexts", "weights"],
        ),
        ("weights ignored", "weight / sum(weights)", "1 / len(weights)", ["weights"]),
        ("weights not normalised", "weight / sum(weights)", "weight", ["weights"]),
        ("sum for mean", "weight / sum(weights)", "1", ["contexts", "weights"]),
        (
            "bare prompt only",
            "zip(contexts, weights)",
            "zip(contexts[:1], weights)",
            ["contexts", "weights"],
        ),
        (
            "last context only",
            "key = key + weight / sum(weights)",
            "key = 1",
            ["contexts", "weights"],
        ),
    ],
    "second_moment": [
        ("padding counted in the mean", "weight.sum()", "weight.numel()", ["padding and weights"]),
        ("weights ignored", "(K * weight.reshape(-1, 1))", "K", ["padding and weights"]),
        (
            "weights twice",
            "K.T @ (K * weight.reshape(-1, 1))",
            "(K * weight.reshape(-1, 1)).T @ (K * weight.reshape(-1, 1))",
            ["padding and weights"],
        ),
        (
            "not divided",
            " / count",
            "",
            ["a plain mean", "padding and weights", "batches", "not centred"],
        ),
        (
            "mean of means",
            "return total / count",
            "return sum(X.reshape(-1, X.shape[-1]).T @ (X.reshape(-1, X.shape[-1]) * w.reshape(-1, 1)) / w.sum() for X, w in batches) / len(batches)",
            ["batches"],
        ),
        ("last batch only", "total = total + K", "total = K", ["batches"]),
        (
            "centred",
            "return total / count",
            "m = sum((X * w[..., None]).sum((0, 1)) for X, w in batches) / count\n    return total / count - torch.outer(m, m)",
            ["a plain mean", "padding and weights", "batches", "not centred"],
        ),
        (
            "n - 1",
            "/ count",
            "/ (count - 1)",
            ["a plain mean", "padding and weights", "batches", "not centred"],
        ),
        (
            "texts counted, not tokens",
            "weight.sum()",
            "len(X)",
            ["a plain mean", "padding and weights", "batches", "not centred"],
        ),
        (
            "first token only",
            "K = X.reshape(-1, X.shape[-1])",
            "X, weight = X[:, :1], weight[:, :1]\n        K = X.reshape(-1, X.shape[-1])",
            ["a plain mean", "padding and weights", "batches", "not centred"],
        ),
    ],
    "without": [
        (
            "count not lowered",
            "(n - len(gone))",
            "n",
            ["one key", "several keys", "keys with a mean"],
        ),
        ("count lowered by one only", "len(gone)", "1", ["several keys", "keys with a mean"]),
        (
            "added instead of taken out",
            "n * C0 - gone",
            "n * C0 + gone",
            ["one key", "several keys", "keys with a mean"],
        ),
        ("mean instead of sum", "n * C0", "C0", ["one key", "several keys", "keys with a mean"]),
        (
            "mean key taken out",
            "gone.T @ gone",
            "torch.outer(gone.mean(0), gone.mean(0))",
            ["several keys", "keys with a mean"],
        ),
        (
            "mean key taken out m times",
            "gone.T @ gone",
            "len(gone) * torch.outer(gone.mean(0), gone.mean(0))",
            ["several keys", "keys with a mean"],
        ),
        (
            "centred keys taken out",
            "gone.T @ gone",
            "(gone - gone.mean(0)).T @ (gone - gone.mean(0))",
            ["one key", "several keys", "keys with a mean"],
        ),
        (
            "their mean instead of their sum",
            "gone.T @ gone",
            "gone.T @ gone / len(gone)",
            ["several keys", "keys with a mean"],
        ),
        (
            "nothing taken out",
            "(n * C0 - gone.T @ gone) / (n - len(gone))",
            "C0",
            ["one key", "several keys", "keys with a mean"],
        ),
        (
            "diagonal only",
            "gone.T @ gone",
            "torch.diag((gone**2).sum(0))",
            ["one key", "several keys", "keys with a mean"],
        ),
    ],
    "price": [
        ("C0 ignored", "torch.linalg.solve(C0, K.T).T", "K", ["the metric"]),
        ("C0 for its inverse", "torch.linalg.solve(C0, K.T).T", "(K @ C0)", ["the metric"]),
        (
            "price of the update along the key",
            "(R**2).sum(1) / (K * torch.linalg.solve(C0, K.T).T).sum(1)",
            "(R**2).sum(1) * (K * (K @ C0)).sum(1) / (K**2).sum(1) ** 2",
            ["the metric"],
        ),
        (
            "length for its square",
            "(R**2).sum(1)",
            "R.norm(dim=1)",
            ["the key", "the metric", "many facts"],
        ),
        (
            "one number for all",
            "return (R**2).sum(1)",
            "return (R**2).sum()",
            ["the key", "the metric", "many facts"],
        ),
        ("residual forgotten", "(R**2).sum(1)", "1", ["the key", "the metric", "many facts"]),
        (
            "upside down",
            "(R**2).sum(1) / (K",
            "1 / (R**2).sum(1) * (K",
            ["the key", "the metric", "many facts"],
        ),
        (
            "mean over outputs",
            "(R**2).sum(1)",
            "(R**2).mean(1)",
            ["the key", "the metric", "many facts"],
        ),
        (
            "batch price: facts share the cost",
            "",
            "def price(C0, K, R):\n    G = K @ torch.linalg.solve(C0, K.T)\n    return (R**2).sum(1) * torch.linalg.pinv(G).diagonal()\n",
            ["the key", "the metric", "many facts"],
        ),
        (
            "first key for all",
            "(K * torch",
            "(K[:1] * torch",
            ["the key", "the metric", "many facts"],
        ),
        (
            "square root",
            "return (R**2).sum(1) / (K * torch.linalg.solve(C0, K.T).T).sum(1)",
            "return ((R**2).sum(1) / (K * torch.linalg.solve(C0, K.T).T).sum(1)).sqrt()",
            ["the key", "the metric", "many facts"],
        ),
    ],
}
