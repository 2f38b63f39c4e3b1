"""Where members are put: accelerators reserved with Ray placement groups, or CPUs of all machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Protocol

from rlpost.cluster.placement import Bundle, Node, Plan, plan, refusal, spread
from rlpost.cluster.ray_member import Slot
from rlpost.cluster.ray_nodes import RESOURCE, nodes_by_id, on_node
from rlpost.errors import ConfigError, DeadlineError, RlpostError

PLACEMENT_DEADLINE_S = 300.0
"""For machines to join a cluster, and others' jobs to leave it."""
POLL_S = 0.5

Member = tuple[str, int]
"""A role and a number."""


class Places(Protocol):
    """Who sits where; members on machines that are gone can be moved.

    Attributes:
        slots: of every member that has a place.
        patience_s: longest wait for other places.
    """

    slots: dict[Member, Slot]
    patience_s: float

    def leave(self, gone: set[str], names: str) -> None:
        """Other places for the members on these machines, by id; `names` is for errors.

        Raises:
            RlpostError: there is no room.
        """
        ...

    def release(self) -> None:
        """Give everything back."""
        ...


class CpuPlaces:
    """Seats on all machines of a cluster without accelerators; Ray would put them anywhere."""

    patience_s = 0.0

    def __init__(self, members: Sequence[Member]) -> None:
        self.slots: dict[Member, Slot] = {}
        self._seat(members, nodes_by_id())

    def leave(self, gone: set[str], names: str) -> None:
        moved = [member for member, slot in self.slots.items() if slot.node in gone]
        for member in moved:
            del self.slots[member]
        self._seat(moved, [(identity, node) for identity, node in nodes_by_id() if identity not in gone])

    def release(self) -> None:
        self.slots = {}

    def _seat(self, members: Sequence[Member], found: Sequence[tuple[str, Node]]) -> None:
        taken = [sum(slot.node == identity for slot in self.slots.values()) for identity, _ in found]
        places = spread(len(members), [node for _, node in found], taken)
        for member, place in zip(members, places, strict=True):
            identity = found[place][0]
            self.slots[member] = Slot({"scheduling_strategy": on_node(identity)}, node=identity)


@dataclass
class Held:
    """Bundles that are held on one machine, in a placement group of their own: it is lost as a whole."""

    node: str
    bundles: tuple[Bundle, ...]
    group: Any

    def release(self) -> None:
        """Give the accelerators back."""
        import ray

        ray.util.remove_placement_group(self.group)


class Reservation:
    """Accelerators that are held until `release`; a slot for each member that sits on some.

    Args:
        needed: what to hold, as soon as the cluster has room for all of it.
        patience_s: longest wait for room; 0 for a cluster that nothing will join.
        idle: called while waiting.

    Raises:
        ConfigError: there was no room in time; with a table of what is needed and what is there.
        DeadlineError: Ray did not hand out what it says is free.
    """

    def __init__(self, needed: Sequence[Bundle], patience_s: float, idle: Callable[[], None]) -> None:
        self.slots: dict[Member, Slot] = {}
        self._held: list[Held] = []
        self.patience_s, self._idle = patience_s, idle
        self._take(needed, frozenset())

    def leave(self, gone: set[str], names: str) -> None:
        lost = [held for held in self._held if held.node in gone]
        for held in lost:
            held.release()
            self._held.remove(held)
        try:
            self._take([bundle for held in lost for bundle in held.bundles], gone)
        except ConfigError as error:
            raise RlpostError(
                f"{names} is gone, and the other machines have no room for what ran there",
                where="cluster.placement",
                needed=error.details["needed"],
                remedy="add a machine, and go on from the last checkpoint with --resume",
                found=f"{error.details['found']}\n    {names}  gone",
            ) from error

    def release(self) -> None:
        for held in self._held:
            held.release()
        self._held, self.slots = [], {}

    def _take(self, needed: Sequence[Bundle], without: AbstractSet[str]) -> None:
        start = time.monotonic()
        while True:
            found = [(identity, node) for identity, node in nodes_by_id() if identity not in without]
            chosen = plan(needed, [node for _, node in found])
            if chosen is not None:
                break
            waited = time.monotonic() - start
            if waited >= self.patience_s:
                raise refusal(needed, [node for _, node in found], waited)
            self._idle()
            time.sleep(POLL_S)
        self._hold(chosen, [identity for identity, _ in found])

    def _hold(self, chosen: Plan, identities: Sequence[str]) -> None:
        import ray

        made = []
        try:
            for place in sorted(set(chosen.nodes)):
                here = [b for b, node in zip(chosen.bundles, chosen.nodes, strict=True) if node == place]
                group = ray.util.placement_group(
                    [{RESOURCE: float(bundle.size)} for bundle in here],
                    strategy="PACK",
                    bundle_label_selector=[{"ray.io/node-id": identities[place]}] * len(here),
                )
                made.append(Held(identities[place], tuple(here), group))
            for held in made:
                if not held.group.wait(PLACEMENT_DEADLINE_S):
                    raise _late("the placement group")
            slots = _slots(made)
        except BaseException:
            for held in made:
                held.release()
            raise
        self._held += made
        self.slots |= slots


def _slots(made: Sequence[Held]) -> dict[Member, Slot]:
    """A slot for each member that sits in what is held."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Strategy

    places = [
        (held, bundle, Strategy(held.group, index))
        for held in made
        for index, bundle in enumerate(held.bundles)
    ]
    looks = [
        ray.remote(num_cpus=0, num_gpus=bundle.size, max_retries=0)(_visible)
        .options(scheduling_strategy=strategy)
        .remote()
        for _, bundle, strategy in places
    ]
    try:
        visible: list[tuple[str, ...]] = ray.get(looks, timeout=PLACEMENT_DEADLINE_S)
    except ray.exceptions.GetTimeoutError as error:
        raise _late("the accelerators' ids") from error
    return {
        (role, member): Slot({"scheduling_strategy": strategy}, ids[first : first + count], held.node)
        for (held, bundle, strategy), ids in zip(places, visible, strict=True)
        for role, member, first, count in bundle.seats
    }


def reserve(
    needed: Sequence[Bundle],
    patience_s: float,
    idle: Callable[[], None] = lambda: None,
    *,
    expected: bool = False,
) -> Places | None:
    """Places for all who sit in the bundles; None leaves it to Ray, on a machine without accelerators.

    Args, and what is raised, as of `Reservation`.

    Args:
        expected: machines with accelerators will come, even where there are none yet.
    """
    found = nodes_by_id()
    if expected or any(node.total for _, node in found):
        return Reservation(needed, patience_s, idle)
    if len(found) == 1:
        return None
    return CpuPlaces([(role, member) for bundle in needed for role, member, *_ in bundle.seats])


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
