"""The run directory of a launched run, as long as its driver does not have it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rlpost.errors import UserError
from rlpost.launch.job import Job, Rendered
from rlpost.training.run_directory import CONFIG, LAUNCH
from rlpost.training.status import read_record, write_ended


def claim(job: Job) -> Job:
    """The job with the id of the run that its directory holds, so that a launch goes on with that run.

    Raises:
        UserError: the run goes on already, or the directory holds something else.
    """
    folder = job.directory
    record = read_record(folder)
    if record is None:
        occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        if occupied and not (folder / CONFIG).is_file():
            raise UserError(
                "the output directory holds something else than a run",
                where=folder,
                remedy="choose another --output",
            )
        return job
    if record.present() == "running":
        raise UserError(
            "the run in the output directory is going on",
            where=folder,
            found=f"run {record.id} on {record.host}, process {record.pid}",
            remedy=f"stop it first with: rlpost stop {folder}",
        )
    return replace(job, run_id=record.id)


def note_failure(directory: Path, exit_status: int, cause: str) -> None:
    """Say of a run whose driver never began that it failed; one that did begin has said how it ended."""
    record = read_record(directory)
    if record is not None and record.state == "submitted":
        write_ended(directory, "failed", exit_status, cause)


def write_files(directory: Path, rendered: Rendered) -> None:
    """Keep what a launcher does, in the folder `launch` of the run directory.

    Raises:
        UserError: it cannot be written.
    """
    folder = directory / LAUNCH
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in rendered.files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            "the run directory cannot be written from here",
            where=folder,
            found=error.strerror or str(error),
            needed="a folder that this machine and those of the run see at the same place",
            remedy="set launch.output, or give --output",
        ) from None
