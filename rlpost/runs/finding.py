"""Runs in folders: every run directory, with what it says of itself or why that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rlpost.errors import DataError, UserError
from rlpost.monitor import read_metrics
from rlpost.training.run_directory import CONFIG, METRICS, RUN, SUMMARY, name_of
from rlpost.training.status import RunRecord, read_record

DEFAULT_FOLDERS = (Path("runs"),)
DEPTH = 3
"""Levels below a folder in which runs are looked for: comparisons have theirs in folders of their own."""
UNREADABLE, UNFINISHED = "unreadable", "unfinished"
"""States that no run.json has: of a directory with a damaged file, and of a run that wrote none."""


@dataclass(frozen=True)
class FoundRun:
    """A run directory.

    Attributes:
        record: what is known of the run; None when nothing can be read.
        state: that of the record by now, or one of `UNREADABLE` and `UNFINISHED`.
        reason: why it is unreadable.
    """

    directory: Path
    record: RunRecord | None
    state: str
    reason: str | None = None

    @property
    def id(self) -> str:
        """The run's, or the directory's name where it has none."""
        return self.directory.absolute().name if self.record is None else self.record.id

    @property
    def at_work(self) -> bool:
        """Whether it may still change by itself."""
        return self.state in ("submitted", "running")


def find_runs(folders: Sequence[Path] = DEFAULT_FOLDERS) -> list[FoundRun]:
    """Every run in some folders, or that they are themselves; the one that was started last comes last.

    Raises:
        UserError: there is no such folder.
    """
    found: dict[Path, FoundRun] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError("there is no such folder", where=folder, needed="a folder of run directories")
        for directory in _run_directories(folder, DEPTH):
            found.setdefault(directory.resolve(), look_at(directory))
    return sorted(found.values(), key=lambda run: (run.record and run.record.started) or "")


def find_run(name: str, folders: Sequence[Path] = DEFAULT_FOLDERS) -> FoundRun:
    """The run of an id, of the beginning of one, or in a directory.

    Raises:
        UserError: there is none, or more than one.
    """
    if Path(name).is_dir() and _is_run(Path(name)):
        return look_at(Path(name))
    runs = find_runs([folder for folder in folders if folder.is_dir()])
    fitting = [run for run in runs if run.id == name] or [run for run in runs if run.id.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    places = ", ".join(map(str, folders))
    if fitting:
        raise UserError(
            f"{name!r} may be any of {len(fitting)} runs",
            where=places,
            found=", ".join(run.id for run in fitting[-5:]),
            remedy="give more of the id, or the run directory",
        )
    raise UserError(
        f"there is no run {name!r}",
        where=places,
        found=", ".join(run.id for run in runs[-5:]) or "no runs",
        remedy="give its id, as `rlpost runs` shows it, the beginning of that, or the run directory",
    )


def look_at(directory: Path) -> FoundRun:
    """What a run directory says now."""
    try:
        record = read_record(directory)
        if record is not None:
            return FoundRun(directory, record, record.present())
        return _from_other_files(directory)
    except (DataError, OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return FoundRun(directory, None, UNREADABLE, reason)


def _from_other_files(directory: Path) -> FoundRun:
    """A run of a version that wrote no run.json."""
    name, rows = directory.absolute().name, read_metrics(directory)
    done = (directory / SUMMARY).is_file()
    summary = json.loads((directory / SUMMARY).read_text(encoding="utf-8")) if done else {}
    accuracies = [row["eval/accuracy"] for row in rows if row.get("eval/accuracy") is not None]
    after = (summary.get("eval") or {}).get("after") or {}
    written = datetime.fromtimestamp((directory / CONFIG).stat().st_mtime).astimezone()
    record = RunRecord(
        id=name,
        name=name_of(name),
        state="done" if done else "running",
        started=written.isoformat(timespec="seconds"),
        stage=rows[-1].get("stage") if rows else None,
        step=rows[-1]["step"] if rows else 0,
        steps=summary.get("steps", 0),
        score=after.get("accuracy", accuracies[-1] if accuracies else None),
    )
    return FoundRun(directory, record, "done" if done else UNFINISHED)


def _run_directories(folder: Path, depth: int) -> Iterator[Path]:
    if _is_run(folder):
        yield folder
    elif depth:
        for entry in sorted(folder.iterdir()):
            if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
                yield from _run_directories(entry, depth - 1)


def _is_run(folder: Path) -> bool:
    return (folder / RUN).is_file() or ((folder / CONFIG).is_file() and (folder / METRICS).is_file())
