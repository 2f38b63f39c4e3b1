"""Corrections: weights for the gap between the sampler's policy and the learner's (baselines.md section 7).

With w_t = pi_old / mu, mu being the sampler's own probability, a correction gives every token a
constant factor, fixed before the first update of a step; factor 0 rejects the token.
Corrections act one after the other on the factors so far.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.denominator import LOG_RATIO_BOUND

Renewal = Literal["kept", "renewed"]


class Correction(Protocol):
    """Maps mismatch ratios to factors of the policy loss."""

    signals: ClassVar[frozenset[str]]

    @property
    def denominators(self) -> Renewal:
        """Whether rejected tokens stay in the aggregation's denominators ("kept") or leave them."""
        ...

    def __call__(self, log_weight_N: Tensor, factor_N: Tensor, active_N: Tensor, batch: TokenBatch) -> Tensor:
        """New factors, float64 [N]; only those of active tokens are read.

        Args:
            log_weight_N: log(pi_old / mu) of each token, 0 where unknown; float64 [N].
            factor_N: the factors so far, 1 at first.
            active_N: bool [N], the tokens of the policy loss. A statistic of a whole sequence is
                taken over `batch.mask_N`, all that was sampled.
        """
        ...

    @property
    def formula(self) -> str:
        """In the notation of the papers."""
        ...


def mismatch_log_weight(batch: TokenBatch) -> Tensor:
    """log(pi_old / mu) [N], float64, clamped to ±20; 0 where nothing was sampled or mu is not known.

    A sampler log-prob that is NaN counts as ratio 1 (as in TRL).
    """
    gap_N = batch.signal("old_logprob").to(torch.float64) - batch.signal("behaviour_logprob").to(
        torch.float64
    )
    known_N = batch.mask_N & ~gap_N.isnan() & ~batch.demonstration_S[batch.sequence_N]
    gap_N = gap_N.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return torch.where(known_N, gap_N, 0.0)
