"""RankLearner: everything about a learner rank that does not depend on its backend."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlpost.config.schema import ModelConfig, TeacherConfig, TrainConfig
from rlpost.data.collate import ModelInputs
from rlpost.errors import NonFiniteError
from rlpost.estimator import Objective, Prepared
from rlpost.learner.critic import Critic, CriticPlan, load_critic
from rlpost.learner.critic.report import critic_report
from rlpost.learner.learner_state import (
    OPTIMIZER,
    REFERENCE,
    WEIGHTS,
    check_base,
    read_tensors,
    restore_rng,
    save_state,
    saved_tensors,
    saved_updates,
)
from rlpost.learner.local_update import LocalUpdate, combine
from rlpost.learner.optimizer import learning_rate
from rlpost.learner.passes import Scaling
from rlpost.learner.policy import Policy
from rlpost.learner.policy_directory import write_policy
from rlpost.learner.policy_state import PolicyState, device_of
from rlpost.learner.ranks import Ranks
from rlpost.learner.replay_batch import ReplayBatch, save_batch
from rlpost.learner.weight_export import Offer, WeightExport
from rlpost.models import load_model
from rlpost.models.teacher import teacher_model_config
from rlpost.weights.bundle import WeightBundle
from rlpost.weights.communicator import Meeting

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SIGNALS = frozenset({"old_logprob", "ref_logprob", "teacher_logprob", "entropy"})
"""Those that need no critic."""
ADAPTER = "adapter"
"""A saved policy's adapter alone, inside of its directory."""


class RankLearner(PolicyState):
    """A `Learner` but for where weights, gradients and optimizer state live; a backend says that.

    Args:
        model: the policy's starting point.
        train: the first stage's settings.
        seed: of the tiny model's random weights; ignored for others.
        ranks: this rank and the others.
        replay_dir: where a batch goes whose loss or gradient is not finite; None saves none.

    Raises:
        ConfigError: the model cannot be loaded, or is of a kind that the learner would read wrongly.
    """

    def __init__(
        self, model: ModelConfig, train: TrainConfig, *, seed: int, ranks: Ranks, replay_dir: Path | None
    ) -> None:
        self._config, self._train, self._seed = model, train, seed
        self._ranks, self._replay_dir = ranks, replay_dir
        self.policy = self._load_policy()
        self._sizes = self._count()
        self.teacher: Policy | None = None
        self._teacher_settings: tuple[TeacherConfig, str] | None = None
        self.critic: Critic | None = None
        self.updates = 0
        self._export = WeightExport(ranks.rank, getattr(torch, model.dtype))

    def signals(self, inputs: ModelInputs, names: Sequence[str], temperature: float) -> dict[str, Tensor]:
        """Per-token signals [N] (float32, CPU) for this rank's rows, without gradient.

        Raises:
            ValueError: a name is unknown, "ref_logprob" is asked of a learner without a reference,
                "teacher_logprob" of one without a teacher, or a value of one whose critic does not give it.
        """
        heads = set() if self.critic is None else set(self.critic.plan.heads)
        if unknown := set(names) - SIGNALS - heads:
            raise ValueError(f"unknown signals {sorted(unknown)}, known are {sorted(SIGNALS | heads)}")
        found: dict[str, Tensor] = {}
        if self.critic is not None and heads & set(names):
            found |= self.critic.signals(inputs)
        if {"old_logprob", "entropy"} & set(names):
            logprob_N, entropy_N = self._all_logprobs(inputs, temperature)
            found |= {"old_logprob": logprob_N, "entropy": entropy_N}
        if "ref_logprob" in names:
            if self.reference is None:
                raise ValueError("this stage was started without a reference model")
            found["ref_logprob"] = self._logprobs_of_reference(self.reference, inputs, temperature)
        if "teacher_logprob" in names:
            if self.teacher is None:
                raise ValueError("this stage was started without a teacher")
            found["teacher_logprob"] = self._frozen_logprobs(self.teacher, inputs, temperature)
        return {name: found[name].float() for name in names}

    def update(
        self,
        inputs: ModelInputs,
        prepared: Prepared,
        objective: Objective,
        temperature: float,
        values_only: bool = False,
    ) -> dict[str, float]:
        """One optimizer step over this rank's rows; gradients are summed over ranks.

        The critic, where the stage has one, takes its step after the policy's: both or none.

        Args:
            values_only: the critic alone learns; the policy stays as it is.

        Returns:
            the objective's measures and the learner's own, the same on every rank.

        Raises:
            NonFiniteError: before the optimizer step, on every rank; weights and optimizer state are
                as they were, and each rank's batch was saved for replay.
        """
        critic, policy = self.critic, not values_only
        arguments = (inputs, prepared, objective, temperature)
        scaling = self.scaling(*arguments) if policy else Scaling()
        if scaling.fault:
            self._refuse(ReplayBatch(*arguments, {}), [f"all ranks: {scaling.fault}"], values_only)
        local = self.accumulate(*arguments, scaling.factor) if policy else LocalUpdate()
        found = [self._fault(local.loss)] if policy else []
        if critic is not None:
            learnt = critic.accumulate(inputs, prepared, alone=values_only)
            local = replace(local, measures=local.measures + learnt)
            found.append(critic.fault(learnt))
        reports = self._ranks.gather({"fault": "; ".join(filter(None, found)), **local.report()})
        faults = [f"rank {r}: {report['fault']}" for r, report in enumerate(reports) if report["fault"]]
        norm = critic_norm = torch.zeros(())
        if not faults and policy and not bool((norm := self._summed_norm()).isfinite()):
            faults = [f"all ranks: {self._summed_fault(norm)}"]
        if not faults and critic is not None and not bool((critic_norm := critic.summed_norm()).isfinite()):
            faults = [f"all ranks: the critic's summed gradient has norm {float(critic_norm)}"]
        if faults:
            if policy:
                self._discard_gradient()
            if critic is not None:
                critic.discard_gradient()
            self._refuse(ReplayBatch(*arguments, {}), faults, values_only)
        report = combine(reports) | scaling.report()
        if policy:
            rate = learning_rate(self._train, self.updates)
            self._step(rate, norm)
            self.updates += 1
            report |= {"learner/grad_norm": float(norm), "learner/learning_rate": rate} | self._sizes
        if critic is not None:
            report = critic_report(report) | critic.step(critic_norm)
        return report

    def export_weights(self, version: int, shared: bool = False) -> WeightBundle | None:
        """A snapshot of the policy's weights, in `model.dtype`, under the driver's version number.

        An adapter is in them, so engines hold a plain model.
        """
        if shared:
            return self._export.to_shared_memory(version, self._pieces())
        weights = self._whole(getattr(torch, self._config.dtype))
        return None if weights is None else WeightBundle.of(version, weights)

    def offer_weights(self, local: bool, deadline_s: float) -> Offer | None:
        """Where engines can join a broadcast of the weights, and what they will be sent; on rank 0."""
        places = self._places(getattr(torch, self._config.dtype))
        return self._export.offer(places, self.policy.device.type, local=local, deadline_s=deadline_s)

    def join_broadcast(self, meeting: Meeting) -> None:
        """Meet the engines; all ranks are called, the first one joins."""
        self._export.join(meeting)

    def send_weights(self, version: int) -> WeightBundle | None:
        """Send the policy's weights to the engines that joined, all of which must be receiving."""
        return self._export.send(version, self._pieces())

    def probe(self, sequences: Sequence[tuple[int, ...]]) -> list[tuple[float, ...]]:
        """Log-probs (temperature 1) of tokens 1.. of each sequence, as in `Engine.probe`."""
        asked = [torch.tensor(ids, dtype=torch.int64) for ids in sequences if len(ids) > 1]
        inputs = ModelInputs(tuple(ids[:1] for ids in asked), tuple(ids[1:] for ids in asked))
        logprob_N, _ = self._all_logprobs(inputs, 1.0)
        sizes = [max(0, len(ids) - 1) for ids in sequences]
        return [tuple(piece.tolist()) for piece in logprob_N.split(sizes)]

    def save(self, directory: Path) -> None:
        """Weights, optimizer, schedule, reference and RNG, enough to go on exactly; rank 0 writes.

        With an adapter, its weights alone, and what it stands beside. Every backend writes the same files,
        and reads those of any other on any number of ranks.
        """
        self._write_state(directory)
        self._ranks.barrier()

    def load(self, directory: Path, weights_only: bool = False) -> None:
        """The inverse of `save`, after `start_stage`.

        Args:
            weights_only: leave optimizer and schedule of the new stage as they are; a reference is
                frozen again from the loaded weights, and a critic begins from them where none was saved.

        Raises:
            CheckpointError: the saved weights are those of another architecture, or unreadable.
        """
        check_base(directory, self._beside())
        shapes = self._held_shapes()
        if weights_only:
            self._set_weights(saved_tensors(directory / WEIGHTS, shapes))
            if self.reference is not None:
                self.reference = self._freeze()
            if self.critic is not None and not self.critic.load(directory, weights_only=True):
                # It has not been trained yet, so it begins with the policy that was loaded.
                self._start_critic(self.critic.plan, self._stage_train, fresh=True)
            return
        updates = saved_updates(directory, reference=self.reference is not None)
        self._set_weights(saved_tensors(directory / WEIGHTS, shapes))
        if self.reference is not None:
            self._restore_reference(self.reference, saved_tensors(directory / REFERENCE, shapes))
        self._set_moments(read_tensors(directory / OPTIMIZER))
        load_critic(self.critic, directory)
        restore_rng(directory)
        self.updates = updates

    def save_policy(self, directory: Path) -> None:
        """A plain Hugging Face directory: weights in `model.dtype`, config, tokenizer, chat template.

        An adapter is in the weights, and once more in a directory `adapter` that PEFT loads beside the base.
        """
        weights = self._whole(getattr(torch, self._config.dtype))
        if weights is not None:
            write_policy(directory, self.policy.model, weights, self._config)
        if self.adapter is not None and (factors := self._weights()) is not None:
            self.adapter.save(directory / ADAPTER, factors)
        self._ranks.barrier()

    @abstractmethod
    def start_stage(
        self,
        train: TrainConfig,
        reference: bool,
        critic: CriticPlan | None = None,
        teacher: TeacherConfig | None = None,
    ) -> None:
        """Fresh optimizer state and schedule; with `reference`, freeze a copy of the weights as they are.

        Args:
            critic: a critic of the same kind as the stage before had is kept, with fresh optimizer state.
            teacher: loaded, unless the stage before had the same.
        """

    @abstractmethod
    def _build_critic(self, plan: CriticPlan, train: TrainConfig) -> Critic:
        """A critic that has learnt nothing yet."""

    @abstractmethod
    def _summed_fault(self, norm: Tensor) -> str:
        """What is not finite in the summed gradient, in words."""

    @abstractmethod
    def _step(self, rate: float, norm: Tensor) -> None:
        """Clip the gradient, whose norm is `norm`, and take an optimizer step; the gradient is gone then."""

    @abstractmethod
    def _moments(self) -> dict[str, Tensor] | None:
        """AdamW's state as in `save_state` on rank 0; None on other ranks, all of which must call."""

    @abstractmethod
    def _set_moments(self, saved: Mapping[str, Tensor]) -> None:
        """Take up AdamW's state; every rank passes all of it."""

    def _start_critic(self, plan: CriticPlan | None, train: TrainConfig, *, fresh: bool = False) -> None:
        """The stage's critic: the one before where it serves, otherwise a new one."""
        self._stage_train = train
        kept = self.critic
        if kept is not None and plan is not None and kept.plan.kind == plan.kind and not fresh:
            kept.restart(plan, train)
            return
        # The old one first: there need not be memory for both.
        self.critic = None
        if kept is not None:
            kept.close()
        if plan is not None:
            self.critic = self._build_critic(plan, train)

    def _start_teacher(self, settings: TeacherConfig | None, train: TrainConfig) -> None:
        """The stage's teacher: the one before where it serves, otherwise another."""
        wanted = None if settings is None else (settings, train.layout)
        if wanted == self._teacher_settings:
            return
        # The old one first: there need not be memory for both.
        self._drop_teacher()
        if settings is not None:
            self.teacher = self._load_teacher(teacher_model_config(self._config, settings))
        self._teacher_settings = wanted

    def _drop_teacher(self) -> None:
        self.teacher = self._teacher_settings = None

    def _load_teacher(self, config: ModelConfig) -> Policy:
        """The model of `config`, for good, without gradient."""
        network = load_model(config, self._seed).requires_grad_(False)
        return self._policy_of(network.to(device_of(self._ranks.rank)))

    def _policy_of(self, network: PreTrainedModel) -> Policy:
        return Policy(
            network,
            compute_dtype=getattr(torch, self._config.dtype),
            layout=self._train.layout,
            gradient_checkpointing=self._config.gradient_checkpointing,
        )

    def _write_state(self, directory: Path) -> None:
        weights, moments, base = self._weights(), self._moments(), self._beside()
        reference = self._saved_reference()
        if weights is not None and moments is not None:
            save_state(
                directory,
                weights=weights,
                moments=moments,
                updates=self.updates,
                reference=reference,
                base=base,
            )
        if self.critic is not None:
            self.critic.write(directory)

    def _fault(self, loss: float) -> str | None:
        """What is not finite on this rank, in words; None when all is well."""
        return None if torch.tensor(loss).isfinite() else f"the loss is {loss}"

    def _refuse(self, batch: ReplayBatch, faults: Sequence[str], values_only: bool) -> None:
        """Save the batch, raise NonFiniteError; everything is as it was."""
        kept = "no replay directory was given, so the batch was not saved"
        if self._replay_dir is not None:
            folder = self._replay_dir / f"update-{self.updates:06d}"
            facts = {
                "faults": list(faults),
                "rank": self._ranks.rank,
                "updates": self.updates,
                "values_only": values_only,
                "critic": None if self.critic is None else self.critic.plan.as_json(),
            }
            try:
                # First, because ranks may wait for each other in it.
                self._write_state(folder / "learner")
                path = folder / f"batch-rank-{self._ranks.rank:03d}"
                save_batch(path, ReplayBatch(**vars(batch) | {"facts": facts}))
                kept = f"the batch and the learner's state are in {folder}"
            except OSError as error:
                kept = f"the batch could not be saved: {error}"
        raise NonFiniteError(
            "a loss or gradient is not finite; no optimizer step was taken",
            where=f"update {self.updates} of the stage, learner rank {self._ranks.rank}",
            found=" | ".join(faults),
            needed="finite numbers",
            remedy=kept,
        )
