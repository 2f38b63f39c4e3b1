"""DCPO's clip, whose band widens as the token gets rarer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.mask.clip import capped, pessimistic
from rlpost.estimator.mask.mask import Masked, Ratios


@dataclass(frozen=True)
class DynamicClip:
    """A clip of |(rho - 1) pi| instead of |rho - 1| (DCPO, arXiv 2509.02333, eq. 3 and 4).

    With q = pi_old of the token:

        low(q)  = 1/2 + 1/2 sqrt(max(1 - 4 low / q, 0))
        high(q) = min(1/2 + 1/2 sqrt(1 + 4 high / q), ceiling)

    PPO's clip acts between them, and a token with A < 0 is held at rho = ceiling. The defaults meet
    the band 1 +- 0.2 at q = 1 (below) and q = 1/1.2 (above). That the ceiling bounds tokens of
    negative advantage as a dual clip does is the authors' code; the paper says it in words.

    Attributes:
        low: bound of the weighted deviation below; eps (1 - eps) for a base eps.
        high: bound of it above; the base eps.
        ceiling: largest ratio for either sign of A.
    """

    low: float = 0.16
    high: float = 0.2
    ceiling: float = 10.0
    signals: ClassVar[frozenset[str]] = frozenset()
    bounds_ratio: ClassVar[bool] = True
    is_token: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (self.low > 0.0 and self.high > 0.0):
            raise ValueError(f"low and high must be above 0, found {self.low:g} and {self.high:g}")
        if self.ceiling <= 1.0:
            raise ValueError(f"ceiling must exceed 1, found {self.ceiling:g}")

    def bounds(self, log_old_N: Tensor) -> tuple[Tensor, Tensor]:
        """(low, high) of each token's ratio, from log pi_old [N]; 1/q may overflow without harm."""
        inverse_N = torch.exp(-log_old_N)
        low_N = 0.5 + 0.5 * (1.0 - 4.0 * self.low * inverse_N).clamp(min=0.0).sqrt()
        high_N = 0.5 + 0.5 * (1.0 + 4.0 * self.high * inverse_N).sqrt()
        return low_N, high_N.clamp(max=self.ceiling)

    def __call__(self, at: Ratios, batch: TokenBatch) -> Masked:
        low_N, high_N = self.bounds(at.logprob_N - at.log_ratio_N)
        return capped(pessimistic(at, at.ratio_N.clamp(low_N, high_N)), at, self.ceiling)

    @property
    def formula(self) -> str:
        return (
            f"m = 0 iff (A>0 and rho>min((1+sqrt(1+{4 * self.high:g}/q))/2, {self.ceiling:g})) or (A<0 and "
            f"(rho<(1+sqrt(max(1-{4 * self.low:g}/q, 0)))/2 or rho>{self.ceiling:g})), q = pi_den"
        )
