"""Finding: one thing that was looked at before a run, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error", "not tried"]
OK: Level = "ok"
WARNING: Level = "warning"
ERROR: Level = "error"
UNTRIED: Level = "not tried"


@dataclass(frozen=True)
class Finding:
    """One check of a recipe or of a machine.

    Attributes:
        name: what was looked at, in a few words.
        level: `error` stops a run; a `warning` is told; `not tried` says in `found` why it could not be.
        found: what is there, in words.
        remedy: what to do about it; "" exactly where nothing is to be done.
        notes: what else should be known.
    """

    name: str
    level: Level
    found: str
    remedy: str = ""
    notes: tuple[str, ...] = ()
