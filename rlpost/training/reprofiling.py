"""Reprofiler: new pivots from the same turns, once the policy has learnt those that it trains on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlpost.config.dependent import training_data
from rlpost.config.rules.pivot_rules import pivot_stage
from rlpost.config.schema import PivotsConfig, ReprofileConfig, RunConfig, StageConfig
from rlpost.data import Prompt, PromptSet, load_prompts
from rlpost.evaluation import SampleSource
from rlpost.evaluation.profiles import Fate, Profile, profile_prompts
from rlpost.monitor import Progress
from rlpost.rollout.engine import SamplingSettings
from rlpost.scoring import Scorer
from rlpost.training.learners import Learners
from rlpost.training.state import RunState
from rlpost.training.workers import Workers, WorkersSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CANDIDATES, VALIDATION = "candidates.jsonl", "validation.jsonl"
SEED_STEP = 1_000_003
"""Between the seeds of one profile and the next: `rlpost pivots` had the run's own."""


class Reprofiler:
    """Watches the rewards of the stage that trains on pivots.

    Args:
        candidates: every turn that may become a pivot; see `load_candidates`.
        progress: told what was found.
    """

    def __init__(
        self,
        config: RunConfig,
        candidates: Sequence[Prompt],
        learners: Learners,
        workers: Workers,
        scorer: Scorer,
        progress: Progress,
    ) -> None:
        assert config.pivots is not None and config.pivots.reprofile is not None
        self.config, self.candidates = config, candidates
        self.settings: PivotsConfig = config.pivots
        self.when: ReprofileConfig = config.pivots.reprofile
        self.learners, self.workers, self.scorer, self.progress = learners, workers, scorer, progress

    def present(self, stage: StageConfig, prompts: PromptSet, state: RunState) -> PromptSet:
        """What the stage trains on: its data, or the pivots that were chosen last."""
        if state.pivots is None or not self._concerns(stage):
            return prompts
        known = {prompt.id: prompt for prompt in self.candidates}
        return replace(prompts, prompts=tuple(known[id] for id in state.pivots))

    def after_step(self, stage: StageConfig, state: RunState, reward: float | None) -> dict[str, float]:
        """Note the step's mean reward; where the pivots are used up, choose others.

        Returns:
            metrics; with `pivots/chosen` when `state.pivots` are others than before.
        """
        if not self._concerns(stage):
            return {}
        fresh = [] if reward is None else [reward]
        rewards = [*state.pivot_rewards, *fresh][-self.when.window :]
        if not self._used_up(rewards, state.times_chosen):
            state.pivot_rewards = rewards
            return {"pivots/times_chosen": float(state.times_chosen)}
        start = time.perf_counter()
        profiles = self._profile(stage, state)
        fates: list[Fate] = [p.fate(self.settings.threshold, self.settings.min_variance) for p in profiles]
        found = [p.id for p, fate in zip(profiles, fates, strict=True) if fate == "pivot"]
        judged = sum(fate != "failed" for fate in fates)
        metrics = {
            "pivots/uninformative_share": sum(f in ("never", "always") for f in fates) / max(1, judged),
            "time/reprofile_s": time.perf_counter() - start,
        }
        state.pivot_rewards = []
        if len(found) < stage.train.prompts_per_step:
            state.times_chosen = self.when.most
            self.progress.message(
                f"only {len(found)} of {len(profiles)} turns are pivots for the policy now, and a step needs "
                f"{stage.train.prompts_per_step}: the stage goes on with those it has"
            )
        else:
            state.times_chosen, state.pivots, state.sampler = state.times_chosen + 1, found, None
            metrics["pivots/chosen"] = float(len(found))
            self.progress.message(f"{len(found)} of {len(profiles)} turns are the pivots from now on")
        return metrics | {"pivots/times_chosen": float(state.times_chosen)}

    def _concerns(self, stage: StageConfig) -> bool:
        return stage == pivot_stage(self.config)

    def _used_up(self, rewards: Sequence[float], times_chosen: int) -> bool:
        full = len(rewards) == self.when.window and times_chosen < self.when.most
        return full and sum(rewards) / len(rewards) > self.when.above

    def _profile(self, stage: StageConfig, state: RunState) -> list[Profile]:
        self.workers.sync(self.learners, state.version)
        inline = self.config.cluster.mode == "inline"
        source: SampleSource = WorkersSource(
            self.workers, None if inline else stage.rollout.slots * stage.rollout.workers
        )
        profiles = profile_prompts(
            self.candidates,
            source,
            self.scorer,
            samples=self.settings.samples,
            sampling=action_sampling(self.settings, stage),
            seed=self.config.seed + SEED_STEP * (state.times_chosen + 1),
        )
        self.workers.rest()
        return profiles


def action_sampling(settings: PivotsConfig, stage: StageConfig) -> SamplingSettings:
    """As in the stage's training, but for what the section `pivots` says."""
    rollout = stage.rollout
    return SamplingSettings(
        settings.temperature,
        rollout.top_p,
        rollout.top_k,
        settings.max_action_tokens or rollout.max_response_tokens,
        tuple(rollout.stop),
    )


def load_candidates(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PromptSet | None:
    """Every turn that `rlpost pivots` tried, but for the dialogues that it holds out; None if none is wanted.

    Raises:
        DataError: the files are not there, or hold something else.
    """
    stage = pivot_stage(config)
    if stage is None or config.pivots is None or config.pivots.reprofile is None:
        return None
    folder = Path(config.pivots.reprofile.directory)

    def load(name: str) -> PromptSet:
        data = stage.data.model_copy(update={"path": str(folder / name), "limit": None})
        return load_prompts(training_data(data), tokenizer, seed=config.seed)

    candidates = load(CANDIDATES)
    held_out = folder / VALIDATION
    if not held_out.is_file() or not held_out.stat().st_size:
        return candidates
    elsewhere = {prompt.columns["trajectory"] for prompt in load(VALIDATION)}
    kept = tuple(p for p in candidates if p.columns["trajectory"] not in elsewhere)
    return replace(candidates, prompts=kept)
