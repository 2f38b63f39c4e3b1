"""Rules about guided problems: which stage they are for, and that there are solutions."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.config.dependent import stage_that_samples
from rlpost.config.problems import Problem
from rlpost.config.schema import DataConfig, GuidanceConfig, RunConfig, StageConfig


def guidance_stage(config: RunConfig) -> StageConfig | None:
    """The stage that `guidance` is for; None where it is not clear which."""
    return stage_that_samples(config, None if config.guidance is None else config.guidance.stage)


def guidance_data(settings: GuidanceConfig, stage: StageConfig) -> DataConfig:
    """Where the problems and their solutions come from."""
    return settings.data or stage.data


def guidance_is_for_a_stage(config: RunConfig) -> Iterator[Problem]:
    """Guided problems are for one stage that samples single responses and rewards them."""
    if config.guidance is None:
        return
    stage = guidance_stage(config)
    sampling = ", ".join(f"`{s.name}`" for s in config.stages if s.source != "demonstrations") or "none"
    if stage is None:
        what = "it is not clear which stage guidance is for"
        if config.guidance.stage is not None:
            what = f"no stage `{config.guidance.stage}` samples responses"
        yield Problem(
            ("guidance", "stage"), what, f"stages that sample: {sampling}", "the name of one of them"
        )
    elif stage.environment is not None or not stage.rewards:
        found = "no rewards" if stage.environment is None else f"environment: {stage.environment.name}"
        yield Problem(
            ("guidance", "stage"),
            f"stage `{stage.name}` does not judge single responses",
            found,
            "a stage without `environment`, with `rewards`",
        )


def guidance_has_solutions(config: RunConfig) -> Iterator[Problem]:
    """`guidance` needs solutions, in a column of their own."""
    stage = guidance_stage(config)
    if config.guidance is None or stage is None:
        return
    data, own = guidance_data(config.guidance, stage), config.guidance.data is not None
    path = ("guidance", "data") if own else ("stages", config.stages.index(stage), "data")
    if data.demonstration_column is None:
        yield Problem(
            (*path, "demonstration_column"),
            "guidance needs solutions, but no column holds them",
            needed="`demonstration_column: NAME`",
        )
    elif data.demonstration_column == data.prompt_column:
        yield Problem(
            (*path, "demonstration_column"),
            "guidance needs solutions in a column of their own",
            found=f"{data.demonstration_column!r} for prompts and solutions",
        )
    if data.prefill_column is not None:
        yield Problem(
            (*path, "prefill_column"),
            "responses to problems that are to be guided cannot have a beginning already",
            found=data.prefill_column,
            needed="problems as they are",
        )


def guided_rows_are_complete(config: RunConfig) -> Iterator[Problem]:
    """What `rlpost guide` wrote holds the system prompt and the instruction of `guidance.data` already."""
    stage = guidance_stage(config)
    if config.guidance is None or config.guidance.data is None or stage is None:
        return
    for key in ("system_prompt", "instruction"):
        if getattr(stage.data, key) is not None:
            yield Problem(
                ("stages", config.stages.index(stage), "data", key),
                f"the rows of guided problems hold the {key.replace('_', ' ')} already",
                found=getattr(stage.data, key),
                needed=f"`guidance.data.{key}` alone",
            )
