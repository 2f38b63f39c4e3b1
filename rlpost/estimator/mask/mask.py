"""What every mask sees and decides; the two that need no threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch


@dataclass(frozen=True)
class Ratios:
    """What a mask sees of the current policy; nothing carries gradient.

    Attributes:
        ratio_N: pi / pi_den over the granularity's span [N].
        log_ratio_N: log(pi / pi_den) of the token itself [N].
        logprob_N: log pi of the token [N].
        advantage_N: [N].
    """

    ratio_N: Tensor
    log_ratio_N: Tensor
    logprob_N: Tensor
    advantage_N: Tensor


@dataclass(frozen=True)
class Masked:
    """What a mask decided.

    Attributes:
        multiplier_N: float [N], of the gradient.
        value_N: float [N], the factor of -A in the paper's loss; the ratio where nothing acts.
            Not read with denominators whose loss is linear in log pi.
    """

    multiplier_N: Tensor
    value_N: Tensor


class Mask(Protocol):
    """Maps ratios and advantages to gradient multipliers."""

    @property
    def signals(self) -> frozenset[str]:
        """What it reads beside the ratios."""
        ...

    @property
    def bounds_ratio(self) -> bool:
        """True where it bounds the ratio of two policies, which must then exist."""
        ...

    @property
    def is_token(self) -> bool:
        """True where its bounds belong to a token's own probability, not to a span's ratio."""
        ...

    def __call__(self, at: Ratios, batch: TokenBatch) -> Masked:
        """The decision for every token."""
        ...

    @property
    def formula(self) -> str:
        """In the notation of the papers."""
        ...


@dataclass(frozen=True)
class Keep:
    """Every token is updated."""

    signals: ClassVar[frozenset[str]] = frozenset()
    bounds_ratio: ClassVar[bool] = False
    is_token: ClassVar[bool] = False

    def __call__(self, at: Ratios, batch: TokenBatch) -> Masked:
        return Masked(torch.ones_like(at.ratio_N), at.ratio_N)

    @property
    def formula(self) -> str:
        return "m = 1"


@dataclass(frozen=True)
class AllOf:
    """Several masks at once: a token is updated by the product of their multipliers.

    The first one's value counts where the others keep the token; where they drop it, the token
    has no value. So `[clip, off_policy_sequence]` is PPO's loss without the dropped sequences.
    """

    masks: tuple[Mask, ...]

    def __post_init__(self) -> None:
        if len(self.masks) < 2:
            raise ValueError(f"needs at least 2 masks, found {len(self.masks)}")

    @property
    def signals(self) -> frozenset[str]:
        return frozenset().union(*(mask.signals for mask in self.masks))

    @property
    def bounds_ratio(self) -> bool:
        return any(mask.bounds_ratio for mask in self.masks)

    @property
    def is_token(self) -> bool:
        return any(mask.is_token for mask in self.masks)

    def __call__(self, at: Ratios, batch: TokenBatch) -> Masked:
        first, *others = (mask(at, batch) for mask in self.masks)
        multiplier_N, value_N = first.multiplier_N, first.value_N
        for other in others:
            multiplier_N = multiplier_N * other.multiplier_N
            value_N = value_N * other.multiplier_N
        return Masked(multiplier_N, value_N)

    @property
    def formula(self) -> str:
        return "; and ".join(mask.formula for mask in self.masks)
