"""RunState: all that the driver must remember to go on exactly; plain JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class PromptStatistics:
    """The shaped rewards of one prompt's responses over the run (DCPO, arXiv 2509.02333).

    Attributes:
        visits: steps in which some response of it was in the batch.
        samples: responses in all.
        mean: of their rewards.
        variance: of their rewards, divided by `samples`; exactly 0 while all were equal.
        low, high: the smallest and the largest reward; equal while there was only one.
    """

    visits: int = 0
    samples: int = 0
    mean: float = 0.0
    variance: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, rewards: Sequence[float]) -> None:
        """Merge one visit's rewards in, weighted by their number (the paper's form needs equal numbers)."""
        new = len(rewards)
        mean = math.fsum(rewards) / new
        variance = math.fsum((r - mean) ** 2 for r in rewards) / new
        old, total = self.samples, self.samples + new
        gap = mean - self.mean if old else 0.0
        self.low, self.high = min(self.low, *rewards), max(self.high, *rewards)
        if self.low == self.high:
            # The mean of equal numbers is rounded, and would leave a variance that is not 0.
            self.mean, self.variance = self.low, 0.0
        else:
            self.mean = (old * self.mean + new * mean) / total
            self.variance = (old * self.variance + new * variance) / total + old * new * (gap / total) ** 2
        self.visits, self.samples = self.visits + 1, total


@dataclass
class RunState:
    """Where a run stands.

    Attributes:
        stage: index of the stage at work.
        stage_step: steps done in that stage.
        step: steps done in all.
        version: the policy version: how often the weights were changed.
        sampler: the stage's sampler position.
        prompts: per-prompt statistics by prompt id, of all steps that trained on samples.
        coefficients: of the stage's adaptive regularisers, by their keys, as the next step begins.
        measured: what those followed in the stage's last step that updated something, by their keys.
        evaluations: every evaluation's summary, in order.
        other_evaluations: the same of the sets in `evaluation.others`, by name.
        pivots: ids of the turns that the stage trains on since they were chosen anew; None: its data.
        pivot_rewards: mean rewards of the last steps on the present pivots.
        times_chosen: how often the stage's pivots were chosen anew.
        solved: prompts of the stage with a right response so far, by variant (`data.variant_column`).
        unwritten: the metrics of the last step, while its evaluation or its new pivots are still to come.
        samples, trained_tokens: totals.
        wall_s: seconds of training, over all sessions.
    """

    stage: int = 0
    stage_step: int = 0
    step: int = 0
    version: int = 0
    sampler: dict[str, Any] | None = None
    prompts: dict[str, PromptStatistics] = field(default_factory=dict)
    coefficients: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    other_evaluations: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    pivots: list[str] | None = None
    pivot_rewards: list[float] = field(default_factory=list)
    times_chosen: int = 0
    solved: dict[str, list[str]] = field(default_factory=dict)
    unwritten: dict[str, float] | None = None
    samples: int = 0
    trained_tokens: int = 0
    wall_s: float = 0.0

    def remember(self, prompt_ids: Sequence[str], rewards: Sequence[float]) -> None:
        """Add a step's shaped rewards, one for each response in the batch, to their prompts' statistics."""
        rewards_of: dict[str, list[float]] = {}
        for prompt_id, reward in zip(prompt_ids, rewards, strict=True):
            rewards_of.setdefault(prompt_id, []).append(reward)
        for prompt_id, values in rewards_of.items():
            self.prompts.setdefault(prompt_id, PromptStatistics()).add(values)

    def statistics(self, prompt_ids: Sequence[str]) -> dict[str, list[float]]:
        """What earlier steps know of the prompt of each response, by sequence signal; 0 if nothing."""
        known = [self.prompts.get(prompt_id, PromptStatistics()) for prompt_id in prompt_ids]
        return {
            f"prompt_{name}": [float(getattr(statistics, name)) for statistics in known]
            for name in ("visits", "samples", "mean", "variance")
        }

    def evaluations_of(self, name: str) -> list[dict[str, Any]]:
        """The summaries of one set of held-out problems, to be added to; "" is the main one."""
        return self.other_evaluations.setdefault(name, []) if name else self.evaluations

    def next_stage(self) -> None:
        """The current stage is done."""
        self.stage, self.stage_step, self.sampler = self.stage + 1, 0, None
        self.coefficients, self.measured, self.solved = {}, {}, {}
        self.pivots, self.pivot_rewards, self.times_chosen = None, [], 0

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> RunState:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["prompts"] = {key: PromptStatistics(**value) for key, value in record["prompts"].items()}
        return cls(**record)
