"""Rollouts on disk: one JSON object a trajectory, complete enough to train on again."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlpost.data.trajectory import Episode, Prompt, RewardResult, Trajectory, Turn
from rlpost.errors import DataError
from rlpost.training.run_directory import write_atomically


def write_rollouts(path: Path, trajectories: Sequence[Trajectory]) -> None:
    """One step's trajectories, failed ones included; the file appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(to_record(t), default=str) for t in trajectories]
    write_atomically(path, "".join(line + "\n" for line in lines))


def read_rollouts(path: Path) -> list[Trajectory]:
    """The inverse of `write_rollouts`.

    Raises:
        DataError: the file is missing or a line is not a trajectory.
    """
    if not path.is_file():
        raise DataError("these rollouts were not kept", where=path, remedy="train with monitor.rollouts=true")
    trajectories = []
    with path.open(encoding="utf-8") as file:
        lines = list(file)
    for number, line in enumerate(lines, start=1):
        try:
            trajectories.append(from_record(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError("a line is not a trajectory", where=f"{path}:{number}", found=error) from error
    return trajectories


def to_record(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory as JSON; NaN log-probs (tokens not sampled) become null."""
    reward, episode = trajectory.reward, trajectory.episode
    return {
        "id": trajectory.id,
        "prompt_id": trajectory.prompt.id,
        "prompt": trajectory.prompt.text,
        "prefill": trajectory.prompt.prefill,
        "text": trajectory.text,
        "reward": None if reward is None else reward.score,
        "outcome": None if reward is None else reward.outcome,
        "parts": {} if reward is None else dict(reward.parts),
        "note": "" if reward is None else reward.note,
        "finish_reason": trajectory.finish_reason,
        "seed": trajectory.seed,
        "greedy": trajectory.greedy,
        "episode": None if episode is None else asdict(episode),
        "columns": dict(trajectory.prompt.columns),
        "prompt_token_ids": list(trajectory.prompt.token_ids),
        "turns": [
            {
                "by_policy": turn.by_policy,
                "text": turn.text,
                "token_ids": list(turn.token_ids),
                "logprobs": [None if math.isnan(p) else p for p in turn.logprobs],
                "versions": list(turn.versions),
                "reward": turn.reward,
            }
            for turn in trajectory.turns
        ],
    }


def from_record(record: dict[str, Any]) -> Trajectory:
    """The inverse of `to_record`; records from before there were environments have no episode."""
    episode, reward = record.get("episode"), None
    if record["outcome"] is not None:
        reward = RewardResult(record["reward"], record["outcome"], record["parts"], record["note"])
    return Trajectory(
        id=record["id"],
        prompt=Prompt(
            record["prompt_id"],
            record["prompt"],
            tuple(record["prompt_token_ids"]),
            record["columns"],
            prefill=record.get("prefill", ""),
        ),
        turns=tuple(
            Turn(
                tuple(turn["token_ids"]),
                turn["text"],
                turn["by_policy"],
                tuple(math.nan if p is None else p for p in turn["logprobs"]),
                tuple(turn["versions"]),
                turn.get("reward", 0.0),
            )
            for turn in record["turns"]
        ),
        finish_reason=record["finish_reason"],
        seed=record["seed"],
        reward=reward,
        greedy=record.get("greedy", False),
        episode=None if episode is None else Episode(**episode),
    )
