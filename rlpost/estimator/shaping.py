"""Shapings: changes to the reward before, or to the advantage after, the advantage is formed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.measures import Measures
from rlpost.estimator.segments import (
    masked,
    sequence_mean,
    sequence_sum,
    trained,
    trained_length,
    turn_mean,
)

CONFIDENCE_BOUND = 20.0
"""ACE's c is clamped to ±20, so that one response cannot carry the whole batch (ours)."""


class Shaping(Protocol):
    """Changes rewards [S] and advantages [N]; either may be the identity."""

    @property
    def signals(self) -> frozenset[str]:
        """The token signals it reads; options may decide."""
        ...

    def reward(self, reward_S: Tensor, batch: TokenBatch) -> Tensor:
        """The shaped reward, float64 [S]."""
        ...

    def advantage(self, advantage_N: Tensor, batch: TokenBatch) -> Tensor:
        """The shaped advantage, float64 [N]."""
        ...

    def measures(self, advantage_N: Tensor, batch: TokenBatch) -> Measures:
        """What to report, given the advantage [N] before this shaping."""
        ...

    @property
    def formula(self) -> str:
        """In the notation of the papers."""
        ...


class RewardShaping:
    """A shaping that leaves advantages as they are."""

    def advantage(self, advantage_N: Tensor, batch: TokenBatch) -> Tensor:
        return advantage_N

    def measures(self, advantage_N: Tensor, batch: TokenBatch) -> Measures:
        return Measures()


class AdvantageShaping:
    """A shaping that leaves rewards as they are."""

    def reward(self, reward_S: Tensor, batch: TokenBatch) -> Tensor:
        return reward_S

    def measures(self, advantage_N: Tensor, batch: TokenBatch) -> Measures:
        return Measures()


@dataclass(frozen=True)
class SoftOverlong(RewardShaping):
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13), added to the reward.

    With n = response length: 0 up to limit - cache; then (limit - cache - n) / cache; -1 from
    the limit on; times `factor`. Some implementations leave out the floor of -1; the paper has it.

    Attributes:
        limit: L_max in tokens; None takes the run's maximum response length.
        cache: L_c in tokens; None takes a fifth of the limit (the paper's 4096 of 20480).
    """

    limit: float | None = None
    cache: float | None = None
    factor: float = 1.0
    signals: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit <= 0:
            raise ValueError(f"limit must be positive, found {self.limit:g}")
        if self.limit is not None and self.cache is not None and not 0 < self.cache <= self.limit:
            raise ValueError(f"cache must lie in (0, limit = {self.limit:g}], found {self.cache:g}")

    def reward(self, reward_S: Tensor, batch: TokenBatch) -> Tensor:
        if self.limit is None:
            raise ValueError("the limit is not set; build the objective with max_response_tokens")
        cache = self.limit / 5 if self.cache is None else self.cache
        excess_S = trained_length(batch, batch.mask_N) - (self.limit - cache)
        return reward_S - self.factor * (excess_S / cache).clamp(0.0, 1.0)

    @property
    def formula(self) -> str:
        limit = "max_response_tokens" if self.limit is None else f"{self.limit:g}"
        cache = "L/5" if self.cache is None else f"{self.cache:g}"
        return f"R_i <- R_i - {self.factor:g} clip((n_i - L + c)/c, 0, 1), L = {limit}, c = {cache}"


@dataclass(frozen=True)
class KLInReward(RewardShaping):
    """R_i <- R_i - coefficient * sum_t (log pi_old,t - log pi_ref,t): k1 in the reward (RLOO, PPO).

    k1 belongs here: as a loss its expected gradient is 0.
    """

    coefficient: float = 0.03
    signals: ClassVar[frozenset[str]] = frozenset({"old_logprob", "ref_logprob"})

    def reward(self, reward_S: Tensor, batch: TokenBatch) -> Tensor:
        k1_N = batch.signal("old_logprob") - batch.signal("ref_logprob")
        total_S = sequence_sum(trained(k1_N, batch), batch)
        return reward_S - self.coefficient * torch.where(batch.demonstration_S, 0.0, total_S)

    @property
    def formula(self) -> str:
        return f"R_i <- R_i - {self.coefficient:g} sum_t log(pi_old/pi_ref)"


@dataclass(frozen=True)
class SequenceMeanAdvantage(AdvantageShaping):
    """A_t <- mean of A over the sequence's trained tokens: one advantage for one ratio.

    It sets GSPO apart from GSPO-token where A varies by token (arXiv 2507.18071); where A is
    constant it changes nothing.
    """

    signals: ClassVar[frozenset[str]] = frozenset()

    def advantage(self, advantage_N: Tensor, batch: TokenBatch) -> Tensor:
        return batch.spread(sequence_mean(advantage_N, batch))

    @property
    def formula(self) -> str:
        return "A_t <- mean_t A_t over the sequence"


@dataclass(frozen=True)
class TurnMeanAdvantage(AdvantageShaping):
    """A_t <- Ahat^k / |y^k|, Ahat^k = sum of A over the turn's tokens: one clip a turn (arXiv 2511.20718).

    One min and clip for each turn contributes min(w^k Ahat^k, clip(w^k) Ahat^k). Both sides are linear in
    Ahat^k with a factor that the turn's tokens share, and |y^k| > 0, so the min of the sums is the sum of
    |y^k| equal mins with Ahat^k / |y^k| each: the per-token surrogate with the turn's mean for A_t. The two
    differ from a min and clip for each token only where A changes its sign inside a turn.
    """

    signals: ClassVar[frozenset[str]] = frozenset()

    def advantage(self, advantage_N: Tensor, batch: TokenBatch) -> Tensor:
        return turn_mean(advantage_N, batch)

    @property
    def formula(self) -> str:
        return "A_t <- mean_t A_t over the turn"


@dataclass(frozen=True)
class ACE(AdvantageShaping):
    """A_i <- A_i (1 + alpha softplus(c_i)) where A_i < 0: confident errors weigh more (arXiv 2602.21420).

    c_i = mean_t (log pi_old,t - log pi_ref,t) is how far the policy has moved towards the response. The
    product with softplus(c) is the paper's. Ours: alpha, the policy before the first update in c,
    A < 0 as the mark of an error, c clamped to ±20. On demonstrations it does not act.

    Attributes:
        normalise: c is the mean over the tokens, as in the paper's implementation; False takes the sum.
        neutral: softplus(c) - ln 2 (ours), so that c = 0, where training starts, changes nothing.
    """

    alpha: float = 1.0
    normalise: bool = True
    neutral: bool = False
    signals: ClassVar[frozenset[str]] = frozenset({"old_logprob", "ref_logprob"})

    def __post_init__(self) -> None:
        if self.alpha < 0.0:
            raise ValueError(f"alpha must be 0 or above, found {self.alpha:g}")
        if self.neutral and self.alpha * math.log(2.0) > 1.0:
            raise ValueError(
                f"with neutral, alpha must be at most 1/ln 2 = {1 / math.log(2.0):.4f}, found "
                f"{self.alpha:g}; above, an error that the policy moves away from would be reinforced"
            )

    def advantage(self, advantage_N: Tensor, batch: TokenBatch) -> Tensor:
        multiplier_S = self._multiplier(self._confidence(batch), batch)
        return torch.where(advantage_N < 0.0, advantage_N * batch.spread(multiplier_S), advantage_N)

    def measures(self, advantage_N: Tensor, batch: TokenBatch) -> Measures:
        negative_N = (advantage_N < 0.0) & batch.mask_N
        wrong_S = (sequence_sum(negative_N, batch) > 0) & ~batch.demonstration_S
        confidence_S = self._confidence(batch)
        count = wrong_S.sum().to(torch.float64)
        multiplier_S = self._multiplier(confidence_S, batch)
        return Measures(
            means={
                "ace/confidence_wrong_mean": (masked(confidence_S, wrong_S).sum(), count),
                "ace/overconfident_share": ((wrong_S & (confidence_S > 0.0)).sum().to(torch.float64), count),
                "ace/multiplier_mean": (masked(multiplier_S, wrong_S).sum(), count),
            }
        )

    def _confidence(self, batch: TokenBatch) -> Tensor:
        """c_i, float64 [S]; 0 for a response without trained tokens."""
        gap_N = masked(batch.signal("old_logprob") - batch.signal("ref_logprob"), batch.mask_N)
        shift_S = sequence_sum(gap_N, batch)
        if self.normalise:
            shift_S = shift_S / trained_length(batch, batch.mask_N).clamp(min=1.0)
        return shift_S.clamp(-CONFIDENCE_BOUND, CONFIDENCE_BOUND)

    def _multiplier(self, confidence_S: Tensor, batch: TokenBatch) -> Tensor:
        # softplus has an option to turn linear above a threshold, which is not its definition.
        softplus_S = torch.logaddexp(confidence_S, torch.zeros_like(confidence_S))
        penalty_S = softplus_S - math.log(2.0) if self.neutral else softplus_S
        return torch.where(batch.demonstration_S, 1.0, 1.0 + self.alpha * penalty_S)

    @property
    def formula(self) -> str:
        reduction, shift = ("mean_t" if self.normalise else "sum_t"), (" - ln 2" if self.neutral else "")
        confidence = f"c_i = {reduction} log(pi_old/pi_ref)"
        return f"A_i <- A_i (1 + {self.alpha:g} (softplus(c_i){shift})) where A_i < 0, {confidence}"
