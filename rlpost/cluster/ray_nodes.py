"""The machines of a Ray cluster: which there are, and which of them still answer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from rlpost.cluster.guardian import actor_family, end_family
from rlpost.cluster.placement import Node
from rlpost.cluster.process import Process

ANSWER_S = 30.0
"""For a machine to start a process that says it is there, and to end what is left of a member on it."""
RESOURCE = "GPU"

Family = tuple[int, str]
"""The process of a member, and the mark of all that it started."""


def nodes_by_id() -> list[tuple[str, Node]]:
    """The cluster's machines with their ids, by name, and the accelerators that Ray knows of."""
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    found = []
    for entry in ray.nodes():
        if entry["Alive"]:
            resources = entry["Resources"]
            total = int(resources.get(RESOURCE, 0))
            available = int(free.get(entry["NodeID"], {}).get(RESOURCE, 0))
            node = Node(entry["NodeManagerHostname"], available, total, float(resources.get("CPU", 0)))
            found.append((entry["NodeID"], node))
    return sorted(found, key=lambda pair: (pair[1].name, pair[0]))


def own_node() -> str:
    """The id of the driver's machine."""
    import ray

    identity: str = ray.get_runtime_context().get_node_id()
    return identity


def on_node(identity: str) -> Any:
    """Where Ray puts something that is to be on this machine and on no other."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(identity, soft=False)


def clear(left: Mapping[str, Sequence[Family]]) -> set[str]:
    """End what is left of members on their machines; those of the machines that answer.

    The driver's own is one of them, and is not asked. Ray may take a minute to find a machine dead.
    """
    import ray

    own = own_node()
    task = ray.remote(num_cpus=0, max_retries=0)(_end_families)
    asked = {
        task.options(scheduling_strategy=on_node(identity)).remote(list(families)): identity
        for identity, families in left.items()
        if identity != own
    }
    found = {own}
    over = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)[0] if asked else []
    for reference in over:
        try:
            ray.get(reference)
        except ray.exceptions.RayError:
            continue
        found.add(asked[reference])
    return found


def _end_families(families: Sequence[Family]) -> None:
    for pid, mark in families:
        end_family(partial(_family, pid, mark))


def _family(pid: int, mark: str) -> list[int]:
    with suppress(OSError):
        # A member leads a session; another process of its number does not.
        if os.getsid(pid) == pid and not Process(pid).ended():
            return [pid, *actor_family(pid, mark)]
    return actor_family(pid, mark)
