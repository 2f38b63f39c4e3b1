"""The core: every algorithm as one row of parts over one gradient estimator.

Pure functions on flat, ragged tensors: no I/O, no Ray, no transformers, nothing of the rest of the package.
"""

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
    clipped_value_loss,
    gae_returns,
    merge_statistics,
)
from rlpost.estimator.aggregation import (
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    SequenceSumOverConstant,
    TokenMean,
    TokenSum,
)
from rlpost.estimator.algorithms import ALGORITHMS, Row
from rlpost.estimator.batch import TokenBatch, token_index
from rlpost.estimator.compose import CompositionError, build_objective
from rlpost.estimator.denominator import Behaviour, Clipped, Current, Old, Unit
from rlpost.estimator.gate import Open
from rlpost.estimator.granularity import SequenceRatio, TokenRatio
from rlpost.estimator.mask import AllOf, Clip, DualClip, Keep
from rlpost.estimator.measures import Measures
from rlpost.estimator.objective import LossOutput, Objective, Prepared
from rlpost.estimator.parts import PARTS
from rlpost.estimator.regulariser import KL, Entropy
from rlpost.estimator.selection import D3S, DropUniform, KeepAll, MaxVariance, OverlongFilter, TopTokens
from rlpost.estimator.shaping import ACE, KLInReward, SoftOverlong
from rlpost.estimator.term import PreparedTerm, Term

__all__ = [
    "ACE",
    "ALGORITHMS",
    "D3S",
    "GAE",
    "GDPO",
    "KL",
    "PARTS",
    "PKPO",
    "AllOf",
    "BatchScaled",
    "Behaviour",
    "BestMinusSecond",
    "Clip",
    "Clipped",
    "CompositionError",
    "Constant",
    "Current",
    "DropUniform",
    "DualClip",
    "Entropy",
    "GreedyBaseline",
    "GroupCentred",
    "GroupCentredWhitened",
    "GroupNormalised",
    "KLInReward",
    "Keep",
    "KeepAll",
    "LeaveOneOut",
    "LeaveOneOutNormalised",
    "LengthWeighted",
    "LossOutput",
    "MaxRL",
    "MaxVariance",
    "Measures",
    "Objective",
    "Old",
    "Open",
    "OverlongFilter",
    "PassAtK",
    "Prepared",
    "PreparedTerm",
    "Reward",
    "Row",
    "SequenceMeanTokenMean",
    "SequenceMeanTokenSum",
    "SequenceRatio",
    "SequenceSumOverConstant",
    "SmoothNormalised",
    "SoftOverlong",
    "Term",
    "TokenBatch",
    "TokenMean",
    "TokenRatio",
    "TokenReturn",
    "TokenSum",
    "TopTokens",
    "Unit",
    "build_objective",
    "clipped_value_loss",
    "gae_returns",
    "merge_statistics",
    "token_index",
]
