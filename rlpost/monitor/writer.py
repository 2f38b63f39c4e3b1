"""metrics.jsonl and TensorBoard: one object a step, exact floats, cut back on resume."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rlpost.errors import DataError
from rlpost.monitor.catalogue import undocumented

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class MetricsWriter:
    """Appends one JSON object per call to RUN_DIR/metrics.jsonl.

    Each line is complete on disk before `write` returns. Floats round-trip exactly. JSON has no
    NaN or infinity: such a value is written as null, and TensorBoard does not get it.

    Args:
        run_dir: the run directory; made when missing.
        tensorboard: also write scalars under RUN_DIR/tensorboard.
        run_id: a folder there, whose name TensorBoard shows as the run's.
    """

    def __init__(self, run_dir: Path, tensorboard: bool, run_id: str = "") -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._run_dir, self._run_id = run_dir, run_id
        self._path = run_dir / METRICS_FILE
        self._tensorboard_wanted = tensorboard
        self._purge_step: int | None = None
        self._tensorboard: SummaryWriter | None = None
        _drop_half_line(self._path)
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, step: int, stage: str, metrics: Mapping[str, float]) -> None:
        """Append one line: step and stage first, then the metrics by name.

        Raises:
            ValueError: a name is not in `rlpost.monitor.catalogue.METRICS`.
        """
        unknown = undocumented(metrics)
        if unknown or {"step", "stage"} & metrics.keys():
            names = sorted(unknown | ({"step", "stage"} & metrics.keys()))
            raise ValueError(
                f"metrics {names} cannot be written: document them in rlpost/monitor/metrics.py "
                "('step' and 'stage' are arguments)"
            )
        values = {name: float(metrics[name]) for name in sorted(metrics)}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "stage": stage, **finite}, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._tensorboard_wanted:
            self._write_tensorboard(step, finite)

    def truncate_after(self, step: int) -> None:
        """Forget all lines of later steps, in one step on disk: a resumed run writes them again.

        TensorBoard is told to hide the later scalars of earlier event files.
        """
        kept = [record for record in read_metrics(self._run_dir) if record["step"] <= step]
        self._file.close()
        partial = self._path.with_name(METRICS_FILE + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(record, allow_nan=False) + "\n" for record in kept)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)
        self._file = self._path.open("a", encoding="utf-8")
        self._close_tensorboard()
        self._purge_step = step + 1

    def close(self) -> None:
        """Flush and close all files; may be called twice."""
        self._file.close()
        self._close_tensorboard()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _write_tensorboard(self, step: int, metrics: Mapping[str, float | None]) -> None:
        if self._tensorboard is None:
            from torch.utils.tensorboard import SummaryWriter

            folder = str(self._run_dir / TENSORBOARD_FOLDER / self._run_id)
            self._tensorboard = SummaryWriter(folder, purge_step=self._purge_step)
        for name, value in metrics.items():
            if value is not None:
                self._tensorboard.add_scalar(name, value, global_step=step)
        self._tensorboard.flush()

    def _close_tensorboard(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = None


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of RUN_DIR/metrics.jsonl, in order; null stands for a number that was not finite.

    A half-written last line, which a killed run leaves, is ignored. [] without a file.

    Raises:
        DataError: a complete line is not a JSON object with a step.
    """
    path = run_dir / METRICS_FILE
    if not path.is_file():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            record = json.loads(line)
            valid = isinstance(record, dict) and isinstance(record.get("step"), int)
        except ValueError:
            valid = False
        if not valid:
            raise DataError(
                "a line of the metrics is damaged",
                where=f"{path}:{number}",
                found=line[:80],
                needed='a JSON object with "step"',
                remedy="remove that line",
            )
        records.append(record)
    return records


def _drop_half_line(path: Path) -> None:
    if path.is_file():
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)
