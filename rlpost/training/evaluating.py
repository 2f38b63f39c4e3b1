"""Evaluator: the run's sets of held-out problems, asked with the code of `rlpost eval`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlpost.config.dependent import evaluation_environment
from rlpost.config.held_out import held_out_sets, run_rewards
from rlpost.config.schema import DataConfig, EvaluationConfig, RunConfig, StageConfig
from rlpost.data import PromptSet
from rlpost.evaluation import EvaluationResult, EvaluationSettings, evaluate, evaluation_manifest
from rlpost.monitor import Progress
from rlpost.rollout.engine import SamplingSettings
from rlpost.scoring import Scorer
from rlpost.training.learners import Learners
from rlpost.training.run_directory import RunDirectory
from rlpost.training.stage_data import load_with_environment
from rlpost.training.state import RunState
from rlpost.training.workers import Workers, WorkersSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class HeldOutSet:
    """Problems to ask.

    Attributes:
        name: as in `evaluation.others`; "" for the main set.
        data: where they come from.
        prompts: in the order of the data.
    """

    name: str
    data: DataConfig
    prompts: PromptSet


def load_held_out(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> list[HeldOutSet]:
    """Every set of held-out problems of a run, the main one first; [] when nothing is evaluated.

    Raises:
        UserError: as `load_with_environment`.
    """
    environment = evaluation_environment(config)
    return [
        HeldOutSet(name, data, load_with_environment(data, environment, tokenizer, config.seed))
        for name, data in held_out_sets(config).items()
    ]


class Evaluator:
    """Asks every held-out problem at a step; the results stay in the run directory."""

    def __init__(
        self,
        config: RunConfig,
        sets: Sequence[HeldOutSet],
        tokenizer: PreTrainedTokenizerBase,
        learners: Learners,
        workers: Workers,
        scorer: Scorer,
        directory: RunDirectory,
        progress: Progress,
    ) -> None:
        self.config, self.sets, self.tokenizer = config, sets, tokenizer
        self.learners, self.workers, self.scorer = learners, workers, scorer
        self.directory, self.progress = directory, progress

    def evaluate(self, state: RunState, stage: StageConfig) -> dict[str, float]:
        """Evaluate the policy as it is, once per step and set; the summaries go into the state at the end."""
        due = [held_out for held_out in self.sets if not _is_done(state, held_out)]
        if not due:
            return {}
        start = time.perf_counter()
        self.workers.sync(self.learners, state.version)
        results = [self._ask(held_out, state, stage) for held_out in due]
        self.workers.rest()
        metrics: dict[str, float] = {}
        for held_out, result in zip(due, results, strict=True):
            summary = {"step": state.step, "next_stage": stage.name, **result.summary()}
            state.evaluations_of(held_out.name).append(summary)
            prefix = f"eval/{held_out.name}/" if held_out.name else "eval/"
            metrics |= {prefix + key.removeprefix("eval/"): value for key, value in result.scalars().items()}
        return metrics | {"time/evaluation_s": time.perf_counter() - start}

    def _ask(self, held_out: HeldOutSet, state: RunState, stage: StageConfig) -> EvaluationResult:
        settings, environment = self.config.evaluation, evaluation_environment(self.config)
        result = evaluate(
            held_out.prompts.prompts,
            WorkersSource(self.workers, self._capacity(stage)),
            self.scorer,
            evaluation_settings(settings, self.config),
            self.directory.evaluation(state.step, held_out.name),
            environment=environment,
            manifest=evaluation_manifest(
                model=self.config.model,
                version=state.version,
                tokenizer=self.tokenizer,
                data=held_out.data,
                prompts=held_out.prompts,
                rewards=[] if settings.environment is not None else run_rewards(self.config),
                scoring=self.config.scoring,
                engine=stage.rollout.engine,
                environment=environment,
            ),
        )
        self.progress.evaluation(f"step {state.step}", result.summary(), held_out.name)
        return result

    def _capacity(self, stage: StageConfig) -> int | None:
        """None where everything runs in this process: what shares a batch is then the same in every run."""
        inline = self.config.cluster.mode == "inline"
        return None if inline else stage.rollout.slots * stage.rollout.workers


def _is_done(state: RunState, held_out: HeldOutSet) -> bool:
    return any(done["step"] == state.step for done in state.evaluations_of(held_out.name))


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
