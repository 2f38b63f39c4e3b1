"""What a configuration will do, in words: where it runs, who waits how long, what happens to the lost."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.config.schema import RolloutConfig, RunConfig, StageConfig
from rlpost.config.words import count, listed


def runtime(config: RunConfig) -> Iterator[tuple[str, str]]:
    """The lines about processes, as pairs of label and text."""
    rollout = _sampling(config)
    if config.cluster.mode == "inline":
        yield "runs on", "this process (cluster.mode: inline)"
    else:
        yield "runs on", _ray(config)
        yield "placement", _placement(config, rollout)
    if config.learner.backend == "deepspeed":
        yield "learner", _zero(config)
    if rollout is not None:
        yield "weights", _proofs(config)
    if config.cluster.mode == "ray":
        yield "failures", _failures(config, rollout)
    if deadlines := _deadlines(config, rollout):
        yield "deadlines", deadlines


def accelerators(config: RunConfig) -> int:
    """Accelerators that the learner ranks and the engines have together, where there are any."""
    ranks, engines = config.cluster.learner_ranks, _for_engines(_sampling(config))
    return max(ranks, engines) if config.cluster.placement == "colocated" else ranks + engines


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


def _sampling(config: RunConfig) -> RolloutConfig | None:
    """The settings of the workers; None for a run that samples in no stage and evaluates nothing."""
    for stage in config.stages:
        if stage.source == "rollouts":
            return stage.rollout
    last = config.stages[-1]
    return last.rollout if config.evaluation.data is not None or last.data.task is not None else None


def _for_engines(rollout: RolloutConfig | None) -> int:
    """The torch engine samples on the CPU."""
    if rollout is None or rollout.engine != "vllm":
        return 0
    return rollout.workers * rollout.vllm.tensor_parallel


def _ray(config: RunConfig) -> str:
    address = config.cluster.address
    if address:
        return f"the Ray cluster at {address}"
    return "a Ray cluster that is started on this machine and bound to loopback"


def _placement(config: RunConfig, rollout: RolloutConfig | None) -> str:
    learner = count(config.cluster.learner_ranks, "learner rank")
    workers = "no rollout worker" if rollout is None else count(rollout.workers, "rollout worker")
    total = count(accelerators(config), "accelerator")
    if rollout is None or not _for_engines(rollout):
        return f"{learner} x 1 = {total} or, without any, on the CPU; {workers}, on the CPU"
    each, alone = rollout.vllm.tensor_parallel, "without any, all are on the CPU"
    if config.cluster.placement == "split":
        return f"split: {learner} x 1 + {workers} x {each} = {total}; {alone}"
    return (
        f"colocated: {learner} x 1 and {workers} x {each} share {total}; {alone};\n"
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
        "each transfer to an engine is proven by its version and a checksum of every tensor,\n"
        f"{probed} also by log-probs of a probe, at most {weights.probe_tolerance:g} nats apart"
    )


def _failures(config: RunConfig, rollout: RolloutConfig | None) -> str:
    cluster = config.cluster
    lost = f"a process that ends, or is silent for {cluster.hang_deadline_s:g} s, is lost"
    if not cluster.max_restarts:
        return f"{lost}, and the run ends with the cause"
    lines = [f"{lost};", f"more than {cluster.max_restarts} within a step end the run with the cause"]
    if rollout is not None:
        lines.append("a lost rollout worker is replaced, and what it had not finished is sampled anew")
    lines.append("a lost learner rank takes all ranks back to the last checkpoint")
    return "\n".join(lines)


def _deadlines(config: RunConfig, rollout: RolloutConfig | None) -> str:
    cluster, vllm = config.cluster, rollout.vllm if rollout is not None else None
    lines = []
    if cluster.mode == "ray":
        transfer = f", {config.weights.deadline_s:g} s for a weight transfer" if rollout is not None else ""
        lines.append(
            f"{cluster.deadline_s:g} s for any one answer{transfer}; "
            f"who waits for whom is shown after {cluster.report_every_s:g} s"
        )
    if vllm is not None and rollout is not None and rollout.engine == "vllm":
        lines.append(
            f"vLLM: {vllm.start_deadline_s:g} s to start, {vllm.stall_deadline_s:g} s without progress"
        )
    return "\n".join(lines)
