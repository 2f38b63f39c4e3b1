"""Rules on the model that a stage learns from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rlpost.config.problems import Problem
from rlpost.config.schema import StageConfig
from rlpost.estimator import Objective

TEACHER = "teacher_logprob"
"""The signal that a teacher gives."""

Stages = Iterable[tuple[int, StageConfig, Objective]]
"""The stages whose algorithms are valid, with their places and objectives."""


def reads_teacher(objective: Objective) -> bool:
    """Whether the objective reads the teacher's log-probs."""
    return TEACHER in objective.signals


def a_teacher_is_there(stages: Stages) -> Iterator[Problem]:
    """An algorithm that reads a teacher's log-probs has a teacher, and one that has learnt something."""
    for index, stage, objective in stages:
        if not reads_teacher(objective):
            continue
        if stage.teacher is None:
            yield Problem(
                ("stages", index, "teacher"),
                f"`{stage.algorithm['base']}` learns from a teacher, and stage `{stage.name}` has none",
                needed="`teacher: NAME`, a model with the policy's tokenizer",
            )
        elif stage.teacher.init == "tiny":
            yield Problem(
                ("stages", index, "teacher", "init"),
                "the tiny model's weights are random, so it has nothing to teach",
                found="init: tiny",
                needed="a trained model, such as the policy/ directory of another run",
            )


def a_teacher_is_read(stages: Stages) -> Iterator[Problem]:
    """A teacher is read by the algorithm of its stage, or of another that has the section too."""
    given = [(i, stage, reads_teacher(objective)) for i, stage, objective in stages if stage.teacher]
    if any(read for _, _, read in given):
        return
    for index, stage, _ in given:
        yield Problem(
            ("stages", index, "teacher"),
            f"nothing reads the teacher's log-probs: stage `{stage.name}` trains with "
            f"`{stage.algorithm['base']}`",
            needed="an algorithm that does, such as `distil`, or no `teacher`",
        )
