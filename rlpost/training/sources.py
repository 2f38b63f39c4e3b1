"""Sources: where a step's batch comes from. The loop does not know which one it has."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from rlpost.config.rules import reward_name
from rlpost.config.schema import StageConfig
from rlpost.data import PromptSampler
from rlpost.data.collate import (
    BatchRow,
    ModelInputs,
    collate_rows,
    demonstrated_rows,
    reward_parts,
    sampled_row,
)
from rlpost.data.trajectory import OUTCOMES, Prompt, Trajectory
from rlpost.errors import DataError
from rlpost.estimator import Objective, TokenBatch
from rlpost.training.episode_metrics import episode_metrics
from rlpost.training.recording import read_rollouts
from rlpost.training.rounds import Gathered, gather, wants_greedy
from rlpost.training.run_directory import RunDirectory
from rlpost.training.state import RunState
from rlpost.training.variants import Scored, by_variant


@dataclass(frozen=True)
class StepData:
    """One step's batch, what it was made from, and what to report of it.

    Attributes:
        prompt_ids: of the batch's rows, in their order.
        samples: responses sampled; demonstrations used, where nothing is sampled.
        sampler: the prompt sampler's state after this step's last draw, where a resumed run goes on.
        epoch: the sampler's, then.
        variants: the rewards of all usable responses, by the variant of their prompts.
    """

    inputs: ModelInputs
    batch: TokenBatch
    prompt_ids: Sequence[str]
    samples: int
    metrics: dict[str, float]
    sampler: Mapping[str, Any] = field(default_factory=dict)
    epoch: int = 0
    variants: Scored = field(default_factory=dict)

    def drawn(self, sampler: Mapping[str, Any], epoch: int) -> StepData:
        """The same, with where the sampler stood."""
        return replace(self, sampler=sampler, epoch=epoch)


class Source(Protocol):
    """Makes a step's batch from the prompts that it draws."""

    def collect(self, sampler: PromptSampler, objective: Objective, state: RunState) -> StepData:
        """The batch of step `state.step + 1`."""
        ...


class Demonstrations:
    """The dataset's own responses."""

    def __init__(self, stage: StageConfig) -> None:
        self.stage = stage

    def collect(self, sampler: PromptSampler, objective: Objective, state: RunState) -> StepData:
        prompts = sampler.next_batch()
        reward = self.stage.data.demonstration_reward
        rows = [row for prompt in prompts for row in demonstrated_rows(prompt, reward)]
        inputs, batch = collate_rows(rows, sampled=False)
        metrics = {"data/prompts": float(len(prompts))}
        ids = [row.prompt.id for row in rows]
        return StepData(inputs, batch, ids, len(prompts), metrics, sampler.state_dict(), sampler.epoch)


class Recorded:
    """The trajectories that an earlier run wrote down: no engine, no reward function."""

    def __init__(self, directory: RunDirectory, stage: StageConfig) -> None:
        self.directory, self.stage = directory, stage

    def collect(self, sampler: PromptSampler, objective: Objective, state: RunState) -> StepData:
        path = self.directory.rollouts(state.step + 1)
        recorded: dict[str, list[Trajectory]] = {}
        for trajectory in read_rollouts(path):
            recorded.setdefault(trajectory.prompt.id, []).append(trajectory)

        def sample(prompts: Sequence[Prompt]) -> list[Trajectory]:
            missing = [prompt.id for prompt in prompts if prompt.id not in recorded]
            if missing:
                raise DataError(
                    "the step drew a prompt that these rollouts do not hold",
                    where=path,
                    found=f"prompt {missing[0]!r}",
                    needed=f"one of the {len(recorded)} prompts in the file",
                    remedy="replay with the data and the version of rlpost that the run had",
                )
            return [t for prompt in prompts for t in recorded[prompt.id]]

        gathered = gather(sampler, sample, objective, self.stage.train.prompts_per_step)
        data = step_data(gathered, objective, self.stage, {}, state.version)
        return data.drawn(sampler.state_dict(), sampler.epoch)


def reward_weights(stage: StageConfig) -> dict[str, float]:
    """The weight of each reward function, by its name."""
    return {reward_name(reward): reward.weight for reward in stage.rewards}


def step_data(
    gathered: Gathered, objective: Objective, stage: StageConfig, metrics: dict[str, float], version: int
) -> StepData:
    """The batch of what was gathered, with what the objective wants to know of each response.

    Prompt by prompt: the responses that could be scored, and with `source: both` the demonstration behind
    them. A prompt of which no response could be scored has its demonstration alone in the batch.
    """
    rows = batch_rows(gathered, stage)
    inputs, batch = collate_rows(rows)
    signals = {}
    if wants_greedy(objective):
        greedy = [gathered.greedy.get(row.prompt.id, math.nan) for row in rows]
        signals["greedy_reward"] = torch.tensor(greedy, dtype=torch.float64)
    if "reward_parts" in objective.sequence_signals:
        signals |= reward_parts(rows, reward_weights(stage))
    batch = replace(batch, sequence_signals=signals)
    report = metrics | {"data/prompts": float(gathered.prompts)} | gathered.metrics
    report |= rollout_metrics(gathered.sampled, gathered.usable, version)
    report |= episode_metrics(gathered.sampled)
    if stage.has_demonstrations:
        report |= demonstration_metrics(gathered)
    data = StepData(inputs, batch, [row.prompt.id for row in rows], len(gathered.sampled), report)
    return replace(data, variants=by_variant(gathered.usable, stage.data.variant_column))


def batch_rows(gathered: Gathered, stage: StageConfig) -> list[BatchRow]:
    """The rows of a step's batch, contiguous for each prompt."""
    group_of, rows = gathered.group_of, []
    for prompt in gathered.members:
        rows += [sampled_row(trajectory) for trajectory in group_of.get(prompt.id, ())]
        if stage.has_demonstrations:
            rows += demonstrated_rows(prompt, stage.data.demonstration_reward)
    return rows


def demonstration_metrics(gathered: Gathered) -> dict[str, float]:
    """Prompts of the batch without a demonstration, and those with nothing else."""
    with_one = [prompt for prompt in gathered.members if prompt.demonstration is not None]
    alone = sum(prompt.id not in gathered.group_of for prompt in with_one)
    return {
        "demonstrations/missing": float(len(gathered.members) - len(with_one)),
        "demonstrations/alone": float(alone),
    }


def rollout_metrics(
    trajectories: Sequence[Trajectory], usable: Sequence[Trajectory], version: int
) -> dict[str, float]:
    """Lengths, outcomes, rewards and version lag of one step's samples."""
    lengths = [t.length for t in trajectories]
    lags = version_lags(trajectories, version)
    metrics = {
        "rollout/samples": float(len(trajectories)),
        "rollout/dropped_samples": float(len(trajectories) - len(usable)),
        "rollout/response_tokens_mean": sum(lengths) / len(lengths),
        "rollout/response_tokens_max": float(max(lengths)),
        "rollout/truncated_share": sum(t.truncated for t in trajectories) / len(trajectories),
        "rollout/version_lag_max": float(max(lags, default=0)),
        "rollout/version_lag_mean": sum(lag * count for lag, count in lags.items()) / max(1, lags.total()),
    }
    for lag in range(max(lags, default=0) + 1):
        metrics[f"rollout/version_lag/{lag}"] = lags[lag] / max(1, lags.total())
    for outcome in OUTCOMES:
        count = sum(t.reward is not None and t.reward.outcome == outcome for t in trajectories)
        metrics[f"scoring/{outcome}"] = float(count)
    scores = [t.reward.score for t in usable if t.reward is not None and t.reward.score is not None]
    if scores:
        mean = sum(scores) / len(scores)
        metrics["reward/mean"] = mean
        metrics["reward/std"] = (sum((s - mean) ** 2 for s in scores) / len(scores)) ** 0.5
    parts: dict[str, list[float]] = {}
    for trajectory in usable:
        for name, value in (trajectory.reward.parts if trajectory.reward else {}).items():
            parts.setdefault(name, []).append(value)
    return metrics | {f"reward/part/{name}": sum(v) / len(v) for name, v in parts.items()}


def version_lags(trajectories: Sequence[Trajectory], version: int) -> Counter[int]:
    """How many sampled tokens lag how many versions behind `version`."""
    lags: Counter[int] = Counter()
    for turn in (turn for t in trajectories for turn in t.turns if turn.by_policy and turn.versions):
        # Versions never decrease within a turn, and most turns have one.
        if turn.versions[0] == turn.versions[-1]:
            lags[version - turn.versions[0]] += len(turn.versions)
        else:
            lags.update(version - v for v in turn.versions)
    return lags
