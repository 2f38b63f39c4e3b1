"""Defaults that depend on another section of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlpost.config.schema import DataConfig, EnvironmentConfig, RunConfig, StageConfig

PROBE_TOLERANCES = {"float32": 1e-3, "bfloat16": 0.5}
BROKEN_SHARE = 0.02


def probe_tolerance(config: RunConfig) -> float:
    """`weights.probe_tolerance`, or what fits the model's dtype; nats."""
    chosen = config.weights.probe_tolerance
    return PROBE_TOLERANCES[config.model.dtype] if chosen is None else chosen


def evaluation_environment(config: RunConfig) -> EnvironmentConfig | None:
    """What answers the model when held-out problems are asked."""
    return config.evaluation.environment or config.stages[-1].environment


def training_data(data: DataConfig) -> DataConfig:
    """Prompts to train on, with their `max_broken_share` chosen."""
    if data.max_broken_share is not None:
        return data
    return data.model_copy(update={"max_broken_share": BROKEN_SHARE})


def prompts_of_file(data: DataConfig, path: str, columns: Mapping[str, Any]) -> DataConfig:
    """A file of our own making as a stage's prompts: with the stage's template and limits.

    Args:
        data: the stage's.
        columns: the keys of `data` under which the file is read.
    """
    elsewhere = {"dataset": None, "revision": None, "subset": None, "task": None, "task_options": {}}
    ours = {"path": path, "limit": None, "demonstration_column": None, "rejected_column": None}
    return data.model_copy(update={**elsewhere, **ours, **columns})


def stage_that_samples(config: RunConfig, name: str | None) -> StageConfig | None:
    """The stage of that name, or without one the only one, that samples; None where it is not clear which."""
    found = [s for s in config.stages if s.has_rollouts and name in (None, s.name)]
    return found[0] if len(found) == 1 else None


def sampled_tokens(stage: StageConfig) -> int:
    """The most tokens that the model says in one response; with an environment, in all its turns."""
    one, environment = stage.rollout.max_response_tokens, stage.environment
    if environment is None or not stage.has_rollouts:
        return one
    return _at_most(one * environment.max_turns, environment.max_episode_tokens)


def response_tokens(stage: StageConfig) -> int:
    """The most tokens after a prompt: `sampled_tokens`, and what an environment says in between."""
    environment = stage.environment
    if environment is None or not stage.has_rollouts:
        return sampled_tokens(stage)
    said = (environment.max_turns - 1) * environment.max_observation_tokens
    return _at_most(
        stage.rollout.max_response_tokens * environment.max_turns + said, environment.max_episode_tokens
    )


def learnt_tokens(stage: StageConfig) -> int | None:
    """The most tokens after a prompt of a batch; None where only the data knows, by its demonstrations."""
    sampled, limit = response_tokens(stage) if stage.has_rollouts else 0, stage.data.max_demonstration_tokens
    if not stage.has_demonstrations:
        return sampled
    return None if limit is None else max(sampled, limit)


def rows_per_prompt(stage: StageConfig) -> int:
    """Sequences of one prompt in a step's batch, when none of them is missing."""
    samples = stage.train.samples_per_prompt if stage.has_rollouts else 0
    pairs = stage.has_demonstrations and stage.data.rejected_column is not None
    return samples + int(stage.has_demonstrations) + int(pairs)


def known_positions(stage: StageConfig, config: RunConfig) -> int | None:
    """Tokens of the longest sequence that the stage's engine reads, as far as the configuration tells."""
    limits = [config.model.tiny.max_positions] if config.model.init == "tiny" else []
    if stage.rollout.engine == "vllm" and stage.rollout.vllm.max_model_len is not None:
        limits.append(stage.rollout.vllm.max_model_len)
    return min(limits, default=None)


def _at_most(tokens: int, limit: int | None) -> int:
    return tokens if limit is None else min(tokens, limit)
