"""The training loop: collect, prepare, update; then write down, evaluate, save.

Whether sampling and training take turns or overlap is the source's business (`train.max_staleness`);
the loop asks for one step's batch after the other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import compress

import torch

from rlpost.config import stage_objective
from rlpost.config.rules.critic_rules import stage_critic
from rlpost.config.schema import RunConfig, StageConfig
from rlpost.data import PromptSampler, PromptSet
from rlpost.estimator import Objective, Prepared
from rlpost.monitor import MetricsWriter, Progress
from rlpost.training.coefficients import adapt, coefficient_metrics, objective_in_force
from rlpost.training.draw_seeds import draw_seeds
from rlpost.training.evaluating import Evaluator
from rlpost.training.learners import Learners, mean_over_updates
from rlpost.training.reprofiling import Reprofiler
from rlpost.training.run_status import RunStatus
from rlpost.training.saving import Saver
from rlpost.training.sources import Source, StepData
from rlpost.training.stage_data import data_metrics
from rlpost.training.state import RunState
from rlpost.training.stopping import raise_if_asked
from rlpost.training.variants import variant_metrics


@dataclass(frozen=True)
class Run:
    """What the loop works with; made by `rlpost.training.run`."""

    config: RunConfig
    learners: Learners
    state: RunState
    metrics: MetricsWriter
    progress: Progress
    evaluator: Evaluator
    saver: Saver
    status: RunStatus
    reprofiler: Reprofiler | None = None


def train_stage(run: Run, stage: StageConfig, prompts: PromptSet, source: Source) -> None:
    """Go on with a stage from wherever `run.state` says it stands, to its end."""
    state, train = run.state, stage.train
    objective = stage_objective(stage)
    sampler = stage_sampler(run, stage, prompts)
    run.status.at(state, stage.name)
    if state.unwritten is not None:
        run.metrics.truncate_after(state.step - 1)  # it may have been written since that was saved
    raise_if_asked()
    if state.stage_step == 0:
        run.evaluator.evaluate(state, stage)
    run.progress.stage(stage.name, train.steps, state.stage_step)
    while state.stage_step < train.steps or state.unwritten is not None:
        if state.unwritten is None:
            start = time.perf_counter()
            metrics = train_step(run.learners, state, stage, objective, source, sampler, run.config.seed)
            metrics |= data_metrics(prompts) | {"time/step_s": time.perf_counter() - start}
            state.unwritten = {name: float(value) for name, value in metrics.items()}
            state.wall_s += metrics["time/step_s"]
            run.status.at(state, stage.name)
        metrics = complete_step(run, stage)
        if "pivots/chosen" in metrics:
            sampler = stage_sampler(run, stage, prompts)
        run.metrics.write(state.step, stage.name, metrics)
        state.unwritten = None
        run.progress.step(state.step, metrics)
        run.status.at(state, stage.name)
        if run.saver.due(state) and state.stage_step < train.steps:
            run.saver.save(state)
        raise_if_asked()
    state.next_stage()
    run.saver.save(state)


def complete_step(run: Run, stage: StageConfig) -> dict[str, float]:
    """What belongs to a step after its update: an evaluation, new pivots. Returns the whole step's metrics.

    Where that is broken off, `run.state` is as it was, and a resumed run does it again.
    """
    state, start = run.state, time.perf_counter()
    assert state.unwritten is not None
    if run.config.evaluation.every and state.stage_step % run.config.evaluation.every == 0:
        state.unwritten |= run.evaluator.evaluate(state, stage)
    metrics = dict(state.unwritten)
    if run.reprofiler is not None:
        metrics |= run.reprofiler.after_step(stage, state, metrics.get("reward/mean"))
    state.wall_s += time.perf_counter() - start
    return metrics


def stage_sampler(run: Run, stage: StageConfig, prompts: PromptSet) -> PromptSampler:
    """What draws the stage's prompts, where `run.state` says that it stands."""
    if run.reprofiler is not None:
        prompts = run.reprofiler.present(stage, prompts, run.state)
    sampler = PromptSampler(prompts, stage.train.prompts_per_step, run.config.seed, stage.data.shuffle)
    if run.state.sampler is not None:
        sampler.load_state_dict(run.state.sampler)
    return sampler


def train_step(
    learners: Learners,
    state: RunState,
    stage: StageConfig,
    objective: Objective,
    source: Source,
    sampler: PromptSampler,
    seed: int,
) -> dict[str, float]:
    """One step: a batch, its signals, its updates. Advances `state`; returns the metrics.

    Args:
        seed: the run's.
    """
    configured, objective = objective, objective_in_force(objective, state)
    data = source.collect(sampler, objective, state)
    collected = time.perf_counter()
    prepared, data = prepare(learners, stage, objective, data, state, seed)
    raise_if_asked()  # the last moment: from here on the learner and the state change
    signalled = time.perf_counter()
    critic = stage_critic(stage, objective)
    warming = critic is not None and state.stage_step < critic.warmup_steps
    report = update(learners, stage, objective, data, prepared, warming)
    sampled_S = (~data.batch.demonstration_S).tolist()
    adapt(configured, state, report, sum(sampled_S))
    if any(sampled_S):
        rewards = prepared.reward_S.tolist()
        state.remember(list(compress(data.prompt_ids, sampled_S)), list(compress(rewards, sampled_S)))
    variants = variant_metrics(data.variants, state.solved)
    state.sampler = dict(data.sampler)
    state.step, state.stage_step, state.version = state.step + 1, state.stage_step + 1, state.version + 1
    state.samples += data.samples
    state.trained_tokens += int(report.get("learner/trained_tokens", 0))
    times = {"time/signals_s": signalled - collected, "time/update_s": time.perf_counter() - signalled}
    epoch = {"data/epoch": float(data.epoch)}
    return data.metrics | variants | epoch | report | coefficient_metrics(objective) | times


def prepare(
    learners: Learners, stage: StageConfig, objective: Objective, data: StepData, state: RunState, seed: int
) -> tuple[Prepared, StepData]:
    """Compute exactly the signals that the objective reads, then fix advantages and weights."""
    on_policy = stage.train.updates_per_step == 1
    asked = {
        name: torch.tensor(values, dtype=torch.float64)
        for name, values in state.statistics(data.prompt_ids).items()
        if name in objective.sequence_signals
    }
    if "draw_seed" in objective.sequence_signals:
        asked["draw_seed"] = draw_seeds(seed, state.step + 1, data.batch.S)
    batch = replace(
        data.batch,
        on_policy=on_policy,
        progress=state.stage_step / stage.train.steps,
        sequence_signals={**data.batch.sequence_signals, **asked},
    )
    names = sorted(objective.signals_for(on_policy=on_policy) - set(batch.signals))
    if names and batch.S:
        batch = batch.with_signals(**learners.signals(data.inputs, batch, names, temperature(stage)))
    data = replace(data, batch=batch)
    return objective.prepare(batch, stage.train.updates_per_step), data


def update(
    learners: Learners,
    stage: StageConfig,
    objective: Objective,
    data: StepData,
    prepared: Prepared,
    warming: bool = False,
) -> dict[str, float]:
    """The step's optimizer updates; those without any signal for the policy are skipped and counted.

    A critic learns from its values' errors in all of them.

    Args:
        warming: the critic alone learns, so that nothing of the policy is skipped.
    """
    reports = []
    taken = skipped = 0
    for index_S in prepared.updates():
        part = prepared.rows(index_S)
        if objective.is_gated:
            # What gates have closed, such as the rollouts of a prompt that learns from its demonstration, is
            # most of a batch at times, and need not pass through the model.
            part = part.rows(part.weighted_S)
        idle = not part.batch.S or not (warming or objective.regularisers or part.has_signal)
        skipped += idle
        if idle and not part.value_targets:
            continue
        reports.append(
            learners.update(data.inputs, part, objective, temperature(stage), values_only=warming or idle)
        )
        taken += not (warming or idle)
    if not prepared.batch.S:
        skipped = stage.train.updates_per_step
    report = mean_over_updates(reports)
    if objective.value_heads:
        report["critic/updates"] = float(len(reports))
    weight = report.pop("mismatch/weight_mean", None)
    square = report.pop("mismatch/weight_square_mean", None)
    if weight is not None and square:
        report["mismatch/ess"] = weight**2 / square
    return (
        prepared.measures.values()
        | report
        | {"learner/updates": float(taken), "learner/skipped_updates": float(skipped)}
    )


def temperature(stage: StageConfig) -> float:
    """Log-probs are taken of the distribution that was sampled; demonstrations were not."""
    return stage.rollout.temperature if stage.has_rollouts else 1.0
