"""Clips around a ratio of 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.mask.mask import Masked, Ratios


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
    signals: ClassVar[frozenset[str]] = frozenset()
    bounds_ratio: ClassVar[bool] = True
    is_token: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (0.0 < self.low <= 1.0 and self.high > 0.0):
            raise ValueError(f"low must lie in (0, 1] and high above 0, found {self.low:g} and {self.high:g}")

    def __call__(self, at: Ratios, batch: TokenBatch) -> Masked:
        return pessimistic(at, at.ratio_N.clamp(1.0 - self.low, 1.0 + self.high))

    @property
    def formula(self) -> str:
        return f"m = 0 iff (A>0 and rho>{1 + self.high:g}) or (A<0 and rho<{1 - self.low:g})"


@dataclass(frozen=True)
class DualClip:
    """PPO's clip, and 0 where A < 0 and rho > ceiling (arXiv 1912.09729)."""

    low: float = 0.2
    high: float = 0.2
    ceiling: float = 3.0
    signals: ClassVar[frozenset[str]] = frozenset()
    bounds_ratio: ClassVar[bool] = True
    is_token: ClassVar[bool] = False

    def __post_init__(self) -> None:
        Clip(self.low, self.high)
        if self.ceiling <= 1.0 + self.high:
            raise ValueError(f"ceiling must exceed 1 + high = {1 + self.high:g}, found {self.ceiling:g}")

    def __call__(self, at: Ratios, batch: TokenBatch) -> Masked:
        held_N = at.ratio_N.clamp(1.0 - self.low, 1.0 + self.high)
        return capped(pessimistic(at, held_N), at, self.ceiling)

    @property
    def formula(self) -> str:
        return f"{Clip(self.low, self.high).formula} or (A<0 and rho>{self.ceiling:g})"


def pessimistic(at: Ratios, held_N: Tensor) -> Masked:
    """max(-A rho, -A held): no gradient where the second is larger. `held_N` is rho cut to its band [N]."""
    # By the sign of A, because the product with a small A could underflow.
    dropped_N = (at.ratio_N - held_N) * at.advantage_N.sign() > 0
    return Masked((~dropped_N).to(at.ratio_N.dtype), torch.where(dropped_N, held_N, at.ratio_N))


def capped(inner: Masked, at: Ratios, ceiling: float) -> Masked:
    """`inner`, and no gradient where A < 0 and rho > ceiling: the loss is held at -A ceiling."""
    far_N = (at.advantage_N < 0) & (at.ratio_N > ceiling)
    return Masked(
        inner.multiplier_N * (~far_N).to(at.ratio_N.dtype),
        torch.where(far_N, torch.full_like(at.ratio_N, ceiling), inner.value_N),
    )
