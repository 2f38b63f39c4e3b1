"""The same calls inline or on Ray actors: one switch, `cluster.mode`, and one code path above it."""

from rlpost.cluster.group import ActorFacts, ActorGroup, Call
from rlpost.cluster.inline_group import InlineGroup
from rlpost.cluster.placement import LEARNER, WORKER, worker_bundles
from rlpost.cluster.start import Cluster, start_cluster

__all__ = [
    "LEARNER",
    "WORKER",
    "ActorFacts",
    "ActorGroup",
    "Call",
    "Cluster",
    "InlineGroup",
    "start_cluster",
    "worker_bundles",
]
