"""Saver: when the run is saved, under which identity, and how it is taken up again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlpost.config.plugins import part_digests, portable_parts
from rlpost.config.schema import CheckpointConfig, RunConfig
from rlpost.training.checkpoint import find_checkpoint, save_checkpoint
from rlpost.training.learners import Learners
from rlpost.training.run_directory import RunDirectory
from rlpost.training.state import RunState

STATE, LEARNER = "state.json", "learner"
FREE_SECTIONS = (
    *("name", "output", "cluster", "learner", "checkpoint", "monitor", "scoring", "evaluation"),
    *("machines", "launch"),
)
"""Top-level keys that may change between a run and its resumption: they do not touch the result."""


def run_identity(config: RunConfig, fingerprints: Mapping[str, str]) -> dict[str, Any]:
    """What a resumed run must share with its checkpoints, as flat keys.

    A stage's number of steps may change where no schedule depends on it.

    Args:
        fingerprints: of the prompts, by stage name.
    """
    tree = config.model_dump(mode="json", exclude=set(FREE_SECTIONS))
    if config.pivots is None or config.pivots.reprofile is None:
        tree["pivots"] = None  # what only `rlpost pivots` reads
    for stage in tree["stages"]:
        if stage["train"]["schedule"] == "constant":
            del stage["train"]["steps"]
        for key in ("path", "tokens_per_microbatch", "layout"):
            stage["data" if key == "path" else "train"].pop(key)
        for reward in stage["rewards"]:
            del reward["batch_size"]
        stage["algorithm"] = portable_parts(stage["algorithm"])
    flat = dict(_flatten("", tree))
    for stage in config.stages:
        for name, digest in part_digests(stage.algorithm).items():
            flat[f"content of {name} of stage {stage.name}"] = digest[:16]
    return flat | {f"dataset of stage {name}": value for name, value in fingerprints.items()}


def _flatten(prefix: str, value: object) -> list[tuple[str, object]]:
    if isinstance(value, dict) and value:
        return [item for key, v in value.items() for item in _flatten(f"{prefix}.{key}".lstrip("."), v)]
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return [item for i, v in enumerate(value) for item in _flatten(f"{prefix}.{i}", v)]
    return [(prefix, value)]


class Saver:
    """Writes and finds this run's checkpoints."""

    def __init__(
        self,
        directory: RunDirectory,
        config: CheckpointConfig,
        identity: Mapping[str, Any],
        learners: Learners,
    ) -> None:
        self.directory, self.config, self.identity, self.learners = directory, config, identity, learners
        self._newest: int | None = None

    def due(self, state: RunState) -> bool:
        return state.step % self.config.every == 0

    def save(self, state: RunState) -> None:
        """Save the learner and the state as `checkpoints/step-NNNNNN`."""

        def write(folder: Path) -> None:
            self.learners.save(folder / LEARNER)
            state.save(folder / STATE)

        save_checkpoint(self.directory.checkpoints, state.step, self.identity, write, self.config.keep)
        self._newest = state.step

    def has(self, state: RunState) -> bool:
        """Whether the newest checkpoint is of the state's step."""
        return self._newest == state.step

    def restore(self, report: Callable[[str], None]) -> tuple[RunState, Path] | None:
        """The newest usable state, and the directory the learner is to load; None to start afresh."""
        found = find_checkpoint(self.directory.checkpoints, self.identity, report)
        self._newest = None if found is None else found.step
        return None if found is None else (RunState.load(found.path / STATE), found.path / LEARNER)
