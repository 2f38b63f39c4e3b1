"""Weights on their way from the learner to the engines."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.config.schema import RunConfig
from rlpost.sizing.learner import DTYPE_BYTES
from rlpost.sizing.memory import Kind, Line
from rlpost.sizing.model_facts import ModelFacts
from rlpost.sizing.words import size
from rlpost.weights.places import BUCKET_BYTES


def way(config: RunConfig, machines: int) -> str:
    """The transport that a run takes, as `training/transports.py` chooses it; "inline" in one process."""
    if config.cluster.mode == "inline":
        return "inline"
    if config.weights.transport != "auto":
        return config.weights.transport
    if machines == 1:
        return "shared_memory"
    return "object_store" if config.cluster.placement == "colocated" else "broadcast"


def sender_lines(config: RunConfig, facts: ModelFacts, kind: Kind, machines: int) -> Iterator[Line]:
    """What the first learner rank needs for it."""
    dtype, chosen = DTYPE_BYTES[config.model.dtype], way(config, machines)
    once = dtype * facts.base
    formula = f"{dtype} bytes x {size(facts.base)} parameters"
    if chosen == "shared_memory":
        formula = f"2 versions x {formula}: the newest, and the one before"
        yield Line("weights for engines", 2 * once, formula, "host", exact=True)
    elif chosen == "broadcast":
        yield Line("broadcast", BUCKET_BYTES, "a bucket", kind, ("send",))
    else:
        yield Line("weights for engines", once, f"{formula}: a copy", "host", ("send",), exact=True)
        if chosen == "object_store":
            yield Line("weights for engines", once, f"{formula}: in Ray's object store", "shared", exact=True)


def receiver_lines(config: RunConfig, facts: ModelFacts, kind: Kind, machines: int) -> Iterator[Line]:
    """What each rollout worker needs for it."""
    dtype, chosen = DTYPE_BYTES[config.model.dtype], way(config, machines)
    if chosen in ("broadcast", "shared_memory"):
        if kind == "accelerator" or chosen == "broadcast":
            yield Line("bucket", BUCKET_BYTES, "weights that come", kind, ("send",))
    elif chosen == "object_store":
        formula = f"{dtype} bytes x {size(facts.base)} parameters: the copy that Ray hands over"
        yield Line("weights that come", dtype * facts.base, formula, "host", ("send",))
