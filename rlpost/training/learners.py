"""Learners: the driver's view of the learner ranks, as if they were one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlpost.cluster import ActorGroup
from rlpost.config import stage_objective
from rlpost.config.rules.critic_rules import stage_critic
from rlpost.config.rules.teacher_rules import reads_teacher
from rlpost.config.schema import StageConfig
from rlpost.data.collate import ModelInputs
from rlpost.estimator import Objective, Prepared, TokenBatch, token_index
from rlpost.learner.critic import CriticPlan
from rlpost.learner.microbatch import shard
from rlpost.learner.weight_export import Offer
from rlpost.weights.bundle import WeightBundle

ADDED = frozenset({"learner/trained_tokens", "learner/microbatches", "learner/oversized_sequences"})
"""Metrics that add up over a step's updates."""


class Learners:
    """Cuts batches over the ranks and puts their answers together again."""

    def __init__(self, group: ActorGroup) -> None:
        self.group = group

    def restart(self, arguments: Sequence[Mapping[str, object]]) -> None:
        """End every rank and start fresh ones; `start_stage` is next."""
        self.group.restart_all(arguments)

    def start_stage(self, stage: StageConfig) -> None:
        """Fresh optimizer and schedule; reference, critic and teacher where the objective asks for them."""
        objective = stage_objective(stage)
        reference = "ref_logprob" in objective.signals
        settings = stage_critic(stage, objective)
        critic = None if settings is None else CriticPlan(settings, objective.value_heads)
        teacher = stage.teacher if reads_teacher(objective) else None
        self.group.call_all("start_stage", stage.train, reference, critic, teacher)

    def signals(
        self, inputs: ModelInputs, batch: TokenBatch, names: Sequence[str], temperature: float
    ) -> dict[str, Tensor]:
        """Per-token signals [N] in the order of the batch."""
        shards = shard(inputs.lengths, self.group.size)
        answers = self.group.call_each("signals", [(inputs.rows(s), names, temperature) for s in shards])
        whole = {name: torch.zeros(batch.N) for name in names}
        for rows, answer in zip(shards, answers, strict=True):
            index_N, _ = token_index(batch.sequence_N, batch.S, torch.tensor(rows, dtype=torch.int64))
            for name in names:
                whole[name][index_N] = answer[name]
        return whole

    def update(
        self,
        inputs: ModelInputs,
        prepared: Prepared,
        objective: Objective,
        temperature: float,
        values_only: bool = False,
    ) -> dict[str, float]:
        """One optimizer step over the rows of `prepared`; `inputs` are the rows it was prepared from.

        Args:
            values_only: the critic alone learns.
        """
        taken = inputs.rows(prepared.kept_S.tolist())
        shards = shard(taken.lengths, self.group.size)
        arguments = [
            (
                taken.rows(rows),
                prepared.rows(torch.tensor(rows, dtype=torch.int64)),
                objective,
                temperature,
                values_only,
            )
            for rows in shards
        ]
        answers: list[dict[str, float]] = self.group.call_each("update", arguments)
        return answers[0]

    def export(self, version: int, *, shared: bool = False) -> WeightBundle:
        """The policy's weights, under the driver's version number.

        Args:
            shared: leave them in the first rank's memory, where processes of its host can read them;
                the bundle is then only a description.
        """
        # Every rank is called, because each may hold a part of the weights; the first has them whole.
        bundle: WeightBundle = self.group.call_all("export_weights", version, shared)[0]
        return bundle

    def offer(self, local: bool, deadline_s: float) -> Offer:
        """Where workers can join a broadcast of the weights; see `Learner.offer_weights`."""
        offer: Offer = self.group.call_all("offer_weights", local, deadline_s)[0]
        return offer

    def probe(self, sequences: Sequence[tuple[int, ...]]) -> list[tuple[float, ...]]:
        answer: list[tuple[float, ...]] = self.group.call_all("probe", sequences)[0]
        return answer

    def save(self, directory: Path) -> None:
        self.group.call_all("save", directory)

    def load(self, directory: Path, *, weights_only: bool = False) -> None:
        """Take up a saved state; `weights_only` leaves optimizer and schedule as they are."""
        self.group.call_all("load", directory, weights_only)

    def save_policy(self, directory: Path) -> None:
        self.group.call_all("save_policy", directory)


def mean_over_updates(reports: Sequence[dict[str, float]]) -> dict[str, float]:
    """One step's metrics from those of its updates: counts add up, maxima stay, the rest is averaged."""
    names = sorted({name for report in reports for name in report})
    result: dict[str, Any] = {}
    for name in names:
        values = [report[name] for report in reports if name in report]
        if name in ADDED or name.startswith("policy/trained_tokens/"):
            result[name] = sum(values)
        elif name.endswith("_max"):
            result[name] = max(values)
        else:
            result[name] = sum(values) / len(values)
    return result
