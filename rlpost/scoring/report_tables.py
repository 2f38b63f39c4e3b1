"""A score report as tables, for people: outcomes, parts, and the rows that deserve a look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlpost.scoring.report import ScoredRow, ScoreReport

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SHOWN = 5
TAIL = 60
"""Characters of a response's end that are shown: the answer is there."""


def render(report: ScoreReport, console: Console) -> None:
    """Print the report."""
    rate = len(report.rows) / max(report.seconds, 1e-9)
    title = f"{report.reward}: {len(report.rows):,} completions, {rate:,.0f} per second"
    _print(console, title, _outcomes(report))
    mean = "none" if report.mean is None else f"{report.mean:.4f}"
    console.print(f"mean score: {mean}\n")
    if len(report.parts) > 1:
        _print(console, "parts, before their weights", _parts(report))
    if report.failed:
        _print(console, f"without a score: {len(report.failed):,}", _rows(report.failed))
    if report.expecting:
        _expectations(report, console)
    _print(console, f"slowest of {len(report.rows):,}", _rows(report.slowest))
    if report.repeated:
        console.print(f"{report.repeated} rows were scored again by themselves: their batch had failed")
    if report.output is not None:
        console.print(f"written to {report.output}", markup=False, soft_wrap=True)


def _print(console: Console, title: str, table: Table) -> None:
    # Rich would fold a title to the width of its table.
    console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    console.print(table)


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table()
    for column in columns:
        numeric = column not in ("outcome", "part", "row", "response ends", "note")
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    return table


def _outcomes(report: ScoreReport) -> Table:
    table = _table("outcome", "rows", "share")
    for outcome, count in report.counts.items():
        table.add_row(outcome, f"{count:,}", f"{count / len(report.rows):.1%}")
    return table


def _parts(report: ScoreReport) -> Table:
    table = _table("part", "rows", "mean", "least", "most")
    for part in report.parts:
        table.add_row(part.name, f"{part.rows:,}", f"{part.mean:.4f}", f"{part.least:g}", f"{part.most:g}")
    return table


def _expectations(report: ScoreReport, console: Console) -> None:
    agree = report.expecting - len(report.disagreements)
    console.print(f"as expected: {agree:,} of {report.expecting:,} rows that expect a score\n")
    if not report.disagreements:
        return
    kinds = Counter((f"{row.expected:g}", _score(row)) for row in report.disagreements)
    table = _table("expected", "score", "rows")
    for (expected, score), count in kinds.most_common(SHOWN):
        table.add_row(expected, score, f"{count:,}")
    _print(console, f"not as expected: {len(report.disagreements):,}", table)
    console.print(_rows(report.disagreements))


def _rows(rows: Sequence[ScoredRow]) -> Table:
    """The first rows."""
    from rich.markup import escape

    expecting = any(row.expected is not None for row in rows)
    table = _table("row", "score", *(["expected"] if expecting else []), "seconds", "response ends", "note")
    for row in rows[:SHOWN]:
        expected = [] if not expecting else ["" if row.expected is None else f"{row.expected:g}"]
        end = " ".join(row.completion.split())
        end = end if len(end) <= TAIL else f"...{end[-TAIL:]}"
        cells = [str(row.place), _score(row), *expected, f"{row.seconds:.3f}"]
        table.add_row(*cells, escape(end), escape(row.result.note[:200]))
    if len(rows) > SHOWN:
        table.caption = f"the first {SHOWN} of {len(rows):,}"
    return table


def _score(row: ScoredRow) -> str:
    return row.result.outcome if row.result.score is None else f"{row.result.score:g}"
