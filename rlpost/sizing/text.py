"""A memory plan as people read it."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.sizing.memory import MOMENTS, Kind, Line, MemoryPlan, Place, Role
from rlpost.sizing.words import amount, size

KINDS: dict[Kind, str] = {"accelerator": "accelerator", "host": "host memory", "shared": "/dev/shm"}
DURING = {
    "load": "while models are loaded",
    "sample": "while responses are sampled",
    "update": "while gradients are computed",
    "step": "while the optimizer steps",
    "send": "while weights are sent",
    "save": "while a checkpoint is saved",
}


def describe(plan: MemoryPlan) -> str:
    """All of a plan: the model, what each member needs, and every memory beside its limit."""
    blocks = [_model(plan), *(_role(role) for role in plan.roles), _places(plan)]
    notes = "\n".join(f"- {note}" for note in plan.notes)
    return "\n\n".join([*blocks, notes, "exact: counted; the rest is estimated or was measured elsewhere"])


def _model(plan: MemoryPlan) -> str:
    facts = plan.model
    trained = "" if facts.trained == facts.total else f", of which {size(facts.trained)} are trained (LoRA)"
    tied = "tied embeddings" if facts.tied else "an output layer of its own"
    return (
        f"{facts.name}: {facts.total:,} parameters{trained}\n"
        f"  {facts.kind}, {facts.layers} layers of width {facts.hidden:,}, {facts.heads} heads, "
        f"{facts.kv_heads} of them with keys and values, {tied}"
        + (f", {facts.experts} experts, {facts.experts_per_token} a token" if facts.experts else "")
    )


def _role(role: Role) -> str:
    rows = [f"{role.name}{f', {role.count} of them' if role.count > 1 else ''}"]
    for kind in KINDS:
        lines = [line for line in role.lines if line.kind == kind and line.bytes]
        if lines:
            peak = amount(role.peak(kind))
            rows.append(f"  {KINDS[kind]}: {peak} at its peak")
            rows += [_line(line) for line in sorted(lines, key=lambda line: -line.bytes)]
    return "\n".join(rows)


def _line(line: Line) -> str:
    when = "" if line.moments == MOMENTS else f" [{', '.join(line.moments)}]"
    exact = ", exact" if line.exact else ""
    return f"    {amount(line.bytes):>9s}  {line.what}: {line.formula}{exact}{when}"


def _places(plan: MemoryPlan) -> str:
    rows = ["memory by place"]
    for place in plan.places:
        rows += _place(place)
    return "\n".join(rows)


def _place(place: Place) -> Iterator[str]:
    limit = "?" if place.limit is None else amount(place.limit)
    share = "" if place.share is None else f" ({place.share:.0%})"
    count = f"{place.count} x " if place.count > 1 and not place.name[0].isdigit() else ""
    seats = ", ".join(f"{number} x {role.name}" if number > 1 else role.name for role, number in place.seats)
    where = "" if place.kind == "accelerator" else f" {KINDS[place.kind]}"
    yield f"  {place.verdict:12s}  {count}{place.name}{where}: {amount(place.needed)} of {limit}{share}"
    yield f"{'':16s}{seats}; most {DURING[place.moment]}"
    for remedy in place.remedies:
        enough = "enough" if remedy.fits else "not enough alone"
        yield f"{'':16s}try {remedy.change}: {amount(remedy.saves)} less, {enough}"
