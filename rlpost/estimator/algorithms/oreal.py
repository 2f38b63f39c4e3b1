"""OREAL: right and wrong responses in terms of their own, weighted token by token."""

from __future__ import annotations

from typing import Literal

from rlpost.estimator.advantage import LeaveOneOut
from rlpost.estimator.aggregation import TokenMean
from rlpost.estimator.algorithms.row import Row
from rlpost.estimator.credit import OutcomeCredit, SignedReward
from rlpost.estimator.denominator import Current
from rlpost.estimator.gate import RewardGate
from rlpost.estimator.objective import Objective
from rlpost.estimator.regulariser import KL
from rlpost.estimator.selection import OneRightOneWrong
from rlpost.estimator.term import Term


def _term(side: Literal["right", "wrong"], weight: float, loss: Literal["log_probability", "ratio"]) -> Term:
    """The responses of one outcome, averaged over their own tokens."""
    return Term(
        LeaveOneOut(),
        Current(loss),
        TokenMean(),
        shaping=(SignedReward(), OutcomeCredit()),
        gate=RewardGate(side),
        weight=weight,
        name=side,
    )


OREAL: dict[str, Row] = {
    "oreal": Row(
        family="oreal",
        summary="clones right responses and unlearns wrong ones where a token reward model sees why",
        objective=Objective(
            (_term("right", 1.0, "log_probability"), _term("wrong", 0.5, "ratio")),
            selection=(OneRightOneWrong(),),
            regularisers=(KL(0.01, "k3"),),
        ),
        source="arXiv 2502.06781, eq. 10 to 12, and its published code",
        certain=(
            "one right and one wrong response of each mixed prompt; leave-one-out advantages over all of "
            "them before, of rewards 1 and -1; token weights by a reward model that learns outcomes alone"
        ),
        ours=(
            "where paper and code differ, the code: weights of prefix means (the paper's: credit raw), right "
            "responses times their advantage, KL to the initial model; but the head begins at 0, the paper's"
        ),
    ),
}
