"""Changes of a recipe that take less memory, each planned anew to see what it saves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from pydantic import BaseModel

from rlpost.config.schema import RunConfig, StageConfig
from rlpost.sizing.memory import MemoryPlan, Place, Remedy

Model = TypeVar("Model", bound=BaseModel)

WORTH = 0.02
"""A change that saves a smaller share of what is needed is not worth telling."""
TOLD = 3


def remedies(
    config: RunConfig, place: Place, replan: Callable[[RunConfig], MemoryPlan]
) -> tuple[Remedy, ...]:
    """What would help most at a place that is short: what suffices first, small changes before large ones.

    Args:
        replan: the plan of a changed recipe.
    """
    found = []
    for change, changed in _changes(config, place):
        plan = replan(changed)
        now = _same(plan, place)
        saves = place.needed - now.needed if place.limit == now.limit else _relief(place, now)
        if saves >= WORTH * place.needed:
            found.append(Remedy(change, saves, plan.verdict != "does not fit"))
    found.sort(key=lambda remedy: (not remedy.fits, 0 if remedy.fits else -remedy.saves))
    return tuple(found[:TOLD])


def _same(plan: MemoryPlan, place: Place) -> Place:
    """The place of the same kind, and of the same sort, that is worst off."""
    alike = [p for p in plan.places if p.kind == place.kind and _sort(p) == _sort(place)]
    return max(alike or [place], key=lambda p: p.share or 0.0)


def _sort(place: Place) -> str:
    return place.name.split(",")[0] if place.name.startswith("vLLM") else ""


def _relief(before: Place, after: Place) -> int:
    """Bytes less over the limit, where that changes too."""
    return (before.needed - (before.limit or 0)) - (after.needed - (after.limit or 0))


def _changes(config: RunConfig, place: Place) -> Iterator[tuple[str, RunConfig]]:
    if place.name.startswith("vLLM"):
        yield from _engine_changes(config)
    elif place.kind == "accelerator":
        yield from _pass_changes(config)
        yield from _engine_changes(config)
        yield from _state_changes(config)
    elif place.kind == "host":
        yield from _pass_changes(config)
        yield from _state_changes(config)
        yield from _host_changes(config)
    elif config.cluster.placement == "split":
        yield "weights.transport=broadcast", _with(config, "weights", transport="broadcast")


def _pass_changes(config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    if not config.model.gradient_checkpointing:
        yield "model.gradient_checkpointing=true", _with(config, "model", gradient_checkpointing=True)
    largest = max(stage.train.tokens_per_microbatch for stage in config.stages)
    for part in (2, 4):
        tokens = largest // part
        if tokens >= 256:
            changed = _stages(
                config,
                lambda s, t=tokens: _with(
                    s, "train", tokens_per_microbatch=min(t, s.train.tokens_per_microbatch)
                ),  # type: ignore[misc]
            )
            yield f"train.tokens_per_microbatch={tokens}", changed


def _state_changes(config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    learner, ranks = config.learner, config.cluster.learner_ranks
    stage = learner.zero_stage if learner.backend == "deepspeed" else 0
    for wanted in (2, 3):
        if ranks > 1 and stage < wanted:
            said = "" if learner.backend == "deepspeed" else "learner.backend=deepspeed "
            changed = _with(config, "learner", backend="deepspeed", zero_stage=wanted)
            yield f"{said}learner.zero_stage={wanted}", changed
    if config.cluster.mode == "ray" and learner.backend == "deepspeed":
        yield f"cluster.learner_ranks={2 * ranks}", _with(config, "cluster", learner_ranks=2 * ranks)
    if stage and not learner.offload_optimizer:
        yield "learner.offload_optimizer=true", _with(config, "learner", offload_optimizer=True)
    if stage == 3 and learner.offload_optimizer and not learner.offload_parameters:
        yield "learner.offload_parameters=true", _with(config, "learner", offload_parameters=True)


def _engine_changes(config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    engine = next((s.rollout for s in config.stages if s.has_rollouts), config.stages[-1].rollout)
    if engine.engine != "vllm":
        return
    options = engine.vllm
    for share in (0.9, 0.8, 0.6, 0.45, 0.35, 0.25):
        if share != options.gpu_memory_utilization:
            changed = _vllm(config, gpu_memory_utilization=share)
            yield f"rollout.vllm.gpu_memory_utilization={share:g}", changed
    parts = 2 * options.tensor_parallel
    yield f"rollout.vllm.tensor_parallel={parts}", _vllm(config, tensor_parallel=parts)


def _host_changes(config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    if config.learner.offload_optimizer:
        yield "learner.offload_optimizer=false", _with(config, "learner", offload_optimizer=False)
    split = config.cluster.mode == "ray" and config.cluster.placement == "split"
    if split and config.weights.transport in ("auto", "shared_memory"):
        yield "weights.transport=broadcast", _with(config, "weights", transport="broadcast")
    if config.scoring.workers > 2:
        half = config.scoring.workers // 2
        yield f"scoring.workers={half}", _with(config, "scoring", workers=half)
    slots = max(stage.rollout.slots for stage in config.stages) // 2
    if slots:
        changed = _stages(config, lambda s: _with(s, "rollout", slots=slots))
        yield f"rollout.slots={slots}", changed
    if config.model.dtype == "float32":
        yield "model.dtype=bfloat16", _with(config, "model", dtype="bfloat16")


def _vllm(config: RunConfig, **changes: object) -> RunConfig:
    def change(stage: StageConfig) -> StageConfig:
        rollout = stage.rollout
        return _with(stage, "rollout", vllm=rollout.vllm.model_copy(update=changes))

    return _stages(config, change)


def _stages(config: RunConfig, change: Callable[[StageConfig], StageConfig]) -> RunConfig:
    return config.model_copy(update={"stages": [change(stage) for stage in config.stages]})


def _with(model: Model, section: str, **changes: object) -> Model:
    held: BaseModel = getattr(model, section)
    return model.model_copy(update={section: held.model_copy(update=changes)})
