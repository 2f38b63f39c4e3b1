"""Masks: which tokens are safe to update?

A mask multiplies the gradient of a token: 0 drops it, 1 keeps it, values between are soft
gates. Where a token is dropped, the paper's loss still has a (constant) value: `held_N`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch


@dataclass(frozen=True)
class Masked:
    """What a mask decided.

    Attributes:
        multiplier_N: float [N], of the gradient.
        held_N: float [N], the factor of -A in the loss value where `multiplier_N` is 0.
    """

    multiplier_N: Tensor
    held_N: Tensor


class Mask(Protocol):
    """Maps ratios and advantages to gradient multipliers."""

    def __call__(self, ratio_N: Tensor, advantage_N: Tensor, batch: TokenBatch) -> Masked:
        """The decision for every token, from detached ratios over the granularity's span."""
        ...

    @property
    def formula(self) -> str:
        """In the notation of the papers."""
        ...


@dataclass(frozen=True)
class Keep:
    """Every token is updated."""

    def __call__(self, ratio_N: Tensor, advantage_N: Tensor, batch: TokenBatch) -> Masked:
        return Masked(torch.ones_like(ratio_N), torch.zeros_like(ratio_N))

    @property
    def formula(self) -> str:
        return "m = 1"


@dataclass(frozen=True)
class Clip:
    """PPO's clip (arXiv 1707.06347): 0 where a step would push the ratio further outside the band.

    m = 0 iff (A > 0 and rho > 1 + high) or (A < 0 and rho < 1 - low). The loss value is
    max(-A rho, -A clip(rho, 1 - low, 1 + high)).

    Attributes:
        low: distance below 1.
        high: distance above 1; DAPO's clip-higher makes it larger than `low`.
    """

    low: float = 0.2
    high: float = 0.2

    def __post_init__(self) -> None:
        if not (0.0 < self.low <= 1.0 and self.high > 0.0):
            raise ValueError(f"low must lie in (0, 1] and high above 0, found {self.low:g} and {self.high:g}")

    def __call__(self, ratio_N: Tensor, advantage_N: Tensor, batch: TokenBatch) -> Masked:
        above_N = (advantage_N > 0) & (ratio_N > 1.0 + self.high)
        below_N = (advantage_N < 0) & (ratio_N < 1.0 - self.low)
        keep_N = (~(above_N | below_N)).to(ratio_N.dtype)
        return Masked(keep_N, ratio_N.clamp(1.0 - self.low, 1.0 + self.high))

    @property
    def formula(self) -> str:
        return f"m = 0 iff (A>0 and rho>{1 + self.high:g}) or (A<0 and rho<{1 - self.low:g})"


@dataclass(frozen=True)
class DualClip:
    """PPO's clip, and 0 where A < 0 and rho > ceiling (arXiv 1912.09729)."""

    low: float = 0.2
    high: float = 0.2
    ceiling: float = 3.0

    def __post_init__(self) -> None:
        Clip(self.low, self.high)
        if self.ceiling <= 1.0 + self.high:
            raise ValueError(f"ceiling must exceed 1 + high = {1 + self.high:g}, found {self.ceiling:g}")

    def __call__(self, ratio_N: Tensor, advantage_N: Tensor, batch: TokenBatch) -> Masked:
        inner = Clip(self.low, self.high)(ratio_N, advantage_N, batch)
        far_N = (advantage_N < 0) & (ratio_N > self.ceiling)
        return Masked(
            inner.multiplier_N * (~far_N).to(ratio_N.dtype),
            torch.where(far_N, torch.full_like(ratio_N, self.ceiling), inner.held_N),
        )

    @property
    def formula(self) -> str:
        return f"{Clip(self.low, self.high).formula} or (A<0 and rho>{self.ceiling:g})"
