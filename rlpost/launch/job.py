"""Job: what every launcher is given, and Rendered: what it will do, to the letter."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rlpost.config import dump_config, load_config
from rlpost.config.launching import Launcher
from rlpost.config.schema import RunConfig
from rlpost.training.status import LAUNCHER, RUN_ID, new_run_id

__all__ = ["LAUNCHER", "RUN_ID", "Job", "Rendered", "command_of", "make_job"]


@dataclass(frozen=True)
class Job:
    """A recipe that is to run somewhere else, or later.

    Attributes:
        run_id: names the run everywhere: directory, job, labels, logs.
        config: as the run will read it: `cluster` is what the launcher's machines need.
        directory: the run directory, as the machines of the run see it.
    """

    run_id: str
    config: RunConfig
    directory: Path

    @property
    def recipe(self) -> str:
        """The resolved recipe, in YAML: later changes of the user's file do not reach the run."""
        return dump_config(self.config)


@dataclass(frozen=True)
class Rendered:
    """Exactly what a launcher does.

    Attributes:
        files: texts by name, in the order in which one reads them; written to `launch/` in the run directory.
        commands: what is run then, in order, as one would type them.
    """

    files: Mapping[str, str]
    commands: Sequence[Sequence[str]]

    def __str__(self) -> str:
        """For `--dry-run`: every file under its name, then the commands."""
        parts = [f"### {name}\n{text.rstrip()}\n" for name, text in self.files.items()]
        return "\n".join([*parts, *(f"$ {shlex.join(command)}" for command in self.commands)])


def make_job(
    recipe: Path, overrides: Sequence[str], launcher: Launcher, output: Path | None, now: datetime
) -> Job:
    """Load a recipe for a launcher, and name its run.

    Args:
        output: the run directory; None makes one under `launch.output`, or else under `output`.

    Raises:
        ConfigError: the recipe is wrong.
    """
    elsewhere = [] if launcher == "local" else ["cluster.mode=ray", "cluster.address=auto"]
    config = load_config(recipe, [*overrides, *elsewhere])
    run_id = new_run_id(config.name, now)
    folder = Path(config.launch.output or config.output)
    return Job(run_id, config, (output or folder / run_id).absolute())


def command_of(config: RunConfig, *, shared: bool) -> str:
    """The command `rlpost` on the run's machines, as a shell reads it.

    Args:
        shared: whether those machines see this environment.
    """
    if config.launch.rlpost is not None:
        return config.launch.rlpost
    return shlex.join([sys.executable, "-m", "rlpost.cli"]) if shared else "rlpost"
