"""Rows that learn from rollouts and demonstrations together, or from rollouts as if they were such."""

from __future__ import annotations

from dataclasses import replace

from rlpost.estimator.advantage import Constant, GroupCentred, GroupNormalised
from rlpost.estimator.aggregation import PromptMean, TokenMean
from rlpost.estimator.algorithms.row import Row
from rlpost.estimator.denominator import Current, Old, ShapedUnit, Unit
from rlpost.estimator.gate import AllGates, EntropyWeight, RewardGate
from rlpost.estimator.mask import Clip
from rlpost.estimator.objective import Objective
from rlpost.estimator.pass_gates import PassCountTable, PassRateGate
from rlpost.estimator.term import Term

_LIKELIHOOD = Term(
    Constant(1.0),
    Current(),
    PromptMean("sequence_mean_token_mean"),
    rows="demonstrations",
    name="demonstrations",
)

_OF_EVERY_ROW = PromptMean("sequence_sum_over_constant", counts="all")

HYBRID: dict[str, Row] = {
    "rft": Row(
        family="hybrid",
        summary="rejection sampling: maximum likelihood of the policy's own right responses",
        objective=Objective(
            (Term(Constant(1.0), Current(), TokenMean(), gate=RewardGate("right"), name="rollouts"),),
        ),
        source="arXiv 2308.01825",
        certain="supervised learning on the responses that are right; nothing is learnt from the others",
        ours="sampled anew in every step; averaged over all tokens of right responses; equal ones all count",
    ),
    "sft_grpo": Row(
        family="hybrid",
        summary="GRPO and, with a fixed weight, maximum likelihood of every prompt's demonstration",
        objective=Objective(
            (
                Term(
                    GroupNormalised(),
                    Old(),
                    PromptMean("sequence_mean_token_mean"),
                    mask=Clip(0.2, 0.2),
                    name="rollouts",
                ),
                replace(_LIKELIHOOD, weight=0.1),
            ),
        ),
        source="arXiv 2509.04419, eq. 2",
        certain="the gradient of the reward plus mu times that of the demonstrations' likelihood",
        ours="mu = 0.1; GRPO for the reward; both are means over prompts",
    ),
    "luffy": Row(
        family="hybrid",
        summary="GRPO whose groups hold the demonstration too, shaped so that its rare tokens count",
        objective=Objective(
            (
                Term(
                    GroupNormalised(),
                    Old(),
                    PromptMean("token_mean", counts="all"),
                    mask=Clip(0.2, 0.2),
                    compared_with="all",
                    name="rollouts",
                ),
                Term(
                    GroupNormalised(),
                    ShapedUnit(0.1),
                    PromptMean("token_mean", counts="all"),
                    rows="demonstrations",
                    compared_with="all",
                    name="demonstrations",
                ),
            ),
        ),
        source="arXiv 2504.14945",
        certain=(
            "one mean and deviation over rollouts and demonstrations; f(pi) = pi/(pi + 0.1) and no clip on "
            "the latter; both divided by the tokens of the whole group"
        ),
        ours=(
            "unbiased deviation (the released scripts divide by none, nor by lengths); clip 0.2 on rollouts; "
            "the demonstration's reward is the data's, by default that of a right response"
        ),
    ),
    "srft": Row(
        family="hybrid",
        summary="demonstrations and rollouts at once, each weighted by how undecided the policy is about it",
        objective=Objective(
            (
                replace(_LIKELIHOOD, gate=EntropyWeight(0.5, -1.0)),
                Term(
                    GroupNormalised(),
                    Unit(),
                    PromptMean("sequence_mean_token_mean"),
                    rows="demonstrations",
                    compared_with="all",
                    name="off_policy",
                ),
                Term(
                    Constant(1.0),
                    Current(),
                    PromptMean("sequence_mean_token_mean", counts="rollouts"),
                    gate=AllGates((RewardGate("right"), EntropyWeight(0.1, 1.0))),
                    name="right",
                ),
                Term(
                    Constant(-1.0),
                    Current(),
                    PromptMean("sequence_mean_token_mean", counts="rollouts"),
                    gate=RewardGate("wrong"),
                    name="wrong",
                ),
            ),
        ),
        source="arXiv 2506.19767, and its re-implementation for arXiv 2509.04419",
        certain=(
            "0.5 e^-H on the likelihood of demonstrations; denominator 1, no clip and one mean and deviation "
            "over all of a prompt's rows in their reinforcement; 0.1 e^H on right rollouts, -1 on wrong ones"
        ),
        ours=(
            "H is the sequence's mean at the start of the step; all terms are means over prompts of means "
            "over sequences; weights multiply log pi, the re-implementation's default"
        ),
    ),
    "hpt": Row(
        family="hybrid",
        summary="a prompt that no rollout solves learns from its demonstration, any other from its rollouts",
        objective=Objective(
            (
                Term(
                    GroupCentred(),
                    Old(),
                    PromptMean("sequence_sum_over_constant"),
                    mask=Clip(0.2, 0.2),
                    gate=PassRateGate(0.0, side="above"),
                    name="rollouts",
                ),
                replace(_LIKELIHOOD, gate=PassRateGate(0.0, side="at_most")),
            ),
        ),
        source="arXiv 2509.04419, eq. 7 to 13, and its released scripts",
        certain=(
            "the gate P > 0 on counts (the paper takes 2/8 for Llama); rollouts of gated prompts are "
            "discarded; both coefficients 1; no KL. Released: R - mean R, tokens over the maximum length"
        ),
        ours=(
            "the clip 0.2 of eq. 11, which the scripts leave out; both terms are means over prompts, so "
            "that their ratio does not depend on micro-batches; prompts without a demonstration keep their "
            "rollouts"
        ),
    ),
    "hpt_soft": Row(
        family="hybrid",
        summary="HPT that fades from demonstration to rollouts with the number of successes",
        objective=Objective(
            (
                Term(
                    GroupCentred(),
                    Old(),
                    _OF_EVERY_ROW,
                    mask=Clip(0.2, 0.2),
                    gate=PassCountTable("type1", "rollouts"),
                    compared_with="all",
                    name="rollouts",
                ),
                Term(
                    GroupCentred(),
                    ShapedUnit(0.1),
                    _OF_EVERY_ROW,
                    gate=PassCountTable("type1", "demonstrations"),
                    rows="demonstrations",
                    compared_with="all",
                    name="off_policy",
                ),
                replace(_LIKELIHOOD, gate=PassCountTable("type1", "supervised")),
            ),
        ),
        source="released code of arXiv 2509.04419; no results are published",
        certain="the tables of three coefficients by the number of right rows, the demonstration among them",
        ours=(
            "the table called type 1; groups of other than seven rollouts; advantages over rollouts and "
            "demonstration; LUFFY's shaping on the off-policy term; the averages"
        ),
    ),
}
