"""avg@k, pass@k, maj@k and their confidence intervals; the problem is the unit throughout.

Samples of one problem resemble each other, so the number of problems, never the number of
samples, decides how wide an interval is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
MAJORITY_DRAWS = 1_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems with its confidence interval.

    Attributes:
        value: the mean over problems.
        low: lower end of the interval.
        high: upper end of the interval.
        level: the interval's nominal coverage, such as 0.95.
        method: "wilson" or "bootstrap".
    """

    value: float
    low: float
    high: float
    level: float
    method: str


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


def majority_at_k(
    answers: Sequence[str | None], correct: Sequence[bool], k: int | None = None, *, seed: int = 0
) -> float:
    """Chance that the most frequent answer among `k` of one problem's n samples is correct.

    A tie is broken uniformly at random, in expectation: each tied answer counts by its share.
    Samples without an answer (None) do not vote; if nobody votes the result is 0. An answer's
    correctness is the share of its samples, among all n, that were judged correct (0 or 1 for a
    consistent verifier).

    Exact for k = n (one subset) and k = 1; between, the mean over `MAJORITY_DRAWS` seeded
    k-subsets.

    Args:
        answers: the n samples' answers, comparable as strings.
        correct: the n samples' verdicts.
        k: votes; None takes all n.

    Raises:
        ValueError: the lengths differ, n is 0, or k is not in 1..n.
    """
    n = len(answers)
    k = n if k is None else k
    if n != len(correct) or not 1 <= k <= n:
        raise ValueError(f"maj@k needs 1 <= k <= n and one verdict per answer, found k={k}, n={n}")
    labels = {answer: i for i, answer in enumerate(dict.fromkeys(a for a in answers if a is not None))}
    if not labels:
        return 0.0
    votes_nA = np.zeros((n, len(labels)))
    for i, answer in enumerate(answers):
        if answer is not None:
            votes_nA[i, labels[answer]] = 1.0
    right_A = (votes_nA * np.asarray(correct, dtype=np.float64)[:, None]).sum(0) / votes_nA.sum(0)
    if k == n:
        chosen_Dn = np.ones((1, n))
    elif k == 1:
        chosen_Dn = np.eye(n)
    else:
        ranks_Dn = np.random.default_rng(seed).random((MAJORITY_DRAWS, n)).argsort(axis=1).argsort(axis=1)
        chosen_Dn = (ranks_Dn < k).astype(np.float64)
    count_DA = chosen_Dn @ votes_nA
    winner_DA = (count_DA == count_DA.max(axis=1, keepdims=True)) & (count_DA > 0)
    share_D = (winner_DA * right_A).sum(axis=1) / np.maximum(winner_DA.sum(axis=1), 1)
    return float(share_D.mean())


def wilson_interval(successes: float, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927); never empty, even at 0 or `trials`."""
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"needs 0 <= successes <= trials and trials >= 1, found {successes} of {trials}")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(values: ArrayLike, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap of the mean over problems: whole problems are drawn, never samples.

    Args:
        values: [P], one mean per problem.
        seed: decides the `RESAMPLES` resamples.
    """
    distinct_U, count_U = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    P = int(count_U.sum())
    if P == 0:
        raise ValueError("needs at least one problem")
    # Problems of equal value are interchangeable, so drawing how often each value occurs suffices.
    drawn_BU = np.random.default_rng(seed).multinomial(P, count_U / P, size=RESAMPLES)
    low, high = np.quantile(drawn_BU @ distinct_U / P, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def estimate(values: ArrayLike, *, seed: int = 0, level: float = 0.95) -> Estimate:
    """The mean over problems and its interval.

    Wilson where every value is 0 or 1, as with one sample per problem, and where all values in
    [0, 1] are equal: a bootstrap would then claim certainty, while Wilson over problems is at
    least wide enough, since no variable in [0, 1] spreads more than a coin. Otherwise the
    bootstrap over problems.

    Args:
        values: [P], one value per problem, P >= 1.
    """
    values_P = np.asarray(values, dtype=np.float64)
    mean = math.fsum(values_P) / len(values_P)
    proportion = bool(np.isin(values_P, (0.0, 1.0)).all())
    flat = bool((values_P == values_P[0]).all() and 0 <= values_P[0] <= 1)
    if proportion or flat:
        low, high = wilson_interval(math.fsum(values_P), len(values_P), level)
        return Estimate(mean, low, high, level, "wilson")
    low, high = bootstrap_interval(values_P, seed, level)
    return Estimate(mean, low, high, level, "bootstrap")


def powers_of_two_up_to(n: int) -> list[int]:
    """1, 2, 4, ... up to n, and n itself: the k at which pass@k is reported."""
    return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})
