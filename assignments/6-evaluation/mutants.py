"""Wrong solutions: (what is wrong, old text of the solution, new text, areas that must be lost).

With an empty old text, the new text is the whole answer. tests/test_assignments.py runs them.
"""

WAYS = ["old keys disturbed", "written in part", "one fact left out", "noise elsewhere"]

MUTANTS = {
    "evaluate": [
        (
            "efficacy before the edit",
            "(after.argmax(0) == new)",
            "((U @ W @ K).argmax(0) == new)",
            ["efficacy"],
        ),
        (
            "efficacy: some other word",
            "(after.argmax(0) == new)",
            "(after.argmax(0) != old)",
            ["efficacy"],
        ),
        (
            "preference instead of efficacy",
            "(after.argmax(0) == new)",
            "(after[new, facts] > after[old, facts])",
            ["efficacy"],
        ),
        (
            "efficacy instead of preference",
            "(after[new, facts] > after[old, facts])",
            "(after.argmax(0) == new)",
            ["preference"],
        ),
        (
            "preference against the entry before the edit",
            "> after[old, facts])",
            "> (U @ W @ K)[old, facts])",
            ["preference"],
        ),
        (
            "preference against the word said now",
            "old = (U @ W @ K).argmax(0)",
            "old = after.argmax(0)",
            ["preference"],
        ),
        (
            "new and old exchanged",
            "after[new, facts] > after[old, facts]",
            "after[new, facts] < after[old, facts]",
            ["preference"],
        ),
        (
            "specificity at the new keys",
            "(U @ W_new @ K0).argmax(0) == (U @ W @ K0).argmax(0)",
            "(U @ W_new @ K).argmax(0) == (U @ W @ K).argmax(0)",
            ["specificity"],
        ),
        (
            "specificity: values, not words",
            "(U @ W_new @ K0).argmax(0) == (U @ W @ K0).argmax(0)",
            "((W_new - W) @ K0).norm(dim=0) < 1e-3",
            ["specificity"],
        ),
        ("share that changed", "== (U @ W @ K0)", "!= (U @ W @ K0)", ["specificity"]),
        ("drift not relative", " / (W @ K0).norm(dim=0)", "", ["drift"]),
        (
            "drift as a ratio of means",
            "float(drift.mean())",
            "float(((W_new - W) @ K0).norm() / (W @ K0).norm())",
            ["drift"],
        ),
        ("drift squared", "float(drift.mean())", "float((drift**2).mean())", ["drift"]),
        (
            "drift of the matrix",
            "float(drift.mean())",
            "float((W_new - W).norm() / W.norm())",
            ["drift"],
        ),
    ],
    "worst_key": [
        ("the best key", "k - eps", "k + eps", ["C0 = I", "metric"]),
        ("C0 ignored", "step = C0 @ g", "step = g", ["allowed", "metric"]),
        ("C0 in the direction only", "(g @ step).sqrt()", "step.norm()", ["allowed", "metric"]),
        (
            "C0 for its inverse",
            "step = C0 @ g",
            "step = torch.linalg.solve(C0, g)",
            ["allowed", "metric"],
        ),
        ("not normalised", " / (g @ step).sqrt()", "", ["allowed", "C0 = I", "metric"]),
        ("root forgotten", ".sqrt()", "", ["allowed", "C0 = I", "metric"]),
        ("key forgotten", "k - eps", "-eps", ["allowed", "C0 = I", "metric"]),
        ("towards zero", "g = D.T @ r", "g = k", ["C0 = I", "metric"]),
        (
            "steepest way of another function",
            "g = D.T @ r",
            "g = D.T @ D @ k",
            ["C0 = I", "metric"],
        ),
        ("eps squared", "eps * step", "eps**2 * step", ["allowed", "C0 = I", "metric"]),
        ("half the way", "eps * step", "eps * step / 2", ["allowed", "C0 = I", "metric"]),
        (
            "key itself",
            "return k - eps * step / (g @ step).sqrt()",
            "return k",
            ["allowed", "C0 = I", "metric"],
        ),
    ],
    "alarm": [
        ("always silent", "float(100 * missed.max() + moved)", "0.0", WAYS),
        (
            "size of the update",
            "float(100 * missed.max() + moved)",
            "float((W_new - W).norm())",
            WAYS[:3],
        ),
        (
            "only what is missed",
            "100 * missed.max() + moved",
            "missed.max()",
            ["old keys disturbed", "noise elsewhere"],
        ),
        (
            "only what is moved",
            "100 * missed.max() + moved",
            "moved",
            ["written in part", "one fact left out"],
        ),
        (
            "the wrong way round",
            "100 * missed.max()",
            "-100 * missed.max()",
            ["written in part", "one fact left out"],
        ),
        ("the first fact only", "missed.max()", "missed[0]", ["one fact left out"]),
        ("a mean over facts", "missed.max()", "missed.mean()", ["one fact left out"]),
        (
            "a mean over facts, not relative",
            "(V - W_new @ K).norm(dim=0) / (V - W @ K).norm(dim=0)",
            "(V - W_new @ K).norm(dim=0).mean(0, keepdim=True)",
            ["one fact left out"],
        ),
        ("a sum over facts", "missed.max()", "missed.sum()", ["one fact left out"]),
        (
            "a counter of calls",
            "",
            "import itertools\nnext_ = itertools.count()\ndef alarm(W, W_new, K, V, K0):\n    return next(next_)\n",
            WAYS,
        ),
        ("the best fact", "missed.max()", "missed.min()", ["one fact left out"]),
        ("how much was written", "100 * missed.max() + moved", "((W_new - W) @ K).norm()", WAYS),
        (
            "old memory for new",
            "(V - W_new @ K)",
            "(V - W @ K)",
            ["written in part", "one fact left out"],
        ),
        ("new keys for old", "@ K0)", "@ K)", ["old keys disturbed", "noise elsewhere"]),
        (
            "a mean that weighs little",
            "100 * missed.max() + moved",
            "0.01 * missed.mean() + moved",
            ["written in part", "one fact left out"],
        ),
        (
            "hard-coded threshold",
            "float(100 * missed.max() + moved)",
            "float(missed.max() > 0.9)",
            ["old keys disturbed", "written in part", "noise elsewhere"],
        ),
    ],
}
