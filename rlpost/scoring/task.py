"""What the driver asks of a worker process, and what it makes of the answer."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rlpost.scoring.wire import TASK_HEADER


@dataclass(frozen=True, slots=True)
class Task:
    """One operation on one response by one reward function; the columns may hold any picklable object."""

    operation: Literal["score", "case", "gold", "selfcheck"]
    reward: int
    prompt: str = ""
    completion: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sample(self) -> tuple[str, str, dict[str, Any]]:
        """What a reward function is called with."""
        return self.prompt, self.completion, dict(self.columns)

    def samples(self) -> int:
        """How many responses it is about."""
        return 1

    def allowance_s(self, deadline_s: float) -> float:
        """Seconds after which the process at it is killed, `deadline_s` being those of one response."""
        return deadline_s

    def encode(self, number: int) -> bytes:
        return _framed(number, (self.operation, self.reward, *self.sample))


@dataclass(frozen=True, slots=True)
class Batch:
    """Several responses for one reward function.

    Attributes:
        tasks: each with operation "score" and the same reward.
        concurrent: they run at the same time, each with a deadline that the worker itself keeps.
    """

    tasks: Sequence[Task]
    concurrent: bool

    def samples(self) -> int:
        """How many responses it is about."""
        return len(self.tasks)

    def allowance_s(self, deadline_s: float) -> float:
        """As for a task. Of a concurrent batch it is long past the deadlines that the worker keeps."""
        return 1.5 * deadline_s + 1.0 if self.concurrent else deadline_s * len(self.tasks)

    def encode(self, number: int) -> bytes:
        samples = [task.sample for task in self.tasks]
        return _framed(number, ("batch", self.tasks[0].reward, samples))


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a task: the server's value, or its "timeout" or "error" and why."""

    number: int
    value: Mapping[str, Any] | None
    seconds: float
    failed: Literal["timeout", "error"] | None = None
    note: str = ""


def _framed(number: int, content: tuple[Any, ...]) -> bytes:
    body = pickle.dumps(content)
    return TASK_HEADER.pack(number, len(body)) + body
