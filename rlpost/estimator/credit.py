"""Shapings for rewards that are right or wrong, and nothing else (OREAL, arXiv 2502.06781)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.measures import Measures
from rlpost.estimator.outcome import Credit, credit_weights
from rlpost.estimator.shaping import AdvantageShaping, RewardShaping


@dataclass(frozen=True)
class SignedReward(RewardShaping):
    """R_i <- 1 if R_i >= success, else -1: the outcome as OREAL's judge gives it.

    Leave-one-out advantages are then 2 (1 - p) K / (K - 1) and -2 p K / (K - 1), twice those of 0 and 1.

    Attributes:
        success: a response is right from this reward on.
    """

    success: float = 1.0
    signals: ClassVar[frozenset[str]] = frozenset()

    def reward(self, reward_S: Tensor, batch: TokenBatch) -> Tensor:
        return torch.where(reward_S >= self.success, 1.0, -1.0).to(torch.float64)

    @property
    def formula(self) -> str:
        return f"R_i <- 1 if R_i >= {self.success:g} else -1"


@dataclass(frozen=True)
class OutcomeCredit(AdvantageShaping):
    """A_t <- A_t omega+_t on right responses, A_t omega-_t on wrong ones: credit by a token reward model.

    omega+ = max(2 c_t - 1, 0), omega- = max(1 - 2 c_t, 0), c_t = sigma of the model's logits w (eq. 10):
    right responses are learnt where the model takes them for right, wrong ones unlearnt where it takes them
    for wrong. The model is trained beside the policy, as a critic whose head is "outcome"; a head that is
    still zero gives every token 0. On demonstrations the shaping does not act.

    Attributes:
        credit: "prefix_mean" takes c_t of the mean of w over the tokens so far (the published code), "raw" of
            w_t alone (the paper). "top_share" takes it of the prefix mean, stretches each sequence's largest
            values to [0, 1] and gives the other tokens 0 (an option of the code). "uniform" is 1 on every
            token, without a reward model.
        share: of the tokens that "top_share" takes; read by that alone.
        success: a response is right from this task reward on, before any shaping.
    """

    credit: Credit = "prefix_mean"
    share: float = 0.25
    success: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share must lie in (0, 1], found {self.share:g}")

    @property
    def heads(self) -> tuple[str, ...]:
        """The signals of the critic's heads that it reads, and has learnt: "outcome", or none."""
        return () if self.credit == "uniform" else ("outcome",)

    @property
    def signals(self) -> frozenset[str]:
        return frozenset(self.heads)

    def targets(self, batch: TokenBatch) -> dict[str, Tensor]:
        """What each head is to learn: 1 on the tokens of right responses, 0 elsewhere; float64 [N]."""
        right_N = batch.spread(self._right(batch)) & batch.mask_N
        return {head: right_N.to(torch.float64) for head in self.heads}

    def advantage(self, advantage_N: Tensor, batch: TokenBatch) -> Tensor:
        return advantage_N * self._weights(batch)

    def measures(self, advantage_N: Tensor, batch: TokenBatch) -> Measures:
        if not self.heads:
            return Measures()
        weight_N, sampled_N = self._weights(batch), batch.sampled_N
        right_N = batch.spread(self._right(batch))

        def over(value_N: Tensor, where_N: Tensor) -> tuple[Tensor, Tensor]:
            return (value_N * where_N).sum().to(torch.float64), where_N.sum().to(torch.float64)

        return Measures(
            means={
                "credit/weight_mean_right": over(weight_N, sampled_N & right_N),
                "credit/weight_mean_wrong": over(weight_N, sampled_N & ~right_N),
                "credit/zero_share": over(weight_N == 0.0, sampled_N),
            }
        )

    def _right(self, batch: TokenBatch) -> Tensor:
        return batch.reward_S >= self.success

    def _weights(self, batch: TokenBatch) -> Tensor:
        if not self.heads:
            return batch.mask_N.to(torch.float64)
        weight_N = credit_weights(batch.signal("outcome"), self._right(batch), batch, self.credit, self.share)
        return torch.where(batch.spread(batch.demonstration_S), 1.0, weight_N)

    @property
    def formula(self) -> str:
        score = "w_t" if self.credit == "raw" else "mean of w_1..w_t"
        made = {
            "uniform": "omega_t = 1",
            "top_share": f"omega_t = the top {100 * self.share:g} % of c_t (of 1 - c_t), stretched to [0, 1]",
        }.get(self.credit, "omega_t = max(2 c_t - 1, 0)")
        of = (
            ""
            if self.credit == "uniform"
            else f", c_t = sigma({score}); 1 - c_t for c_t where R_i < {self.success:g}"
        )
        return f"A_t <- omega_t A_t, {made}{of}"
