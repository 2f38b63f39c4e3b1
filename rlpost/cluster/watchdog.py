"""Watchdog: while the driver waits, it feels each actor's pulse and says who waits for whom."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from rlpost.cluster.group import Call
from rlpost.cluster.ray_head import HeadWatch
from rlpost.cluster.ray_member import RayMember

TICK_S = 0.05
SILENCE_S = 1.0
"""A ping that is unanswered for longer is worth a word."""
STALE_S = 15.0
"""Stacks that are older say nothing about now; pings are 10 s apart at most."""
REFRESH_S = 0.5
"""For fresh stacks to arrive, before a report."""


class Watchdog:
    """Every wait of the driver for actors goes through here.

    Args:
        hang_deadline_s: the longest time that a ping may stay unanswered.
        report_every_s: a call that takes this long is reported, again after as long.
        report: takes the text.
    """

    def __init__(self, hang_deadline_s: float, report_every_s: float, report: Callable[[str], None]) -> None:
        self.hang_deadline_s, self.report_every_s, self.report = hang_deadline_s, report_every_s, report
        self.phase = ""
        self.idle: Callable[[], None] | None = None
        self.head: HeadWatch | None = None
        self._members: dict[RayMember, _Pings] = {}
        self._last_beat = self._last_report = time.monotonic()
        self._idling = False

    def watch(self, member: RayMember) -> None:
        """From now on."""
        self._members[member] = _Pings()

    def forget(self, member: RayMember) -> None:
        """It was ended on purpose."""
        self._members.pop(member, None)

    def wait(self, calls: Sequence[Call], timeout_s: float, *, idle: bool) -> list[Call]:
        """Those of `calls` that are over; returns at the first, or with none after `timeout_s`.

        Args:
            idle: call the idle callback about every 50 ms.
        """
        import ray

        end = time.monotonic() + timeout_s
        references = [call.outcome.reference for call in calls]
        while True:
            self.beat()
            if over := self._over(calls, references):
                return over
            left = end - time.monotonic()
            if left <= 0 or not calls:
                return []
            ready, _ = ray.wait(references, num_returns=1, timeout=min(left, TICK_S))
            if not ready and idle:
                self.idle_once()

    def wait_until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Whether `done` came true in time; the idle callback is called meanwhile."""
        end = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() >= end:
                return False
            self.beat()
            time.sleep(TICK_S)
            self.idle_once()
        return True

    def idle_once(self) -> None:
        """Give the idle callback its turn, unless this is within it."""
        if self.idle is None or self._idling:
            return
        self._idling = True
        try:
            self.idle()
        finally:
            self._idling = False

    def beat(self) -> None:
        """Send and collect pings, lose the silent, report long waits; cheap when nothing is due.

        Raises:
            RlpostError: the cluster's head is gone.
        """
        if self.head is not None:
            self.head.check()
        now = time.monotonic()
        passed = now - self._last_beat
        if passed < TICK_S / 2:
            return
        self._last_beat = now
        # A driver that was itself busy or stopped has heard nobody meanwhile; that is no silence of theirs.
        self._collect(min(passed, 1.0))
        self._send(now)
        self._report_if_due(now)

    def table(self, refresh_s: float = 1.0) -> str:
        """Who the driver waits for: each member with a pending call, and where it is in the code."""
        import ray

        waiting = self._waiting()
        for member in waiting:
            if self._members[member].reference is None:
                self._members[member].reference = member.control("ping")
        references = [r for m in waiting if (r := self._members[m].reference) is not None]
        if references:
            ray.wait(references, num_returns=len(references), timeout=refresh_s)
        self._collect(0.0)
        lines = [f"the driver waits{f' in {self.phase}' if self.phase else ''} for"]
        for member in waiting:
            lines += [f"  {line}" for line in self.describe(member)]
        return "\n".join(lines)

    def describe(self, member: RayMember) -> list[str]:
        """What a member does, with the stacks of its last answer; indented but for the first line."""
        now, pings = time.monotonic(), self._members[member]
        where = f"{member.facts.host}, process {member.facts.pid}" if member.facts else "not placed yet"
        parts = [f"{call.method} since {now - call.since:.0f} s" for call in member.pending[:1]]
        if len(member.pending) > 1:
            parts.append(f"{len(member.pending) - 1} more calls behind it")
        parts.append(f"last sign of life {now - member.heard_at:.0f} s ago")
        if state := member.state():
            parts.append(state)
        lines = [f"{member.name} ({where}): {', '.join(parts)}"]
        if pings.silence_s >= SILENCE_S:
            lines.append(
                f"  a ping is unanswered for {pings.silence_s:.0f} s; at {self.hang_deadline_s:g} s "
                "(cluster.hang_deadline_s) it counts as lost"
            )
        age = now - member.pulse_at
        for name, frames in member.pulse.threads if member.pulse and age < STALE_S else ():
            lines += [f"  {name}, {age:.0f} s ago:", *(f"    {frame}" for frame in frames)]
        return lines

    def _over(self, calls: Sequence[Call], references: Sequence[Any]) -> list[Call]:
        import ray

        if not calls:
            return []
        now = time.monotonic()
        ready = set(ray.wait(list(references), num_returns=len(references), timeout=0)[0])
        return [
            call
            for call in calls
            if call.outcome.reference in ready
            or call.outcome.member.lost is not None
            or now >= call.outcome.deadline
        ]

    def _collect(self, passed_s: float) -> None:
        import ray

        out = {p.reference: m for m, p in self._members.items() if p.reference is not None}
        if not out:
            return
        ready, waiting = ray.wait(list(out), num_returns=len(out), timeout=0)
        for reference in ready:
            self._answered(out[reference], reference)
        for reference in waiting:
            member = out[reference]
            pings = self._members[member]
            pings.silence_s += passed_s
            if pings.silence_s >= self.hang_deadline_s and member.lost is None:
                pings.reference = None
                member.lose_silent(pings.silence_s)

    def _answered(self, member: RayMember, reference: Any) -> None:
        import ray

        pings = self._members[member]
        pings.reference, pings.silence_s = None, 0.0
        try:
            member.pulse = ray.get(reference)
            member.pulse_at = member.heard_at = time.monotonic()
        except ray.exceptions.RayError as error:
            member.lose_dead(str(error))

    def _send(self, now: float) -> None:
        for member, pings in self._members.items():
            if member.lost is not None or pings.reference is not None or now < pings.next_at:
                continue
            pings.next_at = now + min(self.hang_deadline_s / 6, 10.0)
            member.prune()
            if member.pending:
                pings.reference = member.control("ping")

    def _report_if_due(self, now: float) -> None:
        if now - max(self._oldest(now), self._last_report) < self.report_every_s:
            return
        for member in self._members:
            member.prune()
        if now - self._oldest(now) >= self.report_every_s:
            self.report(self.table(REFRESH_S))
            self._last_report = now

    def _oldest(self, now: float) -> float:
        """Since when the longest call is pending."""
        return min((m.pending[0].since for m in self._members if m.pending), default=now)

    def _waiting(self) -> list[RayMember]:
        for member in self._members:
            member.prune()
        return [m for m in self._members if m.pending and m.lost is None]


class _Pings:
    """A member's ping that is out, how long it is, and when the next is due."""

    def __init__(self) -> None:
        self.reference: Any = None
        self.silence_s = 0.0
        self.next_at = 0.0
