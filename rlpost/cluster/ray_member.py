"""RayMember: the driver's end of one actor process, from its start to its loss."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlpost.cluster.group import Call
from rlpost.cluster.guardian import actor_family
from rlpost.cluster.host import HostFacts, HostSettings, MemberHost, Pulse
from rlpost.cluster.process import Process, kernel_oom_kills, machine
from rlpost.errors import ActorLostError

TAIL_LINES = 20


@dataclass(frozen=True)
class Slot:
    """Where Ray puts a member, and which accelerators it sees there; the default leaves both to Ray.

    Attributes:
        node: Ray's id of the machine, where it was chosen.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    accelerators: tuple[str, ...] | None = None
    node: str | None = None


@dataclass(frozen=True)
class Pending:
    """What a `Call` waits for: the answer of one process, until `deadline` (of `time.monotonic`)."""

    reference: Any
    member: RayMember
    deadline: float
    deadline_s: float


class RayMember:
    """One actor process. A restart makes a new one; calls of an old one end with its loss.

    Attributes:
        facts: where it is; None until it has answered once.
        pending: calls that were not over when last looked at.
        lost: why no more answers will come; None while they may.
    """

    def __init__(
        self, role: str, number: int, log: Path | None, slot: Slot, marker: Path | None = None
    ) -> None:
        import ray

        self.role, self.number, self.slot = role, number, slot
        self.facts: HostFacts | None = None
        self.pending: list[Call] = []
        self.lost: ActorLostError | None = None
        self.started = time.monotonic()
        self.pulse: Pulse | None = None
        self.pulse_at = self.heard_at = self.started
        self._process: Process | None = None
        self._beside: frozenset[str] = frozenset()
        self._oom_kills = kernel_oom_kills()
        settings = HostSettings(role, number, log, (machine(), os.getpid()), slot.accelerators, marker)
        # Ray's own CPU accounting would make actors wait for each other on small machines.
        remote = ray.remote(
            num_cpus=0,
            max_restarts=0,
            max_concurrency=1,
            concurrency_groups={"control": 2, "beside": 1},
            **slot.options,
        )(MemberHost)
        self.actor = remote.remote(settings)
        self.facts_reference = self.control("facts")

    @property
    def name(self) -> str:
        """Role and number."""
        return f"{self.role} {self.number}"

    def control(self, method: str) -> Any:
        """A reference to the answer of `facts`, `ping` or `stacks`, which come even while a call runs."""
        return getattr(self.actor, method).options(concurrency_group="control").remote()

    def arrived(self, facts: HostFacts) -> None:
        """The process answered for the first time."""
        self.facts = facts
        self.heard_at = time.monotonic()
        if facts.machine == machine():
            with suppress(ProcessLookupError):
                self._process = Process(facts.pid)

    def build(self, make: Callable[..., Any], arguments: Mapping[str, object], deadline_s: float) -> Call:
        """Start to make the object that the actor holds."""
        self._beside = getattr(make, "CONCURRENT", frozenset())
        return self._pend("start", self.actor.build.remote(make, dict(arguments)), deadline_s)

    def start(self, method: str, args: tuple[object, ...], deadline_s: float) -> Call:
        """Start a call.

        Raises:
            ActorLostError: it could never be answered.
        """
        if self.lost is not None:
            raise self.lost
        if method in self._beside:
            run = self.actor.run_beside.options(concurrency_group="beside")
        else:
            run = self.actor.run
        return self._pend(method, run.remote(method, *args), deadline_s)

    def _pend(self, method: str, reference: Any, deadline_s: float) -> Call:
        call = Call(self.role, self.number, method)
        call.outcome = Pending(reference, self, call.since + deadline_s, deadline_s)
        self.pending.append(call)
        return call

    def answered(self, call: Call) -> None:
        """`call` is over."""
        if call in self.pending:
            self.pending.remove(call)
            self.heard_at = time.monotonic()

    def prune(self) -> None:
        """Forget the calls that were answered."""
        import ray

        # Ray also calls those ready that a death has left without an answer.
        if self.pending and not self.has_ended():
            references = [call.outcome.reference for call in self.pending]
            _, waiting = ray.wait(references, num_returns=len(references), timeout=0, fetch_local=False)
            left = set(waiting)
            self.pending = [call for call in self.pending if call.outcome.reference in left]

    def has_ended(self) -> bool:
        """Whether its process is known to have ended; only known on the driver's machine."""
        return self._process is not None and self._process.ended()

    @property
    def local(self) -> bool:
        """Whether its process can be seen from the driver."""
        return self._process is not None

    def state(self) -> str | None:
        """What the kernel says that it does; None on another machine."""
        return None if self._process is None else self._process.state()

    def lose_dead(self, report: str, call: Call | None = None) -> ActorLostError:
        """Its process ended; `report` is what Ray says of it, in answer to `call`."""
        found = self._ending() or ray_reason(report, self.facts.host if self.facts else "")
        if kernel_oom_kills() > self._oom_kills:
            found += "; the kernel's out-of-memory killer was at work on the driver's machine meanwhile"
        return self._lose("died", found, call=call)

    def lose_silent(self, seconds: float) -> ActorLostError:
        """It has not answered for that long."""
        state = self.state()
        found = f"no sign of life for {seconds:.0f} s" + (f"; {state}" if state else "")
        return self._lose("is silent", found, "cluster.hang_deadline_s is the longest silence allowed")

    def lose_ended(self) -> None:
        """The driver ends it on purpose."""
        self._lose("was ended", "ended by the driver")

    def end(self) -> None:
        """Let Ray end the process, or end it at once where it is stopped and could not hear of it."""
        import ray

        if self._process is not None and self._process.stopped():
            self._process.kill()
        with suppress(Exception):  # one that is dead already
            ray.kill(self.actor)

    def kill(self) -> None:
        """End the process in whatever state it is; what it started is ended by its guardian."""
        if self._process is not None:
            self._process.kill()

    def gone(self) -> bool:
        """Whether nothing is left of its process and of what that started, as far as this machine can see."""
        if self.facts is None or self._process is None:
            return True
        return self._process.ended() and not actor_family(self.facts.pid, self.facts.mark)

    def let_go(self) -> None:
        """Its process is of no more interest."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _ending(self) -> str | None:
        if self._process is None or not self._process.ended(timeout_s=2.0):
            return None
        for _ in range(20):
            if (text := self._process.ending()) is not None:
                return text
            time.sleep(0.02)  # until its parent has taken note
        return None

    def _lose(
        self, how: str, found: str, remedy: str | None = None, call: Call | None = None
    ) -> ActorLostError:
        if self.lost is None:
            calls = [*self.pending, *([call] if call else [])]
            doing = calls[0].method if calls else "between calls"
            where = (
                doing if self.facts is None else f"{doing}, on {self.facts.host}, process {self.facts.pid}"
            )
            log, tail = self._log_tail()
            self.lost = ActorLostError(
                f"{self.name} {how}", role=self.role, member=self.number,
                where=where, found=found, remedy=remedy, log=log, tail=tail,
            )  # fmt: skip
        return self.lost

    def _log_tail(self) -> tuple[str | None, tuple[str, ...]]:
        if self.facts is None or self.facts.log is None:
            return None, ()
        try:
            lines = tail_lines(self.facts.log)
        except OSError:
            return f"{self.facts.log} on {self.facts.host}", ()
        return f"{self.facts.log}, its last lines:", lines


def tail_lines(path: Path, count: int = TAIL_LINES) -> tuple[str, ...]:
    """The last lines of a text file that are not empty and not Ray's own marks."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 64 * 1024))
        lines = file.read().decode(errors="replace").splitlines()
    kept = [line.rstrip() for line in lines if line.strip() and not re.match(r":\w+:", line)]
    return tuple(kept[-count:])


def ray_reason(report: str, host: str) -> str:
    """The part of Ray's report on a dead actor that says why; `host` is its machine's name."""
    text = " ".join(report.split())
    if found := re.search(r"because its node has died\..*?(?:: ([^:]*))?$", text):
        return f"its machine {host} left the cluster" + (f": {found[1]}" if found[1] else "")
    if found := re.search(r"Worker exit detail: (.*?)(?:\. Some common causes|$)", text):
        return found.group(1)
    return text or "unknown"
