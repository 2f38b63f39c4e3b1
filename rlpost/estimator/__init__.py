"""The core: every algorithm as one row of parts over one gradient estimator.

Pure functions on flat, ragged tensors: no I/O, no Ray, no transformers, nothing of the rest of the package.
"""

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
    clipped_value_loss,
    gae_returns,
    merge_statistics,
    preference_loss,
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
from rlpost.estimator.algorithms import ALGORITHMS, Row
from rlpost.estimator.batch import TokenBatch, token_index
from rlpost.estimator.checks import CompositionError
from rlpost.estimator.compose import build_objective
from rlpost.estimator.correction import Banded, RatioGate, SelfNormalised, Truncated
from rlpost.estimator.credit import OutcomeCredit, SignedReward
from rlpost.estimator.denominator import Behaviour, Clipped, Current, Old, ShapedUnit, Unit
from rlpost.estimator.gate import AllGates, EntropyWeight, Open, PreferredGate, RewardGate
from rlpost.estimator.granularity import ClippedGeometric, SequenceRatio, TokenRatio, TurnRatio
from rlpost.estimator.mask import (
    AllOf,
    Clip,
    DualClip,
    DynamicClip,
    Keep,
    OffPolicySequence,
    SoftGate,
    TotalVariation,
)
from rlpost.estimator.measures import Measures
from rlpost.estimator.objective import LossOutput, Objective
from rlpost.estimator.outcome import (
    best_of_n_divergence,
    best_of_n_factors,
    best_of_n_slopes,
    credit_weights,
    outcome_logits,
    outcome_loss,
)
from rlpost.estimator.parts import PARTS
from rlpost.estimator.pass_gates import PassCountTable, PassRateGate
from rlpost.estimator.prepared import Prepared, PreparedTerm
from rlpost.estimator.regulariser import KL, Entropy
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
from rlpost.estimator.term import Term
from rlpost.estimator.transform import ClippingBias, Untransformed

__all__ = [
    "ACE",
    "ALGORITHMS",
    "D3S",
    "GAE",
    "GDPO",
    "KL",
    "PARTS",
    "PKPO",
    "AllGates",
    "AllOf",
    "Banded",
    "BatchScaled",
    "Behaviour",
    "BestMinusSecond",
    "Clip",
    "Clipped",
    "ClippedGeometric",
    "ClippingBias",
    "CompositionError",
    "Constant",
    "Current",
    "DropUniform",
    "DualClip",
    "DynamicClip",
    "Entropy",
    "EntropyWeight",
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
    "OffPolicySequence",
    "Old",
    "OneRightOneWrong",
    "OneToken",
    "Open",
    "OutcomeCredit",
    "OverlongFilter",
    "PassAtK",
    "PassCountTable",
    "PassRateGate",
    "Preference",
    "PreferredGate",
    "Prepared",
    "PreparedTerm",
    "PromptMean",
    "RatioGate",
    "Reward",
    "RewardGate",
    "Row",
    "SelfNormalised",
    "SequenceMeanAdvantage",
    "SequenceMeanTokenMean",
    "SequenceMeanTokenSum",
    "SequenceRatio",
    "SequenceSumOverConstant",
    "SequenceSumTokenMean",
    "ShapedUnit",
    "SignedReward",
    "SmoothNormalised",
    "SoftGate",
    "SoftOverlong",
    "Taken",
    "TeacherGap",
    "Term",
    "TokenBatch",
    "TokenMean",
    "TokenRatio",
    "TokenReturn",
    "TokenSum",
    "TopTokens",
    "TotalVariation",
    "Truncated",
    "TurnMeanAdvantage",
    "TurnRatio",
    "Unit",
    "Untransformed",
    "best_of_n_divergence",
    "best_of_n_factors",
    "best_of_n_slopes",
    "build_objective",
    "clipped_value_loss",
    "credit_weights",
    "gae_returns",
    "merge_statistics",
    "outcome_logits",
    "outcome_loss",
    "preference_loss",
    "token_index",
]
