"""Defaults that depend on another section of the configuration."""

from __future__ import annotations

from rlpost.config.schema import DataConfig, RunConfig

PROBE_TOLERANCES = {"float32": 1e-3, "bfloat16": 0.5}
BROKEN_SHARE = 0.02


def probe_tolerance(config: RunConfig) -> float:
    """`weights.probe_tolerance`, or what fits the model's dtype; nats."""
    chosen = config.weights.probe_tolerance
    return PROBE_TOLERANCES[config.model.dtype] if chosen is None else chosen


def training_data(data: DataConfig) -> DataConfig:
    """Prompts to train on, with their `max_broken_share` chosen."""
    if data.max_broken_share is not None:
        return data
    return data.model_copy(update={"max_broken_share": BROKEN_SHARE})
