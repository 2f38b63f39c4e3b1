"""The statistics that DCPO keeps of every prompt."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpost.training.state import PromptStatistics, RunState

REWARDS = st.floats(-100, 100, allow_nan=False).map(lambda r: round(r, 6))


def statistics(*visits):
    result = PromptStatistics()
    for rewards in visits:
        result.add(rewards)
    return result


def test_the_totals_are_those_of_the_papers_worked_example():
    first, second, third = [1.0, 0.0, 0.0, 0.0], [1.0] * 4, [1.0, 1.0, 1.0, 0.0]
    for visits, mean, std in (
        ((first,), 0.25, 0.433013),
        ((first, second), 0.625, 0.484123),
        ((first, second, third), 0.666667, 0.471405),
    ):
        found = statistics(*visits)
        assert (found.mean, math.sqrt(found.variance)) == pytest.approx((mean, std), abs=1e-6)
        assert (found.visits, found.samples) == (len(visits), 4 * len(visits))


def test_three_numbers_per_prompt_give_what_all_rewards_together_give_in_the_papers_second_example():
    found = statistics([1.0, 0.0, -1.0, 0.0], [1.0, 1.0, 0.0, 0.0])
    assert (found.mean, math.sqrt(found.variance)) == pytest.approx((0.25, 0.661438), abs=1e-6)


@given(st.lists(st.lists(REWARDS, min_size=1, max_size=9), min_size=1, max_size=9))
@settings(max_examples=200, deadline=None)
def test_visits_of_any_sizes_merge_to_the_moments_of_all_rewards_together(visits):
    found = statistics(*visits)
    every = [r for rewards in visits for r in rewards]
    mean = sum(every) / len(every)
    assert found.mean == pytest.approx(mean, abs=1e-9)
    assert found.variance == pytest.approx(sum((r - mean) ** 2 for r in every) / len(every), abs=1e-8)
    assert (found.visits, found.samples) == (len(visits), len(every))


@given(REWARDS, st.lists(st.integers(1, 17), min_size=1, max_size=9))
@settings(max_examples=200, deadline=None)
def test_a_prompt_whose_rewards_were_always_equal_has_a_variance_of_exactly_zero(reward, sizes):
    found = statistics(*([reward] * size for size in sizes))
    assert (found.mean, found.variance) == (reward, 0.0)


def test_a_step_reads_what_was_known_before_it_and_zeros_of_a_new_prompt():
    state = RunState()
    state.remember(["a", "b", "a"], [1.0, 0.5, 0.0])
    assert state.statistics(["b", "a", "new", "a"]) == {
        "prompt_visits": [1.0, 1.0, 0.0, 1.0],
        "prompt_samples": [1.0, 2.0, 0.0, 2.0],
        "prompt_mean": [0.5, 0.5, 0.0, 0.5],
        "prompt_variance": [0.0, 0.25, 0.0, 0.25],
    }
