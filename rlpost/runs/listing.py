"""The table of runs, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rlpost.runs.finding import FoundRun

COLUMNS = ("run", "state", "stage", "step", "score", "started", "where", "folder")


def as_text(runs: Sequence[FoundRun]) -> str:
    """A line for each run; below them, why some failed or cannot be read."""
    if not runs:
        return "no runs"
    rows = [COLUMNS, *(_cells(run) for run in runs)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    notes = [(run.id, run.reason or _ending(run)) for run in runs]
    told = [f"{name}: {note}" for name, note in notes if note]
    return "\n".join([*(line.rstrip() for line in lines), *([""] if told else []), *told])


def as_json(runs: Sequence[FoundRun]) -> str:
    """A list: the fields of run.json, `state` as it is by now, `directory`, and `reason` where unreadable."""
    return json.dumps([_as_record(run) for run in runs], indent=2)


def _as_record(run: FoundRun) -> dict[str, Any]:
    known = {} if run.record is None else asdict(run.record)
    return known | {
        "id": run.id,
        "state": run.state,
        "directory": str(run.directory.absolute()),
        "reason": run.reason,
    }


def _cells(run: FoundRun) -> tuple[str, ...]:
    record = run.record
    if record is None:
        return (run.id, run.state, "", "", "", "", "", str(run.directory))
    step = f"{record.step}/{record.steps}" if record.steps else str(record.step)
    score = "" if record.score is None else f"{record.score:.3f}"
    started = "" if record.started is None else f"{datetime.fromisoformat(record.started):%Y-%m-%d %H:%M}"
    return (run.id, run.state, record.stage or "", step, score, started, where(run), str(run.directory))


def where(run: FoundRun) -> str:
    """The launcher and its job, and the driver's host."""
    record = run.record
    if record is None:
        return ""
    launcher = record.launcher or {}
    job = ":".join(part for part in (launcher.get("kind"), launcher.get("job")) if part)
    return ", ".join(part for part in (job, record.host) if part)


def _ending(run: FoundRun) -> str | None:
    if run.state == "lost":
        return "its driver is gone without a word; `rlpost logs` shows its last one"
    return run.record.last_line if run.record is not None and run.state == "failed" else None
