"""Masks: which tokens are safe to update?

A mask multiplies the gradient of a token: 0 drops it, 1 keeps it, values between are soft
gates. The paper's loss has a value also where the gradient is dropped (a constant): `value_N`.
"""

from rlpost.estimator.mask.clip import Clip, DualClip
from rlpost.estimator.mask.divergence import OffPolicySequence, TotalVariation
from rlpost.estimator.mask.dynamic import DynamicClip
from rlpost.estimator.mask.mask import AllOf, Keep, Mask, Masked, Ratios
from rlpost.estimator.mask.soft import SoftGate

__all__ = [
    "AllOf",
    "Clip",
    "DualClip",
    "DynamicClip",
    "Keep",
    "Mask",
    "Masked",
    "OffPolicySequence",
    "Ratios",
    "SoftGate",
    "TotalVariation",
]
