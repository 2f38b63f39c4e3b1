"""Row: one algorithm, as the table and the documentation have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlpost.estimator.objective import Objective

Family = Literal[
    "supervised",
    "preferences",
    "distillation",
    "reinforce",
    "grpo",
    "sequence",
    "turns",
    "gates",
    "dcpo",
    "pass_at_k",
    "selection",
    "pivots",
    "hybrid",
    "oreal",
]


@dataclass(frozen=True)
class Row:
    """One algorithm.

    Attributes:
        family: the page of the documentation that explains it.
        summary: one sentence on what sets it apart.
        source: where it is published.
        certain: what the source settles.
        ours: what it leaves open and we chose.
    """

    family: Family
    summary: str
    objective: Objective
    source: str
    certain: str
    ours: str
