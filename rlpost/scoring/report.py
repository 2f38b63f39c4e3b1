"""`rlpost score`: reward functions on saved completions, to see what they do before a run relies on them."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpost.data.problems import Place, RowError, describe, did_you_mean
from rlpost.data.sources import Row, read_source
from rlpost.data.trajectory import OUTCOMES, RewardResult
from rlpost.errors import DataError
from rlpost.scoring.scorer import ScoreItem, Scorer

if TYPE_CHECKING:
    from rlpost.config.schema import RewardConfig, ScoringConfig

TOLERANCE = 1e-6


@dataclass(frozen=True)
class ScoredRow:
    """One row of the input with its result.

    Attributes:
        place: where it stands in the file.
        completion: what was scored.
        result: the verdict.
        seconds: how long the reward functions ran.
        expected: the score that its row expects, if it does.
    """

    place: Place
    completion: str
    result: RewardResult
    seconds: float
    expected: float | None = None

    @property
    def disagrees(self) -> bool:
        """True when the score is not the expected one; a failure never is."""
        if self.expected is None:
            return False
        return self.result.score is None or abs(self.result.score - self.expected) > TOLERANCE


@dataclass(frozen=True)
class Part:
    """A named part over all rows that have it."""

    name: str
    rows: int
    mean: float
    least: float
    most: float


@dataclass(frozen=True)
class ScoreReport:
    """What `score_file` found.

    Attributes:
        reward: the functions' names, joined by " + ".
        rows: every row, in the file's order.
        seconds: wall time of the scoring, without the workers' start.
        output: the file written, if any.
        repeated: calls made again for one row, because their batch had failed.
    """

    reward: str
    rows: Sequence[ScoredRow]
    seconds: float
    output: Path | None
    repeated: int = 0

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
    def parts(self) -> list[Part]:
        """The named parts, in the order in which they first appear."""
        values: dict[str, list[float]] = {}
        for row in self.rows:
            for name, value in row.result.parts.items():
                values.setdefault(name, []).append(value)
        return [Part(name, len(v), sum(v) / len(v), min(v), max(v)) for name, v in values.items()]

    @property
    def failed(self) -> list[ScoredRow]:
        """The rows that have no score."""
        return [row for row in self.rows if row.result.failed]

    @property
    def slowest(self) -> list[ScoredRow]:
        """All rows, those that took longest first."""
        return sorted(self.rows, key=lambda row: -row.seconds)

    @property
    def expecting(self) -> int:
        """How many rows say which score they expect."""
        return sum(row.expected is not None for row in self.rows)

    @property
    def disagreements(self) -> list[ScoredRow]:
        """The rows that expect another score."""
        return [row for row in self.rows if row.disagrees]


def score_file(
    rewards: Sequence[RewardConfig],
    input: Path,
    output: Path | None,
    scoring: ScoringConfig,
    *,
    completion: str = "completion",
    expected: str | None = None,
    limit: int | None = None,
) -> ScoreReport:
    """Score the rows of a JSONL or Parquet file by the weighted sum of the rewards.

    With `output`, each row is written there with `score`, `outcome`, `parts`, `note` and `seconds` added.

    Args:
        completion: the column of the response; the other columns go to the functions that ask for them.
        expected: the column of the score that a row expects, which must be there; None takes `expected`
            where a row has it.
        limit: only the first rows.

    Raises:
        DataError: the file is missing, empty, or has rows without a text `completion`.
        RewardError: a function cannot be loaded, or requires a column that a row lacks.
    """
    rows = _read(input, completion, expected, limit)
    with Scorer(rewards, scoring) as scorer:
        common = set.intersection(*(set(row.values) for row in rows))
        scorer.check_columns([c for c in rows[0].values if c in common])
        items = [
            ScoreItem(_prompt_text(row.values.get("prompt")), row.values[completion], row.values)
            for row in rows
        ]
        started = time.monotonic()
        timed = scorer.score_timed(items)
        seconds = time.monotonic() - started
        name = " + ".join(description.name for description in scorer.descriptions)
        repeated = scorer.take_repeated()
    scored = [
        ScoredRow(row.place, item.completion, result, spent, row.values.get(expected or "expected"))
        for row, item, (result, spent) in zip(rows, items, timed, strict=True)
    ]
    if output is not None:
        _write(output, rows, scored)
    return ScoreReport(name, scored, seconds, output, repeated)


def _read(path: Path, completion: str, expected: str | None, limit: int | None) -> Sequence[Row]:
    from rlpost.config.schema import DataConfig

    if not path.is_file():
        raise DataError("the file of completions does not exist", where=path)
    source = read_source(DataConfig(path=str(path), limit=limit), seed=0)
    for row in source.rows:
        try:
            _check(row.values, completion, expected)
        except RowError as problem:
            source.bad.add(row.place, problem)
    source.bad.raise_above(0.0, source.total)
    return source.rows


def _check(values: Mapping[str, Any], completion: str, expected: str | None) -> None:
    if completion not in values:
        columns = ", ".join(values) or "none"
        raise RowError(
            "missing_column",
            f"no column {completion!r}{did_you_mean(completion, values)}; columns: {columns}; "
            "--completion names another",
        )
    if not isinstance(values[completion], str):
        raise RowError("wrong_type", f"{completion!r} is {describe(values[completion])}, not text")
    if expected is not None and expected not in values:
        raise RowError("missing_column", f"no column {expected!r}; columns: {', '.join(values)}")
    score = values.get(expected or "expected")
    if not isinstance(score, (int, float, type(None))):
        raise RowError("wrong_type", f"{expected or 'expected'!r} is {describe(score)}, not a score")


def _write(path: Path, rows: Sequence[Row], scored: Sequence[ScoredRow]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row, done in zip(rows, scored, strict=True):
            result = done.result
            verdict = {"score": result.score, "outcome": result.outcome, "parts": dict(result.parts)}
            verdict |= {"note": result.note, "seconds": round(done.seconds, 6)}
            file.write(json.dumps({**row.values, **verdict}, ensure_ascii=False, default=str) + "\n")


def _prompt_text(prompt: Any) -> str:
    if isinstance(prompt, list):
        return "\n".join(str(message.get("content", "")) for message in prompt if isinstance(message, dict))
    return "" if prompt is None else str(prompt)
