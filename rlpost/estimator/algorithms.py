"""The table: every algorithm is a row of parts. Read it like the table of a paper.

Each row's gradient is checked against the analytic coefficient, and against hand-computed
numbers where the specs give them. `certain` says what the source settles, `ours` what we chose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlpost.estimator.advantage import Constant, GroupCentred, GroupNormalised, LeaveOneOut, Reward
from rlpost.estimator.aggregation import (
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    SequenceSumOverConstant,
    TokenMean,
)
from rlpost.estimator.denominator import Current, Old
from rlpost.estimator.mask import Clip
from rlpost.estimator.objective import Objective
from rlpost.estimator.selection import D3S, DropUniform, MaxVariance
from rlpost.estimator.shaping import SoftOverlong
from rlpost.estimator.term import Term

Family = Literal["supervised", "reinforce", "grpo", "sequence", "gates", "dcpo", "pass_at_k", "selection"]


@dataclass(frozen=True)
class Row:
    """One algorithm.

    Attributes:
        family: the page of the documentation that explains it.
        summary: one sentence on what sets it apart.
        source: where it is published.
        certain: what the source settles.
        ours: what it leaves open and we chose.
    """

    family: Family
    summary: str
    objective: Objective
    source: str
    certain: str
    ours: str


ALGORITHMS: dict[str, Row] = {
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
    "reinforce": Row(
        family="reinforce",
        summary="the reward itself, minus the batch mean, times grad log pi",
        objective=Objective(
            (Term(Reward(baseline="batch"), Current(), SequenceMeanTokenSum()),),
        ),
        source="Williams 1992",
        certain="unbiased with the token sum and no discount",
        ours="the batch mean as baseline",
    ),
    "rloo": Row(
        family="reinforce",
        summary="each response against the mean of its siblings; the response is one action",
        objective=Objective(
            (Term(LeaveOneOut(), Current(), SequenceMeanTokenSum()),),
        ),
        source="arXiv 2402.14740",
        certain="advantage and token sum; the paper adds a KL penalty of 0.03 to the reward",
        ours="no KL unless asked for (shaping kl_in_reward); no ratio, so one update per step",
    ),
    "grpo": Row(
        family="grpo",
        summary="group-normalised rewards with PPO's clip, averaged per sequence",
        objective=Objective(
            (Term(GroupNormalised(), Old(), SequenceMeanTokenMean(), mask=Clip(0.2, 0.2)),),
        ),
        source="arXiv 2402.03300",
        certain="advantage, clip, mean over tokens then sequences; the paper adds k3 with 0.04",
        ours="unbiased standard deviation, epsilon 1e-6; no KL unless asked for",
    ),
    "dr_grpo": Row(
        family="grpo",
        summary="GRPO without its two biases: no std, no division by the response length",
        objective=Objective(
            (Term(GroupCentred(), Old(), SequenceSumOverConstant(), mask=Clip(0.2, 0.2)),),
        ),
        source="arXiv 2503.20783",
        certain="advantage, sum over a constant, no KL",
        ours="the constant is the run's maximum response length",
    ),
    "dapo": Row(
        family="grpo",
        summary="clip-higher, token mean, uniform groups dropped, soft overlong punishment",
        objective=Objective(
            (
                Term(
                    GroupNormalised(),
                    Old(),
                    TokenMean(),
                    mask=Clip(0.2, 0.28),
                    shaping=(SoftOverlong(),),
                ),
            ),
            selection=(DropUniform(),),
        ),
        source="arXiv 2503.14476",
        certain="clip 0.2/0.28, token mean, punishment up to -1, no KL",
        ours="uniform groups are dropped, not resampled: a step then trains on fewer groups",
    ),
    "d3s": Row(
        family="selection",
        summary="GRPO on the rollouts whose advantages vary most, of these the tokens with the largest |A| H",
        objective=Objective(
            (Term(GroupNormalised(), Old(), TokenMean(), mask=Clip(0.2, 0.2)),),
            selection=(D3S(),),
        ),
        source="arXiv 2509.22115",
        certain="both criteria, across groups, advantages of all rollouts formed before; a linear schedule",
        ours="shares 25 % and 20 %, growing to 100 %; the mean over picked tokens; H of the old policy",
    ),
    "pods": Row(
        family="selection",
        summary="GRPO on the quarter of each group whose advantages vary most",
        objective=Objective(
            (Term(GroupNormalised(), Old(), SequenceMeanTokenMean(), mask=Clip(0.2, 0.2)),),
            selection=(MaxVariance(scope="group", start=0.25, end=0.25),),
        ),
        source="arXiv 2504.13818",
        certain="the subset of each group with the largest variance of the rewards, of a fixed size",
        ours="a quarter of each group; advantages are those of the whole group, not formed again",
    ),
}
