"""The same calls inline or on Ray actors: one switch, `cluster.mode`, and one code path above it."""

from rlpost.cluster.group import ActorGroup, InlineGroup
from rlpost.cluster.start import Cluster, start_cluster

__all__ = ["ActorGroup", "Cluster", "InlineGroup", "start_cluster"]
