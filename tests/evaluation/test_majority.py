"""maj@k against enumeration and closed forms."""

import math
from collections import Counter
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from rlpost.evaluation.majority import majority_at_k


def test_majority_at_n_takes_the_most_frequent_answer():
    assert majority_at_k(["5", "7", "7"], [True, False, False]) == 0.0
    assert majority_at_k(["5", "7", "5"], [True, False, True]) == 1.0


def test_a_tied_vote_counts_the_right_answer_by_its_share_of_the_tied_answers():
    assert majority_at_k(["5", "7"], [True, False]) == 0.5
    assert majority_at_k(["1", "2", "3"], [False, True, False]) == pytest.approx(1 / 3)


def test_samples_without_an_answer_do_not_vote():
    assert majority_at_k([None, None, "5"], [False, False, True]) == 1.0
    assert majority_at_k([None, None], [False, False]) == 0.0
    assert majority_at_k([None, "5"], [False, True], k=1) == pytest.approx(0.5)


def votes_of_all_subsets(answers, correct, k):
    """maj@k by its definition."""
    named = [a for a in set(answers) if a is not None]
    right = {a: np.mean([c for b, c in zip(answers, correct, strict=True) if b == a]) for a in named}
    results = []
    for subset in combinations(answers, k):
        counts = Counter(a for a in subset if a is not None)
        tied = [a for a, m in counts.items() if m == max(counts.values())]
        results.append(np.mean([right[a] for a in tied]) if tied else 0.0)
    return np.mean(results)


@pytest.mark.parametrize("seed", range(30))
def test_the_majority_of_k_equals_the_mean_over_all_k_subsets(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 9))
    answers = [None if x == 0 else str(x) for x in rng.integers(0, 5, n)]
    correct = [bool(x) for x in rng.integers(0, 2, n)]  # answers judged inconsistently are among them
    for k in range(1, n + 1):
        expected = votes_of_all_subsets(answers, correct, k)
        assert majority_at_k(answers, correct, k) == pytest.approx(expected, abs=1e-13)


def test_with_one_wrong_answer_the_majority_is_a_hypergeometric_tail():
    for n in range(1, 17):
        for c in range(n + 1):
            answers, correct = ["7"] * c + ["8"] * (n - c), [True] * c + [False] * (n - c)
            for k in range(1, n + 1):
                ways = [math.comb(c, j) * math.comb(n - c, k - j) for j in range(k + 1)]
                won = sum(w for j, w in enumerate(ways) if 2 * j > k)
                tied = ways[k // 2] if k % 2 == 0 else 0
                exact = (won + tied / 2) / math.comb(n, k)
                assert majority_at_k(answers, correct, k) == pytest.approx(exact, abs=1e-12), (n, c, k)


def test_many_samples_neither_overflow_nor_lose_digits():
    answers, correct = ["7"] * 1200 + ["8"] * 800, [True] * 1200 + [False] * 800
    ways = [math.comb(1200, j) * math.comb(800, 21 - j) for j in range(22)]
    exact = float(Fraction(sum(ways[11:]), math.comb(2000, 21)))
    assert majority_at_k(answers, correct, 21) == pytest.approx(exact, rel=1e-9)
    assert majority_at_k(answers, correct) == 1.0


@pytest.mark.parametrize(("correct", "k"), [([True], None), ([True, False], 3), ([True, False], 0)])
def test_majority_refuses_numbers_out_of_range(correct, k):
    with pytest.raises(ValueError):
        majority_at_k(["1", "2"], correct, k)
