"""PARTS: every part that a configuration can name, by axis."""

from __future__ import annotations

from typing import Any

from rlpost.estimator.actions import OneToken, Taken
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
    Preference,
    Reward,
    SmoothNormalised,
    TeacherGap,
    TokenReturn,
)
from rlpost.estimator.aggregation import (
    PromptMean,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    SequenceSumOverConstant,
    SequenceSumTokenMean,
    TokenMean,
    TokenSum,
)
from rlpost.estimator.correction import Banded, RatioGate, SelfNormalised, Truncated
from rlpost.estimator.credit import OutcomeCredit, SignedReward
from rlpost.estimator.denominator import Behaviour, Clipped, Current, Old, ShapedUnit, Unit
from rlpost.estimator.gate import EntropyWeight, Open, PreferredGate, RewardGate
from rlpost.estimator.granularity import ClippedGeometric, SequenceRatio, TokenRatio, TurnRatio
from rlpost.estimator.mask import (
    Clip,
    DualClip,
    DynamicClip,
    Keep,
    OffPolicySequence,
    SoftGate,
    TotalVariation,
)
from rlpost.estimator.pass_gates import PassCountTable, PassRateGate
from rlpost.estimator.selection import (
    D3S,
    DropUniform,
    KeepAll,
    MaxVariance,
    OneRightOneWrong,
    OverlongFilter,
    TopTokens,
)
from rlpost.estimator.shaping import (
    ACE,
    KLInReward,
    SequenceMeanAdvantage,
    SoftOverlong,
    TurnMeanAdvantage,
)
from rlpost.estimator.transform import ClippingBias, Untransformed

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
        "preference": Preference,
        "teacher_gap": TeacherGap,
    },
    "actions": {"taken": Taken, "one_token": OneToken},
    "denominator": {
        "current": Current,
        "old": Old,
        "behaviour": Behaviour,
        "clipped": Clipped,
        "unit": Unit,
        "shaped_unit": ShapedUnit,
    },
    "granularity": {
        "token": TokenRatio,
        "sequence": SequenceRatio,
        "turn": TurnRatio,
        "clipped_geometric": ClippedGeometric,
    },
    "mask": {
        "keep": Keep,
        "clip": Clip,
        "dual_clip": DualClip,
        "dynamic_clip": DynamicClip,
        "soft_gate": SoftGate,
        "total_variation": TotalVariation,
        "off_policy_sequence": OffPolicySequence,
    },
    "aggregation": {
        "token_mean": TokenMean,
        "token_sum": TokenSum,
        "sequence_mean_token_sum": SequenceMeanTokenSum,
        "sequence_mean_token_mean": SequenceMeanTokenMean,
        "sequence_sum_over_constant": SequenceSumOverConstant,
        "sequence_sum_token_mean": SequenceSumTokenMean,
        "prompt_mean": PromptMean,
    },
    "correction": {
        "truncated": Truncated,
        "banded": Banded,
        "ratio_gate": RatioGate,
        "self_normalised": SelfNormalised,
    },
    "gate": {
        "open": Open,
        "pass_rate": PassRateGate,
        "pass_count": PassCountTable,
        "reward": RewardGate,
        "preferred": PreferredGate,
        "entropy_weight": EntropyWeight,
    },
    "shaping": {
        "soft_overlong": SoftOverlong,
        "kl_in_reward": KLInReward,
        "ace": ACE,
        "sequence_mean_advantage": SequenceMeanAdvantage,
        "turn_mean_advantage": TurnMeanAdvantage,
        "signed_reward": SignedReward,
        "outcome_credit": OutcomeCredit,
    },
    "selection": {
        "all": KeepAll,
        "drop_uniform": DropUniform,
        "overlong_filter": OverlongFilter,
        "max_variance": MaxVariance,
        "top_tokens": TopTokens,
        "d3s": D3S,
        "one_right_one_wrong": OneRightOneWrong,
    },
    "transform": {"none": Untransformed, "clipping_bias": ClippingBias},
}
"""Axis, then name, then class."""

_REGISTERED: dict[tuple[str, str], type[Any]] = {}


def register_part(axis: str, name: str, kind: type[Any]) -> None:
    """Let configurations of this process name a part that is not shipped; a second time replaces the first.

    Raises:
        ValueError: there is no such axis, or a shipped part has that name.
    """
    if axis not in PARTS or name in PARTS[axis]:
        raise ValueError(f"{name!r} cannot be a part of {axis!r}: it is shipped, or there is no such axis")
    _REGISTERED[axis, name] = kind


def find_part(axis: str, name: str) -> type[Any] | None:
    """The shipped or registered part of that name; None when there is none."""
    return PARTS[axis].get(name, _REGISTERED.get((axis, name)))
