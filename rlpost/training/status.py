"""run.json: what a run says of itself, for those who look from outside. It imports no torch."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from rlpost.errors import DataError
from rlpost.processes import machine, process_start
from rlpost.training.run_directory import RUN, STOP, name_of, new_run_id, write_atomically

RUN_ID, LAUNCHER = "RLPOST_RUN_ID", "RLPOST_LAUNCHER"
"""Environment variables of the driver: the run's id, and `slurm:1234`, who started it as which job."""

HEARTBEAT_S = 10.0
"""A driver writes run.json at least this often."""
LOST_S = 90.0
"""One on another machine that has not for this long is lost: file systems of clusters keep what they read
for up to a minute."""

State = Literal["submitted", "running", "done", "failed", "stopped", "lost"]
"""`lost` is never written: it is what the others are called whose driver is gone."""


@dataclass(frozen=True)
class RunRecord:
    """The fields of run.json.

    Attributes:
        id: names the run everywhere; kept when it is resumed.
        name: of the recipe.
        launcher: who started it, as `kind` and `job`; None for a run started by hand.
        host, pid, machine: of the driver; `machine` is equal exactly where process ids mean the same.
        process: when that process began, so that its id is not mistaken for a later one's.
        started, updated: ISO 8601, with the zone.
        steps: of all stages.
        score: the last accuracy on the main held-out problems.
        exit_status: of the driver; None while it has not ended.
        last_line: how it ended, in one line; the root cause of a failure.
    """

    id: str
    name: str
    state: State
    launcher: Mapping[str, str | None] | None = None
    host: str | None = None
    pid: int | None = None
    machine: str | None = None
    process: str | None = None
    started: str | None = None
    updated: str | None = None
    stage: str | None = None
    step: int = 0
    steps: int = 0
    score: float | None = None
    exit_status: int | None = None
    last_line: str | None = None

    def write(self, directory: Path) -> RunRecord:
        """Write it to RUN_DIR/run.json, whole or not at all, as of now; what was written."""
        directory.mkdir(parents=True, exist_ok=True)
        record = replace(self, updated=now())
        write_atomically(directory / RUN, json.dumps(asdict(record), indent=1) + "\n")
        return record

    @property
    def is_here(self) -> bool:
        """Whether its driver ran on this machine."""
        return self.machine is not None and self.machine == machine()

    def present(self) -> State:
        """Its state by now: `lost` for one that says `running` while nobody makes it run."""
        if self.state != "running":
            return self.state
        if self.is_here:
            alive = self.pid is not None and process_start(self.pid) == self.process
            return "running" if alive else "lost"
        silent = self.updated is None or seconds_since(self.updated) > LOST_S
        return "lost" if silent else "running"


def read_record(directory: Path) -> RunRecord | None:
    """What RUN_DIR/run.json says; None without the file.

    Raises:
        DataError: it is damaged.
    """
    path = directory / RUN
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return _as_record(json.loads(text))
    except (ValueError, TypeError) as error:
        raise DataError(
            "a run's record cannot be read",
            where=path,
            found=f"{type(error).__name__}: {error}",
            remedy="remove the file: the next start of the run writes it anew",
        ) from error


def _as_record(found: Any) -> RunRecord:
    if not isinstance(found, dict) or not {"id", "name", "state"} <= found.keys():
        raise TypeError("no object with id, name and state")
    known = RunRecord.__dataclass_fields__
    return RunRecord(**{key: value for key, value in found.items() if key in known})


def write_submitted(
    directory: Path, run_id: str, launcher: str, job: str | None = None, name: str | None = None
) -> RunRecord:
    """Say that a run was handed to a launcher; what was asked of an earlier start of it is forgotten.

    To be called before the submission and, once the launcher has a name for it, again with `job`.

    Args:
        run_id: used where the directory has no run yet; a run keeps its first id.
        launcher: `slurm` and the like.
        name: of the recipe; taken from `run_id` without it.
    """
    (directory / STOP).unlink(missing_ok=True)
    earlier = read_record(directory)
    by = {"kind": launcher, "job": job}
    if earlier is None:
        return RunRecord(run_id, name or name_of(run_id), "submitted", by, started=now()).write(directory)
    if earlier.present() == "running":  # it did not wait for this second call
        return replace(earlier, launcher=by).write(directory)
    fresh = replace(earlier, state="submitted", launcher=by, exit_status=None, last_line=None)
    return fresh.write(directory)


def write_ended(directory: Path, state: State, exit_status: int, last_line: str) -> None:
    """Say of a run whose driver does not, because it never began, how it ended."""
    record = read_record(directory)
    if record is not None:
        replace(record, state=state, exit_status=exit_status, last_line=last_line).write(directory)


def first_record(directory: Path, name: str, environment: Mapping[str, str] = os.environ) -> RunRecord:
    """The record of a driver that begins in a directory: this process's, with the run's own id.

    The id is that of run.json, else of the environment, else the directory's name where that is one, else
    a new one.
    """
    kind, _, job = environment.get(LAUNCHER, "").partition(":")
    by = {"kind": kind, "job": job or None} if kind else None
    known = read_record(directory)
    own_name = directory.name if name_of(directory.name) == name != directory.name else None
    run_id = environment.get(RUN_ID) or own_name or new_run_id(name, datetime.now())
    record = known or RunRecord(run_id, name, "running", started=now())
    return replace(
        record,
        name=name,
        state="running",
        launcher=by,
        host=socket.gethostname(),
        pid=os.getpid(),
        machine=machine(),
        process=process_start(os.getpid()),
        exit_status=None,
        last_line=None,
    )


def now() -> str:
    """The time, in ISO 8601 to the second, with the zone."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def seconds_since(time: str) -> float:
    """Seconds from such a time until now."""
    return (datetime.now().astimezone() - datetime.fromisoformat(time)).total_seconds()
