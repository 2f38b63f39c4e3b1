"""maj@k: the chance that the most frequent of k answers is right, without drawing anything at random."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def majority_at_k(answers: Sequence[str | None], correct: Sequence[bool], k: int | None = None) -> float:
    """Chance that the most frequent answer among `k` of one problem's n samples is correct.

    The mean over all k-subsets of the n samples. A tie is broken uniformly at random, in expectation:
    each tied answer counts by its share. Samples without an answer (None) do not vote; if nobody votes
    the result is 0. An answer's correctness is the share of its samples, among all n, that were judged
    correct (0 or 1 for a consistent verifier).

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
    votes = Counter(answer for answer in answers if answer is not None)
    right = Counter(answer for answer, verdict in zip(answers, correct, strict=True) if verdict)
    candidates = tuple(sorted((m, right[answer] / m) for answer, m in votes.items()))
    if k == n:
        tied = [r for m, r in candidates if m == candidates[-1][0]]
        return sum(tied) / len(tied) if tied else 0.0
    return _expected_share(n, k, candidates)


@lru_cache(maxsize=10_000)
def _expected_share(n: int, k: int, candidates: tuple[tuple[int, float], ...]) -> float:
    """The expectation, for answers that m of the n samples give and of which the share r is correct.

    How often each answer is among k samples drawn without replacement is distributed like independent
    binomials Bin(m, k/n) given that they sum to k. For each winning number of votes, a table over (answers
    tied at that number, samples drawn) takes in one answer after the other: either it has fewer votes, or
    it joins the tie.
    """
    abstaining = n - sum(m for m, _ in candidates)
    draws = [(_binomial(m, k / n), r) for m, r in candidates]
    none_K = np.zeros(k + 1)
    drawn = _binomial(abstaining, k / n)[: k + 1]
    none_K[: len(drawn)] = drawn
    total = 0.0
    for winning in range(1, min(k, max((m for m, _ in candidates), default=0)) + 1):
        chance_TK = np.zeros((min(k // winning, len(candidates)) + 1, k + 1))
        chance_TK[0] = none_K
        right_TK = np.zeros_like(chance_TK)  # the chance, times the summed correctness of the tied answers
        for draw, r in draws:
            tied_TK, tied_right_TK = chance_TK, right_TK
            chance_TK = _after(chance_TK, draw[:winning])
            right_TK = _after(right_TK, draw[:winning])
            if winning < len(draw):
                chance_TK[1:, winning:] += draw[winning] * tied_TK[:-1, :-winning]
                right_TK[1:, winning:] += draw[winning] * (tied_right_TK + r * tied_TK)[:-1, :-winning]
        total += float((right_TK[1:, k] / np.arange(1, len(right_TK))).sum())
    return min(1.0, total / float(_binomial(n, k / n)[k]))


def _after(table_TK: NDArray[np.float64], votes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The table when one more answer got j votes with the chance `votes[j]`."""
    result_TK = votes[0] * table_TK
    for j in range(1, min(len(votes), table_TK.shape[1])):
        result_TK[:, j:] += votes[j] * table_TK[:, :-j]
    return result_TK


@lru_cache(maxsize=1_000)
def _binomial(n: int, p: float) -> NDArray[np.float64]:
    """Chances of 0..n successes, float64 [n + 1]; in logarithms, which do not overflow."""
    logs = [
        math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1)
        + j * math.log(p) + (n - j) * math.log1p(-p)
        for j in range(n + 1)
    ]  # fmt: skip
    return np.exp(np.array(logs))
