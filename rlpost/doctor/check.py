"""A line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass

from rlpost.versions import CONFLICT, MISSING, OK, OLD

LOW = "low"
NOT_WRITABLE = "not writable"
STOPS = frozenset({MISSING, OLD, CONFLICT, NOT_WRITABLE})


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    `found` is what is here, `expected` what rlpost is tested with or needs, `verdict` one of ok, old,
    "new, untested", missing, conflict, low and "not writable"; `note` says what follows from it.
    """

    group: str
    name: str
    found: str
    expected: str
    verdict: str = OK
    note: str = ""
    required: bool = False

    @property
    def stops(self) -> bool:
        """Whether rlpost cannot work here because of it."""
        return self.required and self.verdict in STOPS
