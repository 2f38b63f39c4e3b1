"""Rules on what a stage learns from: sampled responses, demonstrations, or both in one batch."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.config.problems import Problem
from rlpost.config.schema import RunConfig, StageConfig
from rlpost.estimator import Objective, Term
from rlpost.estimator.advantage import Constant
from rlpost.estimator.gate import PreferredGate


def algorithms_fit_their_source(
    objectives: Iterator[tuple[int, StageConfig, Objective]],
) -> Iterator[Problem]:
    """Every term of an objective finds rows to read, and every kind of rows a term that reads it."""
    for index, stage, objective in objectives:
        given = {"rollouts", "demonstrations"} if stage.source == "both" else {stage.source}
        named = {kind for term in objective.terms for kind in _rows_read(term)}
        takes_all = any(term.rows == "all" for term in objective.terms)
        if named == given or (takes_all and named <= given):
            continue
        wanted = sorted(named) or ["rollouts"]
        yield Problem(
            ("stages", index, "source"),
            f"`{stage.algorithm['base']}` learns from {' and '.join(wanted)}",
            found=f"source: {stage.source} in stage `{stage.name}`",
            needed=f"source: {'both' if len(wanted) > 1 else wanted[0]}",
        )


def _rows_read(term: Term) -> set[str]:
    """The kinds of rows that a term asks for by name."""
    if term.compared_with == "all":
        return {"rollouts", "demonstrations"}
    return set() if term.rows == "all" else {term.rows}


def ratios_are_of_samples(objectives: Iterator[tuple[int, StageConfig, Objective]]) -> Iterator[Problem]:
    """No ratio to an old policy, or to a sampler's, is formed of a demonstration."""
    for index, stage, objective in objectives:
        for term in objective.terms:
            if stage.source == "both" and term.rows == "all" and term.ratio_signals:
                yield Problem(
                    ("stages", index, "algorithm"),
                    f"term `{term.label}` trains all rows by ratios, and demonstrations have no old policy",
                    found=f"{term.denominator.formula} with rows: all and source: both",
                    needed="a term with rows: rollouts, and one with rows: demonstrations",
                )


def coefficients_follow_samples(
    objectives: Iterator[tuple[int, StageConfig, Objective]],
) -> Iterator[Problem]:
    """What an adaptive coefficient follows is measured on samples."""
    for index, stage, objective in objectives:
        if not stage.has_rollouts and objective.adaptive:
            keys = " and ".join(part.key for part in objective.adaptive)
            yield Problem(
                ("stages", index, "algorithm"),
                f"the coefficient of {keys} follows what is measured on samples, and nothing is sampled",
                found=f"source: {stage.source} in stage `{stage.name}`",
                needed="a fixed coefficient, or source: rollouts",
            )


def demonstrations_are_there(config: RunConfig) -> Iterator[Problem]:
    """A stage that learns from demonstrations has a column of them, and one for each prompt."""
    for index, stage in enumerate(config.stages):
        if not stage.has_demonstrations:
            continue
        if stage.data.demonstration_column is None:
            yield Problem(
                ("stages", index, "data", "demonstration_column"),
                f"stage `{stage.name}` learns from demonstrations, but no column holds them",
                needed="`demonstration_column: demonstration`"
                if stage.data.task is not None
                else "`demonstration_column: NAME`",
            )
        if not stage.has_rollouts and stage.train.samples_per_prompt != 1:
            yield Problem(
                ("stages", index, "train", "samples_per_prompt"),
                "a prompt has one demonstration",
                found=f"{stage.train.samples_per_prompt} samples_per_prompt",
                needed="samples_per_prompt: 1 in a stage with source: demonstrations",
            )


def pairs_are_compared(objectives: Iterator[tuple[int, StageConfig, Objective]]) -> Iterator[Problem]:
    """Two responses to a prompt for an algorithm that compares them, and none for one that imitates."""
    for index, stage, objective in objectives:
        if stage.has_rollouts:
            continue
        imitates = any(
            isinstance(term.advantage, Constant) and not isinstance(term.gate, PreferredGate)
            for term in objective.terms
        )
        name, rejected = stage.algorithm["base"], stage.data.rejected_column
        if rejected is None and objective.needs_group:
            yield Problem(
                ("stages", index, "data", "rejected_column"),
                f"`{name}` compares two responses to a prompt, and a prompt has one demonstration",
                found=f"source: {stage.source} without `rejected_column`",
                needed="`rejected_column: NAME`, or source: rollouts",
            )
        elif rejected is not None and imitates:
            yield Problem(
                ("stages", index, "data", "rejected_column"),
                f"`{name}` would imitate the rejected responses too",
                found=f"rejected_column: {rejected}",
                needed="an algorithm that compares the two, such as dpo, or gate: preferred on the term that "
                "imitates, or rejected_column: null",
            )


def pairs_are_demonstrated(config: RunConfig) -> Iterator[Problem]:
    """A rejected response stands beside a demonstration, and beside no sample."""
    for index, stage in enumerate(config.stages):
        rejected, path = stage.data.rejected_column, ("stages", index, "data", "rejected_column")
        if rejected is None:
            continue
        if stage.data.demonstration_column is None:
            yield Problem(
                path,
                "a rejected response needs one that is preferred to it",
                found=f"rejected_column: {rejected} without `demonstration_column`",
                needed="`demonstration_column: NAME`, such as `chosen`",
            )
        if stage.source == "both":
            yield Problem(
                path,
                "pairs are learnt where nothing is sampled",
                found=f"rejected_column: {rejected} with source: both",
                needed="source: demonstrations, or rejected_column: null",
            )


def mixed_batches_have_one_temperature(config: RunConfig) -> Iterator[Problem]:
    """The learner takes all log-probs of a batch at one temperature, and demonstrations are learnt at 1."""
    for index, stage in enumerate(config.stages):
        if stage.source == "both" and stage.rollout.temperature != 1.0:
            yield Problem(
                ("stages", index, "rollout", "temperature"),
                "samples and demonstrations of one batch are learnt at one temperature",
                found=f"temperature: {stage.rollout.temperature:g} with source: both",
                needed="rollout.temperature: 1.0",
            )
