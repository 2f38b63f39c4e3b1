"""What a run's processes print: its driver and each of its roles, once or as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rlpost.errors import UserError
from rlpost.runs.finding import FoundRun, look_at
from rlpost.training.run_directory import LAUNCH, RunDirectory

DRIVER = "driver"
LAUNCHERS_LOGS = ("output.log", "slurm-*.out")
"""What launchers keep of the driver's output, in the folder `launch`."""
POLL_S = 0.5
BLOCK = 64 * 1024


def log_files(run: FoundRun) -> dict[str, Path]:
    """The log of each role, `driver` first. A launched driver's is what its launcher keeps of its output."""
    directory, launch = RunDirectory(run.directory), run.directory / LAUNCH
    own = directory.driver_log
    found = [path for pattern in LAUNCHERS_LOGS for path in launch.glob(pattern)]
    kept = max(found, key=lambda path: path.stat().st_mtime, default=None)
    launched = run.record is not None and run.record.launcher is not None
    files = {}
    if kept is not None and (launched or not own.exists()):
        files[DRIVER] = kept
    elif own.exists():
        files[DRIVER] = own
    others = [*sorted(directory.logs.glob("*.log")), *sorted(launch.glob("*.log"))]
    return files | {path.stem: path for path in others if path != own and path not in found}


def log_file(run: FoundRun, role: str) -> Path:
    """The log of one role.

    Raises:
        UserError: it has none.
    """
    files = log_files(run)
    if role not in files:
        raise UserError(
            f"run {run.id} has no log of {role!r}",
            where=run.directory,
            found=", ".join(files) or f"no logs; the run is {run.state}",
            remedy="give one of these roles" if files else None,
        )
    return files[role]


def last_lines(path: Path, count: int) -> tuple[str, int]:
    """The last lines of a file as text, and where it ended."""
    with path.open("rb") as file:
        end = at = file.seek(0, 2)
        tail = b""
        while at > 0 and tail.count(b"\n") <= count:
            at = max(0, at - BLOCK)
            file.seek(at)
            tail = file.read(end - at)
    kept = tail.splitlines(keepends=True)[-count:] if count else []
    return b"".join(kept).decode(errors="replace"), end


class Follower:
    """Writes what is added to the log of a role, wherever that goes on.

    Args:
        lines: of what is there already.
        write: takes text.
    """

    def __init__(self, run: FoundRun, role: str, lines: int, write: Callable[[str], None]) -> None:
        self._directory, self._role, self._lines, self._write = run.directory, role, lines, write
        self._path: Path | None = None
        self._file_id, self._end = 0, 0

    def until_end(self) -> FoundRun:
        """Write until the run is at work no more; how it is then.

        Raises:
            UserError: the run is over, or at work for some time, and has no such log.
        """
        while True:
            # The state first: what is written before a run says that it is over is read after.
            run = look_at(self._directory)
            self._read(run)
            if not run.at_work:
                return run
            time.sleep(POLL_S)

    def _read(self, run: FoundRun) -> None:
        path = log_files(run).get(self._role)
        if path is None:
            if run.state != "submitted" and (self._role != DRIVER or not run.at_work):
                log_file(run, self._role)
            return
        if self._path is None:
            self._path = path
            text, self._end = last_lines(path, self._lines)
            self._file_id = path.stat().st_ino
            self._write(text)
            return
        status = path.stat()
        if path != self._path or status.st_ino != self._file_id or status.st_size < self._end:
            self._path, self._file_id, self._end = path, status.st_ino, 0
            self._write(f"--- {path}\n")
        with path.open("rb") as file:
            file.seek(self._end)
            added = file.read()
        self._end += len(added)
        self._write(added.decode(errors="replace"))
