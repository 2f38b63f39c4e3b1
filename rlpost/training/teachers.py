"""The teachers of a run: looked at before anything starts."""

from __future__ import annotations

from rlpost.config import stage_objective
from rlpost.config.schema import RunConfig
from rlpost.config.teacher_rules import reads_teacher
from rlpost.models.teacher import check_teacher, teacher_fingerprint


def examine_teachers(config: RunConfig) -> dict[str, str]:
    """A fingerprint of every stage's teacher, for the identity of the run's checkpoints.

    Raises:
        ConfigError: a teacher cannot be loaded, or does not read the policy's tokens as the policy does.
    """
    found = {}
    for stage in config.stages:
        if stage.teacher is not None and reads_teacher(stage_objective(stage)):
            check_teacher(config.model, stage.teacher)
            name = f"teacher of stage {stage.name}"
            found[name] = teacher_fingerprint(config.model, stage.teacher)
    return found
