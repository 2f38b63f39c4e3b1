"""Regularisers: terms on the current policy that no reward enters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.denominator import LOG_RATIO_BOUND


class Regulariser(Protocol):
    """Adds a per-token loss, averaged like the policy loss."""

    signals: ClassVar[frozenset[str]]
    metric: ClassVar[str]

    @property
    def coefficient(self) -> float:
        """The weight in the objective."""
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

    | kind | value            | gradient on log pi | expected gradient, on-policy |
    |------|------------------|--------------------|------------------------------|
    | k2   | l^2 / 2          | l                  | exact                        |
    | k3   | e^-l - 1 + l     | 1 - e^-l           | that of the forward KL       |
    | k3+  | e^-l - 1 + l     | l (straight-through) | exact                      |

    From baselines.md section 4. k1 is refused as a loss: its expected gradient is 0.
    l is clamped to ±20.
    """

    coefficient: float = 0.001
    kind: Literal["k2", "k3", "k3+"] = "k3"
    signals: ClassVar[frozenset[str]] = frozenset({"ref_logprob"})
    metric: ClassVar[str] = "policy/kl_loss"

    def __post_init__(self) -> None:
        if self.kind not in ("k2", "k3", "k3+"):
            raise ValueError(
                f"kind must be k2, k3 or k3+, found {self.kind!r}; k1 has expected gradient 0 as a loss, "
                "it belongs in the reward (shaping kl_in_reward)"
            )
        if self.coefficient < 0:
            raise ValueError(f"coefficient must be 0 or above, found {self.coefficient:g}")

    def __call__(self, logprob_N: Tensor, entropy_N: Tensor | None, batch: TokenBatch) -> Tensor:
        ref_N = torch.where(batch.mask_N, batch.signal("ref_logprob").to(logprob_N.dtype), logprob_N.detach())
        log_ratio_N = (logprob_N - ref_N).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
        k2_N = log_ratio_N.square() / 2
        if self.kind == "k2":
            return k2_N
        k3_N = torch.exp(-log_ratio_N) - 1.0 + log_ratio_N
        return k3_N if self.kind == "k3" else k3_N.detach() + k2_N - k2_N.detach()

    @property
    def formula(self) -> str:
        return f"+ {self.coefficient:g} agg({self.kind}(log pi - log pi_ref))"


@dataclass(frozen=True)
class Entropy:
    """- coefficient * H_t, H_t over the whole vocabulary at the sampling temperature."""

    coefficient: float = 0.01
    signals: ClassVar[frozenset[str]] = frozenset()
    metric: ClassVar[str] = "policy/entropy_loss"

    def __call__(self, logprob_N: Tensor, entropy_N: Tensor | None, batch: TokenBatch) -> Tensor:
        if entropy_N is None:
            raise ValueError("the entropy term needs entropy_N with gradient")
        return -entropy_N

    @property
    def formula(self) -> str:
        return f"- {self.coefficient:g} agg(H_t)"
