"""Selections that keep the sequences whose advantages vary most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.segments import sequence_mean
from rlpost.estimator.selection import schedule
from rlpost.estimator.selection.selection import Selected

Scope = Literal["batch", "group"]

TIE = 1e-9
"""Variances that differ by less than this part of the squared range are equal: prefix sums round."""


@dataclass(frozen=True)
class MaxVariance:
    """The rollouts whose advantages have the largest variance, of the batch or of each group.

    `scope: group` with a constant share is the max-variance rule of PODS (arXiv 2504.13818), with the
    share growing the sample level of D3S (arXiv 2509.22115). Nothing is kept when all advantages (of
    every group) are equal. A sequence's advantage is the mean over its trained tokens, 0 without any.
    Demonstrations neither compete nor count; they stay.

    Attributes:
        scope: "batch" compares all rollouts of the step, "group" those of each prompt.
        start: share of the rollouts (of the batch, or of each group) at the start of training.
        end: the same at its end; linear in between.
    """

    scope: Scope = "batch"
    start: float = 0.25
    end: float = 1.0
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    before_advantages: ClassVar[bool] = False

    def __post_init__(self) -> None:
        schedule.require_shares(start=self.start, end=self.end)

    def __call__(self, batch: TokenBatch, advantage_N: Tensor) -> Selected:
        rollout_S = ~batch.demonstration_S
        value_R = sequence_mean(advantage_N, batch)[rollout_S]
        group_R = batch.group_S[rollout_S] if self.scope == "group" else torch.zeros_like(value_R)
        _, segment_R, count_G = torch.unique(group_R, return_inverse=True, return_counts=True)
        size_G = schedule.rounded(schedule.share_at(self.start, self.end, batch.progress), count_G)
        keep_S = batch.demonstration_S.clone()
        keep_S[rollout_S] = max_variance_subset(value_R, segment_R, size_G)
        return Selected(keep_S)

    @property
    def formula(self) -> str:
        where = "the batch" if self.scope == "batch" else "each group"
        return f"argmax Var(A) over subsets of {schedule.formula(self.start, self.end)} of {where}"


def max_variance_subset(value_R: Tensor, segment_R: Tensor, size_G: Tensor) -> Tensor:
    """Of every segment, the subset of the given size with the largest variance; exact.

    Such a subset holds the k largest and the size - k smallest values for some k, so
    one sort and prefix sums over all splits find it. Ties: the smallest k, then the original order.

    Args:
        value_R: float64 [R].
        segment_R: int64 [R], from 0 to G-1, every one of them present.
        size_G: int64 [G], from 1 to the segment's number of values.

    Returns:
        bool [R]; False everywhere when no segment holds two different values.
    """
    count_G = torch.bincount(segment_R, minlength=size_G.shape[0])
    scaled_R = _scaled(value_R, segment_R, count_G)
    if not bool(scaled_R.any()):
        return torch.zeros_like(segment_R, dtype=torch.bool)
    order_R = torch.argsort(value_R, descending=True, stable=True)
    order_R = order_R[torch.argsort(segment_R[order_R], stable=True)]
    begin_G = count_G.cumsum(0) - count_G
    largest_G = _best_split(scaled_R[order_R], begin_G, count_G, size_G)
    owner_R = segment_R[order_R]
    rank_R = torch.arange(len(order_R), device=value_R.device) - begin_G[owner_R]
    from_top_R = rank_R < largest_G[owner_R]
    from_bottom_R = rank_R >= (count_G - size_G + largest_G)[owner_R]
    return torch.zeros_like(from_top_R).index_copy(0, order_R, from_top_R | from_bottom_R)


def _scaled(value_R: Tensor, segment_R: Tensor, count_G: Tensor) -> Tensor:
    """Values moved and stretched to [0, 1] in each segment, 0 where all are equal: the same argmax.

    So that large values in one segment cost no precision in another.
    """
    low_G = torch.full(count_G.shape, torch.inf, dtype=value_R.dtype, device=value_R.device)
    low_G = low_G.scatter_reduce(0, segment_R, value_R, "amin")
    above_R = value_R - low_G[segment_R]
    range_G = torch.zeros_like(low_G).scatter_reduce(0, segment_R, above_R, "amax")
    return above_R / torch.where(range_G > 0, range_G, 1.0)[segment_R]


def _best_split(sorted_R: Tensor, begin_G: Tensor, count_G: Tensor, size_G: Tensor) -> Tensor:
    """The smallest number k of largest values whose subset attains the largest variance; int64 [G]."""
    zero = sorted_R.new_zeros(1)
    sum_R = torch.cat([zero, sorted_R.cumsum(0)])
    square_R = torch.cat([zero, sorted_R.square().cumsum(0)])
    splits_G = size_G + 1
    owner_K = torch.repeat_interleave(torch.arange(len(size_G), device=size_G.device), splits_G)
    k_K = torch.arange(len(owner_K), device=size_G.device) - (splits_G.cumsum(0) - splits_G)[owner_K]
    begin_K, size_K = begin_G[owner_K], size_G[owner_K]
    end_K = begin_K + count_G[owner_K]
    bottom_K = end_K - size_K + k_K

    def mean(total_R: Tensor) -> Tensor:
        total_K = total_R[begin_K + k_K] - total_R[begin_K] + total_R[end_K] - total_R[bottom_K]
        return total_K / size_K

    variance_K = mean(square_R) - mean(sum_R).square()
    best_G = torch.full_like(begin_G, -torch.inf, dtype=sorted_R.dtype)
    best_G = best_G.scatter_reduce(0, owner_K, variance_K, "amax")
    attains_K = variance_K >= best_G[owner_K] - TIE
    return size_G.scatter_reduce(0, owner_K, torch.where(attains_K, k_K, size_K), "amin")
