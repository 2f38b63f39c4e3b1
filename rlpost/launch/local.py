"""`rlpost launch local`: a run in the background of this machine, which outlives the terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from rlpost.errors import DeadlineError
from rlpost.launch.directory import note_failure, write_files
from rlpost.launch.following import KILLED_BASE, cause_in
from rlpost.launch.job import RUN_ID, Job, Rendered, command_of
from rlpost.launch.templates import render
from rlpost.training.run_directory import LAUNCH
from rlpost.training.status import read_record, write_submitted

SCRIPT, RECIPE, OUTPUT = "local.sh", "recipe.yaml", "output.log"
POLL_S, SETTLE_S = 0.1, 10.0
"""A driver that has not ended this long after it began, or is at a stage, will say the rest in its log."""
LINES_SHOWN = 40


def render_local(job: Job, folder: Path) -> Rendered:
    """The script of the driver, and what starts it.

    Args:
        folder: the working directory, which paths of the recipe are relative to.
    """
    home = job.directory / LAUNCH
    environment = {**job.config.launch.environment, RUN_ID: job.run_id}
    script = render(
        "local.sh.j2",
        run_id=job.run_id,
        folder=folder,
        log=home / OUTPUT,
        environment=list(environment.items()),
        setup=job.config.launch.setup,
        rlpost=command_of(job.config, shared=True),
        recipe=home / RECIPE,
        directory=job.directory,
    )
    return Rendered({RECIPE: job.recipe, SCRIPT: script}, [["setsid", "bash", str(home / SCRIPT)]])


def launch_local(job: Job, report: Callable[[str], None]) -> int:
    """Start the driver and see it begin; the exit status of the command line.

    Raises:
        UserError: the run directory cannot be written.
        DeadlineError: the driver did not begin within launch.start_deadline_s, and was ended.
    """
    write_files(job.directory, render_local(job, Path.cwd()))
    log = job.directory / LAUNCH / OUTPUT
    said_before = log.stat().st_size if log.exists() else 0
    write_submitted(job.directory, job.run_id, "local", name=job.config.name)
    driver = subprocess.Popen(
        ["bash", str(job.directory / LAUNCH / SCRIPT)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    report(f"run {job.run_id} is process {driver.pid}\nits directory is {job.directory}")
    status = await_begin(job, driver)
    if status is None:
        report(f"  follow it: rlpost logs {job.directory} --follow\n  stop it:   rlpost stop {job.directory}")
        return 0
    said = log.read_text(encoding="utf-8", errors="replace")[said_before:] if log.exists() else ""
    lines = said.splitlines()
    report("\n".join(lines[-LINES_SHOWN:]))
    if status:
        status = status if status > 0 else KILLED_BASE - status
        note_failure(job.directory, status, cause_in(lines))
        report(f"error: run {job.run_id} ended at once with status {status}: {cause_in(lines)}")
    return status


def await_begin(job: Job, driver: subprocess.Popen[bytes]) -> int | None:
    """Wait until the driver is at work; its exit status where it has ended by then.

    Raises:
        DeadlineError: it did not begin in time, and was ended.
    """
    start, began = time.monotonic(), None
    while driver.poll() is None:
        record = read_record(job.directory)
        now = time.monotonic()
        if record is not None and record.state == "running" and record.pid == driver.pid:
            began = began or now
            if record.stage is not None or now - began > SETTLE_S:
                return None
        elif now - start > job.config.launch.start_deadline_s:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
            raise DeadlineError(
                "the run did not begin, and was ended",
                where=job.directory / LAUNCH / OUTPUT,
                found=f"after {now - start:.0f} s it is still at launch.setup or at loading",
                needed=f"a start within launch.start_deadline_s: {job.config.launch.start_deadline_s:.0f}",
            )
        time.sleep(POLL_S)
    return driver.returncode
