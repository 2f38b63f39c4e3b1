"""Rules about data sets."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rlpost.config.held_out import configured_sets
from rlpost.config.problems import Problem
from rlpost.config.schema import RunConfig


def evaluations_take_no_broken_row(config: RunConfig) -> Iterator[Problem]:
    """The accuracy on a benchmark of which some rows are left out is that of another benchmark."""
    for path, data in configured_sets(config):
        if data.max_broken_share:
            yield Problem(
                (*path, "max_broken_share"),
                "an evaluation takes no broken row",
                found=f"{data.max_broken_share:g}",
                needed="0: a smaller benchmark is another one, and its accuracy compares with nothing",
            )


def further_sets_have_plain_names(config: RunConfig) -> Iterator[Problem]:
    """The name of a set in `evaluation.others` is part of metric names and a directory."""
    for name in config.evaluation.others:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
            yield Problem(
                ("evaluation", "others", name),
                "the name of a held-out set is not a plain word",
                found=repr(name),
                needed="letters, digits, `_` or `-`, starting with a letter",
            )


def long_demonstrations_have_a_limit(config: RunConfig) -> Iterator[Problem]:
    """`overlong_demonstrations` says what becomes of those above `max_demonstration_tokens`."""
    for index, stage in enumerate(config.stages):
        data = stage.data
        if data.overlong_demonstrations != "error" and data.max_demonstration_tokens is None:
            yield Problem(
                ("stages", index, "data", "overlong_demonstrations"),
                "no demonstration is overlong without a limit",
                found=f"overlong_demonstrations: {data.overlong_demonstrations}",
                needed="`max_demonstration_tokens: TOKENS` beside it",
            )


def tools_come_from_one_place(config: RunConfig) -> Iterator[Problem]:
    """A stage's tools are its environment's, or stand in `data.tools_column`."""
    for index, stage in enumerate(config.stages):
        if stage.environment is not None and stage.data.tools_column is not None:
            yield Problem(
                ("stages", index, "data", "tools_column"),
                "an environment brings its own tools",
                found=f"tools_column: {stage.data.tools_column} beside environment: {stage.environment.name}",
                needed="one of the two",
            )


def a_prefill_begins_what_is_sampled(config: RunConfig) -> Iterator[Problem]:
    """A response that the prompt begins is a single turn, and sampled from there."""
    for index, stage in enumerate(config.stages):
        others = {
            "environment": stage.environment and stage.environment.name,
            "demonstration_column": stage.data.demonstration_column,
        }
        found = ", ".join(f"{key}: {value}" for key, value in others.items() if value is not None)
        if stage.data.prefill_column is not None and found:
            yield Problem(
                ("stages", index, "data", "prefill_column"),
                "only a sampled response of a single turn can be begun by its prompt",
                found=found,
                needed="a stage with neither, or no `prefill_column`",
            )
