"""Shares that grow or shrink over a training run, and how many things a share is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SLACK = 1e-9
"""Rounding of a share, (1 - p) start + p end, that must not decide between two whole numbers."""


def require_shares(**shares: float) -> None:
    """Refuse what is not a share.

    Raises:
        ValueError: one of them lies outside (0, 1].
    """
    for name, share in shares.items():
        if not 0.0 < share <= 1.0:
            raise ValueError(f"{name} must lie in (0, 1], found {share:g}")


def share_at(start: float, end: float, progress: float) -> float:
    """(1 - p) start + p end: linear in the progress of training (D3S, arXiv 2509.22115)."""
    return (1.0 - progress) * start + progress * end


def rounded(share: float, count_G: Tensor) -> Tensor:
    """`share` of each count, to the nearest whole number; int64.

    At least 2 where there are 2 (ours): the variance of one value says nothing.
    """
    size_G = torch.floor(share * count_G.to(torch.float64) + 0.5 + SLACK).to(torch.int64)
    return torch.minimum(size_G.clamp(min=2), count_G)


def rounded_up(share: float, count: int) -> int:
    """`share` of a count, rounded up, and at least 1."""
    return max(1, math.ceil(share * count * (1.0 - SLACK)))


def formula(start: float, end: float) -> str:
    """The share in words: "20 %", or "20 % -> 100 %"."""
    return f"{100 * start:g} %" if start == end else f"{100 * start:g} % -> {100 * end:g} %"
