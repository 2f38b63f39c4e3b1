"""DeepSpeedCritic: the critic's weights, gradients and optimizer state divided over the ranks (ZeRO)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rlpost.config.schema import TrainConfig
from rlpost.data.collate import ModelInputs
from rlpost.learner.critic.critic import Critic, CriticPlan
from rlpost.learner.critic.value_network import ValueNetwork
from rlpost.learner.ranks import Ranks
from rlpost.learner.zero.divided_state import DividedState
from rlpost.learner.zero.engine import ZeroEngine


class DeepSpeedCritic(Critic):
    """A value network with a backbone of its own, under an engine of its own and the policy's ZeRO stage.

    Args:
        network: float32, on this rank's device, in the stage's layout.
        engine: around `network`, made with `plan.train`.
        bucket_bytes: of weights that are gathered together.
        most: of a number of passes, the largest of any rank.
    """

    def __init__(
        self,
        network: ValueNetwork,
        engine: ZeroEngine,
        plan: CriticPlan,
        train: TrainConfig,
        ranks: Ranks,
        *,
        bucket_bytes: int,
        most: Callable[[int], int],
    ) -> None:
        super().__init__(plan, train, ranks, next(network.parameters()).device)
        self.network, self.engine, self._most = network, engine, most
        self._state = DividedState(engine, network, ranks, bucket_bytes)

    def summed_norm(self) -> Tensor:
        with self._ranks.talking("measure the critic's gradient"):
            return self.engine.gradient_norm()

    def discard_gradient(self) -> None:
        self.engine.discard_gradient()

    def close(self) -> None:
        self.engine.release()

    def _restart(self) -> None:
        if self.network.layout != self._train.layout:
            with torch.no_grad(), self._ranks.talking("prove the critic's layout"):
                self.engine.run(lambda: self.network.use_layout(self._train.layout))
        self.engine.restart(self._train)

    def _values(self, inputs: ModelInputs) -> Tensor:
        with self._ranks.talking("compute values"):
            value_NK: Tensor = self.engine.forward(lambda: self.network.values(inputs))
        return value_NK

    @torch.no_grad()
    def _read(self, inputs: ModelInputs) -> Tensor:
        with self._ranks.talking("compute values"):
            value_NK: Tensor = self.engine.run(lambda: self.network.values(inputs))
        return value_NK

    def _passes(self, microbatches: int) -> int:
        # One at least: without a backward pass there would be no gradient to step on.
        return max(1, self._most(microbatches))

    def _reading_passes(self, microbatches: int) -> int:
        return self._most(microbatches) if self.engine.stage == 3 else microbatches

    def _start_gradient(self, alone: bool) -> None:
        """The step and `discard_gradient` have left none."""

    def _backward(self, loss: Tensor, last: bool) -> None:
        with self._ranks.talking("sum the critic's gradients"):
            self.engine.backward(loss, last)

    def _step(self, rate: float, norm: Tensor) -> None:
        with self._ranks.talking("take the critic's step"):
            self.engine.step(rate)

    def _shapes(self) -> dict[str, Sequence[int]]:
        return self._state.shapes()

    def _weights(self) -> dict[str, Tensor] | None:
        return self._state.weights()

    def _set_weights(self, saved: Mapping[str, Tensor]) -> None:
        self._state.spread(saved)
        self.engine.weights_changed()

    def _moments(self) -> dict[str, Tensor] | None:
        return self._state.moments()

    def _set_moments(self, saved: Mapping[str, Tensor]) -> None:
        self.engine.restart(self._train)
        self._state.set_moments(saved)
