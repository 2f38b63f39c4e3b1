"""The memory plan as findings: a line for each kind of place."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.preflight.finding import ERROR, OK, UNTRIED, WARNING, Finding, Level
from rlpost.sizing import MemoryPlan, Place
from rlpost.sizing.words import amount

LEVELS: dict[str, Level] = {"fits": OK, "unknown": UNTRIED, "tight": WARNING, "does not fit": ERROR}
KEYS = {"accelerator": "accelerator_gib", "host": "memory_gib", "shared": "shared_memory_gib"}
FALLBACK = {
    WARNING: "lower train.tokens_per_microbatch or rollout.slots, or take larger machines",
    ERROR: "a smaller model, or larger machines",
}
SHOWN = 3
"""Remedies that a finding names."""


def memory_findings(plan: MemoryPlan) -> Iterator[Finding]:
    """What is needed beside what is there, at each place."""
    return map(_finding, plan.places)


def _finding(place: Place) -> Finding:
    level = LEVELS[place.verdict]
    seats = ", ".join(f"{count} x {role.name}" if count > 1 else role.name for role, count in place.seats)
    name = f"{place.kind} memory, {place.name}"
    found = f"{amount(place.needed)} needed for {seats}"
    if level == UNTRIED:
        return Finding(
            name, level, f"{found}; what there is, is not known", f"say so: machines.{KEYS[place.kind]}"
        )
    found = f"{amount(place.needed)} of {amount(place.limit or 0)} for {seats}"
    if level == OK:
        return Finding(name, level, found)
    if level == WARNING and place.kind == "accelerator":
        # vLLM takes its share of an accelerator whatever the model needs, and most of it by default.
        return Finding(name, OK, found, notes=("nearly all of it",))
    changes = [entry.change + ("" if entry.fits else " (not enough)") for entry in place.remedies[:SHOWN]]
    return Finding(name, level, found, ", or ".join(changes) or FALLBACK[level])
