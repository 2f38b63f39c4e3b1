"""avg@k and pass@k against enumeration and exact expectations."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from rlpost.evaluation.statistics import average_at_k, pass_at_k, powers_of_two_up_to


def test_pass_at_k_equals_the_share_of_all_k_subsets_that_hold_a_correct_sample():
    for n in range(1, 17):
        for k in range(1, n + 1):
            first_Q = np.array([s[0] for s in combinations(range(n), k)])
            for c in range(n + 1):
                share = np.mean(first_Q < c)  # samples 0 to c - 1 are the correct ones
                assert float(pass_at_k(n, c, k)) == pytest.approx(share, abs=1e-14), (n, c, k)


def test_pass_at_k_is_unbiased_for_every_success_rate():
    # The estimator's expectation over c ~ Binomial(n, p) must be 1 - (1 - p)^k: an identity in p.
    for n in range(1, 17):
        for k in range(1, n + 1):
            estimates = pass_at_k(np.full(n + 1, n), np.arange(n + 1), k)
            for p in (0.0, 0.1, 0.37, 0.5, 0.9, 1.0):
                weights = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
                assert float(np.dot(weights, estimates)) == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


def test_pass_at_k_is_exactly_one_when_fewer_than_k_samples_are_wrong_and_zero_when_none_is_right():
    assert pass_at_k(10, 8, 3) == 1.0
    assert pass_at_k(10, 0, 10) == 0.0
    assert pass_at_k([4, 8], [4, 0], 4).tolist() == [1.0, 0.0]


def test_pass_at_k_stays_exact_where_binomials_overflow_floats():
    n, c, k = 5000, 3, 1000
    exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    assert float(pass_at_k(n, c, k)) == pytest.approx(float(exact), rel=1e-10)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 0, 5), (4, 0, 0), (4, 5, 1), (4, -1, 1)])
def test_pass_at_k_refuses_numbers_out_of_range(n, c, k):
    with pytest.raises(ValueError):
        pass_at_k(n, c, k)


def test_the_expected_avg_at_k_does_not_depend_on_k():
    # Over all k-subsets of one problem's samples, the mean of avg@k is always c / n.
    outcomes = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    for k in range(1, 8):
        means = [average_at_k([[outcomes[i] for i in s]])[0] for s in combinations(range(7), k)]
        assert math.fsum(means) / len(means) == pytest.approx(3 / 7, abs=1e-14)


def test_avg_at_k_weighs_problems_equally_and_refuses_an_empty_one():
    assert average_at_k([[1.0, 0.0], [1.0]]).tolist() == [0.5, 1.0]
    with pytest.raises(ValueError):
        average_at_k([[1.0], []])


def test_pass_at_k_is_reported_at_powers_of_two_and_at_n():
    assert powers_of_two_up_to(1) == [1]
    assert powers_of_two_up_to(6) == [1, 2, 4, 6]
    assert powers_of_two_up_to(8) == [1, 2, 4, 8]
