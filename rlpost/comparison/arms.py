"""Arms from a file: other algorithms, or other stages, on one recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpost.errors import ConfigError, UserError

if TYPE_CHECKING:
    from rlpost.config.problems import Problem
    from rlpost.config.schema import RunConfig, StageConfig

Spec = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""An arm: a value of `algorithm` with its `base`, or stages that take the place of a recipe's last one."""

SOURCE_KEYS = ("path", "dataset", "revision", "subset", "split", "task", "task_options")
"""What says where prompts come from; a stage that names another source starts without them."""


def read_arms(path: Path) -> dict[str, Spec]:
    """The arms of a file, by name; a user's own parts are looked up beside it.

    Raises:
        ConfigError: the file is not such a mapping.
    """
    from rlpost.config.yaml_text import read_document

    arms = read_document(path).data
    if not isinstance(arms, Mapping) or not arms:
        raise ConfigError(
            "the arms are not a mapping",
            where=path,
            found=type(arms).__name__,
            needed="`name: algorithm` pairs, such as `grpo: grpo`",
        )
    return {
        str(name): _absolute(_written_out(value, f"{path}, arm {name}"), path.parent)
        for name, value in arms.items()
    }


def _written_out(value: object, where: str) -> Spec:
    """An arm without short forms."""
    from rlpost.config.schema import StageConfig
    from rlpost.config.stages import write_out

    if isinstance(value, str):
        return {"base": value}
    if isinstance(value, Mapping) and "base" in value:
        return dict(value)
    stages = [value] if isinstance(value, Mapping) else value
    known = set(StageConfig.model_fields)
    fits = isinstance(stages, list) and all(isinstance(s, Mapping) and known & set(s) for s in stages)
    if not stages or not fits:
        raise ConfigError(
            "an arm is neither an algorithm nor stages",
            where=where,
            found=value,
            needed="a row of `rlpost algorithms`, `{base: ROW, ...}`, keys of a stage, or a list of stages",
        )
    full: list[dict[str, Any]] = write_out({"stages": stages})["stages"]
    return full


def _absolute(spec: Spec, folder: Path) -> Spec:
    """With a user's own parts looked up beside the file."""
    from rlpost.config.plugins import with_absolute_parts

    if isinstance(spec, Mapping):
        return with_absolute_parts(dict(spec), folder)
    return [
        {**stage, "algorithm": with_absolute_parts(stage["algorithm"], folder)}
        if "algorithm" in stage
        else stage
        for stage in spec
    ]


def with_arm(config: RunConfig, spec: Spec, where: str) -> RunConfig:
    """The recipe of an arm.

    Args:
        where: what an error names.

    Raises:
        ConfigError: the arm does not fit the recipe.
    """
    from rlpost.config.problems import to_error
    from rlpost.config.rules import check

    stages = (
        _with_algorithm(config.stages, spec)
        if isinstance(spec, Mapping)
        else _with_stages(config.stages, spec, where)
    )
    changed = config.model_copy(update={"stages": stages})
    if problems := check(changed):
        raise to_error(problems, [_place(problem, where) for problem in problems], where)
    return changed


def _with_algorithm(stages: Sequence[StageConfig], algorithm: Mapping[str, Any]) -> list[StageConfig]:
    """`algorithm` in every stage that samples; in the last one where none does."""
    replaced = replaced_stages(stages)
    return [
        stage.model_copy(update={"algorithm": dict(algorithm)}) if index in replaced else stage
        for index, stage in enumerate(stages)
    ]


def _with_stages(
    stages: Sequence[StageConfig], own: Sequence[Mapping[str, Any]], where: str
) -> list[StageConfig]:
    """The recipe's stages but the last, then those of the arm; what one leaves out is as in that last one."""
    from pydantic import ValidationError

    from rlpost.config.problems import from_pydantic, to_error
    from rlpost.config.schema import StageConfig

    *before, last = stages
    made = []
    for index, stage in enumerate(own, start=len(before)):
        try:
            made.append(StageConfig.model_validate(_merged(last.model_dump(mode="json"), stage)))
        except ValidationError as error:
            found = from_pydantic(
                {**e, "loc": ("stages", index, *e["loc"])} for e in error.errors(include_url=False)
            )
            raise to_error(found, [_place(problem, where) for problem in found], where) from None
    return [*before, *made]


def _merged(default: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's tree over that of the stage whose place it takes; its algorithm is its own as a whole."""
    from rlpost.config.stages import deep_merge

    tree = {**default, "critic": None, "algorithm": {}} if "algorithm" in own else default
    data = own.get("data")
    if isinstance(data, Mapping) and {"path", "dataset", "task"} & set(data):
        rest = {key: value for key, value in tree["data"].items() if key not in SOURCE_KEYS}
        tree = {**tree, "data": rest}
    merged: dict[str, Any] = deep_merge(tree, own)
    return merged


def _place(problem: Problem, where: str) -> str:
    from rlpost.config.stages import dotted

    return f"{dotted(problem.path)}, {where}"


def replaced_stages(stages: Sequence[StageConfig]) -> set[int]:
    """Indices of the stages whose algorithm an arm replaces."""
    sampling = {index for index, stage in enumerate(stages) if stage.has_rollouts}
    return sampling or {len(stages) - 1}


def refuse_overrides_of_algorithms(overrides: Sequence[str], config: RunConfig) -> None:
    """An override of what the arms replace would be without effect, and nobody would notice."""
    replaced = {"algorithm"} | {
        f"stages.{key}.algorithm"
        for index in replaced_stages(config.stages)
        for key in (config.stages[index].name, str(index))
    }
    for override in overrides:
        key = override.partition("=")[0].strip()
        if any(key == name or key.startswith(f"{name}.") for name in replaced):
            raise UserError(
                "the arms replace this key, so setting it has no effect",
                where=f"command line: {override}",
                remedy="put it into the file of --arms",
            )
