"""What the heads of a critic learn: returns, or outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from rlpost.estimator import Measures, Prepared, TokenBatch, clipped_value_loss
from rlpost.estimator.outcome import outcome_logits, outcome_loss
from rlpost.learner.critic.report import value_measures

OUTCOME = "outcome"
"""The head of a token reward model."""


class HeadLoss(Protocol):
    """The loss of all heads, a mean over the whole update.

    Attributes:
        metric: the name under which it is reported.
    """

    metric: ClassVar[str]

    def units(self, batch: TokenBatch) -> int:
        """How many of what the mean is over are in these rows."""
        ...

    def __call__(self, value_NK: Tensor, part: Prepared, units: int) -> tuple[Tensor, Measures]:
        """These rows' share of the loss, and what it measures; only called where they have some units.

        Args:
            value_NK: the heads' outputs, with gradient.
            units: of the whole update, on all ranks.
        """
        ...


@dataclass(frozen=True)
class ReturnLoss:
    """Half the squared error of the returns, over heads and sampled tokens; that of PPO's clipped value."""

    heads: tuple[str, ...]
    clip: float | None
    metric: ClassVar[str] = "critic/loss"

    def units(self, batch: TokenBatch) -> int:
        return int(batch.sampled_N.sum())

    def __call__(self, value_NK: Tensor, part: Prepared, units: int) -> tuple[Tensor, Measures]:
        index_M = part.batch.sampled_N.nonzero(as_tuple=True)[0]

        def columns(of: Mapping[str, Tensor]) -> Tensor:
            taken = [of[head].index_select(0, index_M) for head in self.heads]
            return torch.stack(taken, dim=1).to(value_NK.dtype)

        value_MK = value_NK.index_select(0, index_M)
        old_MK, return_MK = columns(part.batch.signals), columns(part.value_targets)
        loss_MK = clipped_value_loss(value_MK, old_MK, return_MK, self.clip)
        loss = loss_MK.sum() / (units * len(self.heads))
        measures = value_measures(value_MK.detach(), old_MK, return_MK, self.clip)
        return loss, Measures(sums={self.metric: loss.detach()}) + measures


@dataclass(frozen=True)
class OutcomeLoss:
    """Cross-entropy of sigma(mean_t w_t) and the outcome, over sequences (arXiv 2502.06781, eq. 12).

    The mean is over the tokens that the policy sampled; a sequence without any is not counted.
    """

    metric: ClassVar[str] = "critic/outcome_loss"

    def units(self, batch: TokenBatch) -> int:
        return int(self._live(batch).sum())

    def __call__(self, value_NK: Tensor, part: Prepared, units: int) -> tuple[Tensor, Measures]:
        live_S = self._live(part.batch)
        logit_R = outcome_logits(value_NK[:, 0], part.batch)[live_S]
        right_R = outcome_logits(part.value_targets[OUTCOME], part.batch)[live_S]
        loss = outcome_loss(logit_R, right_R).sum() / units
        count = live_S.sum().to(torch.float64)
        correct = ((logit_R > 0) == (right_R > 0.5)).sum().to(torch.float64)
        means = {"critic/outcome_accuracy": (correct, count)}
        return loss.to(value_NK.dtype), Measures(sums={self.metric: loss.detach()}, means=means)

    def _live(self, batch: TokenBatch) -> Tensor:
        """bool [S], the sequences with a token that the policy sampled."""
        sampled_S = torch.bincount(batch.sequence_N[batch.sampled_N], minlength=batch.S)
        return sampled_S > 0


def head_loss(heads: tuple[str, ...], clip: float | None) -> HeadLoss:
    """The loss that belongs to these heads.

    Args:
        clip: `critic.value_clip`.
    """
    return OutcomeLoss() if heads == (OUTCOME,) else ReturnLoss(heads, clip)
