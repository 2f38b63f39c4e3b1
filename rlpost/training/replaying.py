"""replay(): the learner on saved rollouts, with no engine and no reward function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlpost.cluster import InlineGroup
from rlpost.config import load_config, stage_objective
from rlpost.config.schema import RunConfig, StageConfig
from rlpost.data import PromptSampler, PromptSet
from rlpost.errors import UserError
from rlpost.learner import TorchLearner
from rlpost.learner.critic import CriticPlan
from rlpost.learner.optimizer import gradient_norm
from rlpost.learner.replay_batch import load_batch
from rlpost.models import load_tokenizer
from rlpost.monitor import read_metrics
from rlpost.training.checkpoint import find_checkpoint
from rlpost.training.learners import Learners
from rlpost.training.loop import train_step
from rlpost.training.run_directory import RunDirectory
from rlpost.training.saving import LEARNER, STATE, run_identity
from rlpost.training.sources import Demonstrations, Recorded, Source
from rlpost.training.stage_data import load_stages
from rlpost.training.state import RunState
from rlpost.training.teachers import examine_teachers

COMPARED = (
    *("policy/loss", "learner/grad_norm", "learner/trained_tokens"),
    *("critic/loss", "critic/outcome_loss", "critic/grad_norm"),
)


def replay(run_dir: Path, step: int, report: Callable[[str], None] = print) -> dict[str, float]:
    """Train from the last checkpoint before `step` on the run's own rollouts, up to `step`.

    Without such a checkpoint it starts from the initial weights. The step that a loss or gradient
    which was not finite stopped is replayed from the batch that was saved then.

    Args:
        step: counted from 1 over all stages, as in metrics.jsonl.
        report: told what is going on, line by line.

    Returns:
        the replayed losses, gradient norms and trained tokens, and what the run recorded,
        under "recorded/...".

    Raises:
        UserError: `run_dir` is not a run, or has no such step.
        DataError: the rollouts that are needed were not kept.
    """
    directory = RunDirectory(run_dir)
    if not directory.config.is_file():
        raise UserError("this is not a run directory", where=run_dir, needed="config.yaml in it")
    config = load_config(directory.config, [])
    recorded = {int(row["step"]): row for row in read_metrics(run_dir)}
    last = max(recorded, default=0)
    refused = sorted(directory.replay.glob("update-*"), key=lambda path: path.stat().st_mtime)
    if step == last + 1 and refused:
        return replay_refused(config, refused[-1], report)
    if step not in recorded:
        raise UserError("the run has no such step", found=f"--step {step}", needed=f"1 to {last}")
    tokenizer = load_tokenizer(config.model)
    data = load_stages(config, tokenizer)
    learners = Learners(
        InlineGroup(
            TorchLearner, [{"model": config.model, "train": config.stages[0].train, "seed": config.seed}]
        )
    )
    state = restore_before(directory, config, data, learners, step, report)
    metrics: dict[str, float] = {}
    while state.step < step:
        stage = config.stages[state.stage]
        source: Source = Recorded(directory, stage) if stage.has_rollouts else Demonstrations(stage)
        if state.stage_step == 0:
            learners.start_stage(stage)
        metrics = replay_step(learners, state, stage, data[stage.name], source, config.seed)
        if state.stage_step == stage.train.steps:
            state.next_stage()
    if not metrics["learner/updates"] and not metrics.get("critic/updates"):
        report(f"step {step} updated nothing: no sample of it carried a signal")
    result = {name: metrics[name] for name in COMPARED if name in metrics}
    known = {f"recorded/{name}": float(recorded[step][name]) for name in COMPARED if name in recorded[step]}
    return result | known


def replay_refused(config: RunConfig, folder: Path, report: Callable[[str], None]) -> dict[str, float]:
    """Repeat the update that stopped the run because its loss or gradient was not finite.

    Returns:
        the loss of the saved batch under the saved weights, and the norm of its gradient; of the policy, and
        of the critic where there is one.
    """
    report(f"replaying the update that stopped the run, from {folder}")
    batch = load_batch(folder / "batch-rank-000")
    report(f"it was refused because of: {'; '.join(batch.facts['faults'])}")
    train, reference = config.stages[0].train, "ref_logprob" in batch.objective.signals
    learner = TorchLearner(config.model, train, seed=config.seed)
    critic, values_only = batch.facts["critic"], bool(batch.facts["values_only"])
    learner.start_stage(train, reference, None if critic is None else CriticPlan.from_json(critic))
    learner.load(folder / "learner")
    result: dict[str, float] = {}
    if not values_only:
        arguments = (batch.inputs, batch.prepared, batch.objective, batch.temperature)
        scaling = learner.scaling(*arguments)
        local = learner.accumulate(*arguments, scaling.factor)
        norm = gradient_norm(learner.policy.model.parameters())
        result |= {"policy/surrogate": local.loss, "learner/grad_norm": float(norm)} | scaling.report()
    if learner.critic is not None:
        learnt = learner.critic.accumulate(batch.inputs, batch.prepared, alone=values_only)
        loss, norm = learner.critic.plan.loss.metric, learner.critic.summed_norm()
        result |= {loss: float(learnt.sums[loss]), "critic/grad_norm": float(norm)}
    return result


def restore_before(
    directory: RunDirectory,
    config: RunConfig,
    data: dict[str, PromptSet],
    learners: Learners,
    step: int,
    report: Callable[[str], None],
) -> RunState:
    """The newest state of the run in which fewer than `step` steps were done."""
    identity = run_identity(config, {name: prompts.fingerprint for name, prompts in data.items()})
    identity |= examine_teachers(config)
    found = find_checkpoint(directory.checkpoints, identity, report, before=step)
    if found is None:
        report("replaying from the initial weights")
        return RunState()
    report(f"replaying from {found.path.name}")
    state = RunState.load(found.path / STATE)
    learners.start_stage(config.stages[state.stage])
    learners.load(found.path / LEARNER, weights_only=state.stage_step == 0)
    return state


def replay_step(
    learners: Learners, state: RunState, stage: StageConfig, prompts: PromptSet, source: Source, seed: int
) -> dict[str, float]:
    """One recorded step; advances `state`."""
    sampler = PromptSampler(prompts, stage.train.prompts_per_step, seed, stage.data.shuffle)
    if state.sampler is not None:
        sampler.load_state_dict(state.sampler)
    return train_step(learners, state, stage, stage_objective(stage), source, sampler, seed)
