"""Masks: which tokens are safe to update?

A mask multiplies the gradient of a token: 0 drops it, 1 keeps it, values between are soft
gates. The paper's loss has a value also where the gradient is dropped (a constant): `value_N`.
"""

from rlpost.estimator.mask.clip import Clip, DualClip
from rlpost.estimator.mask.mask import AllOf, Keep, Mask, Masked, Ratios

__all__ = ["AllOf", "Clip", "DualClip", "Keep", "Mask", "Masked", "Ratios"]
