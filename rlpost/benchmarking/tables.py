"""Models beside each other: scores with their intervals, and the differences between any two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from rlpost.errors import UserError
from rlpost.evaluation import Comparison, EvaluationResult
from rlpost.evaluation.compare import compare_pair
from rlpost.evaluation.tables import p_text, plain_table

if TYPE_CHECKING:
    from rich.table import Table

Results = Mapping[str, Mapping[str, EvaluationResult]]
"""By the model's name, then by the benchmark's."""


@dataclass(frozen=True)
class Difference:
    """Two models on one benchmark.

    Attributes:
        comparison: None where they cannot be compared.
        why_not: the reason then.
    """

    benchmark: str
    model: str
    against: str
    comparison: Comparison | None
    why_not: str = ""

    @property
    def cells(self) -> list[str]:
        """Benchmark, the two models, change, interval, p, up/down."""
        head = [self.benchmark, f"{self.model} - {self.against}"]
        if self.comparison is None:
            return [*head, self.why_not, "", "", ""]
        test = self.comparison.test
        return [
            *head,
            f"{100 * test.difference:+.1f}",
            f"{100 * test.low:+.1f} to {100 * test.high:+.1f}",
            p_text(test.p_value),
            f"{test.better}/{test.worse}",
        ]


DIFFERENCE_HEADINGS = ("benchmark", "models", "change", "interval", "p", "up/down")


def benchmarks_of(results: Results) -> list[str]:
    """All benchmarks, in the order in which they first come."""
    return list(dict.fromkeys(name for of_model in results.values() for name in of_model))


def score_text(result: EvaluationResult | None) -> str:
    """The accuracy and its interval in percent, with a mark where something went wrong."""
    if result is None:
        return "-"
    a = result.accuracy
    mark = "" if result.complete else " (incomplete)"
    return f"{100 * a.value:.1f} ({100 * a.low:.1f} to {100 * a.high:.1f}){mark}"


def differences(results: Results) -> list[Difference]:
    """Any two models on each benchmark that both have, the later model against the earlier one."""
    found = []
    for benchmark in benchmarks_of(results):
        having = [name for name, of_model in results.items() if benchmark in of_model]
        for against, model in combinations(having, 2):
            pair = (results[model][benchmark].output, results[against][benchmark].output)
            try:
                found.append(Difference(benchmark, model, against, compare_pair(*pair)))
            except UserError as error:
                found.append(Difference(benchmark, model, against, None, error.what))
    return found


def models_table(results: Results) -> Table:
    """Models x benchmarks, the accuracy and its interval in each cell."""
    names = benchmarks_of(results)
    table = plain_table("models", "avg@k in percent, with 95 % intervals over problems", ("model", *names))
    for name, of_model in results.items():
        table.add_row(name, *(score_text(of_model.get(benchmark)) for benchmark in names))
    return table


def differences_table(results: Results) -> Table:
    """One row for any two models on each benchmark."""
    caption = "points, paired by problem, 95 % interval; p: two-sided sign-flip test,\n"
    caption += "not corrected for the number of comparisons"
    table = plain_table("differences", caption, DIFFERENCE_HEADINGS, left=2)
    for difference in differences(results):
        table.add_row(*difference.cells)
    return table


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; text columns are those before the first number."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (headings, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    lines.insert(1, "|" + "---|" * len(headings))
    return "\n".join(lines) + "\n"
