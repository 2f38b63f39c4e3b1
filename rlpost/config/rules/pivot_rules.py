"""Rules about pivots: which stage they are for, and that their turns can be judged alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rlpost.config.dependent import stage_that_samples
from rlpost.config.problems import Problem
from rlpost.config.schema import RunConfig, StageConfig


def pivot_stage(config: RunConfig) -> StageConfig | None:
    """The stage that `pivots` is for; None where it is not clear which."""
    return stage_that_samples(config, None if config.pivots is None else config.pivots.stage)


def pivots_are_for_a_stage(config: RunConfig) -> Iterator[Problem]:
    """Pivots are found for one stage that samples single turns, and judged by its rewards."""
    if config.pivots is None:
        return
    stage = pivot_stage(config)
    sampling = ", ".join(f"`{s.name}`" for s in config.stages if s.has_rollouts) or "none"
    if stage is None:
        what = "it is not clear which stage pivots are for"
        if config.pivots.stage is not None:
            what = f"no stage `{config.pivots.stage}` samples responses"
        yield Problem(("pivots", "stage"), what, f"stages that sample: {sampling}", "the name of one of them")
    elif stage.environment is not None or not stage.rewards:
        found = "no rewards" if stage.environment is None else f"environment: {stage.environment.name}"
        yield Problem(
            ("pivots", "stage"),
            f"stage `{stage.name}` cannot judge a single turn",
            found,
            "a stage without `environment`, with `rewards` that compare with the expert's action",
            "rewards: functional_action",
        )
    elif stage.has_demonstrations:
        yield Problem(
            ("pivots", "stage"),
            f"stage `{stage.name}` learns from demonstrations too, and pivots have none",
            f"source: {stage.source}",
            "a stage with source: rollouts",
        )


def pivots_are_chosen_between_steps(config: RunConfig) -> Iterator[Problem]:
    """Where new pivots are chosen during training, no response to the old ones may be on its way."""
    stage = pivot_stage(config)
    if config.pivots is None or config.pivots.reprofile is None or stage is None:
        return
    if stage.train.max_staleness:
        yield Problem(
            ("pivots", "reprofile"),
            "new pivots are chosen when nothing is being sampled",
            found=f"max_staleness: {stage.train.max_staleness} in stage `{stage.name}`",
            needed="train.max_staleness: 0",
        )


def the_error_pattern_is_one(config: RunConfig) -> Iterator[Problem]:
    """`pivots.error_pattern` is a regular expression."""
    pattern = None if config.pivots is None else config.pivots.error_pattern
    if pattern is None:
        return
    try:
        re.compile(pattern)
    except re.error as error:
        yield Problem(("pivots", "error_pattern"), f"not a regular expression: {error}", found=repr(pattern))
