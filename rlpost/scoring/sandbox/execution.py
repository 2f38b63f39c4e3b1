"""What a program may use, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Outcome(Enum):
    """How a program ended; each limit has its own."""

    OK = "ok"
    EXIT = "exit"
    CRASH = "crash"
    CPU_LIMIT = "cpu_limit"
    WALL_LIMIT = "wall_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    PROCESS_LIMIT = "process_limit"
    FILE_LIMIT = "file_limit"
    LOST = "lost"


@dataclass(frozen=True)
class Limits:
    """What one program may use, with all processes that it starts.

    Attributes:
        cpu_s: seconds of CPU time, of all its processes together.
        wall_s: seconds from its start to its end.
        memory_bytes: memory of all its processes together, and address space of each, beyond what Python
            itself takes.
        output_bytes: standard output and error together.
        processes: processes and threads at a time.
        file_bytes: of one file; with `tmp` as large as all its files may be together.
    """

    cpu_s: float = 5.0
    wall_s: float = 10.0
    memory_bytes: int = 1 << 30
    output_bytes: int = 8 << 20
    processes: int = 32
    file_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"the limit {name} is {value}; needed more than 0")


@dataclass(frozen=True)
class Execution:
    """What became of one program.

    Attributes:
        outcome: how it ended.
        exit_code: its exit status; negative: the signal that ended it; None when its jail was lost.
        stdout: all that it printed, up to the limit.
        stderr: the last 8 kB.
        seconds: from its start to its end.
        cpu_s: CPU time, of all its processes.
        peak_bytes: memory at most, as far as it was seen; looks are 10 to 100 ms apart.
        value: what the called function returned, as JSON; None when none was called or it did not return.
        completed: the tests after the program ran to their end.
    """

    outcome: Outcome
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0
    value: str | None = None
    completed: bool = False

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> Execution:
        """The record that a jail's answer stands for."""
        same = ("exit_code", "stdout", "stderr", "seconds", "cpu_s", "peak_bytes", "completed")
        return cls(
            outcome=Outcome(reply["outcome"]),
            value=reply["result"] or None,
            **{name: reply[name] for name in same},
        )
