"""Evaluator: the run's held-out problems, asked with the code of `rlpost eval`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rlpost.config.dependent import evaluation_environment
from rlpost.config.held_out import run_rewards
from rlpost.config.schema import DataConfig, EvaluationConfig, RunConfig, StageConfig
from rlpost.data import PromptSet
from rlpost.evaluation import EvaluationSettings, evaluate, evaluation_manifest
from rlpost.monitor import Progress
from rlpost.rollout.engine import SamplingSettings
from rlpost.scoring import Scorer
from rlpost.training.learners import Learners
from rlpost.training.run_directory import RunDirectory
from rlpost.training.state import RunState
from rlpost.training.workers import Workers, WorkersSource


class Evaluator:
    """Asks every held-out problem at a step; the result stays in the run directory."""

    def __init__(
        self,
        config: RunConfig,
        data: DataConfig | None,
        prompts: PromptSet | None,
        tokenizer: object,
        learners: Learners,
        workers: Workers,
        scorer: Scorer,
        directory: RunDirectory,
        progress: Progress,
    ) -> None:
        self.config, self.data, self.prompts, self.tokenizer = config, data, prompts, tokenizer
        self.learners, self.workers, self.scorer = learners, workers, scorer
        self.directory, self.progress = directory, progress

    def evaluate(self, state: RunState, stage: StageConfig) -> dict[str, float]:
        """Evaluate the policy as it is, once per step; the summary goes into `state.evaluations`."""
        if self.prompts is None or self.data is None:
            return {}
        if any(done["step"] == state.step for done in state.evaluations):
            return {}
        start = time.perf_counter()
        self.workers.sync(self.learners, state.version)
        settings, environment = self.config.evaluation, evaluation_environment(self.config)
        result = evaluate(
            self.prompts.prompts,
            WorkersSource(self.workers, self._capacity(stage)),
            self.scorer,
            evaluation_settings(settings, self.config),
            self.directory.evaluation(state.step),
            environment=environment,
            manifest=evaluation_manifest(
                model=self.config.model,
                version=state.version,
                tokenizer=self.tokenizer,
                data=self.data,
                prompts=self.prompts,
                rewards=[] if settings.environment is not None else run_rewards(self.config),
                scoring=self.config.scoring,
                engine=stage.rollout.engine,
                environment=environment,
            ),
        )
        self.workers.rest()
        summary = {"step": state.step, "next_stage": stage.name, **result.summary()}
        state.evaluations.append(summary)
        self.progress.evaluation(f"step {state.step}", summary)
        return result.scalars() | {"time/evaluation_s": time.perf_counter() - start}

    def _capacity(self, stage: StageConfig) -> int | None:
        """None where everything runs in this process: what shares a batch is then the same in every run."""
        inline = self.config.cluster.mode == "inline"
        return None if inline else stage.rollout.slots * stage.rollout.workers


def evaluation_settings(evaluation: EvaluationConfig, config: RunConfig) -> EvaluationSettings:
    """The evaluation's sampling; what it leaves open is as in the last stage."""
    rollout = config.stages[-1].rollout
    return EvaluationSettings(
        samples_per_problem=evaluation.samples_per_problem,
        sampling=SamplingSettings(
            evaluation.temperature,
            evaluation.top_p,
            evaluation.top_k,
            evaluation.max_response_tokens or rollout.max_response_tokens,
            tuple(rollout.stop),
        ),
        seed=config.seed,
        max_failure_share=config.scoring.max_failure_share,
    )


def before_and_after(evaluations: Sequence[dict[str, Any]], config: RunConfig) -> dict[str, Any]:
    """The headline: before the first stage that samples, after the last one, and the whole history.

    A purely supervised run has its first evaluation as the one before.
    """
    if not evaluations:
        return {}
    sampling = [stage.has_rollouts for stage in config.stages]
    warmups = sampling.index(True) if any(sampling) else 0
    step = sum(stage.train.steps for stage in config.stages[:warmups])
    before = next((e for e in evaluations if e["step"] == step), evaluations[0])
    return {"before": before, "after": evaluations[-1], "history": list(evaluations)}
