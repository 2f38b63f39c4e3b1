"""MemoryPlan: what a recipe will need, by role and by place; plain records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rlpost.sizing.model_facts import ModelFacts

Kind = Literal["accelerator", "host", "shared"]
"""Memory of an accelerator, of a machine, and of its file system in memory (/dev/shm)."""

Moment = Literal["load", "sample", "update", "step", "send", "save"]
"""When a line counts: while models are loaded, responses sampled, gradients computed, while the optimizer
steps, weights are sent to engines, and a checkpoint is saved. They never overlap within a role, whose peak is
thus the largest of them."""

MOMENTS: tuple[Moment, ...] = ("load", "sample", "update", "step", "send", "save")

Verdict = Literal["fits", "tight", "does not fit", "unknown"]
TIGHT = 0.9
"""From this share of the limit on, what fits is called tight."""


@dataclass(frozen=True)
class Line:
    """One thing that takes memory.

    Attributes:
        what: it, in a few words.
        bytes: of one member of the role.
        formula: how the number comes about, in words.
        kind: in which memory.
        moments: when it is there.
        exact: counted; otherwise estimated, or measured on another machine.
    """

    what: str
    bytes: int
    formula: str
    kind: Kind
    moments: tuple[Moment, ...] = MOMENTS
    exact: bool = False


@dataclass(frozen=True)
class Role:
    """Members that need the same, such as the learner's ranks.

    Attributes:
        name: of one of them.
        count: how many.
        lines: what each needs.
    """

    name: str
    count: int
    lines: tuple[Line, ...]

    def at(self, kind: Kind, moment: Moment) -> int:
        """Bytes of one member in a kind of memory at a moment."""
        return sum(line.bytes for line in self.lines if line.kind == kind and moment in line.moments)

    def peak(self, kind: Kind) -> int:
        """The largest of all moments."""
        return max(self.at(kind, moment) for moment in MOMENTS)


@dataclass(frozen=True)
class Remedy:
    """A change of the recipe that would help.

    Attributes:
        change: in the words of the command line, such as `learner.zero_stage=3`.
        saves: bytes, at the place that is short.
        fits: whether everything fits then, in all places.
    """

    change: str
    saves: int
    fits: bool


@dataclass(frozen=True)
class Place:
    """A memory, and who shares it.

    Attributes:
        name: such as "each accelerator" or "machine 1".
        kind: of memory.
        count: places that are alike.
        seats: roles and how many members of each are there.
        limit: bytes that there are; None where nobody said.
        needed: bytes at the worst moment.
        moment: that one.
        remedies: what would help most, the best first; empty where it fits.
    """

    name: str
    kind: Kind
    count: int
    seats: tuple[tuple[Role, int], ...]
    limit: int | None
    needed: int
    moment: Moment
    remedies: tuple[Remedy, ...] = ()

    @property
    def share(self) -> float | None:
        """Of the limit; None without one."""
        return None if self.limit is None else self.needed / self.limit

    @property
    def verdict(self) -> Verdict:
        """What follows from the share."""
        if self.share is None:
            return "unknown"
        if self.share > 1.0:
            return "does not fit"
        return "tight" if self.share > TIGHT else "fits"


@dataclass(frozen=True)
class MemoryPlan:
    """What a recipe needs, beside what its target has.

    Attributes:
        model: what is known of the policy.
        roles: what each member needs.
        places: every memory of every machine, those that are alike together.
        notes: what the numbers rest on, and what they leave out.
    """

    model: ModelFacts
    roles: tuple[Role, ...]
    places: tuple[Place, ...]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst of all places."""
        order: tuple[Verdict, ...] = ("fits", "unknown", "tight", "does not fit")
        return max((place.verdict for place in self.places), key=order.index, default="unknown")

    def role(self, name: str) -> Role:
        """The role of this name.

        Raises:
            KeyError: there is none.
        """
        for role in self.roles:
            if role.name == name:
                return role
        raise KeyError(name)
