"""What a configuration will do, in words: where it runs, who waits how long, what happens to the lost."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.config.dependent import probe_tolerance
from rlpost.config.held_out import held_out_sets
from rlpost.config.schema import RolloutConfig, RunConfig, StageConfig
from rlpost.config.words import count, listed


def runtime(config: RunConfig) -> Iterator[tuple[str, str]]:
    """The lines about processes, as pairs of label and text."""
    if config.cluster.mode == "inline":
        yield "runs on", "this process (cluster.mode: inline)"
    else:
        yield "runs on", _ray(config)
        yield "placement", _placement(config)
    if config.learner.backend == "deepspeed":
        yield "learner", _zero(config)
    if _asks_workers(config):
        yield "weights", _proofs(config)
    if config.cluster.mode == "ray":
        yield "failures", _failures(config)
    if deadlines := _deadlines(config):
        yield "deadlines", deadlines


def accelerators(config: RunConfig) -> int:
    """Accelerators that the learner ranks and the workers take together, where there are any."""
    ranks, rollout = config.cluster.learner_ranks, _workers(config)
    for_workers = rollout.workers * _per_worker(rollout)
    return max(ranks, for_workers) if config.cluster.placement == "colocated" else ranks + for_workers


def schedule(stage: StageConfig, *, refills: bool) -> str:
    """How sampling and updates of a stage follow each other.

    Args:
        refills: the objective asks for further prompts until its batch is full.
    """
    train = stage.train
    ahead = train.max_staleness
    if not ahead:
        return "sampling and updates take turns: every token comes from the weights that it trains"
    batches = ahead + 1
    open_ones = f"at most {batches} batches = {batches * train.prompts_per_step * train.samples_per_prompt}"
    limit = (
        f"at most {batches} batches are open, one of them incomplete: only a full batch lets the next begin"
        if refills
        else f"{open_ones} sequences are open"
    )
    return (
        f"steps are sampled up to {count(ahead, 'step')} ahead: a token is at most {count(ahead, 'step')} "
        f"older than the weights it trains;\n{limit}"
    )


def _workers(config: RunConfig) -> RolloutConfig:
    """The settings of the workers, which a purely supervised run has for its evaluations."""
    sampled = [stage.rollout for stage in config.stages if stage.has_rollouts]
    return (sampled or [config.stages[-1].rollout])[0]


def _asks_workers(config: RunConfig) -> bool:
    """Whether anything is sampled at all."""
    sampled = any(stage.has_rollouts for stage in config.stages)
    return sampled or bool(held_out_sets(config))


def _per_worker(rollout: RolloutConfig) -> int:
    return rollout.vllm.tensor_parallel if rollout.engine == "vllm" else 1


def _ray(config: RunConfig) -> str:
    address = config.cluster.address
    if address:
        return f"the Ray cluster at {address}"
    return "a Ray cluster that is started on this machine and bound to loopback"


def _placement(config: RunConfig) -> str:
    rollout = _workers(config)
    learner = f"{count(config.cluster.learner_ranks, 'learner rank')} x 1"
    workers = f"{count(rollout.workers, 'rollout worker')} x {_per_worker(rollout)}"
    total, alone = count(accelerators(config), "accelerator"), "without any, all on the CPU"
    if config.cluster.placement == "split":
        return f"split: {learner} + {workers} = {total}; {alone}"
    return (
        f"colocated: {learner} and {workers} share {total}; {alone};\n"
        "engines give up their memory while the learner works"
    )


def _zero(config: RunConfig) -> str:
    learner, ranks = config.learner, config.cluster.learner_ranks
    parts = ("optimizer state", "gradients", "weights")[: learner.zero_stage]
    divided = f"{listed(parts)} divided over {count(ranks, 'rank')}" if parts else "nothing divided"
    kept = {"optimizer state": learner.offload_optimizer, "weights": learner.offload_parameters}
    host = [name for name, offloaded in kept.items() if offloaded]
    return f"DeepSpeed, ZeRO {learner.zero_stage}: {divided}" + (
        f"; {listed(host)} in host memory" if host else ""
    )


def _proofs(config: RunConfig) -> str:
    weights = config.weights
    probed = "every one" if weights.probe_every == 1 else f"the first and one in {weights.probe_every}"
    return (
        f"{_way(config)}each transfer to an engine is proven by its version and a checksum of every tensor,\n"
        f"{probed} also by log-probs of a probe, at most {probe_tolerance(config):g} nats apart"
    )


def _way(config: RunConfig) -> str:
    if config.cluster.mode == "inline":
        return ""
    memory, copies = "engines read the learner's memory", "Ray carries a copy to each engine"
    broadcast = "the learner sends to all at once"
    chosen = config.weights.transport
    if chosen != "auto":
        return {"shared_memory": memory, "object_store": copies, "broadcast": broadcast}[chosen] + ";\n"
    if config.cluster.placement == "colocated":
        return f"on one host {memory}, on several {copies};\n"
    return f"on one host {memory}, on several {broadcast};\n"


def _failures(config: RunConfig) -> str:
    cluster = config.cluster
    lost = f"a process that ends, or is silent for {cluster.hang_deadline_s:g} s, is lost"
    if not cluster.max_restarts:
        return f"{lost}, and the run ends with the cause"
    return (
        f"{lost};\n"
        f"more than {cluster.max_restarts} within a step end the run with the cause\n"
        "a lost rollout worker is replaced, and what it had not finished is sampled anew\n"
        "a lost learner rank takes all ranks back to the last checkpoint"
    )


def _deadlines(config: RunConfig) -> str:
    cluster, rollout = config.cluster, _workers(config)
    lines = []
    if cluster.mode == "ray":
        transfer = f", {config.weights.deadline_s:g} s for a weight transfer" if _asks_workers(config) else ""
        lines.append(
            f"{cluster.deadline_s:g} s for any one answer{transfer}; "
            f"who waits for whom is shown after {cluster.report_every_s:g} s"
        )
    if rollout.engine == "vllm":
        start, stall = rollout.vllm.start_deadline_s, rollout.vllm.stall_deadline_s
        lines.append(f"vLLM: {start:g} s to start, {stall:g} s without progress")
    return "\n".join(lines)
