"""Advantages that compare with nothing, or with the whole batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch


@dataclass(frozen=True)
class Constant:
    """A = value, whatever the reward: supervised learning (arXiv 2509.04419, table 1: SFT has A = 1)."""

    value: float = 1.0
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = False
    reads_rewards: ClassVar[bool] = False

    def __call__(self, batch: TokenBatch) -> Tensor:
        return torch.full((batch.N,), self.value, dtype=torch.float64, device=batch.mask_N.device)

    @property
    def formula(self) -> str:
        return f"A = {self.value:g}"


@dataclass(frozen=True)
class Reward:
    """A_i = R_i - b: plain REINFORCE (Williams 1992).

    Attributes:
        baseline: "none" (b = 0) or "batch" (b = mean reward of the batch).
    """

    baseline: Literal["none", "batch"] = "none"
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = False

    def __call__(self, batch: TokenBatch) -> Tensor:
        reward_S = batch.reward_S
        if self.baseline == "batch" and batch.S:
            rollout_S = ~batch.demonstration_S
            total = torch.where(rollout_S, reward_S, torch.zeros_like(reward_S)).sum()
            reward_S = reward_S - total / rollout_S.sum().clamp(min=1)
        return batch.spread(reward_S)

    @property
    def formula(self) -> str:
        return "A_i = R_i" if self.baseline == "none" else "A_i = R_i - mean(R over the batch)"


@dataclass(frozen=True)
class GreedyBaseline:
    """A_i = R_i - R of the prompt's greedy response: ReMax (arXiv 2310.10505).

    The greedy response's reward arrives as the sequence signal "greedy_reward". It is the task's: what a
    shaping adds to R_i is not in it.
    """

    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset({"greedy_reward"})
    needs_group: ClassVar[bool] = False

    def __call__(self, batch: TokenBatch) -> Tensor:
        greedy_S = batch.sequence_signal("greedy_reward").to(torch.float64)
        return batch.spread(batch.reward_S - greedy_S)

    @property
    def formula(self) -> str:
        return "A_i = R_i - R(greedy response)"
