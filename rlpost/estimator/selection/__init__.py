"""Selections: which sequences, and which of their tokens, enter the update?

Selections act one after the other, each on what the one before left. One that judges task rewards
sees them before any shaping; advantages are never formed again after a selection.
"""

from rlpost.estimator.selection.rewards import DropUniform
from rlpost.estimator.selection.selection import KeepAll, Narrowed, Selected, Selection

__all__ = ["DropUniform", "KeepAll", "Narrowed", "Selected", "Selection"]
