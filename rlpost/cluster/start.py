"""The switch between inline and Ray."""

from __future__ import annotations

import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from rlpost.cluster.group import ActorGroup
from rlpost.cluster.inline_group import InlineGroup
from rlpost.cluster.placement import Bundle, bundles
from rlpost.cluster.ray_head import HeadWatch
from rlpost.cluster.ray_placement import Places
from rlpost.cluster.watchdog import Watchdog
from rlpost.config.schema import ClusterConfig, RunConfig


def print_report(text: str) -> None:
    """To standard error."""
    print(text, file=sys.stderr, flush=True)


class Cluster:
    """Starts groups and ends them all on exit; a context manager.

    Args:
        logs: the folder for one log per Ray actor; None leaves their output to Ray.
        report: takes the text that says who waits for whom, when a wait is long.
    """

    def __init__(
        self,
        config: ClusterConfig,
        logs: Path | None = None,
        report: Callable[[str], None] = print_report,
    ) -> None:
        self.config, self.logs = config, None if logs is None else logs.absolute()
        self.groups: list[ActorGroup] = []
        self._stack = ExitStack()
        self._places: Places | None = None
        self._marker: Path | None = None
        self._head: HeadWatch | None = None
        self._meeting: Any = None
        self.watchdog = Watchdog(config.hang_deadline_s, config.report_every_s, report)

    @property
    def phase(self) -> str:
        """What the driver is doing, for reports on long waits."""
        return self.watchdog.phase

    @phase.setter
    def phase(self, text: str) -> None:
        self.watchdog.phase = text

    def on_idle(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` about every 50 ms while the driver waits for an answer of Ray actors.

        It may use groups itself, and is not called within itself; what it raises ends the wait. `wait`
        of a group does not call it. Inline it is never called.
        """
        self.watchdog.idle = callback

    def reserve(self, config: RunConfig) -> None:
        """Hold the accelerators of a run, for the groups `LEARNER` and `WORKER` that are started afterwards.

        Raises:
            ConfigError: see `hold`.
        """
        self.hold(bundles(config), expected=bool(config.machines.accelerators))

    def hold(self, needed: Sequence[Bundle], *, expected: bool = False) -> None:
        """Hold accelerators for the members that are to sit in the bundles.

        Nothing is held inline, and where the cluster has no accelerators.

        Args:
            expected: wait for accelerators to join a cluster that has none yet.

        Raises:
            ConfigError: the cluster does not have them, or has not had them free for long.
        """
        if self.config.mode == "inline":
            return
        from rlpost.cluster import ray_placement

        # Nothing joins a cluster that is our own.
        others = self.config.address is not None
        deadline_s = ray_placement.PLACEMENT_DEADLINE_S if others else 0.0
        self._places = ray_placement.reserve(needed, deadline_s, expected=others and expected)
        if self._places is not None:
            self._stack.callback(self._places.release)

    def start_group(
        self, role: str, make: Callable[..., Any], arguments: Sequence[Mapping[str, object]]
    ) -> ActorGroup:
        """One member of class `make` for each mapping of keyword arguments."""
        group: ActorGroup
        if self.config.mode == "inline":
            group = InlineGroup(make, arguments, role)
        else:
            from rlpost.cluster.ray_group import RayGroup

            group = RayGroup(
                role,
                make,
                arguments,
                self.config.deadline_s,
                self.watchdog,
                self.logs,
                self._places,
                self._marker,
            )
        self.groups.append(group)
        return group

    def rendezvous(self) -> str:
        """Where the ranks of one group meet: a fresh place, after which the one before is no more.

        A file of this machine, or on a cluster that may have others a port of this one's address in it.
        """
        if self.config.address is not None:
            from rlpost.cluster.ray_start import node_address
            from rlpost.weights.communicator import Host

            self._meeting = Host(deadline_s=self.config.deadline_s, address=node_address())
            return f"tcp://{self._meeting.address}:{self._meeting.port}"
        folder = tempfile.mkdtemp(prefix="rlpost-")
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return f"file://{folder}/rendezvous"

    def __enter__(self) -> Cluster:
        if self.config.mode == "ray":
            from rlpost.cluster.ray_start import connected

            self._stack.enter_context(connected(self.config.address, self.logs))
            if self.config.address is not None:
                from rlpost.cluster.ray_head import watch_head

                self._head = watch_head(self.config.hang_deadline_s)
                self.watchdog.head = self._head
            if self.config.address is not None and self.logs is not None:
                self._marker = self.logs / f".seen-by-all-{uuid.uuid4().hex[:8]}"
                self._marker.parent.mkdir(parents=True, exist_ok=True)
                self._marker.touch()
                self._stack.callback(self._marker.unlink, missing_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.on_idle(None)
        if self._head is not None and self._head.lost:
            from rlpost.cluster.ray_head import leave_without_head

            # Nothing of Ray's can be ended in order: it ends by itself where its head is gone.
            self.groups = []
            if self._marker is not None:
                self._marker.unlink(missing_ok=True)
            leave_without_head(self._stack.pop_all())
            return
        with self._stack:
            for group in reversed(self.groups):
                group.close()
            self.groups = []


def start_cluster(
    config: ClusterConfig, logs: Path | None = None, report: Callable[[str], None] = print_report
) -> Cluster:
    """The cluster that the configuration asks for, not yet entered; arguments as of `Cluster`."""
    return Cluster(config, logs, report)
