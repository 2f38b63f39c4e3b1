"""PARTS: every part that a configuration can name, by axis."""

from __future__ import annotations

from typing import Any

from rlpost.estimator.advantage import (
    GAE,
    GDPO,
    PKPO,
    BatchScaled,
    BestMinusSecond,
    Constant,
    GreedyBaseline,
    GroupCentred,
    GroupCentredWhitened,
    GroupNormalised,
    LeaveOneOut,
    LeaveOneOutNormalised,
    LengthWeighted,
    MaxRL,
    PassAtK,
    Reward,
    SmoothNormalised,
    TokenReturn,
)
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
from rlpost.estimator.selection import D3S, DropUniform, KeepAll, MaxVariance, OverlongFilter, TopTokens
from rlpost.estimator.shaping import ACE, KLInReward, SoftOverlong

PARTS: dict[str, dict[str, type[Any]]] = {
    "advantage": {
        "constant": Constant,
        "reward": Reward,
        "leave_one_out": LeaveOneOut,
        "group_centred": GroupCentred,
        "group_normalised": GroupNormalised,
        "leave_one_out_normalised": LeaveOneOutNormalised,
        "batch_std": BatchScaled,
        "maxrl": MaxRL,
        "opo": LengthWeighted,
        "greedy_baseline": GreedyBaseline,
        "token_return": TokenReturn,
        "group_centred_whitened": GroupCentredWhitened,
        "gae": GAE,
        "gdpo": GDPO,
        "pass_at_k": PassAtK,
        "pkpo": PKPO,
        "best_minus_second": BestMinusSecond,
        "smooth_normalised": SmoothNormalised,
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
    "shaping": {"soft_overlong": SoftOverlong, "kl_in_reward": KLInReward, "ace": ACE},
    "selection": {
        "all": KeepAll,
        "drop_uniform": DropUniform,
        "overlong_filter": OverlongFilter,
        "max_variance": MaxVariance,
        "top_tokens": TopTokens,
        "d3s": D3S,
    },
}
"""Axis, then name, then class."""
