"""PARTS: every part that a configuration can name, by axis."""

from __future__ import annotations

from typing import Any

from rlpost.estimator.advantage import Constant, GroupCentred, GroupNormalised, LeaveOneOut, Reward
from rlpost.estimator.aggregation import (
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    SequenceSumOverConstant,
    TokenMean,
    TokenSum,
)
from rlpost.estimator.denominator import Behaviour, Clipped, Current, Old, Unit
from rlpost.estimator.gate import Open
from rlpost.estimator.granularity import SequenceRatio, TokenRatio
from rlpost.estimator.mask import Clip, DualClip, Keep
from rlpost.estimator.selection import DropUniform, KeepAll
from rlpost.estimator.shaping import KLInReward, SoftOverlong

PARTS: dict[str, dict[str, type[Any]]] = {
    "advantage": {
        "constant": Constant,
        "reward": Reward,
        "leave_one_out": LeaveOneOut,
        "group_centred": GroupCentred,
        "group_normalised": GroupNormalised,
    },
    "denominator": {
        "current": Current,
        "old": Old,
        "behaviour": Behaviour,
        "clipped": Clipped,
        "unit": Unit,
    },
    "granularity": {"token": TokenRatio, "sequence": SequenceRatio},
    "mask": {"keep": Keep, "clip": Clip, "dual_clip": DualClip},
    "aggregation": {
        "token_mean": TokenMean,
        "token_sum": TokenSum,
        "sequence_mean_token_sum": SequenceMeanTokenSum,
        "sequence_mean_token_mean": SequenceMeanTokenMean,
        "sequence_sum_over_constant": SequenceSumOverConstant,
    },
    "correction": {},
    "gate": {"open": Open},
    "shaping": {"soft_overlong": SoftOverlong, "kl_in_reward": KLInReward},
    "selection": {"all": KeepAll, "drop_uniform": DropUniform},
}
"""Axis, then name, then class."""
