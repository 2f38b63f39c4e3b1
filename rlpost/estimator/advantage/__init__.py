"""Advantages: how good was each response, relative to what?

Every part maps a batch (whose `reward_S` is already shaped) to `advantage_N` [N], constant
over the tokens of a sequence unless its docstring says otherwise, and without gradient.
"""

from rlpost.estimator.advantage.advantage import Advantage, MeasuredAdvantage
from rlpost.estimator.advantage.batch import GDPO, BatchScaled, GroupCentredWhitened
from rlpost.estimator.advantage.group import (
    GroupCentred,
    GroupNormalised,
    LeaveOneOut,
    LeaveOneOutNormalised,
    LengthWeighted,
    MaxRL,
)
from rlpost.estimator.advantage.pass_at_k import PKPO, BestMinusSecond, PassAtK
from rlpost.estimator.advantage.plain import Constant, GreedyBaseline, Reward
from rlpost.estimator.advantage.preference import Preference, preference_loss
from rlpost.estimator.advantage.returns import (
    GAE,
    TokenReturn,
    clipped_value_loss,
    gae_returns,
    token_rewards,
)
from rlpost.estimator.advantage.smooth import SmoothNormalised, merge_statistics
from rlpost.estimator.advantage.teacher import TeacherGap

__all__ = [
    "GAE",
    "GDPO",
    "PKPO",
    "Advantage",
    "BatchScaled",
    "BestMinusSecond",
    "Constant",
    "GreedyBaseline",
    "GroupCentred",
    "GroupCentredWhitened",
    "GroupNormalised",
    "LeaveOneOut",
    "LeaveOneOutNormalised",
    "LengthWeighted",
    "MaxRL",
    "MeasuredAdvantage",
    "PassAtK",
    "Preference",
    "Reward",
    "SmoothNormalised",
    "TeacherGap",
    "TokenReturn",
    "clipped_value_loss",
    "gae_returns",
    "merge_statistics",
    "preference_loss",
    "token_rewards",
]
