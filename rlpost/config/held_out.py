"""Held-out problems: the sets that a run asks, and what judges the answers."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.config.dependent import evaluation_environment
from rlpost.config.schema import DataConfig, RewardConfig, RunConfig, StageConfig
from rlpost.config.yaml_text import KeyPath


def sampling_stages(config: RunConfig) -> list[StageConfig]:
    """The stages that sample; for a purely supervised run, its last one, for evaluation."""
    return [stage for stage in config.stages if stage.has_rollouts] or config.stages[-1:]


def run_rewards(config: RunConfig) -> list[RewardConfig]:
    """The reward functions of the run: the same in every stage that samples (a rule checks it)."""
    return sampling_stages(config)[0].rewards


def is_judged(config: RunConfig) -> bool:
    """Whether anything judges an answer to a held-out problem: reward functions, or an environment."""
    return bool(run_rewards(config)) or evaluation_environment(config) is not None


def configured_sets(config: RunConfig) -> Iterator[tuple[KeyPath, DataConfig]]:
    """The sets that the configuration names, with the keys under which it does."""
    if config.evaluation.data is not None:
        yield ("evaluation", "data"), config.evaluation.data
    for name, data in config.evaluation.others.items():
        yield ("evaluation", "others", name), data


def held_out_sets(config: RunConfig) -> dict[str, DataConfig]:
    """Every set of held-out problems by its name, "" for the main one; {} when nothing is evaluated."""
    main = evaluation_data(config)
    sets = ({} if main is None else {"": main}) | config.evaluation.others
    most = config.evaluation.problems
    return sets if most is None else {k: data.model_copy(update={"limit": most}) for k, data in sets.items()}


def evaluation_data(config: RunConfig) -> DataConfig | None:
    """Where the main set of them is: as configured, or a synthetic task's own; None without any.

    Whatever the prompts to train on may be, none of these may be broken. A task's own are asked only where
    something judges the answers.
    """
    last = config.stages[-1].data
    chosen = config.evaluation.data
    if chosen is None and last.task is not None and is_judged(config):
        chosen = last.model_copy(update={"split": "test", "max_broken_share": None})
    return chosen
