"""How much more probable a teacher finds a token than the policy that sampled it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.measures import Measures
from rlpost.estimator.segments import masked, trained


@dataclass(frozen=True)
class TeacherGap:
    """A_t = log pi_T(a_t) - log pi_old(a_t): on-policy distillation (arXiv 2306.13649, 2306.08543).

    On tokens that the policy sampled, the expectation of A_t grad log pi(a_t) is minus the gradient of the
    reverse KL(pi || pi_T) of the next token, given what was sampled before it. What a token does to later
    ones is left out (discount 0), as arXiv 2306.13649 does, which takes the whole distribution's KL where
    this takes the sampled token's share. The signals are in nats at the temperature of the rollouts.

    Attributes:
        clip: |A_t| is cut to this; 0 leaves it. A cut gap is no longer unbiased, and keeps one token that
            the teacher rules out from outweighing all others.
    """

    clip: float = 0.0
    signals: ClassVar[frozenset[str]] = frozenset({"teacher_logprob", "old_logprob"})
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = False
    reads_rewards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.clip < 0:
            raise ValueError(f"clip must be 0 or above, found {self.clip:g}")

    def __call__(self, batch: TokenBatch) -> Tensor:
        gap_N = self._gap(batch)
        return gap_N.clamp(-self.clip, self.clip) if self.clip else gap_N

    def measures(self, batch: TokenBatch) -> Measures:
        """Over the sampled tokens, before the step: the reverse KL, and what the teacher thinks of them."""
        sampled_N = batch.sampled_N
        gap_N = masked(self._gap(batch), sampled_N)
        teacher_N = masked(batch.signal("teacher_logprob").to(torch.float64), sampled_N)
        count = sampled_N.sum().to(torch.float64)
        means = {
            "distil/reverse_kl": (-gap_N.sum(), count),
            "distil/teacher_logprob_mean": (teacher_N.sum(), count),
        }
        if self.clip:
            means["distil/clipped_share"] = ((gap_N.abs() > self.clip).sum().to(torch.float64), count)
        return Measures(means=means)

    def _gap(self, batch: TokenBatch) -> Tensor:
        gap_N = batch.signal("teacher_logprob").to(torch.float64) - batch.signal("old_logprob")
        return trained(gap_N, batch)

    @property
    def formula(self) -> str:
        gap = "log pi_T,t - log pi_old,t"
        return f"A_t = clip({gap}, -{self.clip:g}, {self.clip:g})" if self.clip else f"A_t = {gap}"
