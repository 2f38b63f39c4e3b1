"""compare(): plan, train what is missing, gather, report."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlpost.comparison.gather import RunRecord, gather
from rlpost.comparison.plan import make_plan
from rlpost.comparison.results import Results, as_csv, as_json, summarise
from rlpost.comparison.runner import Outcome, execute
from rlpost.comparison.runs import ComparedRun, check_output, pending, runs_of
from rlpost.errors import RlpostError

if TYPE_CHECKING:
    from rich.console import Console

REPORT, NUMBERS, TABLE = "report.html", "comparison.json", "comparison.csv"


def compare(
    recipes: Sequence[Path],
    overrides: Sequence[str] = (),
    *,
    arms_file: Path | None = None,
    seeds: int = 3,
    jobs: int | None = None,
    output: Path | None = None,
    deadline_s: float = 3600.0,
    different_budgets: bool = False,
    console: Console | None = None,
) -> Results:
    """Train every arm on every task under every seed, and write one report about all of them.

    Complete runs in `output` are used as they are; others go on from their newest checkpoint.

    Args:
        recipes: without `arms_file` one arm each, with it one task each.
        overrides: `key=value`, applied to every recipe.
        arms_file: YAML, arm name to a value of `algorithm`, or to stages.
        seeds: how many.
        jobs: runs at the same time; None takes the number of cores.
        output: the directory; None makes a new one.
        deadline_s: seconds that one run may take.
        different_budgets: note differing budgets instead of refusing them.
        console: where to print; the standard output when None.

    Returns:
        what comparison.json holds.

    Raises:
        UserError: the input is wrong; nothing was trained.
        RlpostError: a run failed; the report about the others is written.
    """
    from rlpost.comparison.page import write_page
    from rlpost.comparison.terminal import closing_tables, describe_plan, progress_line

    if console is None:
        from rich.console import Console

        console = Console()
    plan = make_plan(
        recipes, overrides, arms_file=arms_file, seeds=seeds, different_budgets=different_budgets
    )
    jobs = jobs or _cores()
    directory = output or Path("runs") / f"compare-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    check_output(directory)
    runs = runs_of(plan, directory, jobs)
    todo = pending(runs)
    for line in describe_plan(plan, runs, todo, jobs, directory):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    directory.mkdir(parents=True, exist_ok=True)
    count = 0

    def report(outcome: Outcome) -> None:
        nonlocal count
        count += 1
        line = progress_line(count, len(todo), outcome)
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    outcomes = execute(todo, jobs=jobs, deadline_s=deadline_s, report=report)
    results = summarise(plan, _records(runs, outcomes))
    _write(directory / NUMBERS, as_json(results))
    _write(directory / TABLE, as_csv(results))
    write_page(results, directory / REPORT)
    closing_tables(results, console)
    console.print(f"report  {directory / REPORT}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"numbers {directory / NUMBERS}, {TABLE}", markup=False, highlight=False, soft_wrap=True)
    if failed := [outcome for outcome in outcomes if outcome.failure is not None]:
        raise RlpostError(
            f"{len(failed)} of {len(runs)} runs failed",
            where=failed[0].run.directory,
            found=_root_cause(failed[0]),
            remedy="mend it and give the same command again: complete runs are kept",
        )
    return results


def _cores() -> int:
    """Those this process may use; where the system does not say, all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _records(runs: Sequence[ComparedRun], outcomes: Sequence[Outcome]) -> list[RunRecord]:
    failures = {id(outcome.run): outcome.failure for outcome in outcomes}
    return [gather(run, failures.get(id(run))) for run in runs if run.arm is not None]


def _root_cause(outcome: Outcome) -> str:
    """What the run's own message says went wrong; without one, the last line there is."""
    lines = (outcome.failure or "").splitlines()
    return next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1])


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
