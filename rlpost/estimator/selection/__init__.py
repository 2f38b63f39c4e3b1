"""Selections: which sequences, and which of their tokens, enter the update?

Selections act one after the other, each on what the one before left. One that judges task rewards
sees them before any shaping; advantages are never formed again after a selection.
"""

from rlpost.estimator.selection.d3s import D3S
from rlpost.estimator.selection.one_right_one_wrong import OneRightOneWrong
from rlpost.estimator.selection.overlong import OverlongFilter
from rlpost.estimator.selection.rewards import DropUniform, Refilling
from rlpost.estimator.selection.selection import KeepAll, Narrowed, Selected, Selection
from rlpost.estimator.selection.tokens import TopTokens
from rlpost.estimator.selection.variance import MaxVariance

__all__ = [
    "D3S",
    "DropUniform",
    "KeepAll",
    "MaxVariance",
    "Narrowed",
    "OneRightOneWrong",
    "OverlongFilter",
    "Refilling",
    "Selected",
    "Selection",
    "TopTokens",
]
