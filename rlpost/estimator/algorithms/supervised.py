"""Rows that learn from demonstrations."""

from __future__ import annotations

from rlpost.estimator.advantage import Constant
from rlpost.estimator.aggregation import TokenMean
from rlpost.estimator.algorithms.row import Row
from rlpost.estimator.denominator import Current, Unit
from rlpost.estimator.objective import Objective
from rlpost.estimator.term import Term

SUPERVISED: dict[str, Row] = {
    "sft": Row(
        family="supervised",
        summary="maximum likelihood on demonstrations",
        objective=Objective(
            (Term(Constant(1.0), Current(), TokenMean(), rows="demonstrations"),),
        ),
        source="arXiv 2509.04419, table 1",
        certain="A = 1, denominator the current policy",
        ours="averaged over all demonstration tokens of the update",
    ),
    "dft": Row(
        family="supervised",
        summary="maximum likelihood whose tokens are weighted by their own probability",
        objective=Objective(
            (Term(Constant(1.0), Unit("log_probability"), TokenMean(), rows="demonstrations"),),
        ),
        source="arXiv 2508.05629",
        certain="SFT times sg(pi): the gradient of -pi, a denominator of 1",
        ours="averaged over all demonstration tokens of the update",
    ),
}
