"""The paired test: literal cases, its false positive rate, its power."""

import math
from itertools import product

import numpy as np
import pytest

from rlpost.evaluation import paired
from rlpost.evaluation.paired import paired_test, sign_flip_p_value


def test_counts_and_the_difference_are_those_of_the_problems():
    test = paired_test([4, 2, 0, 1], 4, [2, 2, 1, 0], 4)
    assert test.difference == pytest.approx((0.5 + 0 - 0.25 + 0.25) / 4)
    assert (test.problems, test.better, test.worse) == (4, 2, 1)
    assert test.low <= test.difference <= test.high


def test_results_with_different_numbers_of_samples_are_compared_by_their_shares():
    test = paired_test([8, 4, 0], 8, [3, 3, 0], 6)
    assert test.difference == pytest.approx((0.5 + 0 + 0) / 3)
    assert (test.better, test.worse) == (1, 0)


def test_swapping_the_two_swaps_the_sign_and_keeps_the_p_value():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 40), rng.integers(0, 9, 40)
    forth, back = paired_test(a, 8, b, 8), paired_test(b, 8, a, 8)
    assert back.difference == -forth.difference and back.p_value == forth.p_value
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low), abs=0.02)


def test_the_p_value_is_that_of_all_sign_flips():
    differences = np.array([3, -1, 2, 0, 4, -2, 1, 1])
    sums = [abs(int(np.dot(s, differences))) for s in product((-1, 1), repeat=8)]
    exact = np.mean([s > 8 for s in sums]) + np.mean([s == 8 for s in sums]) / 2
    assert sign_flip_p_value(differences) == pytest.approx(exact, abs=0.005)


def test_with_one_sample_per_problem_it_is_mcnemars_test():
    # 10 problems changed sides, 9 of them for the better: 2 * (11 - 10 / 2) / 2^10
    a, b = [1] * 9 + [0] + [1] * 5, [0] * 9 + [1] + [1] * 5
    exact = 2 * (1 + 10 / 2) / 2**10
    assert paired_test(a, 1, b, 1).p_value == pytest.approx(exact, abs=0.002)


def test_equal_results_differ_by_nothing_with_a_p_value_of_one_and_an_honest_interval():
    test = paired_test([1, 0, 2], 2, [1, 0, 2], 2)
    assert (test.difference, test.p_value) == (0.0, 1.0)
    assert -1 <= test.low < 0 < test.high <= 1


@pytest.mark.parametrize(("a", "b"), [([], []), ([1, 0], [1])])
def test_other_problems_or_none_are_refused(a, b):
    with pytest.raises(ValueError):
        paired_test(a, 1, b, 1)


@pytest.mark.parametrize(
    ("problems", "samples", "a", "b", "expected"),
    [
        (30, 1, 1.0, 1.0, 0.05),
        (30, 8, 0.2, 3.8, 0.05),
        (30, 16, 0.5, 0.5, 0.05),
        (200, 1, 0.5, 0.5, 0.05),
        (500, 4, 1.0, 0.2, 0.05),
    ],
)
def test_one_policy_twice_is_called_different_five_times_in_100(
    monkeypatch, problems, samples, a, b, expected
):
    monkeypatch.setattr(paired, "FLIPS", 2000)
    rng, runs = np.random.default_rng(2), 2000
    rates = rng.beta(a, b, size=(runs, problems))
    difference = rng.binomial(samples, rates) - rng.binomial(samples, rates)
    rejected = np.mean([sign_flip_p_value(d, seed) < 0.05 for seed, d in enumerate(difference)])
    assert abs(rejected - expected) <= 0.015


def test_policies_of_equal_strength_on_different_problems_are_called_different_five_times_in_100(monkeypatch):
    monkeypatch.setattr(paired, "FLIPS", 2000)
    rng, runs = np.random.default_rng(3), 1500
    first, second = rng.beta(1, 3, size=(2, runs, 60))  # the same mean, no problem in common
    difference = rng.binomial(8, first) - rng.binomial(8, second)
    rejected = np.mean([sign_flip_p_value(d, seed) < 0.05 for seed, d in enumerate(difference)])
    assert abs(rejected - 0.05) <= 0.015


def test_pairing_finds_a_difference_that_two_separate_intervals_hide():
    rng = np.random.default_rng(4)
    rates = rng.beta(0.5, 0.5, size=300)
    better = np.clip(rates + 0.04, 0, 1)
    test = paired_test(rng.binomial(16, better), 16, rng.binomial(16, rates), 16)
    assert test.p_value < 0.01 and test.low > 0
    unpaired_half_width = 1.96 * math.sqrt(2 * 0.125 / 300)
    assert test.high - test.low < unpaired_half_width
