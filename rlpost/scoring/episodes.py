"""What an episode is worth: what its environment gave, and the reward functions' scores beside it."""

from __future__ import annotations

from rlpost.data.trajectory import RewardResult, Trajectory
from rlpost.errors import ScoringError

ENVIRONMENT = "environment"
"""The name of the environment's part of a reward; its numbers are parts `environment/NAME`."""


def failed_episode(trajectory: Trajectory) -> RewardResult | None:
    """What stands for an episode whose environment failed; None for every other trajectory."""
    episode = trajectory.episode
    if episode is None or not (episode.end == "timeout" or episode.end == "error"):
        return None
    return RewardResult(None, episode.end, note=f"{ENVIRONMENT}: {episode.note}")


def is_of_environment(result: RewardResult) -> bool:
    """Whether the environment is to blame for a failure."""
    return result.failed and result.note.startswith(f"{ENVIRONMENT}: ")


def reward_of(trajectory: Trajectory, scored: RewardResult | None) -> RewardResult:
    """What reward functions say of a trajectory, and for an episode the rewards of its turns added to it.

    Args:
        scored: the reward functions' sum; None without any. A failure stays one.

    Raises:
        ScoringError: nothing rewards the trajectory.
    """
    if trajectory.episode is None:
        if scored is None:
            raise ScoringError("there is neither a reward function nor an environment", where=trajectory.id)
        return scored
    given = sum(turn.reward for turn in trajectory.turns)
    parts = {ENVIRONMENT: given}
    parts |= {f"{ENVIRONMENT}/{name}": value for name, value in trajectory.episode.info.items()}
    if scored is None:
        return RewardResult(given, parts=parts)
    score = None if scored.score is None else given + scored.score
    return RewardResult(score, scored.outcome, parts | dict(scored.parts), scored.note)


def completion(trajectory: Trajectory) -> str:
    """What reward functions read: all that the model said, turn by turn, and nothing that it was told.

    A response that the prompt had begun is read from its beginning.
    """
    if trajectory.episode is None:
        return trajectory.prompt.prefill + trajectory.text
    return "\n".join(turn.text for turn in trajectory.turns if turn.by_policy)
