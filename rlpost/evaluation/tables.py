"""What `rlpost eval` prints: one row for each benchmark, one for each comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlpost.evaluation.compare import Comparison
from rlpost.evaluation.results import EvaluationResult

if TYPE_CHECKING:
    from rich.table import Table


RESULT_HEADINGS = (
    "benchmark",
    "problems",
    "k",
    "avg@k",
    "interval",
    "pass@k",
    "truncated",
    "failed",
    "too long",
)


def results_table(model: str, results: Mapping[str, EvaluationResult]) -> Table:
    """One row per benchmark: problems, samples, avg@k with its interval, pass@k, what went wrong.

    pass@k is left out where k is 1, and the number of problems that are too long where there are none.
    """
    caption = "intervals: 95 %, with problems, not samples, as the unit"
    hidden = set()  # so that the table fits into 80 columns
    if not any(result.too_long for result in results.values()):
        hidden.add("too long")
    if all(result.samples_per_problem == 1 for result in results.values()):
        hidden.add("pass@k")
    shown = [number for number, heading in enumerate(RESULT_HEADINGS) if heading not in hidden]
    table = plain_table(model, caption, [RESULT_HEADINGS[number] for number in shown])
    for name, result in results.items():
        cells = result_cells(name, result)
        table.add_row(*(cells[number] for number in shown))
    return table


def result_cells(name: str, result: EvaluationResult) -> list[str]:
    """A benchmark's row, under `RESULT_HEADINGS`."""
    accuracy, n = result.accuracy, result.samples_per_problem
    return [
        name if result.complete else f"{name} (incomplete)",
        f"{result.problems:,}",
        str(n),
        f"{100 * accuracy.value:.1f} %",
        f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f} %",
        f"{100 * result.metrics[f'pass@{n}'].value:.1f} %",
        f"{100 * result.truncated_share:.1f} %",
        str(result.outcomes["timeout"] + result.outcomes["error"]),
        str(result.too_long),
    ]


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """One row per benchmark: both accuracies, their difference with its interval, the p-value, and
    on how many problems the first result is better and worse."""
    caption = "change: paired by problem, 95 % interval; p: two-sided sign-flip test"
    headings = ("benchmark", "avg@k", "against", "change", "interval", "p", "up/down")
    table = plain_table("comparison", caption, headings)
    for comparison in comparisons:
        test = comparison.test
        table.add_row(
            comparison.directory.name,
            f"{100 * comparison.accuracy:.1f} %",
            f"{100 * comparison.accuracy_against:.1f} %",
            f"{100 * test.difference:+.1f}",
            f"{100 * test.low:+.1f} to {100 * test.high:+.1f}",
            p_text(test.p_value),
            f"{test.better}/{test.worse}",
        )
    return table


def p_text(p_value: float) -> str:
    """Three digits, or that it is smaller."""
    return f"{p_value:.3f}" if p_value >= 0.001 else "<0.001"


def plain_table(title: str, caption: str, headings: Sequence[str], left: int = 1) -> Table:
    """An empty table; `left` columns of text, then numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < left else "right", no_wrap=True)
    return table
