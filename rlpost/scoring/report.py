"""`rlpost score`: one reward function on saved completions, to see what it does before a run relies on it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpost.data.trajectory import OUTCOMES, RewardResult
from rlpost.errors import DataError
from rlpost.scoring.scorer import ScoreItem, Scorer

if TYPE_CHECKING:
    from rich.console import Console

    from rlpost.config.schema import RewardConfig, ScoringConfig

SHOWN = 5


@dataclass(frozen=True)
class ScoredRow:
    """One line of the input with its result.

    Attributes:
        line: its number in the file, from 1.
        result: the verdict.
        seconds: how long the reward function ran.
        expected: the row's `expected` score, if it has that column.
    """

    line: int
    result: RewardResult
    seconds: float
    expected: float | None = None

    @property
    def disagrees(self) -> bool:
        """True when the score is not the expected one; a failure never is."""
        if self.expected is None:
            return False
        return self.result.score is None or abs(self.result.score - self.expected) > 1e-6


@dataclass(frozen=True)
class ScoreReport:
    """What `score_file` found.

    Attributes:
        reward: the function's name.
        rows: every row, in the file's order.
        seconds: wall time of the scoring, without the workers' start.
        output: the file written, if any.
    """

    reward: str
    rows: Sequence[ScoredRow]
    seconds: float
    output: Path | None

    @property
    def counts(self) -> dict[str, int]:
        """Rows by outcome; every outcome is there."""
        counted = Counter(row.result.outcome for row in self.rows)
        return {outcome: counted[outcome] for outcome in OUTCOMES}

    @property
    def mean(self) -> float | None:
        """Mean score of the rows that have one; None when all failed."""
        scores = [row.result.score for row in self.rows if row.result.score is not None]
        return sum(scores) / len(scores) if scores else None

    @property
    def slowest(self) -> list[ScoredRow]:
        """The rows that took longest, longest first."""
        return sorted(self.rows, key=lambda row: -row.seconds)[:SHOWN]

    @property
    def disagreements(self) -> list[ScoredRow]:
        """The rows whose `expected` column says otherwise."""
        return [row for row in self.rows if row.disagrees]


def score_file(reward: RewardConfig, input: Path, output: Path | None, scoring: ScoringConfig) -> ScoreReport:
    """Score every row of a JSONL file; rows hold `completion`, and the columns that the function asks for.

    With `output`, each row is written there with `score`, `outcome`, `parts`, `note` and `seconds` added.

    Raises:
        DataError: the file is missing, empty, or has a row that is no JSON object with a text `completion`.
        RewardError: the function cannot be loaded, or requires a column that a row lacks.
    """
    rows = _read(input)
    with Scorer([reward], scoring) as scorer:
        common = set.intersection(*(set(row) for row in rows))
        scorer.check_columns([c for c in rows[0] if c in common])
        items = [ScoreItem(_prompt_text(row.get("prompt")), row["completion"], row) for row in rows]
        started = time.monotonic()
        timed = scorer.score_timed(items)
        seconds = time.monotonic() - started
        name = scorer.descriptions[0].name
    scored = [
        ScoredRow(line, result, spent, row.get("expected"))
        for line, (row, (result, spent)) in enumerate(zip(rows, timed, strict=True), start=1)
    ]
    if output is not None:
        _write(output, rows, scored)
    return ScoreReport(name, scored, seconds, output)


def render(report: ScoreReport, console: Console) -> None:
    """Print the report as tables."""
    from rich.markup import escape
    from rich.table import Table

    rate = len(report.rows) / max(report.seconds, 1e-9)
    summary = Table(title=f"{report.reward}: {len(report.rows)} completions, {rate:,.0f} per second")
    summary.add_column("outcome")
    summary.add_column("rows", justify="right")
    for outcome, count in report.counts.items():
        summary.add_row(outcome, str(count))
    mean = "-" if report.mean is None else f"{report.mean:.4f}"
    summary.add_row("mean score", mean, end_section=True)
    console.print(summary)
    notable = {
        "failed": [row for row in report.rows if row.result.failed],
        "not as expected": report.disagreements,
        "slowest": report.slowest,
    }
    for title, rows in notable.items():
        if not rows:
            continue
        table = Table("line", "score", "expected", "seconds", "note", title=f"{title}: {len(rows)}")
        for row in rows[:SHOWN]:
            score = row.result.outcome if row.result.score is None else f"{row.result.score:g}"
            expected = "" if row.expected is None else f"{row.expected:g}"
            table.add_row(str(row.line), score, expected, f"{row.seconds:.3f}", escape(row.result.note[:200]))
        console.print(table)
    if report.output is not None:
        console.print(f"written to {report.output}", markup=False)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError("the file of completions cannot be read", where=path, found=error.strerror) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(
                "a line is not JSON", where=f"{path}:{number}", found=f"{line[:80]!r}: {error}"
            ) from error
        if not isinstance(row, dict) or not isinstance(row.get("completion"), str):
            found = f"columns: {', '.join(row)}" if isinstance(row, dict) else type(row).__name__
            raise DataError("a row has no text `completion`", where=f"{path}:{number}", found=found)
        if not isinstance(row.get("expected"), (int, float, type(None))):
            found = repr(row["expected"])
            raise DataError("`expected` is not a number", where=f"{path}:{number}", found=found)
        rows.append(row)
    if not rows:
        raise DataError("the file of completions is empty", where=path)
    return rows


def _write(path: Path, rows: Sequence[dict[str, Any]], scored: Sequence[ScoredRow]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row, done in zip(rows, scored, strict=True):
            result = done.result
            verdict = {"score": result.score, "outcome": result.outcome, "parts": dict(result.parts)}
            verdict |= {"note": result.note, "seconds": round(done.seconds, 6)}
            file.write(json.dumps({**row, **verdict}, ensure_ascii=False) + "\n")


def _prompt_text(prompt: Any) -> str:
    if isinstance(prompt, list):
        return "\n".join(str(message.get("content", "")) for message in prompt if isinstance(message, dict))
    return "" if prompt is None else str(prompt)
