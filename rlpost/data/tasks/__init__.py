"""Built-in synthetic tasks: rows made on the spot, checked like those of a file.

One file per task; `TASKS` names them, `build_task` checks a task's options.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from rlpost.data.problems import did_you_mean, listing
from rlpost.data.tasks.addition import Addition
from rlpost.data.tasks.calculator import Calculator
from rlpost.data.tasks.chain import Chain
from rlpost.data.tasks.countdown import Countdown
from rlpost.data.tasks.guess import Guess
from rlpost.data.tasks.lookup import Lookup
from rlpost.data.tasks.ragged import Ragged
from rlpost.data.tasks.task import Task
from rlpost.errors import ConfigError

TASKS: dict[str, type[Task]] = {
    "addition": Addition,
    "calculator": Calculator,
    "chain": Chain,
    "countdown": Countdown,
    "guess": Guess,
    "lookup": Lookup,
    "ragged": Ragged,
}

__all__ = [
    "TASKS",
    "Addition",
    "Calculator",
    "Chain",
    "Countdown",
    "Guess",
    "Lookup",
    "Ragged",
    "Task",
    "build_task",
]


def build_task(name: str, options: Mapping[str, Any]) -> Task:
    """The task `name` with `options`.

    Raises:
        ConfigError: no such task, an unknown option (the nearest name is given), or a wrong value.
    """
    if name not in TASKS:
        raise ConfigError(
            f"there is no task {name!r}{did_you_mean(name, TASKS)}",
            where="data.task",
            needed=f"one of {', '.join(TASKS)}",
        )
    task = TASKS[name]
    try:
        return task.model_validate(dict(options))
    except ValidationError as error:
        raise ConfigError(
            f"the options of task {name!r} are wrong",
            where="data.task_options",
            found=listing(_spoken(problem, task) for problem in error.errors()),
            needed=f"options {', '.join(task.model_fields)}" if task.model_fields else "no option",
        ) from error


def _spoken(problem: Any, task: type[Task]) -> str:
    option = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"unknown option {option!r}{did_you_mean(option, task.model_fields)}"
    if not option:
        return problem["msg"]
    return f"{option} = {problem['input']!r}: {problem['msg']}"
