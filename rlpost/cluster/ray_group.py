"""RayGroup: members as Ray actors."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlpost.cluster.group import ActorFacts, Call, as_many
from rlpost.cluster.host import Failure
from rlpost.cluster.ray_member import Pending, RayMember, Slot
from rlpost.cluster.ray_placement import Places
from rlpost.cluster.watchdog import Watchdog
from rlpost.errors import ActorLostError, DeadlineError, RlpostError

START_DEADLINE_S = 120.0
"""For a member's process to be there and answer, before the member itself is made."""
PATIENCE_S = 2.0
"""For a process to end as Ray wishes, before it is killed."""
END_DEADLINE_S = 10.0
ROOT_CAUSE_S = 0.5


class RemoteTracebackError(Exception):
    """An error's traceback in its actor's process, as text: the `__cause__` of the error that travelled."""


class RayGroup:
    """An `ActorGroup` of processes, which are watched whenever the driver waits, and die with it.

    Args:
        logs: the folder for a log of each member; None leaves their output to Ray.
        places: where members are put; who is in none of them, or None, is left to Ray.
        marker: a file of the run directory that every member's machine must see.
    """

    def __init__(
        self,
        role: str,
        make: Callable[..., Any],
        arguments: Sequence[Mapping[str, object]],
        deadline_s: float,
        watchdog: Watchdog,
        logs: Path | None = None,
        places: Places | None = None,
        marker: Path | None = None,
    ) -> None:
        self.role, self.make, self.arguments = role, make, list(arguments)
        self.deadline_s, self.watchdog, self.logs = deadline_s, watchdog, logs
        self.places, self.marker = places, marker
        self.members: list[RayMember] = []
        try:
            self.members = [self._spawn(number) for number in range(len(self.arguments))]
            self._build(self.members)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        return len(self.members)

    def call(self, member: int, method: str, *args: object) -> Any:
        return self.result(self.start(member, method, *args))

    def call_all(self, method: str, *args: object) -> list[Any]:
        shared = [self.share(argument) for argument in args]
        return self._together([self.start(i, method, *shared) for i in range(self.size)])

    def call_each(self, method: str, arguments: Sequence[tuple[object, ...]]) -> list[Any]:
        each = as_many(arguments, self.size)
        return self._together([self.start(i, method, *args) for i, args in enumerate(each)])

    def start(self, member: int, method: str, *args: object) -> Call:
        return self.members[member].start(method, args, self.deadline_s)

    def wait(self, calls: Sequence[Call], timeout_s: float) -> list[Call]:
        return self.watchdog.wait(calls, timeout_s, idle=False)

    def result(self, call: Call) -> Any:
        self._finish(call)
        return self._answer(call)

    def restart(self, member: int) -> None:
        self._end([self.members[member]])
        self._move([self.members[member]])
        self.members[member] = self._spawn(member)
        self._build([self.members[member]])

    def restart_all(self, arguments: Sequence[Mapping[str, object]] | None = None) -> None:
        if arguments is not None:
            self.arguments = as_many(arguments, self.size)
        self._end(self.members)
        self._move(self.members)
        self.members = [self._spawn(number) for number in range(len(self.arguments))]
        self._build(self.members)

    def share(self, value: object) -> Any:
        import ray

        return value if isinstance(value, ray.ObjectRef) else ray.put(value)

    def describe(self, member: int) -> list[str]:
        return self.watchdog.describe(self.members[member])

    def processes(self) -> list[ActorFacts]:
        return [
            ActorFacts(self.role, m.number, m.facts.host, m.facts.pid, m.facts.log, m.facts.machine)
            for m in self.members
            if m.facts is not None
        ]

    def stacks(self, member: int, timeout_s: float = 10.0) -> str:
        """Every Python thread's stack of one member, also while a call runs.

        Raises:
            DeadlineError: no answer in time.
        """
        import ray

        reference = self.members[member].control("stacks")
        try:
            return str(ray.get(reference, timeout=timeout_s))
        except ray.exceptions.GetTimeoutError as error:
            raise DeadlineError(
                f"{self.role} {member} does not show its stacks", found=f"no answer after {timeout_s:g} s"
            ) from error

    def close(self) -> None:
        self._end(self.members)
        self.members = []

    def _spawn(self, number: int) -> RayMember:
        log = None
        if self.logs is not None:
            log = self.logs / f"{re.sub(r'[^A-Za-z0-9]+', '-', self.role)}-{number}.log"
        slot = self.places.slots.get((self.role, number), Slot()) if self.places else Slot()
        member = RayMember(self.role, number, log, slot, self.marker)
        self.watchdog.watch(member)
        return member

    def _move(self, members: Sequence[RayMember]) -> None:
        """Other places for members that have ended, where their machines no longer answer."""
        from rlpost.cluster.ray_nodes import clear

        if self.places is None:
            return
        left: dict[str, list[tuple[int, str]]] = {}
        names: dict[str, str] = {}
        for member in members:
            if member.slot.node is not None:
                found = left.setdefault(member.slot.node, [])
                if member.facts is not None:
                    found.append((member.facts.pid, member.facts.mark))
                    names[member.slot.node] = member.facts.host
        if gone := left.keys() - clear(left):
            named = ", ".join(sorted(names.get(node, node) for node in gone))
            wait = self.places.patience_s
            self.watchdog.report(
                f"{named} no longer answers: others take over what ran there"
                + (f", if they have the accelerators within {wait:.0f} s" if wait else "")
            )
            self.places.leave(gone, named)

    def _build(self, members: Sequence[RayMember]) -> None:
        """Wait for the processes, then for what they are to hold."""
        for member in members:
            self._await_process(member)
        calls = [m.build(self.make, self.arguments[m.number], self.deadline_s) for m in members]
        self._together(calls)

    def _await_process(self, member: RayMember) -> None:
        import ray

        reference, deadline = member.facts_reference, member.started + START_DEADLINE_S
        there = self.watchdog.wait_until(
            lambda: bool(ray.wait([reference], timeout=0)[0]), deadline - time.monotonic()
        )
        if not there:
            raise DeadlineError(
                f"{member.name} has no process",
                found=f"Ray has not started one within {START_DEADLINE_S:g} s",
                remedy="see whether the machine is out of memory, and Ray's own logs in its session folder",
            )
        try:
            member.arrived(ray.get(reference))
        except ray.exceptions.RayError as error:
            raise member.lose_dead(str(error)) from error

    def _together(self, calls: list[Call]) -> list[Any]:
        """All answers. At the first failure, the members are searched for one that caused it by its death."""
        answers: dict[Call, Any] = {}
        while waiting := [call for call in calls if call not in answers]:
            for call in self.watchdog.wait(waiting, self.deadline_s, idle=True):
                try:
                    answers[call] = self._answer(call)
                except ActorLostError:
                    raise
                except RlpostError as error:
                    if lost := self._find_lost(call.member):
                        raise lost from error
                    raise
        return [answers[call] for call in calls]

    def _finish(self, call: Call) -> None:
        while not self.watchdog.wait([call], self.deadline_s, idle=True):
            pass

    def _answer(self, call: Call) -> Any:
        """The answer of a call that is over, or its failure."""
        import ray

        pending: Pending = call.outcome
        if not ray.wait([pending.reference], timeout=0)[0]:
            raise pending.member.lost or self._too_late(call)
        try:
            value = ray.get(pending.reference, timeout=self.deadline_s)
        except (
            ray.exceptions.RayActorError,
            ray.exceptions.OutOfMemoryError,
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.ObjectLostError,  # its machine is gone, and the answer with it
        ) as error:
            raise pending.member.lose_dead(str(error), call) from error
        except ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise RlpostError(
                f"{call.role} {call.member} could not answer", where=call.name, found=last
            ) from error
        finally:
            pending.member.answered(call)
        if isinstance(value, Failure):
            raise value.error from RemoteTracebackError(f"\n{value.traceback}")
        return value

    def _too_late(self, call: Call) -> DeadlineError:
        return DeadlineError(
            f"{call.role} {call.member} did not answer in time",
            where=call.name,
            found=f"no answer after {call.outcome.deadline_s:g} s; {self.watchdog.table()}",
            remedy="raise cluster.deadline_s if the work is really that long",
        )

    def _find_lost(self, failed: int) -> ActorLostError | None:
        """A member that died, whose death may be why member `failed` reports an error."""
        others = [member for member in self.members if member.number != failed]
        pings = {member.control("ping"): member for member in others if not member.local}
        start = time.monotonic()
        while others:
            self._collect_deaths(pings)
            for member in others:
                if member.lost is None and member.has_ended():
                    member.lose_dead("")
                if member.lost is not None:
                    return member.lost
            passed = time.monotonic() - start
            # Others are often told of a machine's end long before Ray is.
            if pings and passed >= self.watchdog.hang_deadline_s:
                return next(iter(pings.values())).lose_silent(passed)
            if not pings and passed >= ROOT_CAUSE_S:
                break
            time.sleep(0.02)
        return None

    def _collect_deaths(self, pings: dict[Any, RayMember]) -> None:
        import ray

        for reference in ray.wait(list(pings), num_returns=len(pings), timeout=0)[0] if pings else []:
            try:
                ray.get(reference)
            except ray.exceptions.RayError as error:
                pings[reference].lose_dead(str(error))
            del pings[reference]

    def _end(self, members: Sequence[RayMember]) -> None:
        """End processes, and wait until nothing of them is left on this machine."""
        for member in members:
            self.watchdog.forget(member)
            member.lose_ended()
            member.end()
        if not self.watchdog.wait_until(lambda: all(m.gone() for m in members), PATIENCE_S):
            for member in members:
                member.kill()
        if not self.watchdog.wait_until(lambda: all(m.gone() for m in members), END_DEADLINE_S):
            left = ", ".join(member.name for member in members if not member.gone())
            self.watchdog.report(f"after {END_DEADLINE_S:g} s there are still processes of {left}")
        for member in members:
            member.let_go()
