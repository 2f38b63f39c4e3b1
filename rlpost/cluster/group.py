"""ActorGroup: some equal members whose methods the driver calls, wherever they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol


class ActorGroup(Protocol):
    """Members numbered from 0. Every call returns when all its members have answered.

    Raises (all methods): what the member raised; DeadlineError when one does not answer in
    time; RlpostError when one died. Each message names the member and the method.
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

    def close(self) -> None:
        """End the members."""
        ...


class InlineGroup:
    """Members that are plain objects in the driver's process: breakpoints work."""

    def __init__(self, make: Callable[..., Any], arguments: Sequence[Mapping[str, object]]) -> None:
        self.members = [make(**kwargs) for kwargs in arguments]

    @property
    def size(self) -> int:
        return len(self.members)

    def call(self, member: int, method: str, *args: object) -> Any:
        return getattr(self.members[member], method)(*args)

    def call_all(self, method: str, *args: object) -> list[Any]:
        return [getattr(member, method)(*args) for member in self.members]

    def call_each(self, method: str, arguments: Sequence[tuple[object, ...]]) -> list[Any]:
        return [getattr(member, method)(*args) for member, args in zip(self.members, arguments, strict=True)]

    def close(self) -> None:
        self.members = []
