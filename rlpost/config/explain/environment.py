"""What a configuration will do, in words: what answers the model, and when an episode ends."""

from __future__ import annotations

from rlpost.config.dependent import response_tokens
from rlpost.config.schema import EnvironmentConfig, StageConfig
from rlpost.config.words import count


def environment(config: EnvironmentConfig, stage: StageConfig) -> str:
    """The limits of an episode with their arithmetic, its deadlines, and where environments run."""
    if not stage.has_rollouts:
        return f"{config.name}: prompts tell of its tools; nothing is played"
    turns, one = config.max_turns, stage.rollout.max_response_tokens
    said = f"{turns} x {one} sampled + {turns - 1} x {config.max_observation_tokens} observed"
    most = response_tokens(stage)
    limit = (
        f" = {most} tokens"
        if config.max_episode_tokens is None
        else f" tokens, cut at {config.max_episode_tokens} (max_episode_tokens)"
    )
    turn_s, episode_s = config.turn_deadline_s, config.episode_deadline_s
    processes = count(config.processes, "process", "processes")
    return "\n".join(
        [
            f"{config.name}, tool calls in the format {config.tool_format}; an episode ends when it says so,",
            f"or after {count(turns, 'turn')}: at most {said}{limit},",
            "and never more than the model's positions; the last turn is cut to what is left",
            f"{turn_s:g} s for an answer, {episode_s:g} s for all of an episode; when its environment fails,",
            "it is dropped and counted",
            f"{count(config.concurrency, 'episode')} at a time in {processes} of each rollout worker",
        ]
    )
