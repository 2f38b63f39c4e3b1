"""What a problem is to the policy, by the rewards of its responses."""

import pytest

from rlpost.evaluation.profiles import Profile
from rlpost.guidance.walk import fate, passes


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ((0.0, 0.0, 0.9, 0.0, 0.0), "hard"),
        ((0.0, 1.0, 0.0, 0.0, 0.0), "sometimes"),
        ((1.0, 1.2, 1.0, 1.0, 1.0), "always"),
        ((None, 0.0, 0.0, 0.0, 0.0), "hard"),
        ((None, None, 0.0, 0.0, 0.0), "failed"),
        ((None, None, 1.0, None, 0.0), "sometimes"),
        ((None, 1.0, 1.0, 1.0, 1.0), "sometimes"),
    ],
)
def test_a_problem_is_hard_when_nothing_solves_it_and_enough_could_be_scored(rewards, expected):
    profile = Profile("p", rewards, (), 0, 0)
    assert fate(profile, success=1.0, max_failure_share=0.2) == expected


def test_success_is_a_threshold_on_the_reward():
    profile = Profile("p", (0.4, 0.5, None, 0.7), (), 0, 0)
    assert [passes(profile, success) for success in (0.5, 0.7, 1.0)] == [2, 1, 0]
