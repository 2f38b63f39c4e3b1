"""Each run in a process of its own, some at a time: a run that fails or hangs takes no other with it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from rlpost.comparison.runs import LOG, RECIPE, ComparedRun
from rlpost.training.status import LAUNCHER, RUN_ID

POLL_S = 0.1
KILL_DEADLINE_S = 30.0
LOG_LINES = 8
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        run: which.
        seconds: it took, start of the process included.
        failure: why it failed, with the last lines of its log; None when it did not.
    """

    run: ComparedRun
    seconds: float
    failure: str | None = None


@dataclass
class _Child:
    """A process, and the run it trains."""

    run: ComparedRun
    process: subprocess.Popen[bytes]
    log: BinaryIO
    start: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start


def execute(
    runs: Sequence[ComparedRun], *, jobs: int, deadline_s: float, report: Callable[[Outcome], None]
) -> list[Outcome]:
    """Train the runs in order, `jobs` at a time, each after the one it needs.

    Must be called from the main thread: the processes die with the thread that starts them.

    Args:
        runs: those still to be trained.
        jobs: processes at the same time.
        deadline_s: seconds that one run may take.
        report: is told of each run as it ends.

    Returns:
        one outcome a run, in the order of ending.
    """
    waiting: list[ComparedRun] = list(runs)
    running: list[_Child] = []
    outcomes: dict[int, Outcome] = {}

    def end(outcome: Outcome) -> None:
        outcomes[id(outcome.run)] = outcome
        report(outcome)

    try:
        while waiting or running:
            for run in [run for run in waiting if _need_failed(run, outcomes)]:
                waiting.remove(run)
                end(Outcome(run, 0.0, "not started: the shared stages it starts from failed"))
            while len(running) < jobs and (ready := _next_ready(waiting, running)) is not None:
                waiting.remove(ready)
                running.append(_start(ready, jobs))
            for child in [child for child in running if _is_over(child, deadline_s)]:
                running.remove(child)
                end(_finish(child, deadline_s))
            if running:
                time.sleep(POLL_S)
    finally:
        for child in running:
            _kill(child)
    return list(outcomes.values())


def _need_failed(run: ComparedRun, outcomes: Mapping[int, Outcome]) -> bool:
    need = outcomes.get(id(run.needs))
    return need is not None and need.failure is not None


def _next_ready(waiting: Sequence[ComparedRun], running: Sequence[_Child]) -> ComparedRun | None:
    """The first run whose shared stages are neither to come nor under way."""
    unfinished = {id(run) for run in waiting} | {id(child.run) for child in running}
    return next((run for run in waiting if id(run.needs) not in unfinished), None)


def _start(run: ComparedRun, jobs: int) -> _Child:
    """Start `rlpost train`; it goes on where an earlier one of the same recipe stopped."""
    from rlpost.config import dump_config

    run.directory.mkdir(parents=True, exist_ok=True)
    recipe = run.directory / RECIPE
    partial = recipe.with_name(RECIPE + ".partial")
    partial.write_text(dump_config(run.config), encoding="utf-8")
    partial.replace(recipe)
    log = (run.directory / LOG).open("wb")
    threads = {"OMP_NUM_THREADS": "1"} if jobs > 1 else {}
    # Each is a run of its own, whatever this process was started as.
    inherited = {name: value for name, value in os.environ.items() if name not in (RUN_ID, LAUNCHER)}
    command = ["-m", "rlpost.cli", "train", str(recipe), "--output", str(run.directory), "--resume"]
    process = subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=inherited | threads,
        start_new_session=True,  # Ctrl-C is for this process, which then kills that one
        preexec_fn=_dies_with_this_process(),
    )
    return _Child(run, process, log)


def _dies_with_this_process() -> Callable[[], None] | None:
    """What a child does before it becomes another program; nothing where the system cannot."""
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return prepare


def _is_over(child: _Child, deadline_s: float) -> bool:
    return child.process.poll() is not None or child.seconds > deadline_s


def _finish(child: _Child, deadline_s: float) -> Outcome:
    """The outcome of a child that has ended, or whose time is over."""
    seconds, status = child.seconds, child.process.poll()
    _kill(child)
    if status == 0 and child.run.complete:
        return Outcome(child.run, seconds)
    if status is None:
        reason = f"killed after {deadline_s:g} s (--deadline-s)"
    elif status < 0:
        reason = f"killed by signal {-status}"
    else:
        reason = f"exit status {status}"
    tail = log_tail(child.run.directory / LOG)
    return Outcome(child.run, seconds, f"{reason}\n{tail}" if tail else reason)


def log_tail(path: Path, lines: int = LOG_LINES) -> str:
    """The last lines of a log that are not empty."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def _kill(child: _Child) -> None:
    """End the process with its group; its reward processes notice and end themselves."""
    if child.process.poll() is None:
        os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait(KILL_DEADLINE_S)
    child.log.close()
