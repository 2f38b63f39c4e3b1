"""DeepSpeedLearner: optimizer state, gradients and weights divided over the ranks (ZeRO)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rlpost.config.schema import LearnerConfig, ModelConfig, TeacherConfig, TrainConfig
from rlpost.data.collate import ModelInputs
from rlpost.learner.critic import Critic, CriticPlan
from rlpost.learner.critic.deepspeed_critic import DeepSpeedCritic
from rlpost.learner.critic.model import critic_model_config, load_critic_model
from rlpost.learner.critic.shared_critic import SharedCritic
from rlpost.learner.critic.value_network import ValueNetwork, value_head
from rlpost.learner.heads.one_token_head import Rollouts
from rlpost.learner.microbatch import BLANK
from rlpost.learner.policy import Policy
from rlpost.learner.policy_state import device_of
from rlpost.learner.rank_learner import RankLearner
from rlpost.learner.ranks import Ranks
from rlpost.learner.zero.divided_model import Divide, Plan, fill, load_divided
from rlpost.learner.zero.divided_state import DividedState
from rlpost.learner.zero.engine import ZeroEngine
from rlpost.learner.zero.runtime import FrozenEngine, parameter_divider, settings_of_deepspeed
from rlpost.models import Adapter, build_shell, load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class DeepSpeedLearner(RankLearner):
    """A `Learner` that takes the steps that `TorchLearner` takes, with its state divided over the ranks.

    Parameters, gradients and optimizer state are float32 as there, and "bfloat16" means the same. ZeRO 1
    divides the optimizer state, 2 the gradients too, 3 the weights and those of a reference and a teacher
    too. Under 3 the first rank alone loads a model, on the host, and hands it out; up to 2 every rank loads
    it, and a reference is a whole copy on every rank.

    Ranks wait for each other in every method. Where one rank has fewer micro-batches than another, it
    makes blank passes, whose gradient is zero.

    Args:
        settings: the ZeRO stage and what is kept in host memory.

    The other arguments, and what is raised, are those of `TorchLearner`. Also raises:
        UserError: DeepSpeed is not installed, or in a version that is not supported.
    """

    def __init__(
        self,
        model: ModelConfig,
        train: TrainConfig,
        settings: LearnerConfig,
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
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        ranks = Ranks(rank, world_size, rendezvous, deadline_s, backend=backend, always=True)
        self._settings = settings
        self._plan: Plan | None = None
        self._frozen: FrozenEngine | None = None
        self._teaching: FrozenEngine | None = None
        super().__init__(model, train, seed=seed, ranks=ranks, replay_dir=replay_dir)
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
            with torch.no_grad(), self._ranks.talking("prove the layout"):
                self.engine.run(lambda: self.policy.use_layout(train.layout))
        self.engine.restart(train)
        self.updates = 0
        self._drop_reference()
        if reference:
            self.reference = self._freeze()
        self._start_critic(critic, train)
        self._start_teacher(teacher, train)

    def _build_critic(self, plan: CriticPlan, train: TrainConfig) -> Critic:
        policy, ranks = self.policy, self._ranks
        if plan.settings.shared:
            return SharedCritic(
                value_head(policy.model.get_decoder(), len(plan.heads), policy.device),
                plan,
                train,
                ranks,
                policy,
                self.engine,
                most=self._passes,
                scale=1.0 / ranks.world_size,
            )
        decoder = self._critic_decoder(plan.settings.init)
        head = value_head(decoder, len(plan.heads), policy.device)
        with ranks.talking("divide the critic"):
            if self.engine.stage == 3:
                divide = self._divider()
                for parameter in head.parameters():
                    divide(parameter)
            network = ValueNetwork(
                decoder,
                head,
                compute_dtype=policy.compute_dtype,
                gradient_checkpointing=self._config.gradient_checkpointing,
            )
            engine = self._engine_of(network, [], plan.train(train))
            with torch.no_grad():
                engine.run(lambda: network.use_layout(train.layout))
        bucket_bytes = self._settings.bucket_mib * 2**20
        return DeepSpeedCritic(
            network, engine, plan, train, ranks, bucket_bytes=bucket_bytes, most=self._most
        )

    @torch.no_grad()
    def _critic_decoder(self, init: str | None) -> PreTrainedModel:
        """The critic's backbone; under ZeRO 3 divided as it comes, like the policy."""
        device = self.policy.device
        if self.engine.stage == 3 and init is not None:
            config = critic_model_config(self._config, init)
            network, _ = load_divided(config, self._seed, self._ranks, device, self._divider())
            return network.get_decoder()
        if self.engine.stage == 3:
            return self._divided_copy().get_decoder()
        if init is not None:
            return load_critic_model(self._config, init, self._seed).get_decoder().to(device)
        return self._whole_copy().get_decoder()

    def _all_logprobs(self, inputs: ModelInputs, temperature: float) -> tuple[Tensor, Tensor]:
        return self._logprobs_under(self.engine, self.policy, inputs, temperature)

    def _frozen_logprobs(self, policy: Policy, inputs: ModelInputs, temperature: float) -> Tensor:
        engine = self._teaching if policy is self.teacher else self._frozen
        if engine is None:
            return super()._frozen_logprobs(policy, inputs, temperature)
        return self._logprobs_under(engine, policy, inputs, temperature)[0]

    @torch.no_grad()
    def _logprobs_under(
        self, engine: ZeroEngine | FrozenEngine, policy: Policy, inputs: ModelInputs, temperature: float
    ) -> tuple[Tensor, Tensor]:
        def forward(rows: ModelInputs, temperature: float) -> tuple[Tensor, Tensor]:
            answer: tuple[Tensor, Tensor] = engine.run(lambda: policy.logprobs(rows, temperature))
            return answer

        limit = self._train.tokens_per_microbatch
        own = len(policy.forward_passes(inputs, limit))
        blank = self._most(own) - own if self.engine.stage == 3 else 0
        with self._ranks.talking("compute log-probs"):
            answer = policy.all_logprobs(inputs, temperature, limit, forward)
            for _ in range(blank):
                forward(BLANK, 1.0)
        return answer

    def _logprobs(
        self, inputs: ModelInputs, temperature: float, entropy: bool, rollouts: Rollouts | None = None
    ) -> tuple[Tensor, ...]:
        def stacked() -> Tensor:
            found = self.policy.logprobs(inputs, temperature, with_entropy_grad=entropy, rollouts=rollouts)
            return torch.stack(found)

        # One output: ZeRO 3 counts those that are differentiated, and the count must be that of every
        # rank, blank passes included.
        with self._ranks.talking("compute log-probs"):
            return tuple(self.engine.forward(stacked))

    def _passes(self, microbatches: int) -> int:
        # One at least: without a backward pass there would be no gradient to step on.
        return max(1, self._most(microbatches))

    def _most(self, passes: int) -> int:
        return max(report["passes"] for report in self._ranks.gather({"passes": passes}))

    def _start_gradient(self) -> None:
        """The step and `_discard_gradient` have left none."""

    @property
    def _critic_follows(self) -> bool:
        return isinstance(self.critic, SharedCritic)

    def _backward(self, loss: Tensor, last: bool) -> None:
        with self._ranks.talking("sum gradients"):
            self.engine.backward(loss, last)

    def _summed_norm(self) -> Tensor:
        with self._ranks.talking("measure the gradient"):
            return self.engine.gradient_norm()

    def _summed_fault(self, norm: Tensor) -> str:
        name = self.engine.first_non_finite_gradient()
        return "the gradient's norm overflows" if name is None else f"the summed gradient of {name}"

    def _step(self, rate: float, norm: Tensor) -> None:
        with self._ranks.talking("take a step"):
            self.engine.step(rate)

    def _discard_gradient(self) -> None:
        self.engine.discard_gradient()

    def _shapes(self) -> dict[str, Sequence[int]]:
        return self._state.shapes()

    def _weights(self) -> dict[str, Tensor] | None:
        return self._state.weights()

    def _factors(self) -> dict[str, Tensor]:
        return self._state.factors()

    def _reference_weights(self, reference: Policy) -> dict[str, Tensor] | None:
        if self._frozen is None:
            return super()._reference_weights(reference)
        return self._state_of(reference.model).weights()

    def _pieces(self, *, merged: bool = True) -> Iterator[dict[str, Tensor]]:
        return self._state.pieces(merged=merged)

    def _set_weights(self, saved: Mapping[str, Tensor]) -> None:
        self._state.spread(saved)
        self.engine.weights_changed()

    def _set_reference(self, reference: Policy, saved: Mapping[str, Tensor]) -> None:
        if self._frozen is None:
            super()._set_reference(reference, saved)
        else:
            self._state_of(reference.model).spread(saved)

    def _moments(self) -> dict[str, Tensor] | None:
        return self._state.moments()

    def _set_moments(self, saved: Mapping[str, Tensor]) -> None:
        self.engine.restart(self._train)
        self._state.set_moments(saved)

    @torch.no_grad()
    def _frozen_policy(self) -> Policy:
        if self.engine.stage == 3:
            return self._divided_reference()
        return self._policy_of(self._whole_copy().requires_grad_(False))

    def _whole_copy(self) -> PreTrainedModel:
        """The policy's model once more, on every rank.

        Loaded anew: what DeepSpeed has attached to the policy's modules must not be copied.
        """
        network = self._load_network()
        own = dict(network.named_parameters())
        for name, tensor in self._state.copies():
            own[name].copy_(tensor)
        self._copy_buffers(network)
        return network

    def _divided_reference(self) -> Policy:
        # The old one first: there need not be memory for both.
        self._drop_reference()
        self._frozen, policy = self._frozen_engine(self._divided_copy(), "divide the reference")
        return policy

    def _drop_reference(self) -> None:
        super()._drop_reference()
        self.engine.drop_frozen(self._frozen)
        self._frozen = None

    def _load_teacher(self, config: ModelConfig) -> Policy:
        if self.engine.stage < 3:
            return super()._load_teacher(config)
        device = device_of(self._ranks.rank)
        network, _ = load_divided(config, self._seed, self._ranks, device, self._divider())
        self._teaching, policy = self._frozen_engine(network, "divide the teacher")
        return policy

    def _drop_teacher(self) -> None:
        super()._drop_teacher()
        self.engine.drop_frozen(self._teaching)
        self._teaching = None

    def _frozen_engine(self, network: PreTrainedModel, action: str) -> tuple[FrozenEngine, Policy]:
        """What runs a divided model that is never trained, and its policy."""
        network.requires_grad_(False)
        with self._ranks.talking(action):
            engine = self.engine.freeze(network, list(network.get_output_embeddings().parameters()))
            policy: Policy = engine.run(lambda: self._policy_of(network))
        return engine, policy

    def _divided_copy(self) -> PreTrainedModel:
        """The policy's model once more, divided as it is copied."""
        assert self._plan is not None
        shell = build_shell(self._config)
        with self._ranks.talking("divide a copy of the weights"):
            fill(shell, self._plan, self.policy.device, self._state.copies(), self._divider())
            self._copy_buffers(shell)
        return shell

    def _copy_buffers(self, network: nn.Module) -> None:
        copies = dict(network.named_buffers())
        for name, tensor in self._state.buffers().items():
            copies[name].copy_(tensor)

    def _load_policy(self) -> Policy:
        """The policy, its engine made before it: under ZeRO 3 it cannot compute otherwise."""
        network = self._adapted(self._load_network())
        with self._ranks.talking("divide the weights"):
            if self._settings.zero_stage == 3 and self.adapter is not None:
                divide = self._divider()
                for factor in self.adapter.trained.values():
                    divide(factor)
            outside = list(network.get_output_embeddings().parameters())
            self.engine = self._engine_of(network, outside, self._train)
            with torch.no_grad():
                policy: Policy = self.engine.run(lambda: self._policy_of(network))
        self._state = self._state_of(network, self.adapter)
        return policy

    def _engine_of(
        self, network: nn.Module, outside: Sequence[nn.Parameter], train: TrainConfig
    ) -> ZeroEngine:
        return ZeroEngine(
            network,
            outside,
            self._settings,
            train,
            world_size=self._ranks.world_size,
            deadline_s=self._ranks.deadline_s,
        )

    def _load_network(self) -> PreTrainedModel:
        device = device_of(self._ranks.rank)
        if self._settings.zero_stage < 3:
            whole = load_model(self._config.model_copy(update={"dtype": "float32"}), self._seed)
            return whole.to(device)
        network, self._plan = load_divided(self._config, self._seed, self._ranks, device, self._divider())
        return network

    def _divider(self) -> Divide:
        settings = settings_of_deepspeed(self._settings, self._train)
        return parameter_divider(device_of(self._ranks.rank), self._ranks.deadline_s, settings)

    def _state_of(self, network: nn.Module, adapter: Adapter | None = None) -> DividedState:
        bucket_bytes = self._settings.bucket_mib * 2**20
        return DividedState(self.engine, network, self._ranks, bucket_bytes, adapter)
