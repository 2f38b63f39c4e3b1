"""Aggregations: how are tokens averaged?

A part maps the trained tokens of a batch to `weight_N`, such that the aggregated loss is
sum_t weight_t L_t. Denominators count the whole optimizer batch (all micro-batches, all
ranks), one for each update; cutting the batch later never changes them. A sequence without
trained tokens is not counted anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.segments import segment_sum, trained_length


class Aggregation(Protocol):
    """Maps trained tokens to their weights in the loss."""

    def __call__(self, batch: TokenBatch, mask_N: Tensor, update_S: Tensor) -> Tensor:
        """`weight_N`, float64 [N].

        Args:
            mask_N: bool [N], the tokens that count.
            update_S: int64 [S], the optimizer update that each sequence belongs to.
        """
        ...

    @property
    def formula(self) -> str:
        """In the notation of the papers."""
        ...


def _over_updates(value_S: Tensor, update_S: Tensor) -> Tensor:
    """Sum of a sequence value over the sequence's update, given back to each sequence [S]."""
    count = int(update_S.max()) + 1 if update_S.numel() else 0
    return segment_sum(value_S, update_S, count)[update_S]


def _sequence_mean(batch: TokenBatch, mask_N: Tensor, update_S: Tensor) -> tuple[Tensor, Tensor]:
    """(1 / number of live sequences in the update, trained length), both float64 [S]."""
    length_S = trained_length(batch, mask_N)
    live_S = _over_updates((length_S > 0).to(torch.float64), update_S)
    return 1.0 / live_S.clamp(min=1.0), length_S


def _spread(weight_S: Tensor, batch: TokenBatch, mask_N: Tensor) -> Tensor:
    return weight_S[batch.sequence_N] * mask_N.to(torch.float64)


@dataclass(frozen=True)
class TokenMean:
    """sum_t L / sum_t 1 over the whole batch (DAPO)."""

    def __call__(self, batch: TokenBatch, mask_N: Tensor, update_S: Tensor) -> Tensor:
        total_S = _over_updates(trained_length(batch, mask_N), update_S)
        return _spread(1.0 / total_S.clamp(min=1.0), batch, mask_N)

    @property
    def formula(self) -> str:
        return "sum_it L / sum_i n_i"


@dataclass(frozen=True)
class TokenSum:
    """sum_t L."""

    def __call__(self, batch: TokenBatch, mask_N: Tensor, update_S: Tensor) -> Tensor:
        return mask_N.to(torch.float64)

    @property
    def formula(self) -> str:
        return "sum_it L"


@dataclass(frozen=True)
class SequenceMeanTokenSum:
    """mean over sequences of sum_t L (REINFORCE, RLOO: the response as one action)."""

    def __call__(self, batch: TokenBatch, mask_N: Tensor, update_S: Tensor) -> Tensor:
        share_S, _ = _sequence_mean(batch, mask_N, update_S)
        return _spread(share_S, batch, mask_N)

    @property
    def formula(self) -> str:
        return "mean_i sum_t L"


@dataclass(frozen=True)
class SequenceMeanTokenMean:
    """mean over sequences of mean_t L (the original GRPO)."""

    def __call__(self, batch: TokenBatch, mask_N: Tensor, update_S: Tensor) -> Tensor:
        share_S, length_S = _sequence_mean(batch, mask_N, update_S)
        return _spread(share_S / length_S.clamp(min=1.0), batch, mask_N)

    @property
    def formula(self) -> str:
        return "mean_i (1/n_i) sum_t L"


@dataclass(frozen=True)
class SequenceSumOverConstant:
    """mean over sequences of sum_t L / C (Dr. GRPO, arXiv 2503.20783).

    Attributes:
        constant: C; None takes the run's maximum response length.
    """

    constant: float | None = None

    def __post_init__(self) -> None:
        if self.constant is not None and self.constant <= 0:
            raise ValueError(f"constant must be positive, found {self.constant:g}")

    def __call__(self, batch: TokenBatch, mask_N: Tensor, update_S: Tensor) -> Tensor:
        if self.constant is None:
            raise ValueError("the constant C is not set; build the objective with max_response_tokens")
        share_S, _ = _sequence_mean(batch, mask_N, update_S)
        return _spread(share_S / self.constant, batch, mask_N)

    @property
    def formula(self) -> str:
        constant = "max_response_tokens" if self.constant is None else f"{self.constant:g}"
        return f"mean_i (1/C) sum_t L, C = {constant}"
