"""What `rlpost eval` prints: one row for each benchmark, one for each comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlpost.evaluation.compare import Comparison
from rlpost.evaluation.results import EvaluationResult

if TYPE_CHECKING:
    from rich.table import Table


def results_table(model: str, results: Mapping[str, EvaluationResult]) -> Table:
    """One row per benchmark: problems, samples, avg@k with its interval, pass@k, what went wrong."""
    caption = "intervals: 95 %, with problems, not samples, as the unit"
    headings = ("benchmark", "problems", "k", "avg@k", "interval", "pass@k", "truncated", "failed")
    table = _table(model, caption, headings)
    for name, result in results.items():
        accuracy, n = result.accuracy, result.samples_per_problem
        failed = result.outcomes["timeout"] + result.outcomes["error"]
        table.add_row(
            name if result.complete else f"{name} (incomplete)",
            f"{result.problems:,}",
            str(n),
            f"{100 * accuracy.value:.1f} %",
            f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f} %",
            f"{100 * result.metrics[f'pass@{n}'].value:.1f} %",
            f"{100 * result.truncated_share:.1f} %",
            str(failed),
        )
    return table


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """One row per benchmark: both accuracies, their difference with its interval, the p-value, and
    on how many problems the first result is better and worse."""
    caption = "change: paired by problem, 95 % interval; p: two-sided sign-flip test"
    headings = ("benchmark", "avg@k", "against", "change", "interval", "p", "up/down")
    table = _table("comparison", caption, headings)
    for comparison in comparisons:
        test = comparison.test
        table.add_row(
            comparison.directory.name,
            f"{100 * comparison.accuracy:.1f} %",
            f"{100 * comparison.accuracy_against:.1f} %",
            f"{100 * test.difference:+.1f}",
            f"{100 * test.low:+.1f} to {100 * test.high:+.1f}",
            f"{test.p_value:.3f}" if test.p_value >= 0.001 else "<0.001",
            f"{test.better}/{test.worse}",
        )
    return table


def _table(title: str, caption: str, headings: Sequence[str]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "benchmark" else "right", no_wrap=True)
    return table
