"""Telling a run to stop, from outside."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable

from rlpost.errors import TERMINATED, DeadlineError, UserError
from rlpost.runs.finding import UNREADABLE, FoundRun, look_at
from rlpost.training.run_directory import STOP
from rlpost.training.status import write_ended

POLL_S = 0.2


def stop_run(run: FoundRun, wait_s: float, report: Callable[[str], None]) -> FoundRun:
    """Ask a run to save a checkpoint and to end, and wait for that.

    A run that was submitted and has not begun ends when its job begins.

    Args:
        wait_s: longest wait for its end; 0 does not wait.
        report: told what happens.

    Returns:
        the run as it is then.

    Raises:
        UserError: there is no run there that could be asked.
        DeadlineError: it is still at work.
    """
    if run.state == UNREADABLE or run.record is None:
        raise UserError("the run cannot be asked to stop", where=run.directory, found=run.reason or run.state)
    if not run.at_work:
        report(f"run {run.id} is not at work: it is {run.state}")
        return run
    (run.directory / STOP).touch()
    if run.state == "submitted":
        write_ended(run.directory, "stopped", TERMINATED, "told to stop before it began")
        report(f"run {run.id} has not begun; its job will end as soon as it does")
        return look_at(run.directory)
    report(f"run {run.id} is told to stop; it is at step {run.record.step} of {run.record.steps}")
    end = time.monotonic() + wait_s
    while (now := look_at(run.directory)).at_work:
        if time.monotonic() >= end:
            return _still_at_work(now, wait_s, report)
        time.sleep(POLL_S)
    ending = "" if now.record is None or now.record.last_line is None else f": {now.record.last_line}"
    report(f"run {now.id} is {now.state}{ending}")
    if now.state == "stopped":
        run_dir = str(now.directory)
        go_on = ["rlpost", "train", f"{run_dir}/config.yaml", "--output", run_dir, "--resume"]
        report(f"go on with: {shlex.join(go_on)}")
    return now


def _still_at_work(run: FoundRun, wait_s: float, report: Callable[[str], None]) -> FoundRun:
    if wait_s == 0:
        return run
    assert run.record is not None
    raise DeadlineError(
        f"run {run.id} is still {run.state}",
        where=run.directory,
        found=f"no end after {wait_s:g} s; it is at step {run.record.step}",
        remedy="wait for longer with --wait; "
        f"or end process {run.record.pid} on {run.record.host}, without a checkpoint",
    )
