"""Gates: with which weight does each sequence enter a term?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.measures import Measures
from rlpost.estimator.segments import Groups, sequence_mean


class Gate(Protocol):
    """Maps a whole batch, before any selection, to the weights of its sequences in one term."""

    @property
    def signals(self) -> frozenset[str]:
        """The token signals it reads; options may decide."""
        ...

    def __call__(self, batch: TokenBatch) -> Tensor:
        """`weight_S`, float64 [S]; a sequence of weight 0 is not in the term at all."""
        ...

    def measures(self, batch: TokenBatch) -> Measures:
        """What to report; shares, so that two terms may report the same."""
        ...

    @property
    def formula(self) -> str:
        """In the notation of the papers."""
        ...


class _Unmeasured:
    """A gate with nothing to report."""

    def measures(self, batch: TokenBatch) -> Measures:
        return Measures()


@dataclass(frozen=True)
class Open(_Unmeasured):
    """Every sequence with weight 1."""

    signals: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, batch: TokenBatch) -> Tensor:
        return torch.ones(batch.S, dtype=torch.float64, device=batch.group_S.device)

    @property
    def formula(self) -> str:
        return "1"


@dataclass(frozen=True)
class RewardGate(_Unmeasured):
    """1[R >= success], or 1[R < success] with side "wrong": rollouts of one outcome; demonstrations have 0.

    Attributes:
        side: "right" or "wrong".
        success: a rollout is right from this reward on.
    """

    side: Literal["right", "wrong"] = "right"
    success: float = 1.0
    signals: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, batch: TokenBatch) -> Tensor:
        right_S = batch.reward_S >= self.success
        chosen_S = right_S if self.side == "right" else ~right_S
        return (chosen_S & ~batch.demonstration_S).to(torch.float64)

    @property
    def formula(self) -> str:
        sign = ">=" if self.side == "right" else "<"
        return f"1 if R_i {sign} {self.success:g}, else 0"


@dataclass(frozen=True)
class PreferredGate(_Unmeasured):
    """1 where a sequence has the highest reward of its prompt and the rewards differ, else 0.

    Of a pair of demonstrations the preferred one, and of a group of rollouts the best: what is imitated
    beside a preference.
    """

    signals: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, batch: TokenBatch) -> Tensor:
        groups = Groups(batch.group_S, batch.reward_S)
        best_S = groups.value_S == groups.high_G[groups.id_S]
        return (best_S & groups.informative_G[groups.id_S]).to(torch.float64)

    @property
    def formula(self) -> str:
        return "1 if R_i is the prompt's highest and another's is lower, else 0"


@dataclass(frozen=True)
class EntropyWeight(_Unmeasured):
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
        return self.scale * torch.exp(self.slope * sequence_mean(batch.signal("entropy").detach(), batch))

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

    def measures(self, batch: TokenBatch) -> Measures:
        return sum((gate.measures(batch) for gate in self.gates), Measures())

    @property
    def formula(self) -> str:
        return "; times ".join(gate.formula for gate in self.gates)
