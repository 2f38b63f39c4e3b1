"""Reserving accelerators with Ray placement groups, as a plan says."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlpost.cluster.placement import Bundle, Node, Plan, plan, refusal
from rlpost.cluster.ray_member import Slot
from rlpost.errors import DeadlineError

PLACEMENT_DEADLINE_S = 300.0
"""For machines to join a cluster, and others' jobs to leave it."""
POLL_S = 0.5
RESOURCE = "GPU"


def nodes() -> list[Node]:
    """The cluster's machines by name, with the accelerators that Ray knows of."""
    return [node for _, node in _nodes_by_id()]


def _nodes_by_id() -> list[tuple[str, Node]]:
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    found = []
    for entry in ray.nodes():
        if entry["Alive"]:
            total = int(entry["Resources"].get(RESOURCE, 0))
            available = int(free.get(entry["NodeID"], {}).get(RESOURCE, 0))
            found.append((entry["NodeID"], Node(entry["NodeManagerHostname"], available, total)))
    return sorted(found, key=lambda pair: (pair[1].name, pair[0]))


@dataclass
class Reservation:
    """Bundles that are held until `release`; a slot for each member that sits in one."""

    slots: dict[tuple[str, int], Slot]
    group: Any

    def release(self) -> None:
        """Give the accelerators back."""
        import ray

        ray.util.remove_placement_group(self.group)


def reserve(
    needed: Sequence[Bundle],
    deadline_s: float,
    idle: Callable[[], None] = lambda: None,
) -> Reservation | None:
    """Wait until the cluster has room for all bundles, and hold them; None where it has no accelerators.

    Args:
        deadline_s: longest time to wait for room; 0 for a cluster that nothing will join.
        idle: called while waiting.

    Raises:
        ConfigError: there was no room in time; with a table of what is needed and what is there.
        DeadlineError: Ray did not hand out what it says is free.
    """
    start = time.monotonic()
    while True:
        found = _nodes_by_id()
        if not any(node.total for _, node in found):
            return None
        chosen = plan(needed, [node for _, node in found])
        if chosen is not None:
            return _hold(chosen, [identity for identity, _ in found])
        waited = time.monotonic() - start
        if waited >= deadline_s:
            raise refusal(needed, [node for _, node in found], waited)
        idle()
        time.sleep(POLL_S)


def _hold(chosen: Plan, identities: Sequence[str]) -> Reservation:
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Strategy

    group = ray.util.placement_group(
        [{RESOURCE: float(bundle.size)} for bundle in chosen.bundles],
        strategy="PACK",
        bundle_label_selector=[{"ray.io/node-id": identities[node]} for node in chosen.nodes],
    )
    try:
        if not group.wait(PLACEMENT_DEADLINE_S):
            raise _late("the placement group")
        strategies = [Strategy(group, index) for index in range(len(chosen.bundles))]
        looks = [
            ray.remote(num_cpus=0, num_gpus=bundle.size, max_retries=0)(_visible)
            .options(scheduling_strategy=strategy)
            .remote()
            for bundle, strategy in zip(chosen.bundles, strategies, strict=True)
        ]
        try:
            visible: list[tuple[str, ...]] = ray.get(looks, timeout=PLACEMENT_DEADLINE_S)
        except ray.exceptions.GetTimeoutError as error:
            raise _late("the accelerators' ids") from error
    except BaseException:
        ray.util.remove_placement_group(group)
        raise
    slots = {
        (role, member): Slot({"scheduling_strategy": strategy}, ids[first : first + count])
        for bundle, strategy, ids in zip(chosen.bundles, strategies, visible, strict=True)
        for role, member, first, count in bundle.seats
    }
    return Reservation(slots, group)


def _late(what: str) -> DeadlineError:
    return DeadlineError(
        f"Ray did not hand out {what}",
        where="cluster.placement",
        found=f"no answer after {PLACEMENT_DEADLINE_S:g} s, though the accelerators were free before",
        remedy="see whether another job took them: ray status",
    )


def _visible() -> tuple[str, ...]:
    """The ids of a bundle's accelerators; members are given them by name, so that several can share one."""
    import ray

    return tuple(str(identity) for identity in ray.get_gpu_ids())
