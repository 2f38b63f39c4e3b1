"""Denominators: relative to which policy is the gradient weighted?

A denominator gives log(pi_theta / pi_den) per token. The gradient weighs each token by that
ratio; the paper's loss value uses it in its own way (`value`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch

LOG_RATIO_BOUND = 20.0
"""Log ratios are clamped to ±20 before exp, so that e^30 cannot overflow a sum (ours, as in verl)."""


class Denominator(Protocol):
    """Maps current log-probs to log ratios."""

    signals: ClassVar[frozenset[str]]
    is_current: ClassVar[bool]

    def log_ratio(self, logprob_N: Tensor, batch: TokenBatch) -> Tensor:
        """log pi_theta - log pi_den [N] for detached `logprob_N`; clamped to ±20."""
        ...

    def weight(self, ratio_N: Tensor) -> Tensor:
        """What multiplies A * grad log pi, given the ratio over its span [N]."""
        ...

    def value(self, ratio_N: Tensor, logprob_N: Tensor) -> Tensor | None:
        """What multiplies -A in the paper's loss value [N]; a token that the mask drops has none.

        None where that is the ratio, so that the mask decides (a clip holds it at the band's end).
        """
        ...

    @property
    def formula(self) -> str:
        """In the notation of the papers."""
        ...


def _difference(logprob_N: Tensor, other_N: Tensor) -> Tensor:
    return (logprob_N - other_N).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)


def _old(logprob_N: Tensor, batch: TokenBatch) -> Tensor:
    if batch.on_policy:
        return torch.zeros_like(logprob_N)
    return _difference(logprob_N, batch.signal("old_logprob").to(logprob_N.dtype))


def _of_one(logprob_N: Tensor) -> Tensor:
    """The log ratio to pi_den = 1."""
    return logprob_N.clamp(min=-LOG_RATIO_BOUND)


class _Ratio:
    """A ratio that weighs the gradient, and enters the loss value, as it is."""

    is_current: ClassVar[bool] = False

    def weight(self, ratio_N: Tensor) -> Tensor:
        return ratio_N

    def value(self, ratio_N: Tensor, logprob_N: Tensor) -> Tensor | None:
        return None


@dataclass(frozen=True)
class Current:
    """pi_den = sg(pi_theta): the ratio is 1 (REINFORCE, SFT).

    Attributes:
        loss: the value reported, -A times log pi or times the ratio; the gradient is the same.
    """

    loss: Literal["log_probability", "ratio"] = "log_probability"
    signals: ClassVar[frozenset[str]] = frozenset()
    is_current: ClassVar[bool] = True

    def log_ratio(self, logprob_N: Tensor, batch: TokenBatch) -> Tensor:
        return torch.zeros_like(logprob_N)

    def weight(self, ratio_N: Tensor) -> Tensor:
        return ratio_N

    def value(self, ratio_N: Tensor, logprob_N: Tensor) -> Tensor | None:
        return logprob_N if self.loss == "log_probability" else None

    @property
    def formula(self) -> str:
        return "pi_den = sg(pi)"


@dataclass(frozen=True)
class Old(_Ratio):
    """pi_den = pi_old, the learner's weights when the batch was sampled (PPO, GRPO)."""

    signals: ClassVar[frozenset[str]] = frozenset({"old_logprob"})

    def log_ratio(self, logprob_N: Tensor, batch: TokenBatch) -> Tensor:
        return _old(logprob_N, batch)

    @property
    def formula(self) -> str:
        return "pi_den = pi_old"


@dataclass(frozen=True)
class Behaviour(_Ratio):
    """pi_den = mu, the policy as the engine sampled from it (the two-policy form).

    A sampler log-prob that is NaN counts as ratio 1 (as in TRL).
    """

    signals: ClassVar[frozenset[str]] = frozenset({"behaviour_logprob"})

    def log_ratio(self, logprob_N: Tensor, batch: TokenBatch) -> Tensor:
        sampler_N = batch.signal("behaviour_logprob").to(logprob_N.dtype)
        return _difference(logprob_N, torch.where(sampler_N.isnan(), logprob_N, sampler_N))

    @property
    def formula(self) -> str:
        return "pi_den = mu (sampler)"


@dataclass(frozen=True)
class Clipped:
    """pi_den = pi_theta / clip(rho, low, high): CISPO (arXiv 2506.13585); no token is dropped.

    Attributes:
        low: absolute lower end of the band for rho = pi/pi_old.
        high: absolute upper end. Frameworks differ in units; these are the ends themselves.
    """

    low: float = 0.0
    high: float = 5.0
    signals: ClassVar[frozenset[str]] = frozenset({"old_logprob"})
    is_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.low <= 1.0 <= self.high:
            raise ValueError(f"the band [{self.low:g}, {self.high:g}] must hold 1 and start at 0 or above")

    def log_ratio(self, logprob_N: Tensor, batch: TokenBatch) -> Tensor:
        return _old(logprob_N, batch)

    def weight(self, ratio_N: Tensor) -> Tensor:
        return ratio_N.clamp(self.low, self.high)

    def value(self, ratio_N: Tensor, logprob_N: Tensor) -> Tensor:
        return ratio_N.clamp(self.low, self.high) * logprob_N

    @property
    def formula(self) -> str:
        return f"pi_den = pi / clip(pi/pi_old, {self.low:g}, {self.high:g})"


@dataclass(frozen=True)
class Unit:
    """pi_den = 1: off-policy data of unknown probability (LUFFY, SRFT; arXiv 2509.04419, table 1).

    The gradient is that of -A pi, and of DFT's -A sg(pi) log pi: supervised tokens weighted by
    their own probability.

    Attributes:
        loss: the value reported: "probability" (-A pi, SRFT) or "log_probability" (-A pi log pi, DFT).
    """

    loss: Literal["probability", "log_probability"] = "probability"
    signals: ClassVar[frozenset[str]] = frozenset()
    is_current: ClassVar[bool] = False

    def log_ratio(self, logprob_N: Tensor, batch: TokenBatch) -> Tensor:
        return _of_one(logprob_N)

    def weight(self, ratio_N: Tensor) -> Tensor:
        return ratio_N

    def value(self, ratio_N: Tensor, logprob_N: Tensor) -> Tensor | None:
        return None if self.loss == "probability" else ratio_N * logprob_N

    @property
    def formula(self) -> str:
        return "pi_den = 1" if self.loss == "probability" else "pi_den = 1, loss -A sg(pi) log pi"


@dataclass(frozen=True)
class ShapedUnit:
    """pi_den = 1 under LUFFY's shaping: the loss is -A f(pi), f(x) = x / (x + constant) (arXiv 2504.14945).

    f'(pi) = constant / (pi + constant)^2 lifts the gradient of rare tokens; nothing is clipped.
    """

    constant: float = 0.1
    signals: ClassVar[frozenset[str]] = frozenset()
    is_current: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.constant <= 0:
            raise ValueError(f"constant must be above 0, found {self.constant:g}")

    def log_ratio(self, logprob_N: Tensor, batch: TokenBatch) -> Tensor:
        return _of_one(logprob_N)

    def weight(self, ratio_N: Tensor) -> Tensor:
        return self.constant * ratio_N / (ratio_N + self.constant).square()

    def value(self, ratio_N: Tensor, logprob_N: Tensor) -> Tensor:
        return ratio_N / (ratio_N + self.constant)

    @property
    def formula(self) -> str:
        return f"pi_den = 1 / f'(pi), f(x) = x / (x + {self.constant:g})"
