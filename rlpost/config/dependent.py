"""Defaults that depend on another section of the configuration."""

from __future__ import annotations

from rlpost.config.schema import RunConfig

PROBE_TOLERANCES = {"float32": 1e-3, "bfloat16": 0.5}


def probe_tolerance(config: RunConfig) -> float:
    """`weights.probe_tolerance`, or what fits the model's dtype; nats."""
    chosen = config.weights.probe_tolerance
    return PROBE_TOLERANCES[config.model.dtype] if chosen is None else chosen
