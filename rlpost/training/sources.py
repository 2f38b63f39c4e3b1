"""Sources: where a step's batch comes from. The loop does not know which one it has."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rlpost.config.schema import StageConfig
from rlpost.data.collate import ModelInputs, collate, collate_demonstrations
from rlpost.data.trajectory import OUTCOMES, Prompt, Trajectory
from rlpost.estimator import TokenBatch
from rlpost.scoring import Scorer
from rlpost.training.learners import Learners
from rlpost.training.recording import read_rollouts, write_rollouts
from rlpost.training.run_directory import RunDirectory
from rlpost.training.state import RunState
from rlpost.training.workers import Workers


@dataclass(frozen=True)
class StepData:
    """One step's batch, what it was made from, and what to report of it.

    Attributes:
        trajectories: all sampled ones, failed ones included; empty for demonstrations.
    """

    inputs: ModelInputs
    batch: TokenBatch
    trajectories: Sequence[Trajectory]
    metrics: dict[str, float]


class Source(Protocol):
    """Makes a step's batch from its prompts."""

    def collect(self, prompts: Sequence[Prompt], state: RunState) -> StepData:
        """The batch of step `state.step + 1`."""
        ...


class Demonstrations:
    """The dataset's own responses."""

    def collect(self, prompts: Sequence[Prompt], state: RunState) -> StepData:
        inputs, batch = collate_demonstrations(prompts)
        return StepData(inputs, batch, (), {"data/prompts": float(len(prompts))})


class Rollouts:
    """Sampled responses, scored."""

    def __init__(
        self,
        stage: StageConfig,
        seed: int,
        learners: Learners,
        workers: Workers,
        scorer: Scorer,
        keep: RunDirectory | None,
    ) -> None:
        self.stage, self.seed = stage, seed
        self.learners, self.workers, self.scorer, self.keep = learners, workers, scorer, keep

    def collect(self, prompts: Sequence[Prompt], state: RunState) -> StepData:
        start = time.perf_counter()
        metrics = self.workers.sync(self.learners, state.version)
        synced = time.perf_counter()
        sampled = self.workers.rollout(prompts, self.stage, state.stage_step + 1, self.seed)
        rolled = time.perf_counter()
        scored = self.scorer.score(sampled)
        metrics |= {
            "time/transfer_s": synced - start,
            "time/rollout_s": rolled - synced,
            "time/scoring_s": time.perf_counter() - rolled,
        }
        if self.keep is not None:
            write_rollouts(self.keep.rollouts(state.step + 1), scored)
        self.scorer.check_failures([t.reward for t in scored if t.reward is not None])
        return step_data(prompts, scored, metrics, state.version)


class Recorded:
    """The trajectories that an earlier run wrote down: no engine, no reward function."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory

    def collect(self, prompts: Sequence[Prompt], state: RunState) -> StepData:
        trajectories = read_rollouts(self.directory.rollouts(state.step + 1))
        return step_data(prompts, trajectories, {}, state.version)


def step_data(
    prompts: Sequence[Prompt], trajectories: Sequence[Trajectory], metrics: dict[str, float], version: int
) -> StepData:
    """The batch of scored trajectories; those that failed to score are left out and counted."""
    usable = [t for t in trajectories if t.reward is not None and not t.reward.failed]
    inputs, batch = collate(usable)
    report = metrics | {"data/prompts": float(len(prompts))} | rollout_metrics(trajectories, usable, version)
    return StepData(inputs, batch, trajectories, report)


def rollout_metrics(
    trajectories: Sequence[Trajectory], usable: Sequence[Trajectory], version: int
) -> dict[str, float]:
    """Lengths, outcomes, rewards and version lag of one step's samples."""
    lengths = [t.length for t in trajectories]
    lags = [version - v for t in trajectories for turn in t.turns if turn.by_policy for v in turn.versions]
    metrics = {
        "rollout/samples": float(len(trajectories)),
        "rollout/dropped_samples": float(len(trajectories) - len(usable)),
        "rollout/response_tokens_mean": sum(lengths) / len(lengths),
        "rollout/response_tokens_max": float(max(lengths)),
        "rollout/truncated_share": sum(t.truncated for t in trajectories) / len(trajectories),
        "rollout/version_lag_max": float(max(lags, default=0)),
    }
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
