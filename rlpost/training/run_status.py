"""RunStatus: keeps run.json and logs/driver.log while a run's driver lives, and looks for the file `stop`."""

from __future__ import annotations

import os
import socket
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import TextIO

from rlpost.config.schema import RunConfig
from rlpost.errors import INTERRUPTED, TERMINATED, RlpostError, UserError, one_line
from rlpost.training import stopping
from rlpost.training.run_directory import RUN, RunDirectory
from rlpost.training.state import RunState
from rlpost.training.status import HEARTBEAT_S, LAUNCHER, State, first_record, now, read_record

WATCH_S = 1.0
"""Between two looks for the file `stop`; also the shortest time between two records of steps."""


class RunStatus:
    """What others can see of a run at work; a context manager, on whose exit they see how it ended.

    Args:
        directory: of the run; made when missing. A run by hand that its user's input keeps from beginning
            leaves none.

    Raises:
        UserError: another driver is at work in the directory.
    """

    def __init__(self, directory: RunDirectory, config: RunConfig) -> None:
        self._directory = directory
        _refuse_second_driver(directory)
        self._ours = not (directory.path / RUN).exists() and LAUNCHER not in os.environ
        self._made = [p for p in (directory.logs, *directory.logs.parents) if not p.exists()]
        steps = sum(stage.train.steps for stage in config.stages)
        self._record = replace(first_record(directory.path, config.name), steps=steps, stage="starting")
        self._lock, self._over = threading.Lock(), threading.Event()
        self._written_at = 0.0
        self._log: TextIO | None = None
        self._watch = threading.Thread(target=self._look_around, name="run-status", daemon=True)

    @property
    def id(self) -> str:
        """Names the run everywhere."""
        return self._record.id

    def at(self, state: RunState, stage: str) -> None:
        """The run has come to a step of a stage."""
        score = state.evaluations[-1]["accuracy"] if state.evaluations else None
        with self._lock:
            due = stage != self._record.stage or time.monotonic() - self._written_at > WATCH_S
            self._record = replace(self._record, stage=stage, step=state.step, score=score)
        if due:
            self._write()

    def say(self, text: str) -> None:
        """Add to logs/driver.log, after what earlier drivers of the run said."""
        if self._log is not None:
            self._log.write(f"{text}\n")
            self._log.flush()

    def __enter__(self) -> RunStatus:
        self._write()
        self._directory.logs.mkdir(parents=True, exist_ok=True)
        self._log = self._directory.driver_log.open("a", encoding="utf-8")
        self.say(f"--- {now()} run {self.id} on {socket.gethostname()}, process {os.getpid()}")
        self._watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._watch.join()
        state, status, last_line = ending(error)
        self._record = replace(self._record, state=state, exit_status=status, last_line=last_line)
        if isinstance(error, UserError) and self._ours and not self._directory.config.exists():
            self._withdraw()
            return
        self._write()
        if isinstance(error, Exception) and not isinstance(error, RlpostError):
            self.say("".join(traceback.format_exception(error)).rstrip())
        if state == "failed":
            self.say(f"error: {error if isinstance(error, RlpostError) else last_line}")
        elif last_line is not None:
            self.say(last_line)
        if self._log is not None:
            self._log.close()

    def _write(self) -> None:
        with self._lock:
            self._record = self._record.write(self._directory.path)
            self._written_at = time.monotonic()

    def _look_around(self) -> None:
        told = False
        while not self._over.wait(WATCH_S):
            if not told and self._directory.stop.exists():
                told = stopping.notice_from_outside(f"the file {self._directory.stop}")
            if time.monotonic() - self._written_at > HEARTBEAT_S:
                with suppress(OSError):  # a full disk is for the run itself to complain of
                    self._write()

    def _withdraw(self) -> None:
        """Leave nothing of a run that never was."""
        if self._log is not None:
            self._log.close()
        self._directory.driver_log.unlink()
        (self._directory.path / RUN).unlink()
        for folder in self._made:
            with suppress(OSError):  # somebody else's files are in it
                folder.rmdir()


def ending(error: BaseException | None) -> tuple[State, int, str | None]:
    """The state, the exit status and the last line of a driver that ended with an error, or without."""
    # Compiled code may hand on what a signal raised in it as the cause of a SystemError.
    if isinstance(error, SystemError) and not isinstance(error.__cause__, Exception | None):
        error = error.__cause__
    if error is None:
        return "done", 0, None
    if isinstance(error, Exception):
        return "failed", error.exit_status if isinstance(error, RlpostError) else 1, one_line(error)
    if isinstance(error, stopping.Stopped):
        return "stopped", TERMINATED, str(error)
    if isinstance(error, KeyboardInterrupt):
        return "stopped", INTERRUPTED, "interrupted"
    return "stopped", TERMINATED, f"ended by {error}"


def _refuse_second_driver(directory: RunDirectory) -> None:
    record = read_record(directory.path)
    if record is None or record.pid == os.getpid() or not record.is_here or record.present() != "running":
        return
    raise UserError(
        "a run is at work in this directory",
        where=directory.path,
        found=f"run {record.id}, process {record.pid}",
        remedy=f"wait for its end, or end it with: rlpost stop {directory.path}",
    )
