"""What a critic reports: sums that add up over micro-batches and ranks, and the numbers they come to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlpost.estimator import Measures

_RETURN, _RETURN_SQUARE, _ERROR, _ERROR_SQUARE = (
    "critic/return",
    "critic/return_square",
    "critic/error",
    "critic/error_square",
)


def value_measures(value_MK: Tensor, old_MK: Tensor, return_MK: Tensor, clip: float | None) -> Measures:
    """Of one part of an update, over its tokens.

    Args:
        value_MK: V of each token and head, before the step; the actor's head is the last.
        old_MK: V before the step's first update.
        clip: `critic.value_clip`.
    """
    value_M, return_M = value_MK[:, -1].double(), return_MK[:, -1].double()
    count = torch.tensor(float(len(value_M)))
    error_M = return_M - value_M
    means = {
        "critic/value_mean": (value_M.sum(), count),
        _RETURN: (return_M.sum(), count),
        _RETURN_SQUARE: (return_M.square().sum(), count),
        _ERROR: (error_M.sum(), count),
        _ERROR_SQUARE: (error_M.square().sum(), count),
    }
    if clip is not None:
        near_MK = torch.minimum(torch.maximum(value_MK, old_MK - clip), old_MK + clip)
        clipped_MK = (near_MK - return_MK).square() > (value_MK - return_MK).square()
        means["critic/clip_share"] = (clipped_MK.double().mean(dim=1).sum(), count)
    return Measures(means=means)


def critic_report(values: Mapping[str, float]) -> dict[str, float]:
    """The finished numbers, explained variance among them where the returns differ."""
    report = dict(values)
    moments = [report.pop(name, None) for name in (_RETURN, _RETURN_SQUARE, _ERROR, _ERROR_SQUARE)]
    mean, square, error, error_square = moments
    if mean is None or square is None or error is None or error_square is None:
        return report
    spread = square - mean**2
    report["critic/return_mean"] = mean
    # Returns that are all equal leave rounding errors.
    if spread > 1e-12 * max(1.0, square):
        report["critic/explained_variance"] = 1.0 - (error_square - error**2) / spread
    return report
