"""RunDirectory: where everything a run writes has its place."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rlpost.errors import UserError

CONFIG, METRICS, SUMMARY = "config.yaml", "metrics.jsonl", "summary.json"
RUN, STOP, LAUNCH = "run.json", "stop", "launch"
"""What is there before a run begins: its record, the wish that it stops, its launcher's files."""


class RunDirectory:
    """Paths of one run; nothing else knows these names.

    Attributes:
        path: the directory itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def config(self) -> Path:
        return self.path / CONFIG

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    @property
    def replay(self) -> Path:
        """Batches that stopped the run, for `rlpost replay`."""
        return self.path / "replay"

    @property
    def logs(self) -> Path:
        """What each actor's process printed, and what the driver said."""
        return self.path / "logs"

    @property
    def driver_log(self) -> Path:
        """What the driver said, over all its starts."""
        return self.logs / "driver.log"

    @property
    def stop(self) -> Path:
        """While it is there, the run is to save a checkpoint and to end."""
        return self.path / STOP

    def rollouts(self, step: int) -> Path:
        return self.path / "rollouts" / f"step-{step:06d}.jsonl"

    def evaluation(self, step: int, name: str = "") -> Path:
        """Of the main set of held-out problems, or in a folder of it that of the set `name`."""
        return self.path / "evaluations" / f"step-{step:06d}" / name

    def write_config(self, text: str) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config, text)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_atomically(self.path / SUMMARY, json.dumps(summary, indent=2) + "\n")

    def drop_after(self, step: int) -> None:
        """Remove rollouts and evaluations of later steps than `step`."""
        for path in sorted(self.path.glob("rollouts/step-*.jsonl")):
            if _step_of(path) > step:
                path.unlink()
        for folder in sorted(self.path.glob("evaluations/step-*")):
            if _step_of(folder) > step:
                shutil.rmtree(folder)


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def choose_directory(
    folder: str, name: str, output: Path | None, resume: bool, run_id: str | None = None
) -> RunDirectory:
    """The directory of a new run, or of the one to resume.

    Args:
        folder: where run directories are made when `output` is not given.
        name: the run's name.
        output: the directory the user asked for.
        resume: take up `output`, or the newest run of this name.
        run_id: of a new run, whose directory has its name; None makes one up.

    Raises:
        UserError: a new run would mix with files of another one, or there is no run to resume.
    """
    if output is not None:
        if not resume and not _is_free(output):
            raise UserError(
                "the output directory is not empty",
                where=output,
                remedy="add --resume to go on with the run in it, or choose another --output",
            )
        return RunDirectory(output)
    if resume:
        found = sorted(Path(folder).glob(f"{name}-[0-9]*"))
        if not found:
            raise UserError(
                "there is no run to resume",
                where=Path(folder),
                needed=f"a directory {name}-<time>",
                remedy="name the run with --output DIR",
            )
        return RunDirectory(found[-1])
    return RunDirectory(Path(folder) / (run_id or new_run_id(name, datetime.now())))


def _is_free(path: Path) -> bool:
    """Whether a new run may begin there: nobody has but, maybe, its launcher."""
    before = {RUN, STOP, LAUNCH}
    return not path.exists() or (path.is_dir() and {entry.name for entry in path.iterdir()} <= before)


def new_run_id(name: str, at: datetime) -> str:
    """`<name>-<time>-<hex4>`."""
    return f"{name}-{at:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def name_of(run_id: str) -> str:
    """The recipe's name in a run's id."""
    return re.sub(r"-\d{8}-\d{6}(-[0-9a-f]{4})?$", "", run_id)


def write_atomically(path: Path, text: str) -> None:
    """The whole text or nothing, also when the process is killed."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
