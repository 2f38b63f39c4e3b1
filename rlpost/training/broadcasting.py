"""Broadcasting: learner rank 0 sends the weights to all workers at the same time.

Learners and workers wait for each other in it, so the driver starts the calls of both and waits for none
before the others. Where a member is lost in between, the others cannot go on: they are told by torch, or
at `weights.deadline_s` by their end. All workers are then replaced, and the version is sent anew.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from rlpost.cluster import LEARNER, Call
from rlpost.errors import ActorLostError, BrokenTransferError, DeadlineError, RlpostError
from rlpost.training.delivery import Delivery
from rlpost.training.learners import Learners
from rlpost.training.worker_pool import LOST, WorkerPool
from rlpost.weights.broadcast import Seat
from rlpost.weights.communicator import Meeting

GRACE_S = 5.0
"""After the first failure, for others to fail too: the cause may be the last to be noticed."""

LET_GO_S = 30.0
"""For learner ranks to notice that the workers they were sending to are gone."""


class BroadcastTransport:
    """Sends over a group of all workers' engine processes and learner rank 0, which meets when one is new.

    Args:
        deadline_s: `weights.deadline_s`, for each attempt.
        start_s: longest wait for engines that are starting.
    """

    def __init__(self, pool: WorkerPool, deadline_s: float, start_s: float) -> None:
        self._pool, self._deadline_s, self._start_s = pool, deadline_s, start_s
        self._met: frozenset[tuple[str, int, str, int]] = frozenset()

    def send(self, learners: Learners, version: int) -> Delivery:
        """As `Transport.send`; an attempt that broke off is repeated, as often as workers may be replaced.

        Raises:
            ActorLostError: a learner rank was lost, or does not come back.
        """
        while True:
            try:
                return self._attempt(learners, version)
            except _BrokenOffError as broken:
                self._pool.replace_all(broken.cause)
                self._await_learners(learners, broken.waiting)
                lost = [e for e in broken.failures if isinstance(e, ActorLostError) and e.role == LEARNER]
                if lost:
                    raise lost[0] from broken

    def prepare(self, member: int) -> bool:
        """The learner may have moved on, and the others would have to take part: there is no way before
        the next `send`."""
        return False

    def _attempt(self, learners: Learners, version: int) -> Delivery:
        self._meet(learners)
        until = time.monotonic() + self._deadline_s
        receive = [("receive_weights", version)] * self._pool.group.size
        bundles, receipts = self._together(learners, ("send_weights", version), receive, until)
        return Delivery(bundles[0], receipts, until)

    def _meet(self, learners: Learners) -> None:
        """Bring all into one group, unless they are in one already."""
        if self._members(learners) == self._met:
            return
        receivers = self._pool.call_all("receivers", deadline_s=self._start_s, setting="cluster.deadline_s")
        members = self._members(learners)
        local = len({machine for _, _, machine, _ in members}) == 1
        offer = learners.offer(local, self._deadline_s)
        counts = [receiver.processes for receiver in receivers]
        on_cuda = {offer.device, *(receiver.device for receiver in receivers)} == {"cuda"}
        meeting = Meeting(
            offer.host, offer.port, "nccl" if on_cuda else "gloo", 1 + sum(counts), self._deadline_s
        )
        ranks = accumulate(counts[:-1], initial=1)
        join = [("join_broadcast", Seat(meeting, rank, offer.places)) for rank in ranks]
        until = time.monotonic() + self._deadline_s
        self._together(learners, ("join_broadcast", meeting), join, until)
        self._met = members

    def _together(
        self,
        learners: Learners,
        to_learners: tuple[Any, ...],
        to_workers: Sequence[tuple[Any, ...]],
        until: float,
    ) -> tuple[list[Any], list[Any]]:
        """The answers of all learner ranks and of all workers to calls in which they wait for each other."""
        groups = {LEARNER: learners.group}
        workers = self._pool.group
        try:
            receiving = [workers.start(member, *call) for member, call in enumerate(to_workers)]
            sending = [learners.group.start(rank, *to_learners) for rank in range(learners.group.size)]
        except LOST as error:
            raise _BrokenOffError(error, [error], []) from error
        answers: dict[Call, Any] = {}
        failures: dict[Call, RlpostError] = {}
        waiting = receiving + sending
        while waiting:
            over = workers.wait(waiting, max(0.0, until - time.monotonic()))
            if not over:
                break
            for call in over:
                waiting.remove(call)
                try:
                    answers[call] = groups.get(call.role, workers).result(call)
                except RlpostError as error:
                    until = min(until, time.monotonic() + GRACE_S)
                    failures[call] = error
        if failures or waiting:
            self._judge(failures, waiting)
        return [answers[call] for call in sending], [answers[call] for call in receiving]

    def _judge(self, failures: Mapping[Call, RlpostError], waiting: Sequence[Call]) -> None:
        """Raise the cause: as it is where another attempt would not help."""
        found = list(failures.values())
        lost = [error for error in found if isinstance(error, LOST)]
        broken = [error for error in found if isinstance(error, BrokenTransferError)]
        others = [error for error in found if error not in lost and error not in broken]
        late = [] if failures else [self._late(waiting)]
        if others and not lost and not broken:
            raise others[0]
        cause = (lost + others + broken + late)[0]
        raise _BrokenOffError(cause, found, [call for call in waiting if call.role == LEARNER]) from cause

    def _late(self, waiting: Sequence[Call]) -> DeadlineError:
        return DeadlineError(
            "the weights did not arrive in time",
            where=", ".join(call.name for call in waiting),
            found=f"no answer after {self._deadline_s:g} s",
            remedy="raise weights.deadline_s if the transfer is really that long",
        )

    def _await_learners(self, learners: Learners, waiting: Sequence[Call]) -> None:
        """Let learner ranks come out of a broadcast whose receivers are gone."""
        left, end = list(waiting), time.monotonic() + LET_GO_S
        while left:
            over = learners.group.wait(left, max(0.0, end - time.monotonic()))
            if not over:
                raise ActorLostError(
                    f"learner {left[0].member} does not come out of a broadcast that broke off",
                    role=LEARNER,
                    member=left[0].member,
                    where=left[0].method,
                    found=f"no answer for {LET_GO_S:g} s after the workers were ended",
                )
            left = [call for call in left if call not in over]

    def _members(self, learners: Learners) -> frozenset[tuple[str, int, str, int]]:
        processes = learners.group.processes() + self._pool.group.processes()
        return frozenset((facts.role, facts.member, facts.machine, facts.pid) for facts in processes)


class _BrokenOffError(Exception):
    """An attempt that others might survive; `waiting` are calls of learners that are not over."""

    def __init__(self, cause: RlpostError, failures: Sequence[RlpostError], waiting: Sequence[Call]) -> None:
        super().__init__(str(cause))
        self.cause, self.failures, self.waiting = cause, failures, waiting
