"""What the command line prints, as text: the algorithm table, regraded verdicts, root causes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rlpost.errors import UserError

if TYPE_CHECKING:
    from rlpost.data import RewardResult
    from rlpost.evaluation import RegradeReport


def algorithm_table(name: str | None, as_json: bool) -> str:
    """All rows of the table, or the row `name` with its parts, formulas and source.

    Raises:
        UserError: there is no such row.
    """
    from rlpost.estimator import ALGORITHMS

    if name is not None and name not in ALGORITHMS:
        raise UserError(f"there is no algorithm {name!r}", needed=f"one of {', '.join(ALGORITHMS)}")
    rows = {key: row for key, row in ALGORITHMS.items() if name in (None, key)}
    if as_json:
        fields = {
            key: {
                "summary": row.summary,
                "source": row.source,
                "certain": row.certain,
                "ours": row.ours,
                "objective": row.objective.describe().splitlines(),
            }
            for key, row in rows.items()
        }
        return json.dumps(fields, indent=2)
    if name is None:
        width = max(map(len, rows)) + 2
        lines = [f"{key:{width}s}{row.summary}" for key, row in rows.items()]
        return "\n".join(
            [*lines, "", "`rlpost algorithms NAME` prints the parts, the formulas and the source."]
        )
    row = rows[name]
    return (
        f"{name}: {row.summary}\n\n{row.objective.describe()}\n\n"
        f"source       {row.source}\ncertain      {row.certain}\nours         {row.ours}"
    )


def regraded(report: RegradeReport) -> str:
    """One line for each evaluation, and one for each sample that is judged differently now."""
    lines = []
    for graded in report.evaluations:
        lines.append(
            f"{graded.directory.name}: {graded.samples} samples, {len(graded.changes)} changed, "
            f"accuracy {graded.accuracy_before:.4f} -> {graded.result.accuracy.value:.4f}"
        )
        lines += [
            f"  {c.prompt_id} sample {c.sample}: {_verdict(c.before)} -> {_verdict(c.after)}"
            for c in graded.changes
        ]
    return "\n".join(lines)


def root_cause(error: BaseException) -> str:
    """The exception that started it all, in one line."""
    while True:
        earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if earlier is None:
            break
        error = earlier
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _verdict(result: RewardResult) -> str:
    return result.outcome if result.score is None else f"{result.score:g} ({result.outcome})"
