"""TorchLearner: the learner on plain torch, one process or several gloo ranks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlpost.config.schema import ModelConfig, TeacherConfig, TrainConfig
from rlpost.data.collate import ModelInputs
from rlpost.learner.critic import Critic, CriticPlan
from rlpost.learner.critic.model import load_critic_model
from rlpost.learner.critic.shared_critic import PlainPasses, SharedCritic
from rlpost.learner.critic.torch_critic import TorchCritic
from rlpost.learner.critic.value_network import ValueNetwork, value_head
from rlpost.learner.heads.one_token_head import Rollouts
from rlpost.learner.optimizer import (
    build_optimizer,
    clip_gradients,
    first_non_finite_gradient,
    gradient_norm,
    moments,
    set_learning_rate,
    set_moments,
)
from rlpost.learner.policy import Policy
from rlpost.learner.rank_learner import RankLearner
from rlpost.learner.ranks import Ranks
from rlpost.weights.transfer import policy_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TorchLearner(RankLearner):
    """A `Learner`: the whole policy and AdamW on every rank, gradients summed over ranks.

    Parameters, gradients and optimizer state are float32 whatever `model.dtype` says (16 bytes a
    parameter, 20 with a reference); "bfloat16" means that the forward and backward pass compute in it
    and that exported weights are rounded to it. So an update of 1e-6 of a weight is never lost. With
    `model.lora` the adapter alone is trained: 4 bytes a parameter of the model, 16 one of the adapter.

    Args:
        model: the policy's starting point.
        train: the first stage's settings; `start_stage` replaces them.
        seed: of the tiny model's random weights; ignored for others.
        rendezvous: where several ranks meet, see `Ranks`.
        reference: keep a frozen copy of the starting weights for "ref_logprob".
        replay_dir: where a batch goes whose loss or gradient is not finite; None saves none.
        threads: torch threads of this process; None leaves torch's choice.
        deadline_s: longest wait for another rank.

    Raises:
        ConfigError: the model cannot be loaded, or is of a kind that the learner would read wrongly.
        DeadlineError: the ranks did not all come.
    """

    def __init__(
        self,
        model: ModelConfig,
        train: TrainConfig,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        rendezvous: str | None = None,
        reference: bool = False,
        replay_dir: Path | None = None,
        threads: int | None = None,
        deadline_s: float = 1800.0,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        ranks = Ranks(rank, world_size, rendezvous, deadline_s)
        super().__init__(model, train, seed=seed, ranks=ranks, replay_dir=replay_dir)
        self._parameters = [p for p in self.policy.model.parameters() if p.requires_grad]
        self.start_stage(train, reference)

    def start_stage(
        self,
        train: TrainConfig,
        reference: bool,
        critic: CriticPlan | None = None,
        teacher: TeacherConfig | None = None,
    ) -> None:
        self._train = train if critic is None else critic.policy_train(train)
        if train.layout != self.policy.layout:
            self.policy.use_layout(train.layout)
        self.optimizer = build_optimizer(self.policy.model, train)
        self.updates = 0
        self._drop_reference()
        if reference:
            self.reference = self._freeze()
        self._start_critic(critic, train)
        self._start_teacher(teacher, train)

    def _build_critic(self, plan: CriticPlan, train: TrainConfig) -> Critic:
        policy, device = self.policy, self.policy.device
        if plan.settings.shared:
            head = value_head(policy.model.get_decoder(), len(plan.heads), device)
            return SharedCritic(head, plan, train, self._ranks, policy, PlainPasses())
        if plan.settings.init is None:
            decoder = self._own_decoder()
            decoder.set_attn_implementation(policy.attention)
        else:
            decoder = load_critic_model(self._config, plan.settings.init, self._seed).get_decoder().to(device)
        network = ValueNetwork(
            decoder,
            value_head(decoder, len(plan.heads), device),
            compute_dtype=policy.compute_dtype,
            gradient_checkpointing=self._config.gradient_checkpointing,
        )
        network.use_layout(train.layout)
        return TorchCritic(network, plan, train, self._ranks)

    def _own_decoder(self) -> PreTrainedModel:
        """A copy of the policy's backbone, an adapter in its weights."""
        if self.adapter is not None:
            return self.adapter.merged_copy(self.policy.model).get_decoder()
        return copy.deepcopy(self.policy.model.get_decoder())

    def _all_logprobs(self, inputs: ModelInputs, temperature: float) -> tuple[Tensor, Tensor]:
        return self.policy.all_logprobs(inputs, temperature, self._train.tokens_per_microbatch)

    def _logprobs(
        self, inputs: ModelInputs, temperature: float, entropy: bool, rollouts: Rollouts | None = None
    ) -> tuple[Tensor, ...]:
        return self.policy.logprobs(inputs, temperature, with_entropy_grad=entropy, rollouts=rollouts)

    def _passes(self, microbatches: int) -> int:
        return microbatches

    def _start_gradient(self) -> None:
        for parameter in self._parameters:
            # Zeros, not None: a rank without rows must sum the same tensors, and step the same ones.
            parameter.grad = torch.zeros_like(parameter)

    def _backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()

    def _summed_norm(self) -> Tensor:
        self._ranks.sum_gradients(self._parameters)
        return gradient_norm(self._parameters)

    def _summed_fault(self, norm: Tensor) -> str:
        return f"the summed gradient has norm {float(norm)}"

    def _fault(self, loss: float) -> str | None:
        parts = [fault] if (fault := super()._fault(loss)) else []
        if not bool(gradient_norm(self._parameters).isfinite()):
            name = first_non_finite_gradient(self.policy.model)
            parts.append("the gradient's norm overflows" if name is None else f"the gradient of {name}")
        return "; ".join(parts) or None

    def _step(self, rate: float, norm: Tensor) -> None:
        set_learning_rate(self.optimizer, rate)
        clip_gradients(self._parameters, self._train.max_grad_norm, norm)
        self.optimizer.step()
        self._discard_gradient()

    def _discard_gradient(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def _shapes(self) -> dict[str, Sequence[int]]:
        return {name: tensor.shape for name, tensor in policy_tensors(self.policy.model).items()}

    def _weights(self) -> dict[str, Tensor] | None:
        if self._ranks.rank:
            return None
        return {name: tensor.detach().cpu() for name, tensor in self._held().items()}

    def _pieces(self, *, merged: bool = True) -> Iterator[dict[str, Tensor]]:
        if self._ranks.rank:
            return
        own = policy_tensors(self.policy.model)
        if self.adapter is None:
            yield own
            return
        for name, tensor in self.adapter.merged(own) if merged else self.adapter.base(own):
            yield {name: tensor}

    @torch.no_grad()
    def _set_weights(self, saved: Mapping[str, Tensor]) -> None:
        for name, tensor in self._held().items():
            tensor.copy_(saved[name])

    def _factors(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._held().items()}

    def _moments(self) -> dict[str, Tensor] | None:
        if self._ranks.rank:
            return None
        return moments(self.policy.model, self.optimizer)

    def _set_moments(self, saved: Mapping[str, Tensor]) -> None:
        set_moments(self.policy.model, self.optimizer, saved)

    def _frozen_policy(self) -> Policy:
        return self.policy.frozen_copy()
