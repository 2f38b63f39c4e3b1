"""What the driver asks of a worker process, and what it makes of the answer."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rlpost.scoring.worker import TASK_HEADER


@dataclass(frozen=True, slots=True)
class Task:
    """One operation on one response by one reward function; the columns may hold any picklable object."""

    operation: Literal["score", "case", "gold", "selfcheck"]
    reward: int
    prompt: str = ""
    completion: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)

    def encode(self, number: int) -> bytes:
        body = pickle.dumps((self.operation, self.reward, self.prompt, self.completion, dict(self.columns)))
        return TASK_HEADER.pack(number, len(body)) + body


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a task: the server's value, or its "timeout" or "error" and why."""

    number: int
    value: Mapping[str, Any] | None
    seconds: float
    failed: Literal["timeout", "error"] | None = None
    note: str = ""
