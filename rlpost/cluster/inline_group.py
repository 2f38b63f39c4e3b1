"""InlineGroup: members that are plain objects in the driver's process."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlpost.cluster.group import ActorFacts, Call, as_many
from rlpost.cluster.process import machine


@dataclass(frozen=True)
class _Outcome:
    value: Any = None
    error: Exception | None = None


class InlineGroup:
    """An `ActorGroup` without processes: a call runs when it is started, and breakpoints work."""

    def __init__(
        self, make: Callable[..., Any], arguments: Sequence[Mapping[str, object]], role: str = "member"
    ) -> None:
        self.role, self.make, self.arguments = role, make, list(arguments)
        self.members = [make(**kwargs) for kwargs in arguments]

    @property
    def size(self) -> int:
        return len(self.members)

    def call(self, member: int, method: str, *args: object) -> Any:
        return getattr(self.members[member], method)(*args)

    def call_all(self, method: str, *args: object) -> list[Any]:
        return [getattr(member, method)(*args) for member in self.members]

    def call_each(self, method: str, arguments: Sequence[tuple[object, ...]]) -> list[Any]:
        each = as_many(arguments, self.size)
        return [getattr(member, method)(*args) for member, args in zip(self.members, each, strict=True)]

    def start(self, member: int, method: str, *args: object) -> Call:
        call = Call(self.role, member, method)
        try:
            call.outcome = _Outcome(value=self.call(member, method, *args))
        except Exception as error:
            call.outcome = _Outcome(error=error)
        return call

    def wait(self, calls: Sequence[Call], timeout_s: float) -> list[Call]:
        return list(calls)

    def result(self, call: Call) -> Any:
        if call.outcome.error is not None:
            raise call.outcome.error
        return call.outcome.value

    def restart(self, member: int) -> None:
        self.members[member] = None
        self.members[member] = self.make(**self.arguments[member])

    def restart_all(self, arguments: Sequence[Mapping[str, object]] | None = None) -> None:
        if arguments is not None:
            self.arguments = as_many(arguments, self.size)
        self.members = []
        self.members = [self.make(**kwargs) for kwargs in self.arguments]

    def share(self, value: object) -> Any:
        return value

    def describe(self, member: int) -> list[str]:
        return []

    def processes(self) -> list[ActorFacts]:
        host, pid = socket.gethostname(), os.getpid()
        return [ActorFacts(self.role, member, host, pid, None, machine()) for member in range(self.size)]

    def close(self) -> None:
        self.members = []
