"""Sizes of a recipe against its machines, as far as no rule of the configuration refuses them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

from rlpost.cluster.placement import Node, bundles, plan
from rlpost.config.schema import RunConfig
from rlpost.preflight.finding import ERROR, OK, UNTRIED, WARNING, Finding
from rlpost.sizing.target import Target

IDLE_SHARE = 0.1
"""Of the learners' time that may go to waiting for the rank with the most sequences."""


def size_findings(config: RunConfig, target: Target) -> Iterator[Finding]:
    """Accelerators, machines, and what is divided over ranks and steps."""
    yield from _machines(config, target)
    yield _accelerators(config, target)
    yield from _shares(config)
    yield from _warm_up(config)


def _machines(config: RunConfig, target: Target) -> Iterator[Finding]:
    if target.count == 1:
        return
    found = f"{target.count} machines"
    if config.cluster.mode == "inline":
        yield Finding(
            "machines",
            ERROR,
            f"{found}, but cluster.mode: inline is one process on one of them",
            "set cluster.mode to ray, or machines.count to 1",
        )
    elif config.weights.transport == "shared_memory":
        yield Finding(
            "machines",
            ERROR,
            f"{found}, but weights.transport: shared_memory reaches only engines on the learner's",
            "set weights.transport to auto or broadcast",
        )
    else:
        yield Finding("machines", OK, found)


def _accelerators(config: RunConfig, target: Target) -> Finding:
    """Every learner rank and engine finds its accelerators, and none of those paid for stays idle."""
    name, each = "accelerators", target.accelerators
    if each is None:
        return Finding(
            name, UNTRIED, "how many the machines have is not known here", "say so: machines.accelerators"
        )
    if each == 0:
        return Finding(name, OK, "none: everything runs on CPUs")
    if config.cluster.mode == "inline":
        needed, fits, asked = 1, True, "1 for the only process"
    else:
        wanted = bundles(config)
        needed = sum(bundle.size for bundle in wanted)
        machines = [Node(str(number), each, each) for number in range(target.count)]
        fits, asked = plan(wanted, machines) is not None, _asked(config, needed)
    total = each * target.count
    there = f"{target.count} x {each} = {total}" if target.count > 1 else f"{total}"
    found = f"{asked}; there are {there}"
    if not fits:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        notes = (f"CUDA_VISIBLE_DEVICES is {hidden!r}",) if target.local and hidden is not None else ()
        return Finding(
            name,
            ERROR,
            found,
            "lower cluster.learner_ranks, rollout.workers or rollout.vllm.tensor_parallel, set "
            "cluster.placement to colocated, or raise machines",
            notes,
        )
    if needed < total and target.said:
        return Finding(
            name,
            WARNING,
            f"{found}: {total - needed} would be idle",
            "raise cluster.learner_ranks or rollout.workers, or ask for fewer machines",
        )
    return Finding(name, OK, found)


def _asked(config: RunConfig, needed: int) -> str:
    ranks = config.cluster.learner_ranks
    workers = needed - ranks
    if config.cluster.placement == "colocated":
        return f"{needed} shared by learner ranks and rollout workers"
    return f"{ranks} for learner ranks + {workers} for rollout workers = {needed}"


def _shares(config: RunConfig) -> Iterator[Finding]:
    """Ranks with one sequence more keep the others waiting; with few sequences for each, for long."""
    ranks = config.cluster.learner_ranks
    if ranks == 1:
        return
    even = []
    for stage in config.stages:
        train = stage.train
        sequences = train.prompts_per_step * train.samples_per_prompt // train.updates_per_step
        most = math.ceil(sequences / ranks)
        idle = 1 - sequences / (ranks * most)
        found = f"{sequences} sequences an update / {ranks} ranks = {sequences / ranks:g}"
        if idle > IDLE_SHARE:
            yield Finding(
                f"shares, stage {stage.name}",
                WARNING,
                f"{found}: ranks wait {idle:.0%} of the time for those with {most}",
                f"make an update's sequences a multiple of {ranks}: train.prompts_per_step, "
                "train.samples_per_prompt, train.updates_per_step",
            )
        elif found not in even:
            even.append(found)
    if even:
        yield Finding("shares", OK, "; ".join(even))


def _warm_up(config: RunConfig) -> Iterator[Finding]:
    for stage in config.stages:
        updates = stage.train.steps * stage.train.updates_per_step
        if stage.train.warmup_steps >= updates:
            yield Finding(
                f"learning rate, stage {stage.name}",
                WARNING,
                f"it rises over {stage.train.warmup_steps} updates, and the stage has {updates}",
                f"set train.warmup_steps below {updates}",
            )
