"""The switch between inline and Ray."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rlpost.cluster.group import ActorGroup
from rlpost.cluster.inline_group import InlineGroup
from rlpost.config.schema import ClusterConfig


class Cluster:
    """Starts groups and ends them all on exit; a context manager."""

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config
        self.groups: list[ActorGroup] = []
        self.folders: list[Path] = []

    def start_group(
        self, role: str, make: Callable[..., Any], arguments: Sequence[Mapping[str, object]]
    ) -> ActorGroup:
        """One member of class `make` for each mapping of keyword arguments."""
        group: ActorGroup
        if self.config.mode == "inline":
            group = InlineGroup(make, arguments, role)
        else:
            from rlpost.cluster.ray_group import RayGroup

            group = RayGroup(role, make, arguments, self.config.deadline_s)
        self.groups.append(group)
        return group

    def rendezvous(self) -> str:
        """Where the ranks of one group meet: a fresh file of this machine.

        Not a TCP port, because torch's store would listen on every interface.
        """
        folder = tempfile.mkdtemp(prefix="rlpost-")
        self.folders.append(Path(folder))
        return f"file://{folder}/rendezvous"

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
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
        if self.config.mode == "ray":
            from rlpost.cluster.ray_group import disconnect

            disconnect()


def start_cluster(config: ClusterConfig) -> Cluster:
    """The cluster that the configuration asks for, not yet entered."""
    return Cluster(config)
