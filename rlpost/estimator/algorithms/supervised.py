"""Rows that learn from demonstrations."""

from __future__ import annotations

from rlpost.estimator.actions import OneToken
from rlpost.estimator.advantage import Constant
from rlpost.estimator.aggregation import SequenceMeanTokenMean, TokenMean
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
    "otr": Row(
        family="supervised",
        summary="every demonstration token as an episode of one token: the policy tries, hits are rewarded",
        objective=Objective(
            (
                Term(
                    Constant(1.0),
                    Current(),
                    SequenceMeanTokenMean(),
                    rows="demonstrations",
                    actions=OneToken(),
                ),
            ),
        ),
        source="arXiv 2509.26313, eq. 4 to 8",
        certain="rewards 1 and a little below 0, K = 256 hotter draws; means over K and over tokens",
        ours=(
            "miss = -0.1 is the value commonly quoted; draws with replacement, from the whole vocabulary; "
            "mean over sequences (over all tokens: aggregation `token_mean`); form `exact` draws nothing"
        ),
    ),
}
