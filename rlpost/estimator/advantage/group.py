"""Advantages that compare a response with the others of its prompt.

A group without signal (one member, or equal rewards) gets exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.segments import Groups


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
        return advantage_S[batch.sequence_N]

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
        return Groups(batch.group_S, batch.reward_S).centred_S[batch.sequence_N]

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

    def __call__(self, batch: TokenBatch) -> Tensor:
        groups = Groups(batch.group_S, batch.reward_S)
        advantage_S = groups.centred_S / (groups.std_S(self.std == "sample") + self.epsilon)
        return torch.where(groups.informative_G[groups.id_S], advantage_S, 0.0)[batch.sequence_N]

    @property
    def formula(self) -> str:
        return f"A_i = (R_i - mean(R)) / (std_{self.std}(R) + {self.epsilon:g})"
