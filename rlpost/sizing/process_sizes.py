"""Processes before they hold a model, as `benchmarks/memory_plan.py` found them on Linux, torch for CPUs."""

from __future__ import annotations

from rlpost.sizing.memory import Line
from rlpost.sizing.words import GIB, MIB

DRIVER = 430 * MIB
"""The interpreter, torch, transformers, rlpost and a small dataset: resident."""
LEARNER = 420 * MIB
"""A rank on Ray; with DeepSpeed as much more as `DEEPSPEED`."""
DEEPSPEED = 15 * MIB
WORKER = 420 * MIB
"""A rollout worker with the torch engine."""
VLLM_WORKER = 590 * MIB
"""A rollout worker beside vLLM's own processes."""
VLLM_PROCESS = 700 * MIB
"""Each of vLLM's processes, the engine's and those of `tensor_parallel`: an estimate."""
SCORER = 24 * MIB
"""A process of the scorer."""
ENVIRONMENT = 60 * MIB
"""A process of environments: an estimate."""
RAY = 570 * MIB
"""Ray's own processes on each machine."""
CUDA = GIB
"""CUDA's context and its libraries' workspaces. Not measured by rlpost."""
NCCL = GIB
"""NCCL's channels and buffers, where ranks or engines talk. Not measured by rlpost."""
HEAP_SHARE = 0.3
"""Of activations on a CPU, whose sizes differ in every pass: freed memory that the C library keeps."""

MEASURED = "measured on Linux with torch for CPUs"


def learner(deepspeed: bool, in_driver: bool) -> Line:
    """A rank's process; inline it is the driver's."""
    size = 0 if in_driver else LEARNER + (DEEPSPEED if deepspeed else 0)
    return Line("process", size, "the driver's own" if in_driver else MEASURED, "host")


def context(ranks: int) -> Line:
    """What an accelerator's runtime takes of it."""
    size = CUDA + (NCCL if ranks > 1 else 0)
    return Line("runtime", size, "CUDA, and NCCL where ranks talk: an estimate", "accelerator")
