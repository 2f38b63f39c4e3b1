"""Rules on rollout engines: what is fixed when an engine starts, and what only one kind reads."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.config.problems import Problem
from rlpost.config.schema import RunConfig, VLLMConfig


def sampling_stages_share_their_engine(config: RunConfig) -> Iterator[Problem]:
    """An engine starts once: all stages that sample use the same kind; a vLLM engine keeps its options."""
    sampling = [(index, stage) for index, stage in enumerate(config.stages) if stage.source == "rollouts"]
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
