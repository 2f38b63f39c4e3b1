"""Reductions over ragged segments: tokens of a sequence, sequences of a group.

Sums are taken in float64, so that their order, and with it packing or permutation, does
not show in the result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch


def segment_sum(value_X: Tensor, segment_X: Tensor, count: int) -> Tensor:
    """Sum of `value_X` [X] over each of `count` segments; float64 [count], 0 where empty."""
    total = torch.zeros(count, dtype=torch.float64, device=value_X.device)
    return total.index_add(0, segment_X, value_X.to(torch.float64))


def masked(value_N: Tensor, mask_N: Tensor) -> Tensor:
    """`value_N` where the mask is True and exactly 0 elsewhere, even where it is NaN."""
    return torch.where(mask_N, value_N, torch.zeros((), dtype=value_N.dtype, device=value_N.device))


def trained_length(batch: TokenBatch, mask_N: Tensor) -> Tensor:
    """Tokens under `mask_N` of each sequence; float64 [S]."""
    return segment_sum(mask_N, batch.sequence_N, batch.S)


class Groups:
    """The groups of a batch: dense ids, sizes, and which ones carry a signal.

    Attributes:
        id_S: int64 [S], from 0 to G-1.
        count: G.
        size_G: float64 [G], sequences in each group.
        informative_G: bool [G], True where the values are not all equal. Tested by
            max > min, because rounding makes the variance of equal floats non-zero.
        mean_G: float64 [G].
    """

    def __init__(self, group_S: Tensor, value_S: Tensor) -> None:
        labels, self.id_S = torch.unique(group_S, return_inverse=True)
        self.count = labels.shape[0]
        self.value_S = value_S.to(torch.float64)
        self.size_G = segment_sum(torch.ones_like(self.value_S), self.id_S, self.count)
        self.mean_G = segment_sum(self.value_S, self.id_S, self.count) / self.size_G
        high = torch.full((self.count,), -torch.inf, dtype=torch.float64, device=value_S.device)
        low = torch.full((self.count,), torch.inf, dtype=torch.float64, device=value_S.device)
        high = high.scatter_reduce(0, self.id_S, self.value_S, "amax")
        low = low.scatter_reduce(0, self.id_S, self.value_S, "amin")
        self.informative_G = high > low

    @property
    def centred_S(self) -> Tensor:
        """Value minus its group's mean; float64 [S], exactly 0 in uninformative groups."""
        centred = self.value_S - self.mean_G[self.id_S]
        return masked(centred, self.informative_G[self.id_S])

    def std_S(self, unbiased: bool) -> Tensor:
        """Standard deviation of each sequence's group; float64 [S]."""
        square_G = segment_sum(self.centred_S.square(), self.id_S, self.count)
        divisor_G = (self.size_G - 1.0).clamp(min=1.0) if unbiased else self.size_G
        return (square_G / divisor_G).sqrt()[self.id_S]
