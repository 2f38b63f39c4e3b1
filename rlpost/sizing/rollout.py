"""Rollout workers: weights, keys and values of the responses that run, and weights on their way in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rlpost.config.schema import CPU_KV_CACHE_GIB, RolloutConfig, RunConfig
from rlpost.sizing import process_sizes
from rlpost.sizing.learner import DTYPE_BYTES
from rlpost.sizing.memory import Kind, Line, Moment, Role
from rlpost.sizing.model_facts import ModelFacts
from rlpost.sizing.words import GIB, share, size

WORKER = "rollout worker"
AWAKE: tuple[Moment, ...] = ("load", "sample", "send")
VLLM_BATCH_TOKENS = 8192
"""Tokens of one of vLLM's forward passes at most, by its defaults."""


@dataclass(frozen=True)
class Sampling:
    """What is sampled at its longest, over all stages that do.

    Attributes:
        engine: the settings of the workers.
        longest: tokens of the longest sequence.
        slots: responses at a time.
        kind: the memory that engines compute in.
        card_bytes: of an accelerator; None where nobody said.
        sleeps: whether engines give up their memory while the learner works.
    """

    config: RunConfig
    facts: ModelFacts
    engine: RolloutConfig
    longest: int
    slots: int
    kind: Kind
    card_bytes: int | None
    sleeps: bool

    @property
    def tensor_parallel(self) -> int:
        """Accelerators of an engine."""
        return self.engine.vllm.tensor_parallel if self.engine.engine == "vllm" else 1

    @property
    def moments(self) -> tuple[Moment, ...]:
        """When an engine holds its memory."""
        everything: tuple[Moment, ...] = ("load", "sample", "update", "step", "send", "save")
        return AWAKE if self.sleeps and self.kind == "accelerator" else everything


def token_bytes(facts: ModelFacts, dtype_bytes: int, tensor_parallel: int = 1) -> int:
    """Bytes of keys and values of one token, on one of an engine's accelerators: exact.

    2 x layers x key-value heads x head size x bytes of a number; heads are divided over accelerators, and
    each has one at least.
    """
    heads = -(-facts.kv_heads // tensor_parallel)
    return 2 * facts.layers * heads * facts.head_size * dtype_bytes


def response_bytes(facts: ModelFacts, tokens: int, dtype_bytes: int, tensor_parallel: int = 1) -> int:
    """Of one whole sequence; layers with a sliding window keep no more than the window."""
    each = token_bytes(facts, dtype_bytes, tensor_parallel) // facts.layers
    within = min(tokens, facts.window) if facts.window else tokens
    return each * (facts.windowed_layers * within + (facts.layers - facts.windowed_layers) * tokens)


def engine_weights(sampling: Sampling) -> int:
    """Bytes of the policy's weights on one accelerator of an engine."""
    dtype = DTYPE_BYTES[sampling.config.model.dtype]
    return -(-sampling.facts.base * dtype // sampling.tensor_parallel)


def least_bytes(sampling: Sampling) -> int:
    """The least that a vLLM engine starts with, on one accelerator: weights, one longest response, a pass."""
    dtype = DTYPE_BYTES[sampling.config.model.dtype]
    longest = sampling.engine.vllm.max_model_len or sampling.facts.positions or sampling.longest
    one = response_bytes(sampling.facts, longest, dtype, sampling.tensor_parallel)
    return engine_weights(sampling) + one + pass_bytes(sampling)


def pass_bytes(sampling: Sampling) -> int:
    """Of vLLM's largest forward pass: a few activations of each token, and logits of every slot."""
    facts, dtype = sampling.facts, DTYPE_BYTES[sampling.config.model.dtype]
    wide = 4 * facts.hidden + 2 * facts.intermediate // sampling.tensor_parallel
    return VLLM_BATCH_TOKENS * wide * dtype + 2 * 4 * sampling.slots * facts.vocabulary


def worker_role(sampling: Sampling, count: int) -> Role:
    """One rollout worker; of an engine over several accelerators, what is on each of them."""
    lines = _vllm(sampling) if sampling.engine.engine == "vllm" else _torch(sampling)
    return Role(WORKER, count, tuple(lines))


def _vllm(sampling: Sampling) -> Iterator[Line]:
    config, facts = sampling.config, sampling.facts
    dtype, parts = DTYPE_BYTES[config.model.dtype], sampling.tensor_parallel
    processes = 1 + (parts if parts > 1 else 0)
    bytes_ = process_sizes.VLLM_WORKER + processes * process_sizes.VLLM_PROCESS
    formula = f"the worker's and {processes} of vLLM's; an estimate"
    yield Line("processes", bytes_, formula, "host")
    weights = engine_weights(sampling)
    formula = f"{dtype} bytes x {size(facts.base)} parameters{share(parts)}"
    yield Line("weights", weights, formula, sampling.kind, sampling.moments, exact=True)
    room = _key_value_room(sampling, weights)
    each = response_bytes(facts, sampling.longest, dtype, parts)
    per_token = token_bytes(facts, dtype, parts)
    formula = f"{per_token:,} bytes a token: {room // each:,} responses of {sampling.longest:,} tokens"
    yield Line("keys and values", room, formula, sampling.kind, sampling.moments)
    if sampling.kind == "accelerator":
        formula = "a pass of 8,192 tokens, logits of all slots; vLLM measures it when it starts"
        # Weights come between passes, and take their memory for a while.
        yield Line("passes and graphs", pass_bytes(sampling), formula, sampling.kind, ("sample",))


def _key_value_room(sampling: Sampling, weights: int) -> int:
    options = sampling.engine.vllm
    if options.kv_cache_gib is not None:
        return int(options.kv_cache_gib * GIB)
    if sampling.kind != "accelerator":
        return int(CPU_KV_CACHE_GIB * GIB)
    if sampling.card_bytes is None:
        dtype = DTYPE_BYTES[sampling.config.model.dtype]
        one = response_bytes(sampling.facts, sampling.longest, dtype, sampling.tensor_parallel)
        return sampling.slots * one
    taken = int(options.gpu_memory_utilization * sampling.card_bytes)
    return max(taken - weights - pass_bytes(sampling), 0)


def _torch(sampling: Sampling) -> Iterator[Line]:
    config, facts = sampling.config, sampling.facts
    dtype = DTYPE_BYTES[config.model.dtype]
    inline = config.cluster.mode == "inline"
    formula = "the driver's own" if inline else process_sizes.MEASURED
    yield Line("process", 0 if inline else process_sizes.WORKER, formula, "host")
    if sampling.kind == "accelerator" and not inline:
        yield process_sizes.context(1)
    formula = f"{dtype} bytes x {size(facts.base)} parameters"
    yield Line("weights", dtype * facts.base, formula, sampling.kind, exact=True)
    # Columns are doubled from 64 on.
    columns = 64
    while columns < sampling.longest:
        columns *= 2
    stored = sampling.slots * columns * token_bytes(facts, dtype)
    formula = f"{token_bytes(facts, dtype):,} bytes a token x {columns:,} columns x {sampling.slots} slots"
    yield Line("keys and values", stored, formula, sampling.kind, ("sample",))
    logits = 4 * 4 * sampling.slots * facts.vocabulary
    formula = f"4 x 4 bytes x {facts.vocabulary:,} tokens x {sampling.slots} slots: logits, sorted, summed"
    yield Line("logits", logits, formula, sampling.kind, ("sample",))
