"""The teachers of a run: looked at before anything starts."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.config import stage_objective
from rlpost.config.rules.teacher_rules import reads_teacher
from rlpost.config.schema import RunConfig, TeacherConfig
from rlpost.models.teacher import check_teacher, teacher_fingerprint


def teachers(config: RunConfig) -> Iterator[tuple[str, TeacherConfig]]:
    """Every stage's teacher, by words that name the stage."""
    for stage in config.stages:
        if stage.teacher is not None and reads_teacher(stage_objective(stage)):
            yield f"teacher of stage {stage.name}", stage.teacher


def examine_teachers(config: RunConfig) -> dict[str, str]:
    """A fingerprint of every stage's teacher, for the identity of the run's checkpoints.

    Raises:
        ConfigError: a teacher cannot be loaded, or does not read the policy's tokens as the policy does.
    """
    found = {}
    for name, teacher in teachers(config):
        check_teacher(config.model, teacher)
        found[name] = teacher_fingerprint(config.model, teacher)
    return found
