"""Regularisers: terms on the current policy that no reward enters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.denominator import LOG_RATIO_BOUND

KLKind = Literal["k1", "k2", "k3", "k3+", "k3w", "k3_old", "abs"]


class Regulariser(Protocol):
    """Adds a per-token loss, averaged like the policy loss.

    Attributes:
        metric: the name under which its loss is reported.
        key: its name in a configuration, and among the coefficients of a run's state.
        measured: the metric that an adaptive coefficient follows.
    """

    metric: ClassVar[str]
    key: ClassVar[str]
    measured: ClassVar[str]

    @property
    def signals(self) -> frozenset[str]:
        """What it reads beside the current policy."""
        ...

    @property
    def coefficient(self) -> float:
        """The weight in the objective."""
        ...

    @property
    def is_adaptive(self) -> bool:
        """True when the coefficient follows `measured` from step to step."""
        ...

    def with_coefficient(self, coefficient: float) -> Regulariser:
        """The same with another coefficient."""
        ...

    def next_coefficient(self, measured: float, samples: int) -> float:
        """The coefficient after a step that measured this, over so many responses."""
        ...

    def applied(self, measured: float | None) -> float:
        """The weight in force in the step that follows such a measurement; None when there is none yet."""
        ...

    def __call__(self, logprob_N: Tensor, entropy_N: Tensor | None, batch: TokenBatch) -> Tensor:
        """The loss per token [N], before the coefficient, with gradient."""
        ...

    @property
    def formula(self) -> str:
        """In the notation of the papers."""
        ...


@dataclass(frozen=True)
class KL:
    """coefficient * KL(pi || pi_ref), estimated per token from l = log pi - log pi_ref.

    | kind   | value            | gradient on log pi | expected gradient, on-policy |
    |--------|------------------|--------------------|------------------------------|
    | k1     | l                | 1                  | 0                            |
    | k2     | l^2 / 2          | l                  | exact                        |
    | k3     | e^-l - 1 + l     | 1 - e^-l           | that of the forward KL       |
    | k3+    | e^-l - 1 + l     | l (straight-through) | exact                      |
    | k3w    | k3 pi / sg(pi)   | l                  | exact                        |
    | k3_old | k3 pi / pi_old   | l pi / pi_old      | exact also off policy        |
    | abs    | abs(l)           | sign(l)            | biased                       |

    k1 is for the record: as a loss it is refused in a configuration. l and
    log(pi / pi_old) are clamped to ±20. Demonstrations have no pi_old; their factor in k3_old is 1.

    With a `target` the coefficient adapts after each step (arXiv 1909.08593), n being its responses:
    coefficient <- coefficient (1 + clip(KL / target - 1, ±0.2) n / horizon), at most halved (ours).

    Attributes:
        coefficient: the weight, the first one when it adapts.
        kind: the estimator.
        target: of the mean KL per token, in nats, as in "policy/kl_ref_k3". The published targets are
            for whole responses; None keeps the coefficient.
        horizon: responses after which a deviation of 20% or more has changed it by about a fifth.
    """

    coefficient: float = 0.001
    kind: KLKind = "k3"
    target: float | None = None
    horizon: float = 10000.0
    metric: ClassVar[str] = "policy/kl_loss"
    key: ClassVar[str] = "kl"
    measured: ClassVar[str] = "policy/kl_ref_k3"

    def __post_init__(self) -> None:
        if self.coefficient < 0:
            raise ValueError(f"coefficient must be 0 or above, found {self.coefficient:g}")
        if self.target is not None and self.target <= 0:
            raise ValueError(f"target must be above 0, found {self.target:g}")
        if self.target is not None and self.coefficient == 0:
            raise ValueError("an adaptive coefficient is multiplied from step to step; it cannot start at 0")
        if self.horizon <= 0:
            raise ValueError(f"horizon must be above 0, found {self.horizon:g}")

    @property
    def signals(self) -> frozenset[str]:
        return frozenset({"ref_logprob", "old_logprob"} if self.kind == "k3_old" else {"ref_logprob"})

    @property
    def is_adaptive(self) -> bool:
        return self.target is not None

    def with_coefficient(self, coefficient: float) -> Regulariser:
        return replace(self, coefficient=coefficient)

    def next_coefficient(self, measured: float, samples: int) -> float:
        if self.target is None:
            return self.coefficient
        error = min(max(measured / self.target - 1.0, -0.2), 0.2)
        return self.coefficient * max(1.0 + error * samples / self.horizon, 0.5)

    def applied(self, measured: float | None) -> float:
        return self.coefficient

    def __call__(self, logprob_N: Tensor, entropy_N: Tensor | None, batch: TokenBatch) -> Tensor:
        ref_N = torch.where(batch.mask_N, batch.signal("ref_logprob").to(logprob_N.dtype), logprob_N.detach())
        log_ratio_N = (logprob_N - ref_N).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
        if self.kind == "k1":
            return log_ratio_N
        if self.kind == "abs":
            return log_ratio_N.abs()
        k2_N = log_ratio_N.square() / 2
        if self.kind == "k2":
            return k2_N
        k3_N = torch.exp(-log_ratio_N) - 1.0 + log_ratio_N
        if self.kind == "k3+":
            return k3_N.detach() + k2_N - k2_N.detach()
        return k3_N if self.kind == "k3" else k3_N * self._weight(logprob_N, batch)

    def _weight(self, logprob_N: Tensor, batch: TokenBatch) -> Tensor:
        """pi / sg(pi), or pi / pi_old, with gradient [N]."""
        base_N = logprob_N.detach()
        if self.kind == "k3_old" and not batch.on_policy:
            sampled_N = batch.sampled_N
            base_N = torch.where(sampled_N, batch.signal("old_logprob").to(logprob_N.dtype), base_N)
        return torch.exp((logprob_N - base_N).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND))

    @property
    def formula(self) -> str:
        rule = "" if self.target is None else f", coefficient follows a target of {self.target:g}"
        return f"+ {self.coefficient:g} agg({self.kind}(log pi - log pi_ref)){rule}"


@dataclass(frozen=True)
class Entropy:
    """- coefficient * H_t, H_t over the whole vocabulary at the sampling temperature.

    With a `target` the coefficient c adapts after each step (Skywork-OR1): c rises by `step` where
    H <= target and falls by it elsewhere, inside [0, maximum]; it is in force only while
    H <= target. H is the previous step's mean (ours: it is known before the step's first update).

    Attributes:
        coefficient: the weight, the first one when it adapts.
        target: the least entropy wanted, in nats a token; None keeps the coefficient.
        step: change of an adaptive coefficient a step.
        maximum: the most that an adaptive coefficient can reach.
    """

    coefficient: float = 0.01
    target: float | None = None
    step: float = 0.005
    maximum: float = 1.0
    signals: ClassVar[frozenset[str]] = frozenset()
    metric: ClassVar[str] = "policy/entropy_loss"
    key: ClassVar[str] = "entropy"
    measured: ClassVar[str] = "policy/entropy"

    def __post_init__(self) -> None:
        if self.target is not None and not (self.target > 0 and self.step > 0):
            raise ValueError(f"target and step must be above 0, found {self.target:g} and {self.step:g}")
        if self.target is not None and not 0 <= self.coefficient <= self.maximum:
            raise ValueError(
                f"an adaptive coefficient must lie in [0, maximum = {self.maximum:g}], "
                f"found {self.coefficient:g}"
            )

    @property
    def is_adaptive(self) -> bool:
        return self.target is not None

    def with_coefficient(self, coefficient: float) -> Regulariser:
        return replace(self, coefficient=coefficient)

    def next_coefficient(self, measured: float, samples: int) -> float:
        if self.target is None:
            return self.coefficient
        change = self.step if measured <= self.target else -self.step
        return min(max(self.coefficient + change, 0.0), self.maximum)

    def applied(self, measured: float | None) -> float:
        idle = self.target is not None and measured is not None and measured > self.target
        return 0.0 if idle else self.coefficient

    def __call__(self, logprob_N: Tensor, entropy_N: Tensor | None, batch: TokenBatch) -> Tensor:
        if entropy_N is None:
            raise ValueError("the entropy term needs entropy_N with gradient")
        return -entropy_N

    @property
    def formula(self) -> str:
        rule = "" if self.target is None else f", coefficient follows a target of {self.target:g}"
        return f"- {self.coefficient:g} agg(H_t){rule}"
