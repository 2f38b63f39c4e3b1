"""Gates: with which weight does each sequence enter a term?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.segments import segment_sum, sequence_mean


class Gate(Protocol):
    """Maps a whole batch, before any selection, to the weights of its sequences in one term."""

    @property
    def signals(self) -> frozenset[str]:
        """The token signals it reads; options may decide."""
        ...

    def __call__(self, batch: TokenBatch) -> Tensor:
        """`weight_S`, float64 [S]; a sequence of weight 0 is not in the term at all."""
        ...

    @property
    def formula(self) -> str:
        """In the notation of the papers."""
        ...


@dataclass(frozen=True)
class Open:
    """Every sequence with weight 1."""

    signals: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, batch: TokenBatch) -> Tensor:
        return torch.ones(batch.S, dtype=torch.float64, device=batch.group_S.device)

    @property
    def formula(self) -> str:
        return "1"


@dataclass(frozen=True)
class PassRateGate:
    """1[P > threshold] or 1[P <= threshold], P the share of the prompt's rollouts that succeed.

    HPT's switch between learning from rollouts and from a demonstration (arXiv 2509.04419, eq. 10). It
    compares counts, k > floor(threshold n + 1e-9), so that 2 of 8 is never above 2/8. The task's reward
    counts, before any shaping. Every row of the prompt has the same weight; a prompt without
    rollouts has no P and weight 0 on either side.

    Attributes:
        threshold: gamma. 1 or above sends every prompt to the "at_most" side, below 0 to the other.
        success: a rollout succeeds from this reward on.
        side: "above" for the rollouts' term, "at_most" for the demonstrations'.
    """

    threshold: float = 0.0
    success: float = 1.0
    side: Literal["above", "at_most"] = "above"
    signals: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, batch: TokenBatch) -> Tensor:
        labels, group_S = torch.unique(batch.group_S, return_inverse=True)
        rollout_S = ~batch.demonstration_S
        size_G = segment_sum(rollout_S, group_S, labels.shape[0])
        right_G = segment_sum(rollout_S & (batch.reward_S >= self.success), group_S, labels.shape[0])
        above_G = right_G > torch.floor(self.threshold * size_G + 1e-9)
        open_G = above_G if self.side == "above" else ~above_G
        return (open_G & (size_G > 0)).to(torch.float64)[group_S]

    @property
    def formula(self) -> str:
        sign = ">" if self.side == "above" else "<="
        return f"1 if P {sign} {self.threshold:g}, else 0; P = share of the prompt's R >= {self.success:g}"


@dataclass(frozen=True)
class EntropyWeight:
    """w_i = scale exp(slope mean_t H_t): how undecided the policy is about the whole sequence.

    SRFT as arXiv 2509.04419's code has it: 0.5 e^-H for demonstrations, so that those far from the
    policy count less, and 0.1 e^H for right rollouts. H is the entropy before the first update, in nats.

    Attributes:
        scale: the weight of a sequence without any entropy.
        slope: factor of the mean entropy in the exponent.
    """

    scale: float = 0.5
    slope: float = -1.0
    signals: ClassVar[frozenset[str]] = frozenset({"entropy"})

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"scale must be above 0, found {self.scale:g}")

    def __call__(self, batch: TokenBatch) -> Tensor:
        return self.scale * torch.exp(self.slope * sequence_mean(batch.signal("entropy"), batch))

    @property
    def formula(self) -> str:
        return f"{self.scale:g} exp({self.slope:g} mean_t H_t)"


@dataclass(frozen=True)
class AllGates:
    """Several gates at once: a sequence's weight is the product of theirs."""

    gates: tuple[Gate, ...]

    def __post_init__(self) -> None:
        if len(self.gates) < 2:
            raise ValueError(f"needs at least 2 gates, found {len(self.gates)}")

    @property
    def signals(self) -> frozenset[str]:
        return frozenset().union(*(gate.signals for gate in self.gates))

    def __call__(self, batch: TokenBatch) -> Tensor:
        weight_S = self.gates[0](batch)
        for gate in self.gates[1:]:
            weight_S = weight_S * gate(batch)
        return weight_S

    @property
    def formula(self) -> str:
        return "; times ".join(gate.formula for gate in self.gates)
