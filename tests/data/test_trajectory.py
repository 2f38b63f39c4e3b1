"""The records refuse what would mean two things."""

import math

import pytest

from rlpost.data import OUTCOMES, Prompt, RewardResult, Trajectory, Turn


@pytest.mark.parametrize("outcome", ["timeout", "error"])
def test_a_failure_to_score_has_no_score(outcome):
    assert RewardResult(None, outcome).failed
    with pytest.raises(ValueError, match="does not fit outcome"):
        RewardResult(0.0, outcome)


@pytest.mark.parametrize("outcome", ["scored", "unparseable"])
def test_an_examined_response_has_a_finite_score(outcome):
    assert not RewardResult(0.0, outcome).failed
    with pytest.raises(ValueError, match="does not fit outcome"):
        RewardResult(None, outcome)
    for score in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="must be finite"):
            RewardResult(score, outcome)


def test_an_unknown_outcome_is_refused():
    assert OUTCOMES == ("scored", "unparseable", "timeout", "error")
    with pytest.raises(ValueError, match="'wrong' is not one of scored, unparseable, timeout, error"):
        RewardResult(0.0, "wrong")


@pytest.mark.parametrize(("logprobs", "versions"), [((), (0,)), ((-1.0,), ())])
def test_a_turn_needs_one_logprob_and_one_version_per_token(logprobs, versions):
    with pytest.raises(ValueError, match="one log-prob and one version per token"):
        Turn((5,), "x", True, logprobs, versions)


def test_a_trajectory_joins_its_turns():
    turns = (
        Turn((5, 6), "ab", True, (-0.5, -0.25), (3, 3)),
        Turn((7,), "c", False, (math.nan,), (-1,)),
        Turn((8,), "d", True, (-1.0,), (4,)),
    )
    trajectory = Trajectory("t", Prompt("p", "", (1,)), turns, "length", seed=0)
    assert trajectory.token_ids == [5, 6, 7, 8]
    assert trajectory.text == "abcd"
    assert trajectory.length == 4
    assert trajectory.truncated
