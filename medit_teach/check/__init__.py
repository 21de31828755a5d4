"""Checks that speak: of equations on the page, and of the reader's answers to exercises.

    from medit_teach import check
    check.check_equation("eq:memit-solution", Delta @ (lam * C0 + K @ K.T), R @ K.T)
    check.rank_one(answer, r, k)

`core` has the machinery; each topic has a module with the checks of its exercises.
"""

from .batch_size import (
    batch_break,
    batch_effective,
    batch_interval,
    batch_referee,
    batch_ridge,
    batch_wall,
)
from .core import NoAnswer, Wrong, as_update, call, check_equation, exercise, passed, perturbed
from .distribution import (
    distribution_cheapest,
    distribution_missing,
    distribution_order,
    distribution_own_rule,
    distribution_shares,
)
from .emmet import (
    emmet_distinct,
    emmet_forces,
    emmet_largest_ridge,
    emmet_next_price,
    emmet_referee,
    emmet_true_ridge,
)
from .locating import (
    locating_added,
    locating_edges,
    locating_noise,
    locating_restore,
    locating_strongest,
)
from .memit import (
    memit_crowding,
    memit_doubled,
    memit_lam,
    memit_rule,
    memit_stacked,
    memit_twice,
)
from .memories import (
    memories_agreement,
    memories_rebuild,
    memories_silence,
    memories_tie,
    memories_words,
)
from .objective import (
    constraint_table,
    emmet_update,
    free_directions,
    half_learned,
    memit_update,
    rank_one,
)
from .rome import (
    rome_bargain,
    rome_echo,
    rome_repair,
    rome_scale,
    rome_second,
    rome_update,
)
from .sequence import (
    sequence_exact,
    sequence_forgotten,
    sequence_referee,
    sequence_step,
    sequence_undo,
)
from .two_by_two import (
    two_by_two_encore,
    two_by_two_prune,
    two_by_two_reach,
    two_by_two_rect,
    two_by_two_referee,
)

__all__ = [
    "NoAnswer",
    "Wrong",
    "as_update",
    "batch_break",
    "batch_effective",
    "batch_interval",
    "batch_referee",
    "batch_ridge",
    "batch_wall",
    "call",
    "check_equation",
    "constraint_table",
    "distribution_cheapest",
    "distribution_missing",
    "distribution_order",
    "distribution_own_rule",
    "distribution_shares",
    "emmet_distinct",
    "emmet_forces",
    "emmet_largest_ridge",
    "emmet_next_price",
    "emmet_referee",
    "emmet_true_ridge",
    "emmet_update",
    "exercise",
    "free_directions",
    "half_learned",
    "locating_added",
    "locating_edges",
    "locating_noise",
    "locating_restore",
    "locating_strongest",
    "memit_crowding",
    "memit_doubled",
    "memit_lam",
    "memit_rule",
    "memit_stacked",
    "memit_twice",
    "memit_update",
    "memories_agreement",
    "memories_rebuild",
    "memories_silence",
    "memories_tie",
    "memories_words",
    "passed",
    "perturbed",
    "rank_one",
    "rome_bargain",
    "rome_echo",
    "rome_repair",
    "rome_scale",
    "rome_second",
    "rome_update",
    "sequence_exact",
    "sequence_forgotten",
    "sequence_referee",
    "sequence_step",
    "sequence_undo",
    "two_by_two_encore",
    "two_by_two_prune",
    "two_by_two_reach",
    "two_by_two_rect",
    "two_by_two_referee",
]
