"""Rules on the value network or token reward model, and which stages have one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rlpost.config.problems import Problem
from rlpost.config.schema import CriticConfig, StageConfig
from rlpost.estimator import Objective

Stages = Iterable[tuple[int, StageConfig, Objective]]
"""The stages whose algorithms are valid, with their places and objectives."""


def value_signals(objective: Objective) -> frozenset[str]:
    """The signals that a critic gives and the objective reads: "value", "value/0" and so on, or "outcome"."""
    return frozenset(objective.value_heads)


def learns_outcomes(objective: Objective) -> bool:
    """True where the critic is a token reward model."""
    return objective.value_heads == ("outcome",)


def stage_critic(stage: StageConfig, objective: Objective) -> CriticConfig | None:
    """The settings of the stage's critic, the defaults where nothing is said; None where none is read."""
    return (stage.critic or CriticConfig()) if value_signals(objective) else None


def a_critic_is_read(stages: Stages) -> Iterator[Problem]:
    """A critic's values are read by the algorithm of its stage, or of another that has the section too."""
    given = [
        (i, stage, value_signals(objective)) for i, stage, objective in stages if stage.critic is not None
    ]
    if any(read for _, _, read in given):
        return
    for index, stage, _ in given:
        yield Problem(
            ("stages", index, "critic"),
            f"nothing reads the critic's values: stage `{stage.name}` trains with "
            f"`{stage.algorithm['base']}`",
            needed="an algorithm with an advantage that reads them, such as `ppo`, or no `critic`",
        )


def critic_options_are_read(stages: Stages) -> Iterator[Problem]:
    """`critic.coefficient` is for a shared backbone, `init` for one of its own, `value_clip` for values."""
    for index, stage, objective in stages:
        critic = stage_critic(stage, objective)
        if critic is None:
            continue
        if critic.shared and critic.init is not None:
            yield Problem(
                ("stages", index, "critic", "init"),
                "a critic that shares the policy's backbone loads none",
                found=f"init: {critic.init}, shared: true",
                needed="one of the two",
            )
        if not critic.shared and critic.coefficient != CriticConfig().coefficient:
            yield Problem(
                ("stages", index, "critic", "coefficient"),
                "`critic.coefficient` is read only with `shared: true`",
                found=f"{critic.coefficient:g}",
                needed="critic.shared: true, or no such key",
            )
        if critic.value_clip is not None and learns_outcomes(objective):
            yield Problem(
                ("stages", index, "critic", "value_clip"),
                "a token reward model learns outcomes, and has no values to clip",
                found=f"{critic.value_clip:g}",
                needed="no such key",
            )


def the_policy_learns_too(stages: Stages) -> Iterator[Problem]:
    """The critic's warm-up is shorter than its stage."""
    for index, stage, objective in stages:
        critic, steps = stage_critic(stage, objective), stage.train.steps
        if critic is not None and critic.warmup_steps >= steps:
            yield Problem(
                ("stages", index, "critic", "warmup_steps"),
                "the policy would never take a step",
                found=f"{critic.warmup_steps} critic.warmup_steps of {steps} train.steps",
                needed=f"at most {steps - 1}",
            )
