"""Rules on rollout engines: what is fixed when an engine starts, and what only one kind reads."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.config.problems import Problem
from rlpost.config.schema import RunConfig, VLLMConfig
from rlpost.config.yaml_text import KeyPath

VLLM_TEMPERATURES = (0.01, 2.0)
"""Temperatures above 0 that vLLM samples at: lower ones it replaces by 0.01, higher ones it refuses."""


def sampling_stages_share_their_engine(config: RunConfig) -> Iterator[Problem]:
    """An engine starts once: all stages that sample use the same kind; a vLLM engine keeps its options."""
    sampling = [(index, stage) for index, stage in enumerate(config.stages) if stage.has_rollouts]
    for index, stage in sampling[1:]:
        first = sampling[0][1]
        fixed = ("engine", "vllm", "slots") if first.rollout.engine == "vllm" else ("engine",)
        for key in fixed:
            ours, theirs = getattr(first.rollout, key), getattr(stage.rollout, key)
            if ours != theirs:
                yield Problem(
                    ("stages", index, "rollout", key),
                    f"stages `{first.name}` and `{stage.name}` would need different engines",
                    found=f"{key} {ours} and {theirs}",
                    needed=f"one `rollout.{key}` at the top level, or two runs",
                )


def vllm_options_are_read(config: RunConfig) -> Iterator[Problem]:
    """Options of vLLM would have no effect on another engine."""
    for index, stage in enumerate(config.stages):
        options, defaults = stage.rollout.vllm, VLLMConfig()
        changed = [k for k in VLLMConfig.model_fields if getattr(options, k) != getattr(defaults, k)]
        if stage.rollout.engine != "vllm" and changed:
            yield Problem(
                ("stages", index, "rollout", "vllm"),
                "`rollout.vllm` is read only with `rollout.engine: vllm`",
                found=", ".join(changed),
                remedy="set rollout.engine to vllm, or leave these options out",
            )


def vllm_samples_at_the_temperature(config: RunConfig) -> Iterator[Problem]:
    """vLLM samples at temperatures from 0.01 to 2, and at 0."""
    low, high = VLLM_TEMPERATURES
    places: list[tuple[KeyPath, float]] = [
        (("stages", index, "rollout", "temperature"), stage.rollout.temperature)
        for index, stage in enumerate(config.stages)
        if stage.rollout.engine == "vllm"
    ]
    if places:
        places.append((("evaluation", "temperature"), config.evaluation.temperature))
    for path, temperature in places:
        if temperature and not low <= temperature <= high:
            yield Problem(
                path,
                "vLLM does not sample at this temperature",
                found=temperature,
                needed=f"{low:g} to {high:g}",
            )


def the_tiny_model_fits_vllm(config: RunConfig) -> Iterator[Problem]:
    """vLLM's attention has code for some head sizes only; 32 and 64 are among them everywhere."""
    tiny = config.model.tiny
    if config.model.init != "tiny" or all(stage.rollout.engine != "vllm" for stage in config.stages):
        return
    if tiny.hidden_size / tiny.heads not in (32, 64, 128, 256):
        yield Problem(
            ("model", "tiny", "heads"),
            "vLLM cannot run heads of this size",
            found=f"{tiny.hidden_size} / {tiny.heads} heads = {tiny.hidden_size / tiny.heads:g}",
            needed="hidden_size / heads of 32, 64, 128 or 256",
        )
