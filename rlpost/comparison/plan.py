"""What is compared: arms, tasks and seeds, read from recipes and checked before anything runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlpost.comparison.arms import read_arms, refuse_overrides_of_algorithms, with_arm
from rlpost.comparison.budget import budget_differences, other_differences
from rlpost.errors import UserError

if TYPE_CHECKING:
    from rlpost.config.schema import DataConfig, RunConfig

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: of the arm, as tables and directories show it.
        config: the whole recipe, all stages included.
    """

    name: str
    config: RunConfig


@dataclass(frozen=True)
class Task:
    """One problem, and the arms that are trained on it.

    Attributes:
        name: of the task.
        arms: in the order given; the first is the one the others are measured against.
        shared: leading stages that all arms have in common; trained once per seed.
        differences: where the arms' budgets differ, one line each; () when they agree.
        varied: the same for keys that may differ, such as learning rates.
    """

    name: str
    arms: tuple[Arm, ...]
    shared: int
    differences: tuple[str, ...]
    varied: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Every task with every arm, under every seed."""

    tasks: tuple[Task, ...]
    seeds: tuple[int, ...]

    @property
    def arm_names(self) -> tuple[str, ...]:
        """Of all tasks, in order, each once."""
        return tuple(dict.fromkeys(arm.name for task in self.tasks for arm in task.arms))


def make_plan(
    recipes: Sequence[Path],
    overrides: Sequence[str] = (),
    *,
    arms_file: Path | None = None,
    seeds: int = 3,
    different_budgets: bool = False,
) -> Plan:
    """Load every recipe and arm, and check that the comparison is one of equals.

    Args:
        recipes: without `arms_file` one arm each, with it one task each.
        overrides: `key=value`, applied to every recipe.
        arms_file: YAML, arm name to a value of `algorithm` or to stages, as `read_arms` has it.
        seeds: how many; they count up from the first recipe's `seed`.
        different_budgets: note differing budgets instead of refusing them.

    Raises:
        UserError: a recipe or an arm is wrong, names clash, or budgets differ.
    """
    from rlpost.config import load_config

    if not recipes:
        raise UserError("there is nothing to compare", needed="at least one CONFIG")
    if arms_file is None and len(recipes) < 2:
        raise UserError(
            "there is one arm, and nothing to compare it with",
            found=recipes[0],
            remedy="name a second CONFIG, or give the arms with --arms FILE",
        )
    read = None if arms_file is None else read_arms(arms_file)
    for name in read or ():
        _check_name(name, arms_file)
    configs = [load_config(path, overrides) for path in recipes]
    names = _names(recipes, configs)
    if read is None:
        arms = tuple(Arm(name, config) for name, config in zip(names, configs, strict=True))
        tasks = [_task(_data_name(configs[0].stages[-1].data), arms, different_budgets)]
    else:
        tasks = []
        for name, path, config in zip(names, recipes, configs, strict=True):
            refuse_overrides_of_algorithms(overrides, config)
            arms = tuple(
                Arm(arm, with_arm(config, spec, f"{arms_file}, arm {arm}, on the recipe {path}"))
                for arm, spec in read.items()
            )
            tasks.append(_task(name, arms, different_budgets))
    first = configs[0].seed
    return Plan(tuple(tasks), tuple(range(first, first + seeds)))


def shared_stages(configs: Sequence[RunConfig]) -> int:
    """How many leading stages are the same in all recipes; at least one stage of each is left over.

    0 when the recipes start from different models, since equal stages then train different weights.
    """
    if any(config.model != configs[0].model for config in configs):
        return 0
    limit = min(len(config.stages) for config in configs) - 1
    for index in range(limit):
        if any(config.stages[index] != configs[0].stages[index] for config in configs):
            return index
    return limit


def _task(name: str, arms: tuple[Arm, ...], different_budgets: bool) -> Task:
    configs = {arm.name: arm.config for arm in arms}
    differences = budget_differences(configs)
    if differences and not different_budgets:
        raise UserError(
            "the arms do not have the same task and budget",
            where=f"task {name}",
            found="\n          ".join(differences),
            needed="equal values, or the comparison says little",
            remedy="make them equal, or add --different-budgets to compare all the same",
        )
    shared = shared_stages(list(configs.values()))
    return Task(name, arms, shared, tuple(differences), tuple(other_differences(configs)))


def _names(recipes: Sequence[Path], configs: Sequence[RunConfig]) -> list[str]:
    stems = Counter(path.stem for path in recipes)
    names = [
        path.stem if stems[path.stem] == 1 else config.name
        for path, config in zip(recipes, configs, strict=True)
    ]
    for name, path in zip(names, recipes, strict=True):
        if names.count(name) > 1:
            raise UserError(
                "two recipes have the same name",
                found=f"{name}, from {path} and another",
                remedy="rename a file, or give them different `name` keys",
            )
        _check_name(name, path)
    return names


def _check_name(name: str, where: Path | None) -> None:
    if not NAME.fullmatch(name):
        raise UserError(
            "a name cannot be that of a directory",
            where=where,
            found=repr(name),
            needed="letters, digits, `_`, `.`, `+` or `-`, starting with a letter or digit",
        )


def _data_name(data: DataConfig) -> str:
    source = data.task or (Path(data.path).stem if data.path else (data.dataset or "").rpartition("/")[2])
    return source if NAME.fullmatch(source) else "task"
