"""What the arms of a task must have in common, and the words for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlpost.config.schema import RunConfig

SIZES = ("steps", "prompts_per_step", "samples_per_prompt", "updates_per_step")
COUNT = "number of stages"
NO_DIFFERENCE = ("name", "output", "seed")
"""Keys that a comparison sets itself."""


def budget(config: RunConfig) -> dict[str, Any]:
    """The task and budget of a recipe as flat, dotted keys; stages by index.

    The model, the evaluation, how many stages there are, and of every stage its source, data, rollout,
    rewards and sizes. The algorithm and the optimizer are what a comparison may vary.
    """
    tree: dict[str, Any] = {
        "model": config.model.model_dump(mode="json"),
        "evaluation": config.evaluation.model_dump(mode="json"),
        COUNT: len(config.stages),
    }
    for index, stage in enumerate(config.stages):
        values = stage.model_dump(mode="json", include={"source", "data", "rollout", "rewards"})
        values["train"] = {size: getattr(stage.train, size) for size in SIZES}
        tree[f"stages.{index}"] = values
    return dict(_flatten("", tree))


def budget_differences(configs: Mapping[str, RunConfig]) -> list[str]:
    """`key: value in arm, value in arm` for each key of the budget on which the arms do not agree.

    Args:
        configs: by the arm's name.
    """
    return _differences({arm: budget(config) for arm, config in configs.items()})


def other_differences(configs: Mapping[str, RunConfig]) -> list[str]:
    """The same for all other keys but the algorithm's: what else an arm's result may come from."""
    others = {}
    for arm, config in configs.items():
        tree = config.model_dump(mode="json", exclude={*NO_DIFFERENCE, "stages"})
        for index, stage in enumerate(config.stages):
            tree[f"stages.{index}"] = stage.model_dump(mode="json", exclude={"name", "algorithm"})
        inside = budget(config)
        others[arm] = {key: value for key, value in _flatten("", tree) if key not in inside}
    return _differences(others)


def _differences(values_by_arm: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Over the keys that all arms have: a stage that only some have is in the number of stages."""
    shared = set.intersection(*(set(values) for values in values_by_arm.values()))
    lines = []
    for key in next(iter(values_by_arm.values())):
        found: dict[str, list[str]] = {}
        for arm, values in values_by_arm.items():
            found.setdefault(json.dumps(values.get(key)), []).append(arm)
        if key in shared and len(found) > 1:
            lines.append(
                f"{key}: " + "; ".join(f"{text} in {', '.join(arms)}" for text, arms in found.items())
            )
    return lines


def budget_text(config: RunConfig, skip: int = 0) -> list[str]:
    """One line for each stage after the first `skip`: its sizes with their arithmetic."""
    lines = []
    for stage in config.stages[skip:]:
        train = stage.train
        samples = train.steps * train.prompts_per_step * train.samples_per_prompt
        updates = train.steps * train.updates_per_step
        what = "samples" if stage.has_rollouts else "demonstrations"
        what += " and a demonstration of each prompt" if stage.source == "both" else ""
        lines.append(
            f"stage {stage.name}: {train.steps} steps x {train.prompts_per_step} prompts x "
            f"{train.samples_per_prompt} = {samples:,} {what}, {updates:,} updates"
        )
    return lines


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _flatten(f"{prefix}.{key}".lstrip("."), child)
    else:
        yield prefix, value
