"""RunState: all that the driver must remember to go on exactly; plain JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlpost.data.trajectory import Trajectory


@dataclass
class PromptStatistics:
    """What one prompt's scored samples came to over the run.

    Attributes:
        visits: steps in which it was tried.
        samples: scored samples in all.
        reward_sum, reward_square_sum: over those samples.
    """

    visits: int = 0
    samples: int = 0
    reward_sum: float = 0.0
    reward_square_sum: float = 0.0

    def add(self, rewards: Sequence[float]) -> None:
        """One step's rewards of this prompt."""
        self.visits += 1
        self.samples += len(rewards)
        self.reward_sum += sum(rewards)
        self.reward_square_sum += sum(r * r for r in rewards)


@dataclass
class RunState:
    """Where a run stands.

    Attributes:
        stage: index of the stage at work.
        stage_step: steps done in that stage.
        step: steps done in all.
        version: the policy version: how often the weights were changed.
        sampler: the stage's sampler position.
        prompts: per-prompt statistics by prompt id.
        evaluations: every evaluation's summary, in order.
        samples, trained_tokens: totals.
        wall_s: seconds of training, over all sessions.
    """

    stage: int = 0
    stage_step: int = 0
    step: int = 0
    version: int = 0
    sampler: dict[str, Any] | None = None
    prompts: dict[str, PromptStatistics] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    samples: int = 0
    trained_tokens: int = 0
    wall_s: float = 0.0

    def remember(self, trajectories: Sequence[Trajectory]) -> None:
        """Add a step's scored trajectories to the per-prompt statistics."""
        rewards: dict[str, list[float]] = {}
        for trajectory in trajectories:
            if trajectory.reward is not None and trajectory.reward.score is not None:
                rewards.setdefault(trajectory.prompt.id, []).append(trajectory.reward.score)
        for prompt_id, values in rewards.items():
            self.prompts.setdefault(prompt_id, PromptStatistics()).add(values)

    def next_stage(self) -> None:
        """The current stage is done."""
        self.stage, self.stage_step, self.sampler = self.stage + 1, 0, None

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> RunState:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["prompts"] = {key: PromptStatistics(**value) for key, value in record["prompts"].items()}
        return cls(**record)
