"""Corrections: weights for the gap between the sampler's policy and the learner's.

With w_t = pi_old / mu, mu being the sampler's own probability, a correction gives every token a
constant factor, fixed before the first update of a step; factor 0 rejects the token.
Corrections act one after the other on the factors so far: each multiplies them, or sets some to 0.

This is the three-policy form: the ratio pi / pi_old of the term, times the constant w. The two-policy form
needs no correction: with denominator `behaviour` the ratio is pi / mu itself, which spares the forward pass
for pi_old, and lets the mask bound the mismatch too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.denominator import LOG_RATIO_BOUND
from rlpost.estimator.measures import Measures
from rlpost.estimator.segments import masked, sequence_mean, sequence_sum, trained

Renewal = Literal["kept", "renewed"]


class Correction(Protocol):
    """Maps mismatch ratios to factors of the policy loss."""

    signals: ClassVar[frozenset[str]]

    @property
    def denominators(self) -> Renewal:
        """Whether rejected tokens stay in the aggregation's denominators ("kept") or leave them."""
        ...

    def __call__(self, log_weight_N: Tensor, factor_N: Tensor, active_N: Tensor, batch: TokenBatch) -> Tensor:
        """New factors, float64 [N]; only those of active tokens are read.

        Args:
            log_weight_N: log(pi_old / mu) of each token, 0 where unknown; float64 [N].
            factor_N: the factors so far, 1 at first.
            active_N: bool [N], the tokens of the policy loss. A statistic of a whole sequence is
                taken over `batch.mask_N`, all that was sampled.
        """
        ...

    @property
    def formula(self) -> str:
        """In the notation of the papers."""
        ...


def mismatch_log_weight(batch: TokenBatch) -> Tensor:
    """log(pi_old / mu) [N], float64, clamped to ±20; 0 where nothing was sampled or mu is not known.

    A sampler log-prob that is NaN counts as ratio 1 (as in TRL).
    """
    gap_N = batch.signal("old_logprob").to(torch.float64) - batch.signal("behaviour_logprob").to(
        torch.float64
    )
    known_N = batch.sampled_N & ~gap_N.isnan()
    gap_N = gap_N.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return torch.where(known_N, gap_N, 0.0)


def correction_measures(factor_N: Tensor, active_N: Tensor) -> Measures:
    """What a term's corrections together did to the tokens of its policy loss [N]."""
    count = active_N.sum().to(torch.float64)
    rejected = (active_N & (factor_N == 0)).sum().to(torch.float64)
    return Measures(
        means={
            "correction/factor_mean": (masked(factor_N, active_N).sum(), count),
            "correction/rejected_share": (rejected, count),
        }
    )


Level = Literal["token", "sequence"]
_SIGNALS = frozenset({"old_logprob", "behaviour_logprob"})


@dataclass(frozen=True)
class Truncated:
    """factor * min(w, ceiling): truncated importance sampling (TIS).

    Attributes:
        level: "token" has w = w_t; "sequence" has the product of w_t over the sequence, unbiased
            before the truncation, on each of its tokens.
        ceiling: C; inf for the raw weight.
    """

    level: Level = "token"
    ceiling: float = 2.0
    signals: ClassVar[frozenset[str]] = _SIGNALS
    denominators: ClassVar[Renewal] = "kept"

    def __post_init__(self) -> None:
        if self.ceiling <= 0:
            raise ValueError(f"ceiling must be above 0, found {self.ceiling:g}")

    def __call__(self, log_weight_N: Tensor, factor_N: Tensor, active_N: Tensor, batch: TokenBatch) -> Tensor:
        return factor_N * _weight(log_weight_N, self.level, batch).clamp(max=self.ceiling)

    @property
    def formula(self) -> str:
        return f"x min({_SPOKEN[self.level]}, {self.ceiling:g}), w = pi_old / mu"


@dataclass(frozen=True)
class Banded:
    """factor * w where w lies in [low, high], 0 elsewhere: masked importance sampling.

    With level "token" this is IcePop. A rejected token has neither gradient nor loss.

    Attributes:
        level: as in `Truncated`.
        denominators: whether rejected tokens still count in the averages ("kept") or not ("renewed").
    """

    level: Level = "token"
    low: float = 0.5
    high: float = 5.0
    denominators: Renewal = "kept"
    signals: ClassVar[frozenset[str]] = _SIGNALS

    def __post_init__(self) -> None:
        _check_band(self.low, self.high)

    def __call__(self, log_weight_N: Tensor, factor_N: Tensor, active_N: Tensor, batch: TokenBatch) -> Tensor:
        weight_N = _weight(log_weight_N, self.level, batch)
        return torch.where((weight_N >= self.low) & (weight_N <= self.high), factor_N * weight_N, 0.0)

    @property
    def formula(self) -> str:
        weight = _SPOKEN[self.level]
        band = f"[{self.low:g}, {self.high:g}]"
        return f"x {weight} if in {band}, else 0; w = pi_old / mu, denominators {self.denominators}"


@dataclass(frozen=True)
class RatioGate:
    """factor where a statistic of the whole sequence lies in [low, high], 0 elsewhere.

    Survivors keep the factor they have: the gate weighs nothing. Before `truncated` it makes
    seq-mask-TIS.

    Attributes:
        statistic: over the sampled tokens of a sequence, with w = pi_old / mu: "geometric" exp(mean log w),
            "product" exp(sum log w), "k2" mean (log w)^2 / 2, "k3" mean (w - 1 - log w).
        low: None takes 0.99 for the geometric mean, 0.5 for the product and 0 for k2 and k3.
        high: None takes 1.01, 2 and 0.01. A ceiling alone is `low: 0`.
        denominators: as in `Banded`.
    """

    statistic: Literal["geometric", "product", "k2", "k3"] = "geometric"
    low: float | None = None
    high: float | None = None
    denominators: Renewal = "kept"
    signals: ClassVar[frozenset[str]] = _SIGNALS

    def __post_init__(self) -> None:
        _check_band(*self.band)

    @property
    def band(self) -> tuple[float, float]:
        """The ends in force."""
        low, high = _BANDS[self.statistic]
        return low if self.low is None else self.low, high if self.high is None else self.high

    def __call__(self, log_weight_N: Tensor, factor_N: Tensor, active_N: Tensor, batch: TokenBatch) -> Tensor:
        low, high = self.band
        statistic_S = self._statistic(log_weight_N, batch)
        kept_S = (statistic_S >= low) & (statistic_S <= high)
        return torch.where(batch.spread(kept_S), factor_N, 0.0)

    def _statistic(self, log_weight_N: Tensor, batch: TokenBatch) -> Tensor:
        if self.statistic == "product":
            return _product(log_weight_N, batch)
        if self.statistic == "geometric":
            return torch.exp(sequence_mean(log_weight_N, batch))
        k2_N = log_weight_N.square() / 2
        k3_N = torch.expm1(log_weight_N) - log_weight_N
        return sequence_mean(k2_N if self.statistic == "k2" else k3_N, batch)

    @property
    def formula(self) -> str:
        low, high = self.band
        rule = f"x 1 if {_SPOKEN[self.statistic]} in [{low:g}, {high:g}], else 0"
        return f"{rule}; w = pi_old / mu, denominators {self.denominators}"


@dataclass(frozen=True)
class SelfNormalised:
    """factor / mean factor: the factors of the step's active tokens then average to 1.

    The mean is over the whole batch of the step. Tokens that an earlier correction rejected count in it
    with 0, unless they left the denominators.
    """

    signals: ClassVar[frozenset[str]] = _SIGNALS
    denominators: ClassVar[Renewal] = "kept"

    def __call__(self, log_weight_N: Tensor, factor_N: Tensor, active_N: Tensor, batch: TokenBatch) -> Tensor:
        mean = masked(factor_N, active_N).sum() / active_N.sum().clamp(min=1)
        return torch.where(mean > 0, factor_N / mean, 0.0)

    @property
    def formula(self) -> str:
        return "/ mean of the factors over the active tokens"


_BANDS = {"geometric": (0.99, 1.01), "product": (0.5, 2.0), "k2": (0.0, 0.01), "k3": (0.0, 0.01)}
_SPOKEN = {
    "token": "w_t",
    "sequence": "prod_t w_t",
    "geometric": "exp(mean_t log w_t)",
    "product": "prod_t w_t",
    "k2": "mean_t (log w_t)^2 / 2",
    "k3": "mean_t (w_t - 1 - log w_t)",
}


def _check_band(low: float, high: float) -> None:
    if not 0.0 <= low < high:
        raise ValueError(f"the band must have 0 <= low < high, found [{low:g}, {high:g}]")


def _product(log_weight_N: Tensor, batch: TokenBatch) -> Tensor:
    """prod_t w_t of each sequence, float64 [S], its logarithm clamped to ±20."""
    total_S = sequence_sum(trained(log_weight_N, batch), batch)
    return torch.exp(total_S.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND))


def _weight(log_weight_N: Tensor, level: Level, batch: TokenBatch) -> Tensor:
    if level == "token":
        return torch.exp(log_weight_N)
    return batch.spread(_product(log_weight_N, batch))
