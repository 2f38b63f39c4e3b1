"""What a comparison prints: the plan, a line for each run, the closing tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlpost.comparison.budget import budget_text
from rlpost.comparison.measures import Measure, write
from rlpost.comparison.plan import Plan, Task
from rlpost.comparison.results import ArmResult, Results, TaskResult
from rlpost.comparison.runner import Outcome
from rlpost.comparison.runs import SUMMARY, ComparedRun

if TYPE_CHECKING:
    from rich.console import Console

BESIDE = ("trained_tokens", "nonzero_response_share", "clip_share", "entropy_end", "wall_s")
"""What the second table shows; the report shows the rest."""


def describe_plan(
    plan: Plan, runs: Sequence[ComparedRun], todo: Sequence[ComparedRun], jobs: int, directory: Path
) -> list[str]:
    """What will be trained, line by line."""
    seeds = ", ".join(map(str, plan.seeds))
    lines = []
    for task in plan.tasks:
        lines += _task_lines(task)
        lines.append(f"  seeds     {seeds}")
    shared = sum(run.arm is None for run in todo)
    done = sum(run.arm is not None and run.complete for run in runs)
    parts = [f"{len(plan.tasks)} x {len(plan.arm_names)} x {len(plan.seeds)} (tasks x arms x seeds)"]
    parts += [f"{done} complete already"] if done else []
    parts += [
        f"{len(todo)} to train, {shared} of them for shared stages" if shared else f"{len(todo)} to train"
    ]
    lines.append(f"{'; '.join(parts)}; {jobs} at a time")
    lines.append(f"in {directory}")
    return lines


def _task_lines(task: Task) -> list[str]:
    names = [arm.name for arm in task.arms]
    budget = budget_text(task.arms[0].config)
    lines = [f"task {task.name}", f"  arms      {', '.join(names)}; differences are to {names[0]}"]
    lines += [f"  shared    {line}; trained once a seed" for line in budget[: task.shared]]
    arms = {arm.name: arm for arm in task.arms} if task.differences else {"each run": task.arms[0]}
    width = max(9, *map(len, arms))
    for name, arm in arms.items():
        lines += [f"  {name:{width}} {line}" for line in budget_text(arm.config, task.shared)]
    lines += [f"  differ in {line}" for line in task.varied]
    lines += [f"  warning: budgets differ: {line}" for line in task.differences]
    return lines


def progress_line(number: int, of: int, outcome: Outcome) -> str:
    """One run that ended; a failed one with its reason and the last lines of its log."""
    head = f"{number} of {of}  {outcome.run.label}"
    if outcome.failure is not None:
        reason, *tail = outcome.failure.splitlines()
        return "\n".join([f"{head}  FAILED: {reason}", *(f"    {line}" for line in tail)])
    summary = json.loads((outcome.run.directory / SUMMARY).read_text(encoding="utf-8"))
    sets = {"accuracy": summary.get("eval"), **summary.get("others", {})}
    reached = [f"{name} {scores['after']['accuracy']:.3f}" for name, scores in sets.items() if scores]
    accuracy = ", ".join(reached) if outcome.run.arm is not None else ""
    return f"{head}  {accuracy}{'  ' if accuracy else ''}{outcome.seconds:.0f} s"


def closing_tables(results: Results, console: Console) -> None:
    """For each task: what was reached, a table for each set of held-out problems, and by which means."""
    n = len(results.seeds)
    for task in results.tasks:
        for name in ("", *task.others):
            _print_reached(console, task, name, n)
        beside = [m for m in task.measures if m.key in BESIDE]
        rows = [[cell(arm, m, interval=False) for m in beside] for arm in task.arms]
        _print_table(console, f"{task.name}: how", task, [m.title for m in beside], rows)
    if n > 1:
        note = "Differences are in points, seed by seed; an interval that holds 0 is no evidence for one."
    else:
        note = "One seed has no interval: add --seeds 3 or more."
    console.print(note, highlight=False)


def _print_reached(console: Console, task: TaskResult, name: str, n: int) -> None:
    """Accuracy and pass@k on one set of held-out problems; "" is the main one."""
    compared = [m for m in task.measures if m.is_compared and m.key.partition("/")[2] == name]
    first, failed = task.arms[0].name, any(arm.failures for arm in task.arms)
    titles = [m.title for m in compared]
    rows = [
        [cell(arm, m, interval=True) for m in compared]
        + [difference(arm, m) for m in compared]
        + ([f"{len(arm.failures)} of {n}"] if failed else [])
        for arm in task.arms
    ]
    headings = [*titles, *(f"{title} - {first}" for title in titles), *(["failed"] if failed else [])]
    title = f"{task.name}{name and f', {name}'}: mean over seeds ± 95 % interval, n = {n}"
    _print_table(console, title, task, headings, rows)


def _print_table(
    console: Console, title: str, task: TaskResult, headings: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    for arm, cells in zip(task.arms, rows, strict=True):
        table.add_row(arm.name, *(text.replace(" ", "\N{NO-BREAK SPACE}") for text in cells))
    console.print(table)


def cell(arm: ArmResult, measure: Measure, *, interval: bool) -> str:
    """A measure of an arm; "failed" when no seed of the arm was trained to its end."""
    mean = arm.measures[measure.key]
    if mean is None and arm.failures and not any(arm.curves.values()):
        return "failed"
    text = write(mean, measure.form, interval=interval)
    seeds_missing = mean is not None and measure.key == "accuracy" and bool(arm.failures)
    return f"{text} (n = {mean.n})" if seeds_missing and mean is not None else text


def difference(arm: ArmResult, measure: Measure) -> str:
    """The paired difference to the first arm, of shares in points; nothing for the first arm itself."""
    if not arm.differences:
        return ""
    form = "points" if measure.form == "percent" else measure.form
    return write(arm.differences[measure.key], form, interval=True, signed=True)
