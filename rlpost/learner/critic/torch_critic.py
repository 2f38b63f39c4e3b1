"""TorchCritic: the critic on plain torch, whole on every rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rlpost.config.schema import TrainConfig
from rlpost.data.collate import ModelInputs
from rlpost.estimator import Measures
from rlpost.learner.critic.critic import Critic, CriticPlan
from rlpost.learner.critic.value_network import ValueNetwork
from rlpost.learner.optimizer import (
    build_optimizer,
    clip_gradients,
    first_non_finite_gradient,
    gradient_norm,
    moments,
    set_learning_rate,
    set_moments,
)
from rlpost.learner.ranks import Ranks


class WholeCritic(Critic):
    """What is the critic's own is whole on every rank, with an AdamW; gradients are summed over ranks.

    Args:
        network: what is the critic's own, float32, on this rank's device.
    """

    def __init__(self, network: nn.Module, plan: CriticPlan, train: TrainConfig, ranks: Ranks) -> None:
        self.network = network
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        super().__init__(plan, train, ranks, self._parameters[0].device)
        self.optimizer = build_optimizer(network, self._train)

    def summed_norm(self) -> Tensor:
        self._ranks.sum_gradients(self._parameters)
        return gradient_norm(self._parameters)

    def fault(self, measures: Measures) -> str | None:
        if (fault := super().fault(measures)) is not None:
            return fault
        name = first_non_finite_gradient(self.network)
        return None if name is None else f"the gradient of the critic's {name}"

    def discard_gradient(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """There is nothing but memory."""

    def _restart(self) -> None:
        self.optimizer = build_optimizer(self.network, self._train)

    def _start_gradient(self, alone: bool) -> None:
        for parameter in self._parameters:
            # Zeros, not None: a rank without rows must sum the same tensors, and step the same ones.
            parameter.grad = torch.zeros_like(parameter)

    def _backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()

    def _step(self, rate: float, norm: Tensor) -> None:
        set_learning_rate(self.optimizer, rate)
        clip_gradients(self._parameters, self._train.max_grad_norm, norm)
        self.optimizer.step()
        self.discard_gradient()

    def _shapes(self) -> dict[str, Sequence[int]]:
        return {name: parameter.shape for name, parameter in self.network.named_parameters()}

    def _weights(self) -> dict[str, Tensor] | None:
        if self._ranks.rank:
            return None
        return {name: parameter.detach() for name, parameter in self.network.named_parameters()}

    @torch.no_grad()
    def _set_weights(self, saved: Mapping[str, Tensor]) -> None:
        for name, parameter in self.network.named_parameters():
            parameter.copy_(saved[name])

    def _moments(self) -> dict[str, Tensor] | None:
        return None if self._ranks.rank else moments(self.network, self.optimizer)

    def _set_moments(self, saved: Mapping[str, Tensor]) -> None:
        set_moments(self.network, self.optimizer, saved)


class TorchCritic(WholeCritic):
    """A value network with a backbone of its own.

    Args:
        network: float32, on this rank's device, in the stage's layout.
    """

    def __init__(self, network: ValueNetwork, plan: CriticPlan, train: TrainConfig, ranks: Ranks) -> None:
        super().__init__(network, plan, train, ranks)
        self._values_of = network

    def _restart(self) -> None:
        super()._restart()
        if self._values_of.layout != self._train.layout:
            self._values_of.use_layout(self._train.layout)

    def _values(self, inputs: ModelInputs) -> Tensor:
        return self._values_of.values(inputs)

    @torch.no_grad()
    def _read(self, inputs: ModelInputs) -> Tensor:
        return self._values_of.values(inputs)

    def _passes(self, microbatches: int) -> int:
        return microbatches

    def _reading_passes(self, microbatches: int) -> int:
        return microbatches
