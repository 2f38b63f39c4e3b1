"""plan_memory: from a recipe to a MemoryPlan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rlpost.config.held_out import held_out_sets
from rlpost.config.schema import RunConfig
from rlpost.sizing.driver import driver_roles
from rlpost.sizing.learner import LearnerSetting, learner_roles
from rlpost.sizing.lengths import Lengths, stage_lengths
from rlpost.sizing.memory import Kind, MemoryPlan, Place, Role
from rlpost.sizing.model_facts import ModelFacts, model_facts
from rlpost.sizing.placing import FIRST, places, seat
from rlpost.sizing.remedies import remedies
from rlpost.sizing.rollout import Sampling, least_bytes, worker_role
from rlpost.sizing.target import Target, find_target
from rlpost.sizing.transfer import receiver_lines, sender_lines


def plan_memory(config: RunConfig, *, hub: bool = True, target: Target | None = None) -> MemoryPlan:
    """How much memory a recipe takes, by role and by place, beside what its target has. Nothing is loaded.

    Args:
        hub: whether the Hugging Face hub may be asked for a model's configuration.
        target: the machines; those that the recipe describes, or else this one, without it.

    Raises:
        ConfigError: a model's configuration cannot be had.
        CompositionError: a stage's algorithm is not valid.
    """
    machines = target or find_target(config)
    found = _plan(config, machines, hub)
    short = [place for place in found.places if place.verdict == "does not fit"]
    if not short:
        return found

    def replanned(changed: RunConfig) -> MemoryPlan:
        return _plan(changed, machines, hub)

    helped = tuple(
        replace(place, remedies=remedies(config, place, replanned)) if place in short else place
        for place in found.places
    )
    return replace(found, places=helped)


def _plan(config: RunConfig, target: Target, hub: bool) -> MemoryPlan:
    facts = model_facts(config.model, hub=hub)
    kind: Kind = "accelerator" if target.accelerators else "host"
    sampling = _sampling(config, facts, kind, target)
    roles = {role.name: role for role in _roles(config, facts, kind, target, sampling, hub)}
    machines, fault = seat(config, roles, target)
    in_turns = all(stage.train.max_staleness == 0 for stage in config.stages)
    found = list(places(machines, roles, target, in_turns=in_turns))
    if sampling is not None and (share := _vllm_share(sampling, roles)):
        found.append(share)
    notes = [f"the model's sizes are from {facts.source}", f"what the machines have: {target.source}"]
    notes += [fault] if fault else []
    notes += _length_notes(config, facts)
    return MemoryPlan(facts, tuple(roles.values()), tuple(found), tuple(notes))


def _roles(
    config: RunConfig,
    facts: ModelFacts,
    kind: Kind,
    target: Target,
    sampling: Sampling | None,
    hub: bool,
) -> Iterator[Role]:
    machines = target.count
    worst = max(
        (learner_roles(LearnerSetting.of(config, stage, facts, kind), hub) for stage in config.stages),
        key=lambda roles: roles[0].peak(kind),
    )
    for role in worst:
        own = sender_lines(config, facts, kind, machines) if sampling and role.name == FIRST else ()
        yield replace(role, lines=(*role.lines, *own))
    if sampling is not None:
        role = worker_role(sampling, sampling.engine.workers)
        yield replace(role, lines=(*role.lines, *receiver_lines(config, facts, kind, machines)))
    yield from driver_roles(config, facts)


def _sampling(config: RunConfig, facts: ModelFacts, kind: Kind, target: Target) -> Sampling | None:
    """What the workers sample, evaluations included; None where nobody asks them."""
    stages = [stage for stage in config.stages if stage.has_rollouts]
    asked = stages or ([config.stages[-1]] if held_out_sets(config) else [])
    if not asked:
        return None
    lengths = [stage_lengths(config, stage, facts).total for stage in stages]
    if held_out_sets(config):
        evaluated = config.evaluation.max_response_tokens or asked[-1].rollout.max_response_tokens
        own = config.evaluation.data or asked[-1].data
        prompt = stage_lengths(config, asked[-1], facts).prompt if own.task else own.max_prompt_tokens
        lengths.append(prompt + evaluated)
    longest = max(lengths)
    return Sampling(
        config=config,
        facts=facts,
        engine=asked[0].rollout,
        longest=longest if facts.positions is None else min(longest, facts.positions),
        slots=max(stage.rollout.slots for stage in asked),
        kind=kind,
        card_bytes=target.accelerator_bytes,
        sleeps=config.cluster.placement == "colocated",
    )


def _vllm_share(sampling: Sampling, roles: dict[str, Role]) -> Place | None:
    """What vLLM may take of each accelerator, and the least that an engine starts with."""
    options = sampling.engine.vllm
    if sampling.engine.engine != "vllm" or sampling.kind != "accelerator" or sampling.card_bytes is None:
        return None
    if options.kv_cache_gib is not None:
        return None
    limit = int(options.gpu_memory_utilization * sampling.card_bytes)
    name = f"vLLM's share, {options.gpu_memory_utilization:g} of its accelerators"
    worker = roles["rollout worker"]
    count = worker.count * sampling.tensor_parallel
    return Place(name, "accelerator", count, ((worker, 1),), limit, least_bytes(sampling), "sample")


def _length_notes(config: RunConfig, facts: ModelFacts) -> Iterator[str]:
    for stage in config.stages:
        lengths: Lengths = stage_lengths(config, stage, facts)
        if not lengths.known:
            yield (
                f"stage {stage.name}: nothing but the model's positions limits demonstrations; a micro-batch "
                f"is counted as train.tokens_per_microbatch, {stage.train.tokens_per_microbatch:,}"
            )
