"""train(): from a configuration to a finished run directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rlpost.cluster import LEARNER, WORKER, Cluster, start_cluster
from rlpost.config import dump_config
from rlpost.config.dependent import probe_tolerance
from rlpost.config.held_out import is_judged, run_rewards, sampling_stages
from rlpost.config.schema import RunConfig, StageConfig
from rlpost.data import PromptSet
from rlpost.errors import ActorLostError
from rlpost.learner import DeepSpeedLearner, TorchLearner
from rlpost.models import load_tokenizer
from rlpost.monitor import MetricsWriter, Progress
from rlpost.preflight import cheap_findings, stop_at_errors
from rlpost.rollout import RolloutWorker
from rlpost.scoring import Scorer
from rlpost.scoring.line import ScoringLine
from rlpost.training.evaluating import Evaluator, load_held_out
from rlpost.training.finishing import finish
from rlpost.training.learners import Learners
from rlpost.training.loop import Run, train_stage
from rlpost.training.recovery import Recovery, rewind
from rlpost.training.reprofiling import Reprofiler, load_candidates
from rlpost.training.rollouts import Rollouts
from rlpost.training.run_directory import RunDirectory, choose_directory
from rlpost.training.run_status import RunStatus
from rlpost.training.saving import Saver, run_identity
from rlpost.training.sources import Demonstrations, Source
from rlpost.training.stage_data import load_stages, remarks
from rlpost.training.state import RunState
from rlpost.training.status import LAUNCHER, RUN_ID
from rlpost.training.stopping import StopNoticed, Stopped, hearing
from rlpost.training.teachers import examine_teachers
from rlpost.training.workers import Workers


def train(config: RunConfig, output: Path | None = None, resume: bool = False) -> Path:
    """Run every stage of `config`, with evaluations and checkpoints, and return the run directory.

    Args:
        output: the run directory; None makes one under `config.output`.
        resume: go on from the newest usable checkpoint; from the beginning when there is none.

    Raises:
        UserError: the input is wrong; nothing was trained.
        RlpostError: the run failed; what was saved is intact.
        Stopped: it was told to; there is a checkpoint of the last finished step.
    """
    warnings = stop_at_errors(list(cheap_findings(config, here=True, output=output)))
    directory = choose_directory(config.output, config.name, output, resume, os.environ.get(RUN_ID))
    if directory.stop.exists():
        if LAUNCHER in os.environ:  # as when a job is queued again that was told to stop for good
            print(f"the run was told to stop: {directory.stop} is there. Nothing was started.")
            return directory.path
        directory.stop.unlink()
    with RunStatus(directory, config) as status:
        train_in(directory, config, resume, status, warnings)
    return directory.path


def train_in(
    directory: RunDirectory,
    config: RunConfig,
    resume: bool,
    status: RunStatus,
    warnings: Sequence[str] = (),
) -> None:
    """`train`, in a directory that is this run's; `status` is told how it goes, the user `warnings`."""
    if config.cluster.threads is not None:
        torch.set_num_threads(config.cluster.threads)
    tokenizer = load_tokenizer(config.model)
    data = load_stages(config, tokenizer)
    candidates = load_candidates(config, tokenizer)
    teachers = examine_teachers(config)
    held_out = load_held_out(config, tokenizer)
    with ExitStack() as stack:
        scorer = stack.enter_context(
            Scorer(
                run_rewards(config),
                config.scoring,
                environment=has_environment(config),
                unread=is_unrewarded(config),
            )
        )
        noted = [*(f"warning: {text}" for text in warnings), *remarks(data), *unjudged(config)]
        if config.scoring.canary:
            noted += scorer.canary(
                data[sampling_stages(config)[0].name].prompts,
                max_failure_share=config.scoring.max_failure_share,
            )
        line = stack.enter_context(ScoringLine(scorer, background=config.cluster.mode == "ray"))
        progress = stack.enter_context(Progress(status.id, directory.path, log=status.say))
        for remark in noted:
            progress.message(remark)
        cluster = stack.enter_context(start_cluster(config.cluster, directory.logs, progress.message))
        cluster.reserve(config)
        learners, workers = start_actors(cluster, config, directory, data, progress.message)
        fingerprints = {name: prompts.fingerprint for name, prompts in data.items()}
        if candidates is not None:
            fingerprints["turns that may become pivots"] = candidates.fingerprint
        identity = run_identity(config, fingerprints) | teachers
        saver = Saver(directory, config.checkpoint, identity, learners)
        state, learner_path = RunState(), None
        if resume and (found := saver.restore(progress.message)) is not None:
            state, learner_path = found
            progress.message(f"resuming after step {state.step}")
        elif resume:
            progress.message("there is no checkpoint yet: starting from the beginning")
        directory.write_config(dump_config(config))
        metrics = stack.enter_context(MetricsWriter(directory.path, config.monitor.tensorboard, status.id))
        take_back = rewind(directory, metrics.truncate_after)
        take_back(state.step)
        judge = scorer
        if config.evaluation.environment is not None:  # it judges alone
            judge = stack.enter_context(Scorer([], config.scoring, environment=True))
        evaluator = Evaluator(config, held_out, tokenizer, learners, workers, judge, directory, progress)
        reprofiler = None
        if candidates is not None:
            reprofiler = Reprofiler(config, candidates.prompts, learners, workers, scorer, progress)
        run = Run(config, learners, state, metrics, progress, evaluator, saver, status, reprofiler)
        sampling = Sampling(workers, line, directory if config.monitor.rollouts else None, cluster)
        recovery = Recovery(
            saver,
            config.cluster.max_restarts,
            abandon=sampling.abandon,
            restart=lambda: learners.restart(learner_arguments(cluster, config, directory)),
            rewind=take_back,
            report=progress.message,
        )
        with hearing(config.checkpoint.grace_s):
            run_to_the_end(run, data, sampling, recovery, learner_path)


@dataclass(frozen=True)
class Sampling:
    """What the stages that sample share.

    Attributes:
        keep: where every step's trajectories are written; None keeps none.
    """

    workers: Workers
    line: ScoringLine
    keep: RunDirectory | None
    cluster: Cluster

    def source(self, run: Run, stage: StageConfig) -> Rollouts:
        """The batches of a stage that samples; finished responses move on while learners work."""
        self.workers.configure(stage.rollout)
        rollouts = Rollouts(
            stage,
            run.config.seed,
            run.learners,
            self.workers,
            self.line,
            self.keep,
            run.config.cluster.report_every_s,
            run.progress.message,
        )
        self.cluster.on_idle(rollouts.pump)
        return rollouts

    def abandon(self) -> None:
        """Forget all that is being sampled and scored."""
        self.cluster.on_idle(None)
        self.line.drop()
        self.workers.abandon()


def has_environment(config: RunConfig) -> bool:
    """Whether anything that is sampled may be rewarded by an environment."""
    return any(stage.environment is not None for stage in sampling_stages(config))


def is_unrewarded(config: RunConfig) -> bool:
    """Whether nothing rewards what some stage samples, because nothing reads it (a rule has made sure)."""
    return any(not stage.rewards and stage.environment is None for stage in sampling_stages(config))


def unjudged(config: RunConfig) -> list[str]:
    """That a task's own held-out problems are not asked, where nothing would judge the answers."""
    own = config.stages[-1].data.task
    if own is None or config.evaluation.data is not None or is_judged(config):
        return []
    return [
        f"nothing judges answers, so the held-out problems of {own!r} are not asked; "
        "`rewards: NAME` would have them scored"
    ]


def learner_arguments(cluster: Cluster, config: RunConfig, directory: RunDirectory) -> list[dict[str, Any]]:
    """What each learner rank is made with; the place where ranks meet serves one group only."""
    ranks = config.cluster.learner_ranks
    common: dict[str, Any] = {
        "model": config.model,
        "train": config.stages[0].train,
        "seed": config.seed,
        "world_size": ranks,
        "rendezvous": cluster.rendezvous() if ranks > 1 else None,
        "replay_dir": directory.replay,
        "threads": config.cluster.threads,
        "deadline_s": config.cluster.deadline_s,
    }
    if config.learner.backend == "deepspeed":
        common["settings"] = config.learner
    return [common | {"rank": rank} for rank in range(ranks)]


def start_actors(
    cluster: Cluster,
    config: RunConfig,
    directory: RunDirectory,
    data: Mapping[str, PromptSet],
    report: Callable[[str], None],
) -> tuple[Learners, Workers]:
    """The learner ranks and the rollout workers, inline or on Ray."""
    deepspeed = config.learner.backend == "deepspeed"
    learner: type[TorchLearner | DeepSpeedLearner] = DeepSpeedLearner if deepspeed else TorchLearner
    learners = Learners(cluster.start_group(LEARNER, learner, learner_arguments(cluster, config, directory)))
    rollout = sampling_stages(config)[0].rollout
    worker = {
        "model": config.model,
        "rollout": rollout,
        "seed": config.seed,
        "threads": config.cluster.threads,
        "background": config.cluster.mode == "ray",
    }
    group = cluster.start_group(WORKER, RolloutWorker, [worker] * rollout.workers)
    prompts = next(iter(data.values())).prompts
    weights = config.weights.model_copy(update={"probe_tolerance": probe_tolerance(config)})
    return learners, Workers(group, weights, config.cluster, prompts, report)


def run_to_the_end(
    run: Run,
    data: Mapping[str, PromptSet],
    sampling: Sampling,
    recovery: Recovery,
    learner_path: Path | None,
) -> None:
    """Stages and last words; from the last checkpoint again when a learner rank is lost meanwhile.

    Raises:
        Stopped: it was told to.
    """
    while True:
        try:
            try:
                run_stages(run, data, sampling, learner_path)
                finish(run, run.saver.directory)
                return
            except StopNoticed as notice:
                raise save_and_stop(run, sampling, str(notice)) from None
        except ActorLostError as error:
            state, learner_path = recovery.after(error, run.state)
            run = replace(run, state=state)


def save_and_stop(run: Run, sampling: Sampling, reason: str) -> Stopped:
    """Save the last finished step, unless that is done; how the run ends then.

    Raises:
        ActorLostError: a learner rank was lost meanwhile.
    """
    # What is still being sampled stays unread: it belongs to a step that is made again.
    sampling.cluster.on_idle(None)
    state = run.state
    if state.step and not run.saver.has(state):
        run.saver.save(state)
    return Stopped(reason, state.step, run.saver.directory.path)


def run_stages(
    run: Run, data: Mapping[str, PromptSet], sampling: Sampling, learner_path: Path | None
) -> None:
    """Every stage that is not done yet; the one in the middle of which the run stopped goes on there."""
    while run.state.stage < len(run.config.stages):
        run_stage(run, data, sampling, learner_path)
        learner_path = None
    if learner_path is not None:
        # All stages are done: what is missing reads the policy alone, so nothing else was started.
        run.learners.load(learner_path, weights_only=True)


def run_stage(run: Run, data: Mapping[str, PromptSet], sampling: Sampling, learner_path: Path | None) -> None:
    """One stage, from its beginning or from what is to be loaded."""
    stage = run.config.stages[run.state.stage]
    run.learners.start_stage(stage)
    if learner_path is not None:
        run.learners.load(learner_path, weights_only=run.state.stage_step == 0)
    sampling.cluster.phase = f"stage {stage.name}"
    source: Source = sampling.source(run, stage) if stage.has_rollouts else Demonstrations(stage)
    train_stage(run, stage, data[stage.name], source)
