"""Masks that measure the distance of two policies instead of their ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.mask.mask import Masked, Ratios
from rlpost.estimator.segments import masked, sequence_sum, trained_length


@dataclass(frozen=True)
class TotalVariation:
    """m = 0 iff (A > 0 and pi - q > high) or (A < 0 and q - pi > low) (DPPO, arXiv 2602.04879).

    |pi - q| of the sampled token bounds the total variation between the policies from below. q is the
    probability under the term's denominator: the sampler with `behaviour`, as in the paper. A
    dropped token has the loss value 0.
    """

    low: float = 0.2
    high: float = 0.2
    signals: ClassVar[frozenset[str]] = frozenset()
    bounds_ratio: ClassVar[bool] = True
    is_token: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (0.0 < self.low <= 1.0 and 0.0 < self.high <= 1.0):
            raise ValueError(f"low and high must lie in (0, 1], found {self.low:g} and {self.high:g}")

    def __call__(self, at: Ratios, batch: TokenBatch) -> Masked:
        rise_N = torch.exp(at.logprob_N) - torch.exp(at.logprob_N - at.log_ratio_N)
        dropped_N = ((at.advantage_N > 0) & (rise_N > self.high)) | (
            (at.advantage_N < 0) & (rise_N < -self.low)
        )
        kept_N = (~dropped_N).to(at.ratio_N.dtype)
        return Masked(kept_N, at.ratio_N * kept_N)

    @property
    def formula(self) -> str:
        return f"m = 0 iff (A>0 and pi-q>{self.high:g}) or (A<0 and q-pi>{self.low:g}), q = pi_den"


@dataclass(frozen=True)
class OffPolicySequence:
    """m = 0 iff A < 0 and mean_t(log pi_other - log pi) > threshold (OPSM; DeepSeek-V3.2, arXiv 2512.02556).

    The mean is over the sequence's trained tokens. Where A varies inside a sequence, its tokens
    with A < 0 are dropped (ours). A dropped token has the loss value 0.

    Attributes:
        threshold: delta in nats a token. The published values range from 1e-4 to 0.5.
        against: "old" compares with the learner's policy at sampling; on policy nothing is dropped.
            "sampler" compares with the engine's own log-probs; an unknown one counts as no gap.
    """

    threshold: float = 0.5
    against: Literal["old", "sampler"] = "old"
    bounds_ratio: ClassVar[bool] = False
    is_token: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.threshold < 0:
            raise ValueError(f"threshold must be 0 or above, found {self.threshold:g}")

    @property
    def signals(self) -> frozenset[str]:
        return frozenset({"old_logprob" if self.against == "old" else "behaviour_logprob"})

    def __call__(self, at: Ratios, batch: TokenBatch) -> Masked:
        far_N = batch.spread(self._gap(at.logprob_N, batch)) > self.threshold
        kept_N = (~((at.advantage_N < 0) & far_N)).to(at.ratio_N.dtype)
        return Masked(kept_N, at.ratio_N * kept_N)

    def _gap(self, logprob_N: Tensor, batch: TokenBatch) -> Tensor:
        """mean_t(log pi_other - log pi) of each sequence, float64 [S]; 0 for demonstrations."""
        if self.against == "old" and batch.on_policy:
            return torch.zeros(batch.S, dtype=torch.float64, device=logprob_N.device)
        (name,) = self.signals
        gap_N = batch.signal(name).to(torch.float64) - logprob_N.to(torch.float64)
        known_N = batch.mask_N & ~gap_N.isnan()
        total_S = sequence_sum(masked(gap_N, known_N), batch)
        mean_S = total_S / trained_length(batch, batch.mask_N).clamp(min=1.0)
        return torch.where(batch.demonstration_S, 0.0, mean_S)

    @property
    def formula(self) -> str:
        other = "pi_old" if self.against == "old" else "mu"
        return f"m = 0 iff A<0 and mean_t log({other}/pi) > {self.threshold:g}"
