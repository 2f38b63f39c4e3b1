"""SharedCritic: a head on the policy's hidden states, under every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rlpost.config.schema import TrainConfig
from rlpost.data.collate import ModelInputs
from rlpost.learner.critic.critic import CriticPlan
from rlpost.learner.critic.torch_critic import WholeCritic
from rlpost.learner.policy import Policy
from rlpost.learner.ranks import Ranks


class Passes(Protocol):
    """How the policy's backend makes forward and backward passes; `ZeroEngine` is one."""

    def run(self, compute: Callable[[], Any]) -> Any:
        """A forward pass whose result is not differentiated."""
        ...

    def forward(self, compute: Callable[[], Any]) -> Any:
        """A forward pass whose result is to be differentiated."""
        ...

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of `loss`; `last` says that no other follows before the step."""
        ...


class PlainPasses:
    """Passes of a model that is whole on every rank."""

    def run(self, compute: Callable[[], Any]) -> Any:
        return compute()

    def forward(self, compute: Callable[[], Any]) -> Any:
        return compute()

    def backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()


class SharedCritic(WholeCritic):
    """A head on the policy's hidden states, whose loss the policy's backbone learns from too.

    The loss times `coefficient` is added to the policy's gradient, in passes of their own after the
    policy's. The head is a module of its own, whole on every rank with an optimizer of its own under
    every backend, so it is in nothing that is made of the policy's weights.

    Args:
        policy: whose backbone it is.
        passes: of the policy's backend.
        most: of a number of passes, the largest of any rank.
        scale: of a gradient that `passes.backward` leaves in the head, the part that is the loss's own.
    """

    def __init__(
        self,
        head: nn.Linear,
        plan: CriticPlan,
        train: TrainConfig,
        ranks: Ranks,
        policy: Policy,
        passes: Passes,
        *,
        most: Callable[[int], int] = lambda number: number,
        scale: float = 1.0,
    ) -> None:
        super().__init__(nn.ModuleDict({"head": head}), plan, train, ranks)
        self._head, self._policy, self._engine = head, policy, passes
        self._most, self._scale, self._alone = most, scale, False

    def summed_norm(self) -> Tensor:
        if not self._alone:
            # The head learns from its own loss, whatever that counts in the policy's.
            for gradient in (p.grad for p in self._parameters if p.grad is not None):
                gradient.mul_(self._scale / self.plan.settings.coefficient)
        return super().summed_norm()

    def _values(self, inputs: ModelInputs) -> Tensor:
        if self._alone:
            with torch.no_grad(), self._ranks.talking("compute values"):
                hidden_ND = self._engine.run(lambda: self._policy.hidden(inputs))
            return self._of(hidden_ND)
        with self._ranks.talking("compute values"):
            value_NK: Tensor = self._engine.forward(lambda: self._of(self._policy.hidden(inputs)))
        return value_NK

    @torch.no_grad()
    def _read(self, inputs: ModelInputs) -> Tensor:
        with self._ranks.talking("compute values"):
            value_NK: Tensor = self._engine.run(lambda: self._of(self._policy.hidden(inputs)))
        return value_NK

    def _of(self, hidden_ND: Tensor) -> Tensor:
        value_NK: Tensor = self._head(hidden_ND.to(self._head.weight.dtype))
        return value_NK

    def _passes(self, microbatches: int) -> int:
        return self._most(microbatches)

    def _reading_passes(self, microbatches: int) -> int:
        return self._most(microbatches)

    def _start_gradient(self, alone: bool) -> None:
        self._alone = alone
        super()._start_gradient(alone)

    def _backward(self, loss: Tensor, last: bool) -> None:
        if self._alone:
            loss.backward()
            return
        with self._ranks.talking("sum gradients"):
            self._engine.backward(loss * self.plan.settings.coefficient, last)
