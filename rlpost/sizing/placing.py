"""Who sits where: members of the roles on machines and accelerators, as `cluster/placement.py` has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rlpost.cluster.placement import LEARNER, Node, bundles, plan
from rlpost.config.schema import RunConfig
from rlpost.sizing.memory import MOMENTS, Kind, Moment, Place, Role
from rlpost.sizing.target import Target

FIRST, OTHERS = "first learner rank", "learner rank"


@dataclass
class Machine:
    """Members by role: in its host memory, and on each of its accelerators."""

    host: Counter[str] = field(default_factory=Counter)
    accelerators: list[Counter[str]] = field(default_factory=list)


def seat(config: RunConfig, roles: Mapping[str, Role], target: Target) -> tuple[list[Machine], str | None]:
    """Every machine of the target, and what is wrong with the placement, if anything.

    Without accelerators Ray puts members where CPUs are free; all are counted on the first machine then.
    """
    each = target.accelerators or 0
    machines = [Machine(accelerators=[Counter() for _ in range(each)]) for _ in range(target.count)]
    fault = None
    if not each:
        machines[0].host.update({name: role.count for name, role in roles.items()})
        return machines, None
    if config.cluster.mode == "inline":
        for name in _placed(roles):
            machines[0].host[name] += 1
            machines[0].accelerators[0][name] += 1
    else:
        fault = _seat_bundles(config, machines, each)
    for name, role in roles.items():
        if name not in _placed(roles):
            machines[0].host[name] += role.count
    if "Ray" in roles:
        for machine in machines[1:]:
            machine.host["Ray"] += 1
    return machines, fault


def _placed(roles: Mapping[str, Role]) -> list[str]:
    return [name for name in roles if name in (FIRST, OTHERS, "rollout worker")]


def _seat_bundles(config: RunConfig, machines: list[Machine], each: int) -> str | None:
    """As accelerators are handed out, so many of each machine; what is wrong with that, if anything."""
    needed = bundles(config)
    nodes = [Node(f"machine {i + 1}", each, each) for i in range(len(machines))]
    found, fault = plan(needed, nodes), None
    if found is None:
        total = sum(bundle.size for bundle in needed)
        has = f"{len(machines)} x {each}"
        fault = (
            f"the run places {total} accelerators, and the target has {has}: memory is that of more machines"
        )
        # As many machines as it takes, so that there is something to be said of each.
        while found is None and len(nodes) < 1024 and max(b.size for b in needed) <= each:
            nodes.append(Node(f"machine {len(nodes) + 1}", each, each))
            machines.append(Machine(accelerators=[Counter() for _ in range(each)]))
            found = plan(needed, nodes)
        if found is None:
            return fault
    used = [0] * len(machines)
    for bundle, node in zip(found.bundles, found.nodes, strict=True):
        machine, start = machines[node], used[node]
        used[node] += bundle.size
        for role, member, first, count in bundle.seats:
            name = role if role != LEARNER else (FIRST if member == 0 else OTHERS)
            machine.host[name] += 1
            for index in range(start + first, start + first + count):
                machine.accelerators[index][name] += 1
    return fault


def places(
    machines: Sequence[Machine], roles: Mapping[str, Role], target: Target, *, in_turns: bool
) -> Iterator[Place]:
    """Every memory that somebody sits in, those that are alike together.

    Args:
        in_turns: sampling and updates never happen at the same time.
    """
    cards = Counter(
        tuple(sorted(card.items())) for machine in machines for card in machine.accelerators if card
    )
    for seats, count in cards.items():
        name = "accelerator with " + " and ".join(dict(seats))
        yield _place(name, "accelerator", count, seats, roles, target.accelerator_bytes, in_turns)
    for kind, limit in (("host", target.memory_bytes), ("shared", target.shared_memory_bytes)):
        hosts = Counter(tuple(sorted(machine.host.items())) for machine in machines if machine.host)
        for number, (seats, count) in enumerate(hosts.items()):
            name = f"machine {number + 1}" if count == 1 else f"{count} machines"
            place = _place(name, kind, count, seats, roles, limit, in_turns)  # type: ignore[arg-type]
            if place.needed:
                yield place


def _place(
    name: str,
    kind: Kind,
    count: int,
    seats: tuple[tuple[str, int], ...],
    roles: Mapping[str, Role],
    limit: int | None,
    in_turns: bool,
) -> Place:
    members = tuple((roles[role], number) for role, number in seats if roles[role].peak(kind))

    def at(moment: Moment) -> int:
        return sum(number * role.at(kind, moment) for role, number in members)

    worst = max(MOMENTS, key=at)
    needed = at(worst) if in_turns else sum(number * role.peak(kind) for role, number in members)
    return Place(name, kind, count, members, limit, needed, worst)
