"""avg@k and pass@k of one benchmark; the problem is the unit throughout.

Samples of one problem resemble each other, so the number of problems, never the number of
samples, decides how wide an interval is (`rlpost.evaluation.intervals`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> NDArray[np.float64]:
    """Unbiased estimate of the chance that at least one of `k` samples is correct.

    1 - C(n - c, k) / C(n, k), the share of all k-subsets of the n samples that hold a correct
    one (Chen et al. 2021, "Evaluating Large Language Models Trained on Code", Eq. 1), computed
    as 1 - prod_{j<k} (n - c - j) / (n - j), which neither overflows nor cancels.

    Args:
        n: samples per problem, any shape [...].
        c: correct samples among them, same shape or broadcastable.
        k: 1 <= k <= every n.

    Returns:
        float64 [...].

    Raises:
        ValueError: k or c is out of range.
    """
    n_P, c_P = np.broadcast_arrays(np.asarray(n, dtype=np.int64), np.asarray(c, dtype=np.int64))
    if k < 1 or (n_P.size and int(n_P.min()) < k):
        raise ValueError(f"pass@k needs 1 <= k <= n, found k={k} and n={n_P.min() if n_P.size else None}")
    if bool(((c_P < 0) | (c_P > n_P)).any()):
        raise ValueError("pass@k needs 0 <= c <= n")
    j_K = np.arange(k)
    missed_PK = np.clip(n_P[..., None] - c_P[..., None] - j_K, 0, None) / (n_P[..., None] - j_K)
    return 1.0 - missed_PK.prod(axis=-1)


def average_at_k(values: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Mean of each problem's k values: the expected value of a single sample, for any k.

    Args:
        values: one sequence per problem, none empty.

    Returns:
        float64 [P]; its mean is avg@k.

    Raises:
        ValueError: a problem has no samples.
    """
    if any(len(v) == 0 for v in values):
        raise ValueError("avg@k needs at least one sample of every problem")
    return np.array([math.fsum(v) / len(v) for v in values], dtype=np.float64)


def powers_of_two_up_to(n: int) -> list[int]:
    """1, 2, 4, ... up to n, and n itself: the k at which pass@k is reported."""
    return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})
