"""Reward functions: how they are found and called, the processes that run them, the canary.

Names load on first use, so that a worker process imports nothing it does not need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlpost.scoring.protocol import RewardDescription, RewardFunction, load_reward
    from rlpost.scoring.report import ScoreReport, score_file
    from rlpost.scoring.report_tables import render
    from rlpost.scoring.scorer import ScoreItem, Scorer

_HOME = {
    "RewardDescription": "protocol",
    "RewardFunction": "protocol",
    "load_reward": "protocol",
    "ScoreItem": "scorer",
    "Scorer": "scorer",
    "ScoreReport": "report",
    "render": "report_tables",
    "score_file": "report",
}

__all__ = [
    "RewardDescription",
    "RewardFunction",
    "ScoreItem",
    "ScoreReport",
    "Scorer",
    "load_reward",
    "render",
    "score_file",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
