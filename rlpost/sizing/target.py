"""What the machines have that a recipe is meant for: what `machines` says, otherwise what this one has."""

from __future__ import annotations

from dataclasses import dataclass

from rlpost.config.launching import MachinesConfig
from rlpost.machine import GIB, accelerators_here, memory_limit, shared_memory


@dataclass(frozen=True)
class Target:
    """Machines, all alike.

    Attributes:
        machines: how many.
        accelerators: of each machine.
        accelerator_bytes: of the memory of each; None where nobody said and this machine has none.
        host_bytes: of memory of each machine.
        shared_bytes: of its file system in memory.
        source: where the numbers are from, in words.
    """

    machines: int
    accelerators: int
    accelerator_bytes: int | None
    host_bytes: int
    shared_bytes: int | None
    source: str


def target_of(machines: MachinesConfig) -> Target:
    """The target of a recipe."""
    here: list[str] = []
    accelerators, accelerator_bytes = machines.accelerators, _bytes(machines.accelerator_gib)
    if accelerators is None or (accelerators and accelerator_bytes is None):
        found, size = accelerators_here()
        if accelerators is None:
            accelerators = found
            here.append("accelerators")
        if accelerator_bytes is None and size is not None:
            accelerator_bytes = size
            here.append("their memory")
    host, shared = _bytes(machines.memory_gib), _bytes(machines.shared_memory_gib)
    if host is None:
        host = memory_limit()
        here.append("memory")
    if shared is None:
        shared = shared_memory()
        here.append("shared memory")
    source = f"this machine ({', '.join(here)})" if here else "the section machines"
    if here and len(here) < 4:
        source = f"the section machines, and {source}"
    return Target(machines.count, accelerators, accelerator_bytes, host, shared, source)


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * GIB)
