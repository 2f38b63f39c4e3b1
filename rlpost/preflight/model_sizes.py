"""A model's dimensions against what the recipe asks of its engine; nothing but its configuration is read."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.config.held_out import held_out_sets, sampling_stages
from rlpost.config.schema import CPU_KV_CACHE_GIB, RunConfig, VLLMConfig
from rlpost.machine import GIB
from rlpost.preflight.finding import ERROR, OK, WARNING, Finding
from rlpost.sizing.learner import DTYPE_BYTES
from rlpost.sizing.model_facts import ModelFacts
from rlpost.sizing.rollout import response_bytes
from rlpost.sizing.target import Target
from rlpost.sizing.words import amount


def model_findings(config: RunConfig, target: Target, facts: ModelFacts) -> Iterator[Finding]:
    """Positions for the longest sequence; heads for each part of an engine, and memory for one response."""
    yield _positions(config, facts)
    rollout = sampling_stages(config)[0].rollout
    if rollout.engine == "vllm":
        yield _longest(rollout.vllm, facts)
        if rollout.vllm.tensor_parallel > 1:
            yield _heads(rollout.vllm, facts)
        yield from _cache(config, rollout.vllm, target, facts)


def longest_sequence(config: RunConfig) -> tuple[int, str]:
    """Tokens of the longest sequence that an engine may be asked for, and the sum that they are."""
    asked = [
        (stage.data.max_prompt_tokens, stage.rollout.max_response_tokens)
        for stage in config.stages
        if stage.has_rollouts
    ]
    response = config.evaluation.max_response_tokens or config.stages[-1].rollout.max_response_tokens
    asked += [(held_out.max_prompt_tokens, response) for held_out in held_out_sets(config).values()]
    prompt, response = max(asked, key=sum, default=(0, 0))
    return prompt + response, f"{prompt} max_prompt_tokens + {response} max_response_tokens"


def _positions(config: RunConfig, facts: ModelFacts) -> Finding:
    """A warning only: the prompts that there are may be shorter, which their data will tell."""
    name, (longest, arithmetic) = "positions", longest_sequence(config)
    if facts.positions is None or longest <= facts.positions:
        limit = "no limit" if facts.positions is None else f"the model reads {facts.positions}"
        return Finding(name, OK, f"{arithmetic} = {longest}, {limit}")
    return Finding(
        name,
        WARNING,
        f"{arithmetic} = {longest}, but the model reads {facts.positions}: a long prompt would end the run",
        f"lower data.max_prompt_tokens or rollout.max_response_tokens to {facts.positions} in all",
    )


def _longest(options: VLLMConfig, facts: ModelFacts) -> Finding:
    name, asked = "max_model_len", options.max_model_len
    if asked is None or facts.positions is None or asked <= facts.positions:
        return Finding(name, OK, "all positions" if asked is None else f"{asked}")
    found = f"{asked} rollout.vllm.max_model_len, but the model reads {facts.positions}: vLLM would not start"
    return Finding(
        name, ERROR, found, f"set rollout.vllm.max_model_len to {facts.positions} or less, or null"
    )


def _heads(options: VLLMConfig, facts: ModelFacts) -> Finding:
    """Each part of an engine has whole heads; those of keys and values may also be copied."""
    name, parts = "tensor_parallel", options.tensor_parallel
    even = facts.heads % parts == 0
    keys_fit = facts.kv_heads % parts == 0 or parts % facts.kv_heads == 0
    found = (
        f"{facts.heads} attention heads / {parts} = {facts.heads / parts:g}, "
        f"{facts.kv_heads} of keys and values / {parts} = {facts.kv_heads / parts:g}"
    )
    if even and keys_fit:
        return Finding(name, OK, found)
    fitting = [
        n
        for n in range(1, facts.heads + 1)
        if facts.heads % n == 0 and (facts.kv_heads % n == 0 or n % facts.kv_heads == 0)
    ]
    near = sorted(fitting, key=lambda n: abs(n - parts))[:2]
    what = f"{found}: vLLM needs a whole number of heads on each accelerator"
    return Finding(
        name, ERROR, what, f"set rollout.vllm.tensor_parallel to {' or '.join(map(str, sorted(near)))}"
    )


def _cache(config: RunConfig, options: VLLMConfig, target: Target, facts: ModelFacts) -> Iterator[Finding]:
    """vLLM starts only where its memory for keys and values holds one sequence of the full length."""
    gib = options.kv_cache_gib or (CPU_KV_CACHE_GIB if target.accelerators == 0 else None)
    length = options.max_model_len or facts.positions
    if gib is None or length is None:
        return
    needed = response_bytes(facts, length, DTYPE_BYTES[config.model.dtype], options.tensor_parallel)
    name = "keys and values"
    found = f"one sequence of {length} tokens takes {amount(needed)} of {gib:g} GiB"
    if needed <= gib * GIB:
        yield Finding(name, OK, f"{found}: {int(gib * GIB // max(1, needed))} at a time")
    else:
        yield Finding(
            name,
            ERROR,
            f"{found}: vLLM would not start",
            f"raise rollout.vllm.kv_cache_gib to {-(-needed // GIB)}, or lower rollout.vllm.max_model_len",
        )
