"""What an episode is worth: its environment's rewards, reward functions beside them, failures apart."""

import math

import pytest

from rlpost.config.schema import RewardConfig, ScoringConfig
from rlpost.data.trajectory import Episode, Prompt, Trajectory, Turn
from rlpost.errors import RewardError, ScoringError
from rlpost.scoring import Scorer

SCORING = ScoringConfig(workers=1, deadline_s=60, max_failure_share=0.25)
LENGTH = """
def reward(completion):
    return 0.0 if "told" in completion else float(len(completion.split("\\n")))
"""


def said(text, reward=0.0):
    return Turn((5,), text, True, (-1.0,), (0,), reward)


def heard(text):
    return Turn((6,), text, False, (math.nan,), (-1,))


def played(id, end="done", turns=None, note="", **info):
    turns = (said("a", 0.25), heard("told"), said("b", 1.0)) if turns is None else turns
    return Trajectory(id, Prompt("p", "", (1,)), turns, "eos", 0, episode=Episode(end, note, info))


def test_without_reward_functions_an_episode_is_worth_what_its_turns_were_given():
    with Scorer([], SCORING, environment=True) as scorer:
        good, late, none = scorer.score(
            [
                played("a", tries=3.0),
                played("b", "timeout", note="10 s"),
                played("c", "error", (), "no board"),
            ]
        )
        assert scorer.canary([good.prompt]) == [] and scorer.describe() == []
    assert (good.reward.score, good.reward.outcome) == (1.25, "scored")
    assert good.reward.parts == {"environment": 1.25, "environment/tries": 3.0}
    assert (late.reward.score, late.reward.outcome, late.reward.note) == (
        None,
        "timeout",
        "environment: 10 s",
    )
    assert (none.reward.score, none.reward.outcome) == (None, "error")
    with pytest.raises(RewardError, match="no reward function"):
        Scorer([], SCORING)


def test_where_nothing_reads_rewards_a_single_turn_that_nothing_judges_is_scored_zero():
    single = Trajectory("a", Prompt("p", "", (1,)), (said("a"),), "eos", 0)
    with Scorer([], SCORING, unread=True) as scorer:
        plain, episode = scorer.score([single, played("b")])
    assert (plain.reward.score, plain.reward.outcome, plain.reward.parts) == (0.0, "scored", {})
    assert episode.reward.score == 1.25
    with Scorer([], SCORING, environment=True) as scorer, pytest.raises(ScoringError, match="neither"):
        scorer.score([single])


def test_reward_functions_read_what_the_model_said_and_are_not_asked_about_failures(tmp_path):
    path = tmp_path / "length.py"
    path.write_text(LENGTH)
    with Scorer([RewardConfig(function=str(path), weight=0.5)], SCORING, environment=True) as scorer:
        failed, good = scorer.score([played("a", "error"), played("b", success=0.0)])
    assert failed.reward.score is None and "length" not in failed.reward.parts
    assert good.reward.score == 1.25 + 0.5 * 2
    assert good.reward.parts == {"environment": 1.25, "environment/success": 0.0, "length": 2.0}


def test_too_many_failed_episodes_stop_the_run_with_the_environments_words():
    with Scorer([], SCORING, environment=True) as scorer:
        fine = [played(str(k)) for k in range(3)]
        scored = scorer.score([*fine, played("x", "error", note="KeyError: 'store'")])
        scorer.check_failures([t.reward for t in scored])
        scored = scorer.score([*fine[:2], played("x", "error", note="KeyError: 'store'")])
        with pytest.raises(ScoringError) as caught:
            scorer.check_failures([t.reward for t in scored])
    message = str(caught.value)
    assert "1 of 3 samples could not be scored (1 error), 1 because their environment failed" in message
    assert "environment: KeyError: 'store'" in message and "mend the environment" in message
