"""Confidence intervals against published numbers and simulated coverage."""

import math

import numpy as np
import pytest
import scipy.stats

from rlpost.evaluation import intervals
from rlpost.evaluation.intervals import bootstrap_interval, estimate, student_t, wilson_interval


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


def test_student_quantiles_are_scipys():
    for freedom in (1, 2, 3, 4, 5, 12, 29, 30, 199, 1318):
        for level in (0.5, 0.9, 0.95, 0.999):
            expected = scipy.stats.t.ppf(0.5 + level / 2, freedom)
            assert student_t(level, freedom) == pytest.approx(expected, rel=1e-10)


def test_the_bootstrap_leans_towards_the_side_that_few_problems_hide():
    values = [0.0] * 27 + [0.5, 0.75, 1.0]
    low, high = bootstrap_interval(values)
    mean = np.mean(values)
    assert high - mean > 1.5 * (mean - low) > 0
    mirrored = bootstrap_interval([1 - v for v in values])
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=0.01)


@pytest.mark.parametrize("values", [[0.0, 0.5], [0.25, 0.5, 0.5], [0.0] * 29 + [0.0625], [1.0] * 5 + [0.5]])
def test_an_interval_of_few_or_lopsided_problems_holds_its_mean_and_stays_between_the_values(values):
    low, high = bootstrap_interval(values)
    assert min(values) <= low <= np.mean(values) <= high <= max(values)


def coverage(problems, samples, a, b, runs, seed):
    """Share of intervals that hold the true mean, for problems of difficulty Beta(a, b)."""
    rng = np.random.default_rng(seed)
    drawn = rng.binomial(samples, rng.beta(a, b, size=(runs, problems))) / samples
    intervals = [estimate(values, seed=run) for run, values in enumerate(drawn)]
    return np.mean([i.low <= a / (a + b) <= i.high for i in intervals])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problems", "samples", "a", "b"),
    [
        (30, 4, 0.3, 1.2),
        (30, 16, 1.0, 1.0),
        (30, 16, 0.3, 1.2),
        (200, 4, 0.3, 1.2),
        (200, 4, 0.2, 3.8),
        (500, 4, 1.0, 0.2),
    ],
)
def test_intervals_cover_the_truth_93_to_97_times_in_100(monkeypatch, problems, samples, a, b):
    monkeypatch.setattr(intervals, "RESAMPLES", 1000)
    assert 0.93 <= coverage(problems, samples, a, b, runs=1500, seed=5) <= 0.97


@pytest.mark.slow
def test_thirty_problems_of_which_almost_none_is_solved_are_covered_a_little_less(monkeypatch):
    # So few problems with any correct sample say too little about how far the rare ones reach.
    monkeypatch.setattr(intervals, "RESAMPLES", 1000)
    assert 0.90 <= coverage(30, 16, 0.1, 0.9, runs=1500, seed=5) <= 0.97


def test_treating_samples_as_the_unit_would_cover_far_less():
    rng = np.random.default_rng(1)
    correct = rng.binomial(8, rng.beta(0.5, 0.5, size=(400, 60))).sum(axis=1)
    naive = [wilson_interval(float(c), 60 * 8) for c in correct]
    assert np.mean([low <= 0.5 <= high for low, high in naive]) <= 0.75


def test_the_exact_coverage_of_wilson_with_one_sample_per_problem():
    for problems in (30, 40, 200, 500, 1319):
        found = np.array([wilson_interval(float(c), problems) for c in range(problems + 1)])
        rates = np.linspace(0.1, 0.9, 161)
        chance = scipy.stats.binom.pmf(np.arange(problems + 1), problems, rates[:, None])
        covered = (chance * ((found[:, 0] <= rates[:, None]) & (rates[:, None] <= found[:, 1]))).sum(axis=1)
        assert 0.94 <= covered.mean() <= 0.96
        assert covered.min() >= (0.93 if problems >= 200 else 0.90)  # sums of 30 coins take few values
