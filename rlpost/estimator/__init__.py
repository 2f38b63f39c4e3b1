"""The core: every algorithm as one row of parts over one gradient estimator.

Pure functions on flat, ragged tensors: no I/O, no Ray, no transformers, nothing of the rest of the package.
"""

from rlpost.estimator.advantage import Constant, GroupCentred, GroupNormalised, LeaveOneOut, Reward
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
from rlpost.estimator.selection import DropUniform, KeepAll
from rlpost.estimator.shaping import KLInReward, SoftOverlong
from rlpost.estimator.term import PreparedTerm, Term

__all__ = [
    "ALGORITHMS",
    "KL",
    "PARTS",
    "AllOf",
    "Behaviour",
    "Clip",
    "Clipped",
    "CompositionError",
    "Constant",
    "Current",
    "DropUniform",
    "DualClip",
    "Entropy",
    "GroupCentred",
    "GroupNormalised",
    "KLInReward",
    "Keep",
    "KeepAll",
    "LeaveOneOut",
    "LossOutput",
    "Measures",
    "Objective",
    "Old",
    "Open",
    "Prepared",
    "PreparedTerm",
    "Reward",
    "Row",
    "SequenceMeanTokenMean",
    "SequenceMeanTokenSum",
    "SequenceRatio",
    "SequenceSumOverConstant",
    "SoftOverlong",
    "Term",
    "TokenBatch",
    "TokenMean",
    "TokenRatio",
    "TokenSum",
    "Unit",
    "build_objective",
    "token_index",
]
