"""Is one result better than another on the same problems? A paired test, with the problem as the unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlpost.evaluation.intervals import bootstrap_interval, wilson_interval

FLIPS = 100_000


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two results on the same P problems.

    Attributes:
        difference: avg@n of the first minus that of the second.
        low: lower end of the difference's interval.
        high: upper end of it.
        level: the interval's nominal coverage.
        p_value: of the hypothesis that the two do not differ on any problem.
        problems: P.
        better: problems on which the first has the larger share of correct samples.
        worse: problems on which it has the smaller one.
    """

    difference: float
    low: float
    high: float
    level: float
    p_value: float
    problems: int
    better: int
    worse: int


def paired_test(
    correct_a: ArrayLike, n_a: int, correct_b: ArrayLike, n_b: int, *, seed: int = 0, level: float = 0.95
) -> PairedTest:
    """Compare two results, problem by problem.

    Args:
        correct_a: [P], correct samples of each problem in the first result.
        n_a: its samples per problem.
        correct_b: [P], the same problems in the same order in the second result.
        n_b: its samples per problem.
        seed: decides the resamples and the flips.

    Raises:
        ValueError: the two do not have the same problems, or none.
    """
    a_P, b_P = np.asarray(correct_a, dtype=np.int64), np.asarray(correct_b, dtype=np.int64)
    if a_P.shape != b_P.shape or a_P.ndim != 1 or len(a_P) == 0:
        raise ValueError(f"needs the same problems twice, found {a_P.shape} and {b_P.shape}")
    unit = math.lcm(n_a, n_b)  # in whole numbers equal differences are equal
    difference_P = a_P * (unit // n_a) - b_P * (unit // n_b)
    low, high = _interval(difference_P / unit, seed, level)
    return PairedTest(
        difference=int(difference_P.sum()) / (unit * len(a_P)),
        low=low,
        high=high,
        level=level,
        p_value=sign_flip_p_value(difference_P, seed),
        problems=len(a_P),
        better=int((difference_P > 0).sum()),
        worse=int((difference_P < 0).sum()),
    )


def sign_flip_p_value(difference_P: NDArray[np.int64], seed: int = 0) -> float:
    """Two-sided p-value of the sum of paired differences, by flipping the sign of each at random.

    If the two results do not differ, each problem's difference is as likely as its negative. Sums
    exactly as large as the one found count half (mid-p): with few problems and one sample each, sums take
    few values, and counting them fully would reject far less often than stated. With one sample per problem
    this is McNemar's test (mid-p, Fagerland et al. 2013).
    """
    size_U, count_U = np.unique(np.abs(difference_P[difference_P != 0]), return_counts=True)
    if len(size_U) == 0:
        return 1.0
    rng = np.random.default_rng(seed)
    sum_F = np.zeros(FLIPS, dtype=np.int64)
    for size, count in zip(size_U.tolist(), count_U.tolist(), strict=True):
        sum_F += size * (2 * rng.binomial(count, 0.5, size=FLIPS) - count)
    found = abs(int(difference_P.sum()))
    if found == 0:
        return 1.0
    larger, equal = np.mean(np.abs(sum_F) > found), np.mean(np.abs(sum_F) == found)
    return max(float(larger + equal / 2), 1 / FLIPS)


def _interval(difference_P: NDArray[np.float64], seed: int, level: float) -> tuple[float, float]:
    if (difference_P == difference_P[0]).all():  # as for a single result: at least wide enough
        problems = len(difference_P)
        low, high = wilson_interval((difference_P[0] + 1) / 2 * problems, problems, level)
        return 2 * low - 1, 2 * high - 1
    return bootstrap_interval(difference_P, seed, level)
