"""Rules on what trains the policy."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.config.problems import Problem
from rlpost.config.schema import LearnerConfig, RunConfig


def zero_options_are_read(config: RunConfig) -> Iterator[Problem]:
    """The options of `learner` beside `backend` are DeepSpeed's."""
    learner, default = config.learner, LearnerConfig()
    if learner.backend == "deepspeed":
        return
    for name in ("zero_stage", "offload_optimizer", "offload_parameters", "bucket_mib"):
        if (value := getattr(learner, name)) != getattr(default, name):
            yield Problem(
                ("learner", name),
                f"`learner.{name}` is read only with `backend: deepspeed`",
                found=str(value).lower(),
                needed="learner.backend: deepspeed, or no such key",
            )


def adapters_can_be_trained(config: RunConfig) -> Iterator[Problem]:
    """The learner keeps the model in evaluation mode, and an adapter stands beside something."""
    lora = config.model.lora
    if lora is None:
        return
    if lora.dropout:
        yield Problem(
            ("model", "lora", "dropout"),
            "adapters are trained without dropout",
            found=f"{lora.dropout:g}",
            needed="0: log-probs in training must be those of the distribution that was sampled",
        )
    if not lora.target_modules:
        yield Problem(
            ("model", "lora", "target_modules"),
            "no layer would have an adapter",
            found="an empty list",
            needed="all-linear, or names of linear layers such as `q_proj`",
        )


def what_is_offloaded_is_divided(config: RunConfig) -> Iterator[Problem]:
    """Only what DeepSpeed divides over the ranks can be kept in host memory."""
    learner = config.learner
    if learner.backend != "deepspeed":
        return
    for name, stage in (("offload_optimizer", 1), ("offload_parameters", 3)):
        if getattr(learner, name) and learner.zero_stage < stage:
            yield Problem(
                ("learner", name),
                f"`learner.{name}` needs another ZeRO stage",
                found=f"zero_stage: {learner.zero_stage}",
                needed=f"zero_stage: {stage}" + (" or more" if stage < 3 else ""),
            )
