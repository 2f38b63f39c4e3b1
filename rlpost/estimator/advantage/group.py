"""Advantages that compare a response with the others of its prompt.

A group without signal (one member, or equal rewards) gets exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.segments import Groups, masked, segment_sum, trained_length


@dataclass(frozen=True)
class LeaveOneOut:
    """A_i = R_i - mean_{j != i} R_j = G/(G-1) (R_i - mean R): RLOO (arXiv 2402.14740)."""

    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = True

    def __call__(self, batch: TokenBatch) -> Tensor:
        groups = Groups(batch.group_S, batch.reward_S)
        size_S = groups.size_G[groups.id_S]
        advantage_S = groups.centred_S * size_S / (size_S - 1.0).clamp(min=1.0)
        return batch.spread(advantage_S)

    @property
    def formula(self) -> str:
        return "A_i = R_i - mean(R_j, j != i)"


@dataclass(frozen=True)
class GroupCentred:
    """A_i = R_i - mean R: Dr. GRPO (arXiv 2503.20783)."""

    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = True

    def __call__(self, batch: TokenBatch) -> Tensor:
        return batch.spread(Groups(batch.group_S, batch.reward_S).centred_S)

    @property
    def formula(self) -> str:
        return "A_i = R_i - mean(R)"


@dataclass(frozen=True)
class GroupNormalised:
    """A_i = (R_i - mean R) / (std R + epsilon): GRPO (arXiv 2402.03300).

    The paper does not say which standard deviation it takes. The unbiased one ("sample",
    divide by G-1) and epsilon 1e-6 are what most implementations use, and our default.

    Attributes:
        std: "sample" divides by G-1, "population" by G.
    """

    std: Literal["sample", "population"] = "sample"
    epsilon: float = 1e-6
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.epsilon < 0:
            raise ValueError(f"epsilon must be 0 or above, found {self.epsilon:g}")

    def per_sequence(self, group_S: Tensor, reward_S: Tensor) -> Tensor:
        """The same of any rewards [S]; float64 [S]."""
        groups = Groups(group_S, reward_S)
        advantage_S = groups.centred_S / (groups.std_S(self.std == "sample") + self.epsilon)
        return masked(advantage_S, groups.informative_G[groups.id_S])

    def __call__(self, batch: TokenBatch) -> Tensor:
        return batch.spread(self.per_sequence(batch.group_S, batch.reward_S))

    @property
    def formula(self) -> str:
        return f"A_i = (R_i - mean(R)) / (std_{self.std}(R) + {self.epsilon:g})"


@dataclass(frozen=True)
class LeaveOneOutNormalised:
    """A_i = (R_i - mean_{j != i} R_j) / (std_{j != i} R_j + epsilon): NeMo-RL's default form of GRPO's.

    The deviation is the unbiased one of the others. Where the others are all equal nothing is divided:
    a lone success among G is not scaled (A = 1) while its siblings are, and a group of two never is.
    """

    epsilon: float = 1e-6
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.epsilon < 0:
            raise ValueError(f"epsilon must be 0 or above, found {self.epsilon:g}")

    def __call__(self, batch: TokenBatch) -> Tensor:
        groups = Groups(batch.group_S, batch.reward_S)
        size_S, centred_S = groups.size_G[groups.id_S], groups.centred_S
        gap_S = centred_S * size_S / (size_S - 1.0).clamp(min=1.0)
        square_S = segment_sum(centred_S.square(), groups.id_S, groups.count)[groups.id_S]
        # Leaving out i lowers the sum of squares by c_i^2 G / (G - 1).
        others_S = (square_S - centred_S * gap_S).clamp(min=0.0) / (size_S - 2.0).clamp(min=1.0)
        scaled_S = (others_S > 0) & ~_others_equal(groups)
        return batch.spread(torch.where(scaled_S, gap_S / (others_S.sqrt() + self.epsilon), gap_S))

    @property
    def formula(self) -> str:
        others = "R_j, j != i"
        return f"A_i = (R_i - mean({others})) / (std({others}) + {self.epsilon:g}), undivided where std = 0"


def _others_equal(groups: Groups) -> Tensor:
    """bool [S], whether the rest of the group has one value; exactly, by comparisons alone."""
    alone_S = torch.zeros_like(groups.id_S, dtype=torch.bool)
    for value_S, edge_G, other_edge_G in (
        (groups.value_S, groups.high_G, groups.low_G),
        (-groups.value_S, -groups.low_G, -groups.high_G),
    ):
        at_edge_S = value_S == edge_G[groups.id_S]
        single_G = segment_sum(at_edge_S, groups.id_S, groups.count) == 1
        next_G = groups.largest(torch.where(at_edge_S, -torch.inf, value_S))
        alone_S = alone_S | (at_edge_S & (single_G & (next_G == other_edge_G))[groups.id_S])
    return alone_S | ~groups.informative_G[groups.id_S]


@dataclass(frozen=True)
class MaxRL:
    """A_i = (R_i - mean R) / (mean R + epsilon), 0 where mean R <= 0: MaxRL (arXiv 2602.02710).

    For rewards of 0 and 1 this weighs a prompt by the inverse of its success rate.
    """

    epsilon: float = 1e-6
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.epsilon < 0:
            raise ValueError(f"epsilon must be 0 or above, found {self.epsilon:g}")

    def __call__(self, batch: TokenBatch) -> Tensor:
        groups = Groups(batch.group_S, batch.reward_S)
        mean_S = groups.mean_G[groups.id_S]
        return batch.spread(masked(groups.centred_S / (mean_S + self.epsilon), mean_S > 0))

    @property
    def formula(self) -> str:
        return f"A_i = (R_i - mean(R)) / (mean(R) + {self.epsilon:g}), 0 where mean(R) <= 0"


@dataclass(frozen=True)
class LengthWeighted:
    """A_i = R_i - sum_j n_j R_j / sum_j n_j, n_j trained tokens: OPO (arXiv 2505.23585).

    The baseline of least variance when the squared score of a response grows with its length. A group
    whose responses are all empty has no baseline, and no token to show it.
    """

    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = True

    def __call__(self, batch: TokenBatch) -> Tensor:
        groups = Groups(batch.group_S, batch.reward_S)
        length_S = trained_length(batch, batch.mask_N)
        length_G = segment_sum(length_S, groups.id_S, groups.count)
        # Around the group's mean, so that the weighted mean of equal rewards is exact.
        weighted_G = segment_sum(length_S * groups.centred_S, groups.id_S, groups.count)
        return batch.spread(groups.centred_S - (weighted_G / length_G.clamp(min=1.0))[groups.id_S])

    @property
    def formula(self) -> str:
        return "A_i = R_i - sum_j n_j R_j / sum_j n_j"
