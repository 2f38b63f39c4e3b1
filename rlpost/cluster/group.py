"""ActorGroup: some equal members whose methods the driver calls, wherever they run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


@dataclass(eq=False)
class Call:
    """One call of one member that was started, and may be over.

    Attributes:
        since: when it was started, `time.monotonic()`.
        outcome: what its group needs to know to answer for it.
    """

    role: str
    member: int
    method: str
    since: float = field(default_factory=time.monotonic)
    outcome: Any = None

    @property
    def name(self) -> str:
        """Who was called for what."""
        return f"{self.role} {self.member}, {self.method}"


@dataclass(frozen=True)
class ActorFacts:
    """Where a member lives.

    Attributes:
        log: the file of its standard output and error, on its host; None inline.
        machine: equal for two that see the same processes; names of hosts may be equal by chance.
    """

    role: str
    member: int
    host: str
    pid: int
    log: Path | None
    machine: str


def as_many(arguments: Sequence[T], members: int) -> list[T]:
    """The arguments as a list, checked to be one for each member."""
    if len(arguments) != members:
        raise ValueError(f"arguments for {len(arguments)} members in a group of {members}")
    return list(arguments)


class ActorGroup(Protocol):
    """Members numbered from 0; each runs its calls one after the other, in the order they were started.

    Methods that the members' class names in `CONCURRENT` (a frozenset of names, if it has one) do not wait
    for those calls, and have an order of their own.

    Raises (all methods that answer): what the member raised, when that is an RlpostError or the group is
    inline, otherwise an RlpostError made of it; ActorLostError when the member's process died or fell
    silent; DeadlineError when an answer takes longer than `cluster.deadline_s`.
    """

    @property
    def size(self) -> int:
        """The number of members."""
        ...

    def call(self, member: int, method: str, *args: object) -> Any:
        """One member's answer."""
        ...

    def call_all(self, method: str, *args: object) -> list[Any]:
        """Every member's answer to the same arguments, which travel once."""
        ...

    def call_each(self, method: str, arguments: Sequence[tuple[object, ...]]) -> list[Any]:
        """Member i's answer to `arguments[i]`; all members work at the same time."""
        ...

    def start(self, member: int, method: str, *args: object) -> Call:
        """Begin a call and do not wait for it (inline: it runs at once).

        Raises:
            ActorLostError: the member is known to be lost, and was not restarted.
        """
        ...

    def wait(self, calls: Sequence[Call], timeout_s: float) -> list[Call]:
        """Those of `calls` that are over: answered, failed, lost, or past the deadline.

        Returns as soon as there is one, and after `timeout_s` seconds with none.
        """
        ...

    def result(self, call: Call) -> Any:
        """What the call answered, waiting for it where it is not over; may be asked again."""
        ...

    def restart(self, member: int) -> None:
        """End a member in whatever state it is, and start a fresh one from the same arguments."""
        ...

    def restart_all(self, arguments: Sequence[Mapping[str, object]] | None = None) -> None:
        """End all members, then start as many fresh ones; from other constructor arguments where given."""
        ...

    def share(self, value: object) -> Any:
        """`value` as an argument of many calls that travels once.

        It stands for the value only as an argument itself, not inside of one.
        """
        ...

    def describe(self, member: int) -> list[str]:
        """What a member's process does at the moment, for people; [] inline."""
        ...

    def processes(self) -> list[ActorFacts]:
        """Where each member lives."""
        ...

    def close(self) -> None:
        """End the members."""
        ...
