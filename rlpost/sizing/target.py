"""Target: what is known of the machines that a run is meant for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlpost.config.schema import RunConfig
from rlpost.machine import GIB, accelerators_here, cpus, memory_limit, shared_memory

IN_WORDS = {
    "accelerators": "accelerators",
    "accelerator_gib": "their memory",
    "memory_gib": "memory",
    "shared_memory_gib": "shared memory",
}
"""Keys of `machines` that a memory plan reads."""


@dataclass(frozen=True)
class Target:
    """The machines of a run, all alike; None is what nobody can know here.

    Attributes:
        here: whether this machine is the one, or one of them.
        local: whether it is the only one, so that the run has what it has.
        count: machines.
        accelerators: of each machine.
        accelerator_bytes: memory of each accelerator.
        cpus: of each machine.
        memory_bytes: host memory of each machine.
        shared_memory_bytes: of each machine, under /dev/shm.
        said: whether the recipe itself says anything of its machines.
        source: where the numbers are from, in words.
    """

    here: bool
    local: bool
    count: int
    accelerators: int | None
    accelerator_bytes: int | None
    cpus: int | None
    memory_bytes: int | None
    shared_memory_bytes: int | None
    said: bool
    source: str


def find_target(config: RunConfig, *, here: bool | None = None) -> Target:
    """What the section `machines` says, and of what it leaves open what this machine has.

    Args:
        here: whether the run is started on this machine; False where a launcher takes it elsewhere. None:
            unless the recipe asks for several machines, or more than this one has. It is meant for others
            then, of which only that is known which it says.
    """
    said = config.machines
    count, memory = accelerators_here()
    shared = shared_memory()
    own = {
        "accelerators": count,
        "accelerator_gib": None if memory is None else memory / GIB,
        "cpus": cpus(),
        "memory_gib": memory_limit() / GIB,
        "shared_memory_gib": None if shared is None else shared / GIB,
    }
    asked = {name: getattr(said, name) for name in own}
    joined = config.cluster.mode == "ray" and config.cluster.address is not None
    if here is None:
        more = any(value is not None and value > (own[name] or 0) for name, value in asked.items())
        here = not more and said.count == 1
    local = here and not joined and said.count == 1
    known = {name: own[name] if value is None and local else value for name, value in asked.items()}
    return Target(
        here=here,
        local=local,
        count=said.count,
        accelerators=known["accelerators"],
        accelerator_bytes=_bytes(known["accelerator_gib"]),
        cpus=known["cpus"],
        memory_bytes=_bytes(known["memory_gib"]),
        shared_memory_bytes=_bytes(known["shared_memory_gib"]),
        said=said != type(said)(),
        source=_source(asked, known),
    )


def _source(asked: Mapping[str, float | None], known: Mapping[str, float | None]) -> str:
    """Who told what, of what a memory plan needs."""
    needed = [name for name in IN_WORDS if known["accelerators"] or name != "accelerator_gib"]
    from_here = [IN_WORDS[name] for name in needed if asked[name] is None and known[name] is not None]
    unknown = [IN_WORDS[name] for name in needed if known[name] is None]
    parts = ["the section machines"] if any(asked[name] is not None for name in needed) else []
    parts += [f"this machine ({', '.join(from_here)})"] if from_here else []
    said = [f"from {' and '.join(parts)}"] if parts else []
    return "; ".join(said + ([f"unknown: {', '.join(unknown)}"] if unknown else []))


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * GIB)
