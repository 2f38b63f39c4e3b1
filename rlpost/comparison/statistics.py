"""Means over seeds with Student's t-intervals, paired differences: the seed is the unit throughout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

LEVEL = 0.95


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Attributes:
        value: the mean.
        half_width: of its interval, which is value - half_width to value + half_width; None for n = 1.
        n: seeds.
    """

    value: float
    half_width: float | None
    n: int


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Mean | None:
    """The mean and the half width t(n-1) s / sqrt(n) of its interval, s the unbiased standard deviation.

    Returns:
        None without values.
    """
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Mean(mean, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Mean(mean, t_quantile(n - 1, level) * deviation / math.sqrt(n), n)


def paired_difference(
    values: Mapping[int, float], against: Mapping[int, float], level: float = LEVEL
) -> Mean | None:
    """The mean of values - against over the seeds that both have, with the interval of a paired t-test.

    Args:
        values: by seed.
        against: by seed.

    Returns:
        None without a common seed.
    """
    return mean_interval([values[seed] - against[seed] for seed in values if seed in against], level)


@cache
def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The t with P(|T| <= t) = level, T Student-distributed with `freedom` degrees of freedom.

    Raises:
        ValueError: `freedom` is below 1 or `level` is not between 0 and 1.
    """
    if freedom < 1 or not 0 < level < 1:
        raise ValueError(f"needs freedom >= 1 and 0 < level < 1, found {freedom} and {level}")
    low, high = 0.0, math.pi / 2
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return math.sqrt(freedom) * math.tan(middle)
        if _central_mass(middle, freedom) < level:
            low = middle
        else:
            high = middle


def _central_mass(theta: float, freedom: int) -> float:
    """P(|T| <= t) at tan(theta) = t / sqrt(freedom), as a finite sum.

    Abramowitz and Stegun, 26.7.3 (odd) and 26.7.4 (even degrees of freedom).
    """
    odd = freedom % 2
    cosine = math.cos(theta)
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    if odd:
        return 2 / math.pi * (theta + math.sin(theta) * total)
    return math.sin(theta) * total
