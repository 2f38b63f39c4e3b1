"""Rules on the weights' way to the engines."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.config.problems import Problem
from rlpost.config.schema import RunConfig


def weights_travel_between_processes(config: RunConfig) -> Iterator[Problem]:
    """Within one process weights are copied; there is no way to choose."""
    chosen = config.weights.transport
    if config.cluster.mode == "inline" and chosen != "auto":
        yield Problem(
            ("weights", "transport"),
            "`weights.transport` is read only with `cluster.mode: ray`",
            found=chosen,
            needed="cluster.mode: ray, or no such key",
        )


def a_broadcast_is_between_accelerators(config: RunConfig) -> Iterator[Problem]:
    """NCCL does not send from an accelerator to itself."""
    if config.weights.transport == "broadcast" and config.cluster.placement == "colocated":
        yield Problem(
            ("weights", "transport"),
            "weights cannot be broadcast between processes that share an accelerator",
            found="broadcast, with cluster.placement: colocated",
            needed="weights.transport: auto, shared_memory or object_store; or cluster.placement: split",
        )
