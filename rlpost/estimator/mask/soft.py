"""SAPO's gate, which fades a token out instead of dropping it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.mask.mask import Masked, Ratios


@dataclass(frozen=True)
class SoftGate:
    """m = 4 sigma(x) (1 - sigma(x)), x = tau (rho - 1) (SAPO, arXiv 2511.20347).

    The loss is -A (4/tau) sigma(x), whose value at rho = 1 is -2 A / tau: its gradients compare
    with PPO's, its values do not.

    Attributes:
        positive: tau where A > 0.
        negative: tau elsewhere; larger, so that unwanted tokens fade out sooner.
    """

    positive: float = 1.0
    negative: float = 1.05
    signals: ClassVar[frozenset[str]] = frozenset()
    bounds_ratio: ClassVar[bool] = True
    is_token: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (self.positive > 0.0 and self.negative > 0.0):
            found = f"{self.positive:g} and {self.negative:g}"
            raise ValueError(f"positive and negative must be above 0, found {found}")

    def __call__(self, at: Ratios, batch: TokenBatch) -> Masked:
        tau_N = torch.where(at.advantage_N > 0, torch.full_like(at.ratio_N, self.positive), self.negative)
        x_N = tau_N * (at.ratio_N - 1.0)
        open_N = torch.sigmoid(x_N)
        return Masked(4.0 * open_N * torch.sigmoid(-x_N), 4.0 / tau_N * open_N)

    @property
    def formula(self) -> str:
        taus = f"tau = {self.positive:g} if A>0 else {self.negative:g}"
        return f"m = 4 s (1 - s), s = sigmoid(tau (rho - 1)), {taus}"
