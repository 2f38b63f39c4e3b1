"""From records of single runs to what is shown: means over seeds, differences, curves with bands."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlpost.comparison.budget import budget_text
from rlpost.comparison.gather import RunRecord, chosen_k
from rlpost.comparison.measures import Measure, measures_of
from rlpost.comparison.plan import Plan, Task
from rlpost.comparison.statistics import LEVEL, Mean, mean_interval, paired_difference

FORMAT = 1
MOST_POINTS = 60


@dataclass(frozen=True)
class BandPoint:
    """One point of a curve over seeds.

    Attributes:
        step: where it is; the middle of the steps it averages.
        tokens: trained on up to there, mean over seeds.
        mean: over seeds.
        low: the lowest seed.
        high: the highest seed.
        n: seeds.
    """

    step: float
    tokens: float
    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class ArmResult:
    """One arm on one task.

    Attributes:
        name: of the arm.
        algorithms: of the stages that it trains itself, by their names.
        budget: of one run of it, a line for each of these stages.
        measures: by key; None for what the arm does not emit.
        differences: the paired difference to the first arm, by key; empty for the first arm itself.
        curves: by name.
        failures: why, by seed.
    """

    name: str
    algorithms: Mapping[str, Any]
    budget: Sequence[str]
    measures: Mapping[str, Mean | None]
    differences: Mapping[str, Mean | None]
    curves: Mapping[str, Sequence[BandPoint]]
    failures: Mapping[int, str]


@dataclass(frozen=True)
class TaskResult:
    """All arms on one task.

    Attributes:
        name: of the task.
        budget: of one run, a line for each stage that an arm trains itself; the first arm's.
        shared: lines for the stages that all arms share.
        budget_differences: a line for each difference between the arms' budgets.
        varied: a line for each other difference between their recipes, the algorithm excepted.
        k: of the pass@k that is shown; None when only one sample a problem was taken.
        others: names of the further held-out sets.
        steps_per_point: steps that one point of a curve averages, evaluations excepted.
        arms: in the order given.
    """

    name: str
    budget: Sequence[str]
    shared: Sequence[str]
    budget_differences: Sequence[str]
    varied: Sequence[str]
    k: int | None
    others: Sequence[str]
    steps_per_point: int
    arms: Sequence[ArmResult]

    @property
    def measures(self) -> list[Measure]:
        """What there is to show of each arm."""
        return measures_of(self.k, self.others)


@dataclass(frozen=True)
class Results:
    """A whole comparison: seeds, tasks, and the records it was made from."""

    seeds: tuple[int, ...]
    tasks: tuple[TaskResult, ...]
    records: tuple[RunRecord, ...]

    @property
    def failures(self) -> list[RunRecord]:
        return [record for record in self.records if record.failure is not None]


def summarise(plan: Plan, records: Sequence[RunRecord]) -> Results:
    """Means, differences and curves of every arm on every task."""
    tasks = [_task_result(task, [r for r in records if r.task == task.name]) for task in plan.tasks]
    return Results(plan.seeds, tuple(tasks), tuple(records))


def _task_result(task: Task, records: Sequence[RunRecord]) -> TaskResult:
    k, others = chosen_k(records), tuple(task.arms[0].config.evaluation.others)
    measures = measures_of(k, others)
    compared = [measure.key for measure in measures if measure.is_compared]
    done = {arm.name: [r for r in records if r.arm == arm.name and r.failure is None] for arm in task.arms}
    width = _steps_per_point(records)
    first = done[task.arms[0].name]
    arms = []
    for index, arm in enumerate(task.arms):
        failures = {r.seed: r.failure for r in records if r.arm == arm.name and r.failure is not None}
        own = done[arm.name]
        arms.append(
            ArmResult(
                arm.name,
                {stage.name: stage.algorithm for stage in arm.config.stages[task.shared :]},
                budget_text(arm.config, task.shared),
                {m.key: mean_interval(list(_by_seed(own, m.key).values())) for m in measures},
                {key: paired_difference(_by_seed(own, key), _by_seed(first, key)) for key in compared}
                if index
                else {},
                {name: band(own, name, width) for name in _curve_names(own)},
                failures,
            )
        )
    config = task.arms[0].config
    whole = budget_text(config)
    return TaskResult(
        name=task.name,
        budget=whole[task.shared :],
        shared=whole[: task.shared],
        budget_differences=task.differences,
        varied=task.varied,
        k=k,
        others=others,
        steps_per_point=width,
        arms=arms,
    )


def _by_seed(records: Iterable[RunRecord], key: str) -> dict[int, float]:
    """The values of those runs that have one."""
    pairs = ((record.seed, record.values.get(key)) for record in records)
    return {seed: value for seed, value in pairs if value is not None}


def _curve_names(records: Iterable[RunRecord]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name, curve in record.curves.items() if curve))


def _steps_per_point(records: Iterable[RunRecord]) -> int:
    longest = max((len(record.tokens) - 1 for record in records if record.tokens), default=1)
    return math.ceil(longest / MOST_POINTS)


def band(records: Sequence[RunRecord], name: str, width: int) -> list[BandPoint]:
    """The mean curve of some seeds with the range between the lowest and the highest.

    Evaluations stay single points; of other curves `width` steps each become one, first averaged
    within a seed. A seed without a value there does not count, and the point's n says so.
    """
    evaluated = name.startswith(("accuracy", "pass@"))
    points: dict[float, list[tuple[float, float]]] = {}
    for record in records:
        tokens = dict(record.tokens)
        start = record.tokens[0][0]
        bins: dict[float, list[float]] = {}
        for step, value in record.curves.get(name, ()):
            place = step if evaluated else start + ((step - start - 1) // width + 0.5) * width + 0.5
            bins.setdefault(place, []).append(value)
        for place, values in bins.items():
            at = tokens.get(int(place), record.tokens[-1][1])
            points.setdefault(place, []).append((sum(values) / len(values), at))
    curve = []
    for place in sorted(points):
        seeds, tokens_at = zip(*points[place], strict=True)
        n = len(seeds)
        curve.append(
            BandPoint(place, math.fsum(tokens_at) / n, math.fsum(seeds) / n, min(seeds), max(seeds), n)
        )
    return curve


def as_json(results: Results) -> str:
    """All numbers as JSON."""
    tree = {
        "format": FORMAT,
        "level": LEVEL,
        "seeds": results.seeds,
        "tasks": [asdict(task) for task in results.tasks],
        "runs": [_run_row(record) for record in results.records],
    }
    return json.dumps(tree, indent=2, allow_nan=False) + "\n"


def as_csv(results: Results) -> str:
    """One row a run; an empty cell for what a run does not emit."""
    rows = [_run_row(record) for record in results.records]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "failure": row["failure"].partition("\n")[0]} for row in rows)
    return text.getvalue()


def _run_row(record: RunRecord) -> dict[str, Any]:
    return {
        "task": record.task,
        "arm": record.arm,
        "seed": record.seed,
        "status": "done" if record.failure is None else "failed",
        "failure": record.failure or "",
        **record.values,
    }


def algorithm_of(arm: ArmResult) -> str:
    """An arm's algorithms as YAML on one line a stage, each under the stage's budget."""
    lines = zip(arm.budget, arm.algorithms.items(), strict=True)
    return "\n".join(f"{budget}\n  {stage}: {json.dumps(spec)}" for budget, (stage, spec) in lines)
