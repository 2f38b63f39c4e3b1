"""The passes of an update: forward and backward over a rank's rows, one micro-batch after the other."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlpost.config.schema import TrainConfig
from rlpost.data.collate import ModelInputs
from rlpost.estimator import Measures, Objective, Prepared
from rlpost.estimator.one_token import one_token_measures
from rlpost.learner.heads.one_token_head import Rollouts
from rlpost.learner.local_update import LocalUpdate, on_cpu
from rlpost.learner.microbatch import BLANK, cut, oversized
from rlpost.learner.policy import Policy
from rlpost.learner.ranks import Ranks


@dataclass(frozen=True)
class Scaling:
    """What an objective's transform does to the gradient of one update; the same on every rank.

    Attributes:
        factor: of the gradient.
        removed_norm: the norm of the gradient that masks removed.
        passes: backward passes over rows, the one that is scaled included; 0 without a transform.
    """

    factor: float = 1.0
    removed_norm: float = 0.0
    passes: int = 0

    @property
    def fault(self) -> str | None:
        """What is not finite, in words; None when all is well."""
        finite = math.isfinite(self.removed_norm)
        return None if finite else f"the gradient that masks removed has norm {self.removed_norm}"

    def report(self) -> dict[str, float]:
        """The update's metrics of it; none without a transform."""
        if not self.passes:
            return {}
        return {
            "gradient/clipping_bias": self.removed_norm,
            "gradient/clipping_scale": self.factor,
            "learner/passes": float(self.passes),
        }


class GradientPasses(ABC):
    """Gradients of whole updates, from a backend's forward and backward passes over a few rows."""

    policy: Policy
    _train: TrainConfig
    _ranks: Ranks

    def accumulate(
        self,
        inputs: ModelInputs,
        prepared: Prepared,
        objective: Objective,
        temperature: float,
        factor: float = 1.0,
    ) -> LocalUpdate:
        """Forward and backward passes over this rank's rows, one for each micro-batch.

        The loss is divided by denominators of the whole update before it is cut, so gradients are
        summed over micro-batches and over ranks, and never averaged.

        Args:
            factor: of the gradient; the loss that is reported is without it.
        """
        if prepared.batch.length_S.tolist() != [len(r) for r in inputs.response_ids]:
            raise ValueError("the rows of the inputs are not those of the prepared batch")
        loss, measures = 0.0, Measures()

        def forward(rows: ModelInputs, part: Prepared) -> Tensor:
            nonlocal loss, measures
            rollouts = Rollouts.of(objective, part)
            found = self._logprobs(rows, temperature, objective.needs_entropy_gradient, rollouts)
            output = objective.loss(found[0], part, found[1], None if rollouts is None else found[2])
            loss += float(output.loss.detach())
            measures = measures + on_cpu(output.measures)
            if rollouts is not None:
                tried = one_token_measures(rollouts.actions, found[3].detach(), rollouts.tried_N)
                measures = measures + on_cpu(tried)
            return output.loss if factor == 1.0 else output.loss * factor

        microbatches = self._pass(inputs, prepared, forward, ends=not self._critic_follows)
        limit, trained = self._train.tokens_per_microbatch, int(prepared.trained_N.sum())
        return LocalUpdate(loss, measures, trained, microbatches, oversized(inputs.lengths, limit))

    def scaling(
        self, inputs: ModelInputs, prepared: Prepared, objective: Objective, temperature: float
    ) -> Scaling:
        """What the objective's transform does to the gradient that `accumulate` will sum.

        The gradient of what the masks removed is summed over micro-batches and ranks before its norm is
        taken, and then forgotten: no backend must hold two gradients. Costs a forward pass over this rank's
        rows, which finds the removed tokens, and, where any rank has some, a forward and a backward pass over
        the sequences that hold them. On policy nothing is removed, and nothing is computed.
        """
        if objective.transform is None:
            return Scaling()
        held = self._removing(inputs, prepared, objective, temperature)
        counts = self._ranks.gather({"sequences": len(held)})
        if not any(count["sequences"] for count in counts):
            return Scaling(objective.transform.scale(0.0), 0.0, passes=1)

        def forward(rows: ModelInputs, part: Prepared) -> Tensor:
            logprob_N = self._logprobs(rows, temperature, False)[0]
            removed = objective.loss(logprob_N, part).removed
            return logprob_N.sum() * 0.0 if removed is None else removed

        part = prepared.rows(torch.tensor(held, dtype=torch.int64))
        self._pass(inputs.rows(held), part, forward, ends=True)
        norm = float(self._summed_norm())
        self._discard_gradient()
        factor = objective.transform.scale(norm) if math.isfinite(norm) else 1.0
        return Scaling(factor, norm, passes=2)

    def _removing(
        self, inputs: ModelInputs, prepared: Prepared, objective: Objective, temperature: float
    ) -> list[int]:
        """This rank's sequences with a token that a mask removes."""
        batch = prepared.batch
        if not objective.may_remove(batch):
            return []
        logprob_N, _ = self._all_logprobs(inputs, temperature)
        removed_N = objective.removed_coefficients(logprob_N.cpu(), prepared) != 0
        return torch.unique(batch.sequence_N[removed_N]).tolist()

    def _pass(
        self,
        inputs: ModelInputs,
        prepared: Prepared,
        forward: Callable[[ModelInputs, Prepared], Tensor],
        *,
        ends: bool,
    ) -> int:
        """Sum the gradient of what `forward` makes of each micro-batch; how many there are on this rank.

        Args:
            ends: nothing is added to the gradient afterwards.
        """
        self._start_gradient()
        bins = cut(inputs.lengths, self._train.tokens_per_microbatch, self._train.layout)
        passes = self._passes(len(bins))
        for number in range(passes):
            last = ends and number == passes - 1
            if number >= len(bins):
                self._backward(self._logprobs(BLANK, 1.0, False)[0].sum() * 0.0, last)
                continue
            rows = bins[number]
            part = prepared.rows(torch.tensor(rows, dtype=torch.int64)).to(self.policy.device)
            self._backward(forward(inputs.rows(rows), part), last)
        return len(bins)

    @property
    def _critic_follows(self) -> bool:
        """True where a critic's backward passes add to the gradient after the policy's."""
        return False

    @abstractmethod
    def _all_logprobs(self, inputs: ModelInputs, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-prob and entropy [N] of every response token under the policy, without gradient, CPU."""

    @abstractmethod
    def _logprobs(
        self, inputs: ModelInputs, temperature: float, entropy: bool, rollouts: Rollouts | None = None
    ) -> tuple[Tensor, ...]:
        """`Policy.logprobs` with gradient, that of the entropy included where `entropy` says so."""

    @abstractmethod
    def _passes(self, microbatches: int) -> int:
        """How many forward and backward passes this rank makes for so many micro-batches of its own."""

    @abstractmethod
    def _start_gradient(self) -> None:
        """Before the first backward pass of a gradient."""

    @abstractmethod
    def _backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of `loss`; `last` says that no other follows in this gradient."""

    @abstractmethod
    def _summed_norm(self) -> Tensor:
        """The norm of the gradient summed over ranks, which is now in place; the same on every rank."""

    @abstractmethod
    def _discard_gradient(self) -> None:
        """Forget the gradient, as if there had been no backward pass."""
