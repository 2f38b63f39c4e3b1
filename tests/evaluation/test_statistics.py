"""Estimators against enumeration, literal numbers and simulated coverage."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from rlpost.evaluation.statistics import (
    average_at_k,
    bootstrap_interval,
    estimate,
    majority_at_k,
    pass_at_k,
    powers_of_two_up_to,
    wilson_interval,
)


def test_pass_at_k_equals_the_share_of_all_k_subsets_that_hold_a_correct_sample():
    for n in range(1, 13):
        for k in range(1, n + 1):
            subsets = list(combinations(range(n), k))
            for c in range(n + 1):
                share = Fraction(sum(min(s) < c for s in subsets), len(subsets))  # samples 0..c-1 are correct
                assert float(pass_at_k(n, c, k)) == pytest.approx(float(share), abs=1e-14), (n, c, k)


def test_pass_at_k_is_unbiased_for_every_success_rate():
    # The estimator's expectation over c ~ Binomial(n, p) must be 1 - (1 - p)^k: an identity in p.
    for n in range(1, 13):
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


def test_majority_at_n_takes_the_most_frequent_answer():
    assert majority_at_k(["5", "7", "7"], [True, False, False]) == 0.0
    assert majority_at_k(["5", "7", "5"], [True, False, True]) == 1.0


def test_a_tied_vote_counts_the_right_answer_by_its_share_of_the_tied_answers():
    assert majority_at_k(["5", "7"], [True, False]) == 0.5
    assert majority_at_k(["1", "2", "3"], [False, True, False]) == pytest.approx(1 / 3)


def test_samples_without_an_answer_do_not_vote():
    assert majority_at_k([None, None, "5"], [False, False, True]) == 1.0
    assert majority_at_k([None, None], [False, False]) == 0.0
    assert majority_at_k([None, "5"], [False, True], k=1) == 0.5


def test_majority_of_k_draws_approaches_the_enumeration_of_all_subsets():
    answers, correct = list("aaabbcd"), [True, True, True, False, False, False, False]

    def vote(subset):
        counts = {a: [answers[i] for i in subset].count(a) for a in set(answers)}
        tied = [a for a, m in counts.items() if m == max(counts.values())]
        return ("a" in tied) / len(tied)

    for k in range(1, 8):
        exact = np.mean([vote(s) for s in combinations(range(7), k)])
        assert majority_at_k(answers, correct, k) == pytest.approx(exact, abs=0.05)
    assert majority_at_k(answers, correct, 1) == pytest.approx(3 / 7)


def test_majority_of_k_is_decided_by_its_seed():
    answers, correct = list("aabbc"), [True, True, False, False, False]
    assert majority_at_k(answers, correct, 3, seed=1) == majority_at_k(answers, correct, 3, seed=1)
    assert majority_at_k(answers, correct, 3, seed=1) != majority_at_k(answers, correct, 3, seed=2)


def test_wilson_agrees_with_published_numbers():
    # Newcombe (1998), Table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for x, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson_interval(x, n) == pytest.approx((low, high), abs=5e-5)


def test_an_estimate_without_spread_still_has_an_honest_interval():
    perfect = estimate([1.0] * 30)
    assert (
        perfect.method == "wilson" and perfect.value == 1.0 and perfect.low == pytest.approx(0.8865, abs=1e-4)
    )
    constant = estimate([0.25] * 40)
    assert constant.low < 0.25 < constant.high


def test_fractional_problem_means_are_bootstrapped_and_zero_one_values_are_not():
    assert estimate([0.0, 1.0, 1.0]).method == "wilson"
    assert estimate([0.0, 0.5, 1.0]).method == "bootstrap"
    assert estimate([-2.0, -2.0]).low == -2.0  # outside [0, 1] Wilson does not apply


def test_a_bootstrap_is_decided_by_its_seed_and_close_to_the_normal_interval():
    values = np.random.default_rng(0).beta(2, 3, size=400)
    low, high = bootstrap_interval(values, seed=3)
    assert (low, high) == bootstrap_interval(values, seed=3)
    half = 1.96 * values.std() / math.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_intervals_cover_the_truth_when_samples_of_a_problem_resemble_each_other():
    # Problems of difficulty Beta(0.5, 0.5): samples are strongly correlated within a problem.
    rng, runs, P, n = np.random.default_rng(1), 120, 60, 8
    covered, naive_covered = 0, 0
    for run in range(runs):
        values = rng.binomial(n, rng.beta(0.5, 0.5, size=P)) / n
        interval = estimate(values, seed=run)
        covered += interval.low <= 0.5 <= interval.high
        low, high = wilson_interval(float(values.sum() * n), P * n)
        naive_covered += low <= 0.5 <= high
    assert covered / runs >= 0.90
    assert naive_covered / runs <= 0.75  # what treating samples as the unit would give


def test_pass_at_k_is_reported_at_powers_of_two_and_at_n():
    assert powers_of_two_up_to(1) == [1]
    assert powers_of_two_up_to(6) == [1, 2, 4, 6]
    assert powers_of_two_up_to(8) == [1, 2, 4, 8]
