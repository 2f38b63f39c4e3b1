"""Rules on who waits for whom: samples older than the weights they train, shared accelerators."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.config.problems import Problem
from rlpost.config.schema import RunConfig, StageConfig
from rlpost.estimator import Objective


def stale_samples_are_corrected(
    objectives: Iterator[tuple[int, StageConfig, Objective]],
) -> Iterator[Problem]:
    """Where a sample may be older than the weights it trains, the objective must know who sampled it."""
    for index, stage, objective in objectives:
        staleness = stage.train.max_staleness
        if staleness and stage.has_rollouts and "behaviour_logprob" not in objective.signals:
            yield Problem(
                ("stages", index, "train", "max_staleness"),
                "samples older than the weights need a correction, and the algorithm has none",
                found=f"max_staleness: {staleness} with `{stage.algorithm['base']}`",
                needed="a part that reads the sampler's own log-probs",
                remedy="add `correction: [{truncated: {}}]` or `denominator: behaviour` to `algorithm`",
            )


def staleness_is_of_rollouts(config: RunConfig) -> Iterator[Problem]:
    """Demonstrations have no age."""
    for index, stage in enumerate(config.stages):
        if stage.train.max_staleness and not stage.has_rollouts:
            yield Problem(
                ("stages", index, "train", "max_staleness"),
                "`max_staleness` is read only where responses are sampled",
                found=f"max_staleness: {stage.train.max_staleness} with source: {stage.source}",
                needed="source: rollouts or both",
            )


def shared_accelerators_take_turns(config: RunConfig) -> Iterator[Problem]:
    """Engines that sleep while the learner works cannot sample ahead of it."""
    if config.cluster.placement == "split":
        return
    if config.cluster.mode == "inline":
        yield Problem(
            ("cluster", "placement"),
            "`placement: colocated` is read only with `cluster.mode: ray`",
            needed="cluster.mode: ray, or no such key",
        )
    for index, stage in enumerate(config.stages):
        if stage.train.max_staleness:
            yield Problem(
                ("stages", index, "train", "max_staleness"),
                "colocated workers cannot sample while the learner works",
                found=f"max_staleness: {stage.train.max_staleness} with cluster.placement: colocated",
                needed="max_staleness: 0, or cluster.placement: split",
            )
