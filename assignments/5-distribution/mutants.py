"""Wrong solutions: (what is wrong, old text of the solution, new text, areas that must be lost).

With an empty old text, the new text is the whole answer. tests/test_assignments.py runs them.
"""

FLOOR = ["one layer at the floor", "one after the other"]
ALL_SHARES = ["no floor", "each fact alone", *FLOOR]
ALL_RULES = [
    "no unit, facts apart",
    "the last layer",
    "where layers differ",
    "where layers are alike",
]

MUTANTS = {
    "cheapest": [
        ("floor ignored", "low = ~held & (shares < floor)", "low = torch.zeros_like(held)", FLOOR),
        (
            "cut off, the sum forgotten",
            "",
            "def cheapest(gain, floor):\n    return (gain / gain.sum(0)).clamp(min=floor)\n",
            FLOOR,
        ),
        (
            "cut off, then all divided by the sum",
            "",
            "def cheapest(gain, floor):\n    s = (gain / gain.sum(0)).clamp(min=floor)\n    return s / s.sum(0)\n",
            FLOOR,
        ),
        (
            "floor for all, the rest by gain",
            "",
            "def cheapest(gain, floor):\n    return floor + (1 - len(gain) * floor) * gain / gain.sum(0)\n",
            FLOOR,
        ),
        (
            "looked only once",
            "",
            "def cheapest(gain, floor):\n    held = gain / gain.sum(0) < floor\n    free = torch.where(held, 0.0, gain)\n    return torch.where(held, floor, (1 - floor * held.sum(0)) * free / free.sum(0))\n",
            ["one after the other"],
        ),
        (
            "looked twice",
            "    while True:\n",
            "    for last in (False, True):\n",
            ["one after the other"],
        ),
        ("upside down", "held = torch", "gain = 1 / gain\n    held = torch", ["no floor", *FLOOR]),
        (
            "square root of the gain",
            "held = torch",
            "gain = gain.sqrt()\n    held = torch",
            ["no floor", *FLOOR],
        ),
        (
            "equal shares",
            "",
            "def cheapest(gain, floor):\n    return torch.full_like(gain, 1 / len(gain))\n",
            ["no floor", *FLOOR],
        ),
        (
            "mean gain for all facts",
            "held = torch",
            "gain = gain.mean(1, keepdim=True).expand_as(gain)\n    held = torch",
            ["each fact alone", "one after the other"],
        ),
        (
            "summed over facts",
            "free.sum(0)",
            "free.sum()",
            ["each fact alone", "one after the other"],
        ),
        (
            "all in the best layer",
            "",
            "def cheapest(gain, floor):\n    best = (gain == gain.max(0).values).to(gain)\n    return floor + (1 - len(gain) * floor) * best\n",
            ["no floor", *FLOOR],
        ),
        ("not normalised", "rest * free / free.sum(0)", "rest * free", ALL_SHARES),
    ],
    "my_rule": [
        (
            "MEMIT's rule",
            "gain[0] / gain.sum(0)",
            "(1 / len(gain))",
            ["where layers differ", "where layers are alike"],
        ),
        (
            "all at the last layer",
            "gain[0] / gain.sum(0)",
            "(len(gain) == 1)",
            ["no unit, facts apart", "where layers differ", "where layers are alike"],
        ),
        (
            "all at once",
            " * gain[0] / gain.sum(0)",
            "",
            ["where layers differ", "where layers are alike"],
        ),
        (
            "upside down",
            "gain[0] / gain.sum(0)",
            "(1 / gain[0]) / (1 / gain).sum(0)",
            ["where layers differ", "where layers are alike"],
        ),
        (
            "mean gain for all facts",
            "gain[0] / gain.sum(0)",
            "gain[0].mean() / gain.sum(0).mean()",
            ["no unit, facts apart", "where layers differ"],
        ),
        (
            "this layer not counted",
            "gain.sum(0)",
            "(gain[1:].sum(0) if len(gain) > 1 else gain[0])",
            ["where layers differ", "where layers are alike"],
        ),
        (
            "mean for sum",
            "gain.sum(0)",
            "gain.mean(0)",
            ["where layers differ", "where layers are alike"],
        ),
        (
            "always a half",
            "gain[0] / gain.sum(0)",
            "0.5",
            ["the last layer", "where layers differ", "where layers are alike"],
        ),
        (
            "has a unit",
            "return missing",
            "return missing.norm(dim=0) * missing",
            ALL_RULES,
        ),
        (
            "normalised over the batch",
            "return missing",
            "return missing / missing.norm()",
            ALL_RULES,
        ),
        (
            "nothing is written",
            "missing * gain[0] / gain.sum(0)",
            "0 * missing",
            [
                "no unit, facts apart",
                "the last layer",
                "where layers differ",
                "where layers are alike",
            ],
        ),
        (
            "gain not normalised",
            " / gain.sum(0)",
            "",
            ["the last layer", "where layers differ", "where layers are alike"],
        ),
    ],
    "paired_interval": [
        ("the wrong way round", "d = a - b", "d = b - a", ["mean", "95%"]),
        (
            "not paired",
            "d[draws].mean(1)",
            "a[draws].mean(1) - b[draws.flip(0)].mean(1)",
            ["paired"],
        ),
        ("90%", "[0.025, 0.975]", "[0.05, 0.95]", ["95%"]),
        ("one-sided", "[0.025, 0.975]", "[0.05, 1.0]", ["95%"]),
        ("extremes", "[0.025, 0.975]", "[0.0, 1.0]", ["95%"]),
        ("single facts, not means", "d[draws].mean(1)", "d", ["95%"]),
        ("median", "d[draws].mean(1)", "d[draws].median(1).values", ["95%"]),
        (
            "normal approximation",
            "torch.quantile(means, torch.tensor([0.025, 0.975]).to(means))",
            "(d.mean() + s * d.std() / len(d) ** 0.5 for s in (-1.96, 1.96))",
            ["95%"],
        ),
        (
            "hard-coded",
            "",
            "def paired_interval(a, b, draws):\n    return float((a - b).mean()), 0.0, 0.0\n",
            ["paired", "95%"],
        ),
        ("low and high exchanged", "float(low), float(high)", "float(high), float(low)", ["95%"]),
        ("resampled once", "d[draws].mean(1)", "d[draws[:1]].mean(1)", ["95%", "paired"]),
        ("mean of the resamples", "float(d.mean())", "float(means.mean())", ["mean"]),
        (
            "half widths for ends",
            "float(low), float(high)",
            "float(d.mean() - low), float(high - d.mean())",
            ["95%"],
        ),
        ("resampled along the wrong axis", "d[draws].mean(1)", "d[draws].mean(0)", ["95%"]),
    ],
}
