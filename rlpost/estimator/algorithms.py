"""The table: every algorithm is a row of parts. Read it like the table of a paper.

Each row's gradient is checked against the analytic coefficient, and against hand-computed
numbers where the specs give them. `certain` says what the source settles, `ours` what we chose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlpost.estimator.advantage import (
    GDPO,
    PKPO,
    BatchScaled,
    BestMinusSecond,
    Constant,
    GreedyBaseline,
    GroupCentred,
    GroupCentredWhitened,
    GroupNormalised,
    LeaveOneOut,
    LengthWeighted,
    MaxRL,
    PassAtK,
    Preference,
    Reward,
    SmoothNormalised,
    TokenReturn,
)
from rlpost.estimator.aggregation import (
    PromptMean,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    SequenceSumOverConstant,
    SequenceSumTokenMean,
    TokenMean,
)
from rlpost.estimator.denominator import Behaviour, Clipped, Current, Old, Unit
from rlpost.estimator.granularity import ClippedGeometric, SequenceRatio
from rlpost.estimator.mask import (
    AllOf,
    Clip,
    DualClip,
    DynamicClip,
    OffPolicySequence,
    SoftGate,
    TotalVariation,
)
from rlpost.estimator.objective import Objective
from rlpost.estimator.selection import D3S, DropUniform, MaxVariance
from rlpost.estimator.shaping import SequenceMeanAdvantage, SoftOverlong
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
    "dpo": Row(
        family="supervised",
        summary="of two responses the better one is raised and the other lowered, until they differ enough",
        objective=Objective(
            (Term(Preference(), Current(), PromptMean("token_sum")),),
        ),
        source="arXiv 2305.18290",
        certain="A_w = -A_l = beta sigmoid(-beta D), beta = 0.1, token sums, mean over pairs",
        ours=(
            "pairs are sampled, the higher reward is preferred; all pairs of a larger group count. D is that "
            "of the policy before the step, so the first update is exact; the loss reported is -A log pi"
        ),
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
    "reinforce_pp": Row(
        family="reinforce",
        summary="the return from each token on, whitened over the tokens of the whole batch; no group needed",
        objective=Objective(
            (Term(TokenReturn(whiten="sample"), Old(), TokenMean(), mask=Clip(0.2, 0.2)),),
        ),
        source="arXiv 2501.03262",
        certain="k1 in the reward of each token, no discount, whitening over the global batch, PPO's clip",
        ours="the KL is 0 unless asked for (advantage token_return: kl); unbiased variance; token mean",
    ),
    "reinforce_pp_baseline": Row(
        family="reinforce",
        summary="group-centred rewards, whitened over the tokens of the whole batch",
        objective=Objective(
            (Term(GroupCentredWhitened(), Old(), TokenMean(), mask=Clip(0.2, 0.2)),),
        ),
        source="arXiv 2501.03262",
        certain="no division by the group's deviation, whitening over the global batch, PPO's clip; KL as k2",
        ours="no KL unless asked for (kl, kind k2); unbiased variance; uniform groups keep a small advantage",
    ),
    "opo": Row(
        family="reinforce",
        summary="each response against the group's mean reward weighted by length",
        objective=Objective(
            (Term(LengthWeighted(), Current(), SequenceMeanTokenSum()),),
        ),
        source="arXiv 2505.23585",
        certain="the baseline, and strictly on-policy updates",
        ours="the response as one action (token sum); no KL, no entropy bonus unless asked for",
    ),
    "remax": Row(
        family="reinforce",
        summary="each response against the greedy response of its prompt; no group needed",
        objective=Objective(
            (Term(GreedyBaseline(), Current(), SequenceMeanTokenSum()),),
        ),
        source="arXiv 2310.10505",
        certain="the baseline; the response is one action",
        ours="no KL unless asked for (shaping kl_in_reward); one greedy response a prompt and step",
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
        summary="clip-higher, token mean, uniform groups replaced by further ones, soft overlong punishment",
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
            selection=(DropUniform(refill=True),),
        ),
        source="arXiv 2503.14476",
        certain="clip 0.2/0.28, token mean, punishment up to -1, no KL, sampling until the batch is full",
        ours="at most 8 rounds of sampling, later ones as large as the share of informative groups so far "
        "suggests; surplus groups are dropped",
    ),
    "batch_std": Row(
        family="grpo",
        summary="group-centred rewards over the standard deviation of the whole batch (Lite PPO)",
        objective=Objective(
            (Term(BatchScaled(), Old(), TokenMean(), mask=Clip(0.2, 0.2)),),
        ),
        source="arXiv 2508.08221",
        certain="the group's mean, the batch's deviation",
        ours="unbiased deviation, epsilon 1e-4; PPO's clip 0.2 and the token mean; no KL unless asked for",
    ),
    "maxrl": Row(
        family="grpo",
        summary="group-centred rewards over the group's mean: rare successes count most",
        objective=Objective(
            (Term(MaxRL(), Old(), TokenMean(), mask=Clip(0.2, 0.2)),),
        ),
        source="arXiv 2602.02710",
        certain="the advantage, 0 where no response succeeds",
        ours="epsilon 1e-6; PPO's clip 0.2 and the token mean; no KL unless asked for",
    ),
    "gdpo": Row(
        family="grpo",
        summary="each reward function normalised by itself, added up, then scaled over the batch",
        objective=Objective(
            (Term(GDPO(), Old(), SequenceMeanTokenMean(), mask=Clip(0.2, 0.2)),),
        ),
        source="arXiv 2601.05242",
        certain="normalisation part by part, weighted sum, whitening over the batch",
        ours="parts count 1 unless `weights` says otherwise; whitening over responses; GRPO's loss",
    ),
    "gspo": Row(
        family="sequence",
        summary="GRPO with one ratio a response, the geometric mean, and one narrow clip for all its tokens",
        objective=Objective(
            (
                Term(
                    GroupNormalised(),
                    Old(),
                    SequenceMeanTokenMean(),
                    granularity=SequenceRatio(),
                    mask=Clip(3e-4, 4e-4),
                    shaping=(SequenceMeanAdvantage(),),
                ),
            ),
        ),
        source="arXiv 2507.18071",
        certain="ratio, clip 3e-4 and 4e-4, mean over responses of one value each, no KL",
        ours="an advantage that varies by token is averaged over the response first",
    ),
    "gspo_token": Row(
        family="sequence",
        summary="GSPO in which every token keeps its own advantage",
        objective=Objective(
            (
                Term(
                    GroupNormalised(),
                    Old(),
                    SequenceMeanTokenMean(),
                    granularity=SequenceRatio(),
                    mask=Clip(3e-4, 4e-4),
                ),
            ),
        ),
        source="arXiv 2507.18071",
        certain="GSPO's ratio and clip with A_t; equal to GSPO where A is constant over a response",
        ours="group-normalised advantages, which are constant, unless another part is named",
    ),
    "gmpo": Row(
        family="sequence",
        summary="a geometric mean of ratios that are clipped one by one before it",
        objective=Objective(
            (
                Term(
                    GroupNormalised(),
                    Old(),
                    SequenceMeanTokenMean(),
                    granularity=ClippedGeometric(0.4, 0.4),
                ),
            ),
        ),
        source="arXiv 2507.20673",
        certain="clip at e^-0.4 and e^0.4, on the side of A's sign only; mean over responses",
        ours="unbiased standard deviation in the advantage",
    ),
    "luspo": Row(
        family="sequence",
        summary="GSPO with each response's loss multiplied by its length",
        objective=Objective(
            (
                Term(
                    GroupNormalised(),
                    Old(),
                    SequenceMeanTokenSum(),
                    granularity=SequenceRatio(),
                    mask=Clip(2e-3, 2.5e-3),
                    shaping=(SequenceMeanAdvantage(),),
                ),
            ),
        ),
        source="arXiv 2602.05261",
        certain="the factor n_i, clip 2e-3 and 2.5e-3",
        ours="all else as in GSPO",
    ),
    "cispo": Row(
        family="gates",
        summary="the ratio is capped as a constant weight, so that no token is dropped",
        objective=Objective(
            (Term(GroupNormalised(), Clipped(0.0, 5.0), TokenMean()),),
        ),
        source="arXiv 2506.13585",
        certain="sg(clip(ratio)) A log pi, no lower end, token mean over the group, no KL",
        ours="the upper end 5, ScaleRL's; token mean over the whole update; no token is dropped",
    ),
    "sapo": Row(
        family="gates",
        summary="a smooth gate fades tokens out as their ratio leaves 1",
        objective=Objective(
            (Term(GroupNormalised(), Old(), SequenceMeanTokenMean(), mask=SoftGate(1.0, 1.05)),),
        ),
        source="arXiv 2511.20347",
        certain="gate, tau 1 and 1.05, mean over tokens then sequences; the loss at ratio 1 is -2A/tau",
        ours="unbiased standard deviation in the advantage",
    ),
    "dppo": Row(
        family="gates",
        summary="drops tokens whose probability, not whose ratio, has moved too far from the sampler's",
        objective=Objective(
            (Term(GroupNormalised(), Behaviour(), TokenMean(), mask=TotalVariation(0.2, 0.2)),),
        ),
        source="arXiv 2602.04879",
        certain="threshold 0.2 on pi - mu, one-sided by the sign of A; mu is the sampler's policy",
        ours="the ratio itself without a cap; token mean",
    ),
    "dual_clip": Row(
        family="gates",
        summary="PPO's clip, and a floor to the loss of an unwanted token that became much likelier",
        objective=Objective(
            (Term(GroupNormalised(), Old(), TokenMean(), mask=DualClip(0.2, 0.2, 3.0)),),
        ),
        source="arXiv 1912.09729",
        certain="no gradient where A < 0 and the ratio exceeds c = 3",
        ours="GRPO's advantage and the token mean around it",
    ),
    "opsm": Row(
        family="gates",
        summary="GRPO without the wrong responses from which the policy has moved away",
        objective=Objective(
            (
                Term(
                    GroupNormalised(),
                    Old(),
                    SequenceMeanTokenMean(),
                    mask=AllOf((Clip(0.2, 0.2), OffPolicySequence(0.5))),
                ),
            ),
        ),
        source="arXiv 2512.02556",
        certain="a response with A < 0 is dropped where mean_t log(pi_old/pi) exceeds delta",
        ours="delta 0.5; dropped responses stay in the denominators",
    ),
    "dcpo": Row(
        family="dcpo",
        summary="clip bounds by the token's probability, advantages smoothed over a prompt's history",
        objective=Objective(
            (Term(SmoothNormalised(), Old(), SequenceSumTokenMean(), mask=DynamicClip()),),
        ),
        source="arXiv 2509.02333",
        certain="bounds 0.16/0.2, ratios up to 10, both smoothed advantages, mean inside a response, no KL",
        ours="the sum also runs over the update's prompts; population deviation; history by response count",
    ),
    "pass_at_k": Row(
        family="pass_at_k",
        summary="GRPO on the best of every k responses, in closed form, for right and wrong ones",
        objective=Objective(
            (Term(PassAtK(), Old(), SequenceMeanTokenMean(), mask=Clip(0.2, 0.2)),),
        ),
        source="arXiv 2508.10751",
        certain="the advantage; k = 1 is GRPO with the population deviation",
        ours="k = 2 and right from a reward of 0.5 on, unless set; groups smaller than k get 0; GRPO's loss",
    ),
    "pkpo": Row(
        family="pass_at_k",
        summary="the unbiased gradient of the expected best of k rewards, for any rewards",
        objective=Objective(
            (Term(PKPO(), Current(), SequenceMeanTokenSum()),),
        ),
        source="arXiv 2505.15201",
        certain="the weights, plain and leave-one-out minus one; both unbiased",
        ours="k = 2 and leave-one-out minus one unless set; the response as one action; no ratio",
    ),
    "best_minus_second": Row(
        family="pass_at_k",
        summary="only the best response of a group learns, by its lead over the second",
        objective=Objective(
            (Term(BestMinusSecond(), Old(), SequenceMeanTokenMean(), mask=Clip(0.2, 0.2)),),
        ),
        source="arXiv 2503.19595",
        certain="the advantage: PKPO's with k = the size of the group, up to that factor",
        ours="not divided by the deviation unless asked for; GRPO's loss",
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
