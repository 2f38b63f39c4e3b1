"""The driver, and the processes that score and play environments."""

from __future__ import annotations

from collections.abc import Iterator

from rlpost.config.schema import RunConfig
from rlpost.sizing import process_sizes
from rlpost.sizing.lengths import stage_lengths
from rlpost.sizing.memory import Line, Role
from rlpost.sizing.model_facts import ModelFacts

TOKEN_BYTES = 160
"""Of one sampled token in the driver: id, log-prob, version and mask, as objects and as tensors."""


def driver_roles(config: RunConfig, facts: ModelFacts) -> Iterator[Role]:
    """The driver, and the scorers."""
    tokens = 0
    for stage in config.stages:
        train, lengths = stage.train, stage_lengths(config, stage, facts)
        open_batches = 1 + train.max_staleness
        batch = train.prompts_per_step * train.samples_per_prompt * open_batches * lengths.total
        tokens = max(tokens, batch)
    yield Role(
        "driver",
        1,
        (
            Line("process", process_sizes.DRIVER, process_sizes.MEASURED, "host"),
            Line(
                "samples",
                TOKEN_BYTES * tokens,
                f"{TOKEN_BYTES} bytes x {tokens:,} tokens that are open",
                "host",
            ),
        ),
    )
    if any(stage.rewards for stage in config.stages):
        formula = f"{process_sizes.MEASURED}; a reward function may take scoring.memory_gib more"
        line = Line("process", process_sizes.SCORER, formula, "host")
        yield Role("scorer", config.scoring.workers, (line,))
    processes = max((s.environment.processes for s in config.stages if s.environment), default=0)
    if processes:
        workers = max(stage.rollout.workers for stage in config.stages)
        line = Line("process", process_sizes.ENVIRONMENT, "an estimate", "host")
        yield Role("environment process", processes * workers, (line,))
    if config.cluster.mode == "ray":
        line = Line("Ray's processes", process_sizes.RAY, process_sizes.MEASURED, "host")
        yield Role("Ray", 1, (line,))
