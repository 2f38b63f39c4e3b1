"""Rules on environments: what an episode needs of the other sections."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.config.dependent import evaluation_environment
from rlpost.config.held_out import configured_sets
from rlpost.config.problems import Problem
from rlpost.config.schema import EnvironmentConfig, RunConfig
from rlpost.config.yaml_text import KeyPath


def environments_speak_through_a_template(config: RunConfig) -> Iterator[Problem]:
    """An environment gives messages, which only a chat template turns into tokens."""
    for index, stage in enumerate(config.stages):
        if stage.environment is not None and stage.data.template == "none":
            path = ("stages", index, "data", "template")
            yield _without_template(path, stage.environment, f"stage `{stage.name}`")
    environment = evaluation_environment(config)
    for path, held_out in configured_sets(config):
        if held_out.template == "none" and environment is not None:
            yield _without_template((*path, "template"), environment, "the evaluation")


def a_worker_outlasts_an_environment(config: RunConfig) -> Iterator[Problem]:
    """A worker that waits for environments samples nothing meanwhile, and must not pass for a lost one."""
    asked: list[tuple[KeyPath, EnvironmentConfig | None]] = [
        (("stages", index, "environment"), stage.environment) for index, stage in enumerate(config.stages)
    ]
    asked.append((("evaluation", "environment"), config.evaluation.environment))
    deadline_s = config.cluster.deadline_s
    for path, environment in asked:
        if environment is not None and environment.turn_deadline_s >= deadline_s:
            yield Problem(
                (*path, "turn_deadline_s"),
                "an environment may be silent for longer than its rollout worker",
                found=f"turn_deadline_s: {environment.turn_deadline_s:g}, cluster.deadline_s: {deadline_s:g}",
                needed=f"less than {deadline_s:g}, or a longer cluster.deadline_s",
            )


def _without_template(path: KeyPath, environment: EnvironmentConfig, where: str) -> Problem:
    return Problem(
        path,
        f"the environment `{environment.name}` of {where} needs a chat template",
        found="template: none",
        needed="template: chat (or auto, with a tokenizer that has one)",
        remedy=f"or set `environment` of {where} to null",
    )
