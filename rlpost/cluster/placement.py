"""Who gets which accelerators of which machine: plain arithmetic, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlpost.config.schema import RunConfig
from rlpost.errors import ConfigError

LEARNER, WORKER = "learner", "rollout worker"
"""The roles that are placed; also the names of their groups."""


@dataclass(frozen=True)
class Node:
    """A machine and the accelerators that nobody uses on it, of all that it has."""

    name: str
    free: int
    total: int
    cpus: float = 1.0


@dataclass(frozen=True)
class Bundle:
    """Accelerators of one machine, and the members that see them.

    Attributes:
        seats: (role, member, the first of the bundle's accelerators that it sees, how many).
    """

    size: int
    seats: tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class Plan:
    """Bundles, each with the index of its node."""

    bundles: tuple[Bundle, ...]
    nodes: tuple[int, ...]


def bundles(config: RunConfig) -> tuple[Bundle, ...]:
    """What a run needs: one accelerator for each learner rank, `tensor_parallel` together for each worker.

    `split`: a bundle for each of them. `colocated`: rank and worker numbers go over the same bundles, in
    each as many ranks as one worker has accelerators.
    """
    ranks = config.cluster.learner_ranks
    stages = [stage for stage in config.stages if stage.has_rollouts] or config.stages
    sampling = [stage.rollout for stage in stages]
    workers = max(rollout.workers for rollout in sampling)
    per_worker = max(r.vllm.tensor_parallel if r.engine == "vllm" else 1 for r in sampling)
    if config.cluster.placement == "split":
        learners = [Bundle(1, ((LEARNER, rank, 0, 1),)) for rank in range(ranks)]
        return (*learners, *worker_bundles(workers, per_worker))
    return _shared(ranks, workers, per_worker)


def worker_bundles(workers: int, per_worker: int) -> tuple[Bundle, ...]:
    """What rollout workers need that no learner sits beside."""
    return tuple(Bundle(per_worker, ((WORKER, w, 0, per_worker),)) for w in range(workers))


def _shared(ranks: int, workers: int, per_worker: int) -> tuple[Bundle, ...]:
    found = []
    for number in range(max(workers, -(-ranks // per_worker))):
        here = range(number * per_worker, min((number + 1) * per_worker, ranks))
        seats = [(LEARNER, rank, place, 1) for place, rank in enumerate(here)]
        if number < workers:
            seats.append((WORKER, number, 0, per_worker))
        found.append(Bundle(per_worker if number < workers else len(here), tuple(seats)))
    return tuple(found)


def plan(needed: Sequence[Bundle], nodes: Sequence[Node]) -> Plan | None:
    """Fill the nodes in order: each bundle goes to the first one with room; None when one finds no room.

    Learner ranks come first, so that they are packed.
    """
    left, chosen = [node.free for node in nodes], []
    for bundle in needed:
        place = next((i for i, free in enumerate(left) if free >= bundle.size), None)
        if place is None:
            return None
        left[place] -= bundle.size
        chosen.append(place)
    return Plan(tuple(needed), tuple(chosen))


def spread(seats: int, nodes: Sequence[Node], taken: Sequence[int]) -> list[int]:
    """The index of a node for each of some seats that need no accelerator: to each CPU about as many.

    A node that offers no CPU, as the head of a cluster often does, is left out where there are others.

    Args:
        taken: seats that each node has already.
    """
    offered = [node.cpus if any(n.cpus for n in nodes) else 1.0 for node in nodes]
    counts, chosen = list(taken), []
    for _ in range(seats):
        place = min((i for i, cpus in enumerate(offered) if cpus), key=lambda i: (counts[i] + 1) / offered[i])
        counts[place] += 1
        chosen.append(place)
    return chosen


def refusal(needed: Sequence[Bundle], nodes: Sequence[Node], waited_s: float) -> ConfigError:
    """Why there is no plan: what was needed beside what each machine has."""
    sizes: dict[tuple[int, str], int] = {}
    for bundle in needed:
        roles = " and ".join(dict.fromkeys(f"{role}s" for role, *_ in bundle.seats))
        sizes[bundle.size, roles] = sizes.get((bundle.size, roles), 0) + 1
    asked = [f"    {count:4d} x {size} on one machine, for {roles}" for (size, roles), count in sizes.items()]
    total = sum(bundle.size for bundle in needed)
    width = max((len(node.name) for node in nodes), default=0)
    has = [f"    {node.name:{width}s}  {node.free} of {node.total} free" for node in nodes]
    free = sum(node.free for node in nodes)
    return ConfigError(
        "the cluster does not have the accelerators that the run needs",
        where="cluster.learner_ranks, rollout.workers, rollout.vllm.tensor_parallel, cluster.placement",
        needed="\n".join([f"{total} accelerators", *asked]),
        found="\n".join([f"{free} free accelerators after {waited_s:.0f} s", *has]),
        remedy="ask for less, set cluster.placement=colocated to share them, or add machines",
    )
