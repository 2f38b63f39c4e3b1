"""The switch between inline and Ray."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rlpost.cluster.group import ActorGroup, InlineGroup
from rlpost.config.schema import ClusterConfig


class Cluster:
    """Starts groups and ends them all on exit; a context manager."""

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config
        self.groups: list[ActorGroup] = []

    def start_group(
        self, role: str, make: Callable[..., Any], arguments: Sequence[Mapping[str, object]]
    ) -> ActorGroup:
        """One member of class `make` for each mapping of keyword arguments."""
        group: ActorGroup
        if self.config.mode == "inline":
            group = InlineGroup(make, arguments)
        else:
            from rlpost.cluster.ray_group import RayGroup

            group = RayGroup(role, make, arguments, self.config.deadline_s)
        self.groups.append(group)
        return group

    def rendezvous(self) -> str:
        """A free address on this machine where the ranks of one group meet."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return f"tcp://127.0.0.1:{probe.getsockname()[1]}"

    def __enter__(self) -> Cluster:
        if self.config.mode == "ray":
            from rlpost.cluster.ray_group import connect

            connect(self.config.address)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for group in reversed(self.groups):
            group.close()
        self.groups = []
        if self.config.mode == "ray":
            from rlpost.cluster.ray_group import disconnect

            disconnect()


def start_cluster(config: ClusterConfig) -> Cluster:
    """The cluster that the configuration asks for, not yet entered."""
    return Cluster(config)
