"""Transports: the ways by which workers come to the learner's weights, and which one a run takes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, Protocol

from rlpost.cluster import ActorFacts
from rlpost.config.schema import ClusterConfig, WeightsConfig
from rlpost.errors import WeightTransferError
from rlpost.training.broadcasting import BroadcastTransport
from rlpost.training.delivery import Delivery
from rlpost.training.learners import Learners
from rlpost.training.worker_pool import WorkerPool
from rlpost.weights.bundle import WeightBundle, verify_receipt


class Transport(Protocol):
    """One way to the workers of a pool."""

    def send(self, learners: Learners, version: int) -> Delivery:
        """Give every worker the learner's weights, as a version.

        Raises:
            DeadlineError: it took longer than `weights.deadline_s`.
            WeightTransferError: it cannot be done.
        """
        ...

    def prepare(self, member: int) -> bool:
        """Give a fresh worker the weights of the others; False where it must wait for the next `send`."""
        ...


class BundleTransport:
    """A bundle that every worker is given: a description of shared memory, or the tensors themselves."""

    def __init__(self, pool: WorkerPool, weights: WeightsConfig) -> None:
        self._pool, self._weights = pool, weights
        self._current: tuple[WeightBundle, Any] | None = None
        self._readable_on: str | None = None

    def send(self, learners: Learners, version: int) -> Delivery:
        start = time.monotonic()
        processes = learners.group.processes() + self._pool.group.processes()
        shares = self._shares_memory(processes)
        bundle = learners.export(version, shared=shares)
        self._readable_on = processes[0].machine if shares else None
        self._current = bundle, self._pool.group.share(bundle)
        until = start + self._weights.deadline_s
        receipts = self._pool.call_all(
            "load_weights",
            self._current[1],
            deadline_s=max(0.0, until - time.monotonic()),
            setting="weights.deadline_s",
        )
        return Delivery(bundle, receipts, until)

    def prepare(self, member: int) -> bool:
        if self._current is not None:
            bundle, shared = self._current
            machines = {f.member: f.machine for f in self._pool.group.processes()}
            if self._readable_on is not None and machines[member] != self._readable_on:
                return False
            receipt = self._pool.group.call(member, "load_weights", shared)
            verify_receipt(bundle, receipt, where=f"engine {member}")
        return True

    def _shares_memory(self, processes: Sequence[ActorFacts]) -> bool:
        if self._weights.transport == "object_store" or is_inline(processes):
            return False
        if self._weights.transport == "shared_memory" and not on_one_machine(processes):
            raise WeightTransferError(
                "the learner's memory cannot be shared with workers of other hosts",
                where="weights.transport",
                found=f"shared_memory, and the hosts {', '.join(sorted({p.host for p in processes}))}",
                needed="broadcast or object_store, or auto to leave it to rlpost",
            )
        return on_one_machine(processes)


def choose_transport(
    learners: Learners, pool: WorkerPool, weights: WeightsConfig, cluster: ClusterConfig
) -> Transport:
    """The transport that is configured, or the one that fits where processes are; starts the engines.

    With `auto`, weights are broadcast only where workers are on other hosts: within one, the learner's memory
    needs no collective that could get stuck, and is proven on CPUs by all tests.
    """
    # An engine loads its model when it is first asked for something, under deadlines of its own.
    pool.call_all("receivers", deadline_s=cluster.deadline_s, setting="cluster.deadline_s")
    processes = learners.group.processes() + pool.group.processes()
    chosen = weights.transport
    if chosen == "auto" and cluster.placement == "split" and not is_inline(processes):
        chosen = "broadcast" if processes and not on_one_machine(processes) else "shared_memory"
    if chosen == "broadcast":
        return BroadcastTransport(pool, weights.deadline_s, cluster.deadline_s)
    return BundleTransport(pool, weights)


def on_one_machine(processes: Sequence[ActorFacts]) -> bool:
    """Whether all of them see each other."""
    return len({facts.machine for facts in processes}) == 1


def is_inline(processes: Sequence[ActorFacts]) -> bool:
    """Whether any of them is this process."""
    return any(facts.pid == os.getpid() for facts in processes)
