"""What the command line prints, as text: the algorithm table, regraded verdicts, root causes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rlpost.errors import RlpostError, UserError

if TYPE_CHECKING:
    from rlpost.data import RewardResult
    from rlpost.estimator import Row
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
        return json.dumps({key: row_as_json(row) for key, row in rows.items()}, indent=2)
    if name is None:
        advice = "`rlpost algorithms NAME` prints the parts, the formulas and the source."
        return "\n".join([*_table_lines(rows), advice])
    row = rows[name]
    return (
        f"{name}: {row.summary}\n\n{row.objective.describe()}\n\n"
        f"source       {row.source}\ncertain      {row.certain}\nours         {row.ours}"
    )


def _table_lines(rows: Mapping[str, Row]) -> Iterator[str]:
    """Name and summary of each row, family by family."""
    width = max(map(len, rows)) + 2
    for family in dict.fromkeys(row.family for row in rows.values()):
        yield f"{family}:"
        yield from (f"  {name:{width}s}{row.summary}" for name, row in rows.items() if row.family == family)
        yield ""


def row_as_json(row: Row) -> dict[str, Any]:
    """Every field of a row: its texts as they are, its objective as formula lines and as parts."""
    texts = {
        field.name: getattr(row, field.name) for field in dataclasses.fields(row) if field.name != "objective"
    }
    return texts | {
        "objective": row.objective.describe().splitlines(),
        "parts": list(_parts("objective", row.objective, None)),
    }


def _parts(axis: str, value: Any, term: int | None) -> Iterator[dict[str, Any]]:
    """The parts in an objective: whatever has a formula; terms are numbered from 1."""
    from rlpost.estimator import PARTS, AllGates, AllOf

    if isinstance(value, AllOf):
        yield from _parts(axis, value.masks, term)
    elif isinstance(value, AllGates):
        yield from _parts(axis, value.gates, term)
    elif isinstance(value, tuple):
        for number, item in enumerate(value, start=1):
            yield from _parts(axis, item, number if axis == "terms" else term)
    elif hasattr(value, "formula"):
        names = {kind: name for name, kind in PARTS.get(axis, {}).items()}
        yield {
            "term": term,
            "axis": axis,
            "kind": names.get(type(value), type(value).__name__),
            "options": _options(value),
            "formula": value.formula,
        }
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _parts(field.name, getattr(value, field.name), term)


def _options(part: Any) -> dict[str, Any]:
    """A part's fields as plain data."""
    fields = dataclasses.fields(part) if dataclasses.is_dataclass(part) else ()
    return {field.name: getattr(part, field.name) for field in fields}


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


def remote_traceback(error: RlpostError) -> str:
    """Where in an actor's process something was raised that is no error of rlpost; "" for all others."""
    # Errors of rlpost say themselves what is wrong; this very class is made of what anything else raised.
    if type(error) is not RlpostError:
        return ""
    from rlpost.cluster.ray_group import RemoteTracebackError

    return f"{str(error.__cause__).strip()}\n" if isinstance(error.__cause__, RemoteTracebackError) else ""


def _verdict(result: RewardResult) -> str:
    return result.outcome if result.score is None else f"{result.score:g} ({result.outcome})"
