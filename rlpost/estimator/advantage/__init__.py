"""Advantages: how good was each response, relative to what?

Every part maps a batch (whose `reward_S` is already shaped) to `advantage_N` [N], constant
over the tokens of a sequence unless its docstring says otherwise, and without gradient.
"""

from rlpost.estimator.advantage.advantage import Advantage
from rlpost.estimator.advantage.group import GroupCentred, GroupNormalised, LeaveOneOut
from rlpost.estimator.advantage.plain import Constant, Reward

__all__ = ["Advantage", "Constant", "GroupCentred", "GroupNormalised", "LeaveOneOut", "Reward"]
