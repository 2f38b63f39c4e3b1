"""The table: every algorithm is a row of parts. Read it like the table of a paper, a family a file.

Each row's gradient is checked against the analytic coefficient, and against hand-computed
numbers where the specs give them. `certain` says what the source settles, `ours` what we chose.
"""

from __future__ import annotations

from rlpost.estimator.algorithms.dcpo import DCPO
from rlpost.estimator.algorithms.distillation import DISTILLATION
from rlpost.estimator.algorithms.gates import GATES
from rlpost.estimator.algorithms.grpo import GRPO
from rlpost.estimator.algorithms.hybrid import HYBRID
from rlpost.estimator.algorithms.oreal import OREAL
from rlpost.estimator.algorithms.pass_at_k import PASS_AT_K
from rlpost.estimator.algorithms.pivots import PIVOTS
from rlpost.estimator.algorithms.preferences import PREFERENCES
from rlpost.estimator.algorithms.reinforce import REINFORCE
from rlpost.estimator.algorithms.row import Row
from rlpost.estimator.algorithms.selection import SELECTION
from rlpost.estimator.algorithms.sequence import SEQUENCE
from rlpost.estimator.algorithms.supervised import SUPERVISED
from rlpost.estimator.algorithms.turns import TURNS

ALGORITHMS: dict[str, Row] = {
    **SUPERVISED,
    **PREFERENCES,
    **DISTILLATION,
    **REINFORCE,
    **GRPO,
    **SEQUENCE,
    **TURNS,
    **GATES,
    **DCPO,
    **PASS_AT_K,
    **SELECTION,
    **PIVOTS,
    **HYBRID,
    **OREAL,
}

__all__ = ["ALGORITHMS", "Row"]
