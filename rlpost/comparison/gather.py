"""What the runs left in their directories: one record a run, with its numbers and its curves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlpost.comparison.runs import SUMMARY, ComparedRun
from rlpost.errors import DataError

END_SHARE = 0.1
PREFERRED_K = 8

Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class RunRecord:
    """One run of one arm.

    Attributes:
        task: its task.
        arm: its arm.
        seed: its seed.
        values: the numbers of `MEASURES` by key; None where the run does not emit it.
        curves: (step, value) pairs by name: "accuracy", "pass@K", the same with "/NAME" of further held-out
            sets, and those of `STEP_CURVES`.
        tokens: (step, tokens trained on up to it), from (first step - 1, 0) on.
        failure: why it has no numbers; None when it has.
    """

    task: str
    arm: str
    seed: int
    values: Mapping[str, float | None] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    tokens: Sequence[tuple[int, float]] = ()
    failure: str | None = None


def gather(run: ComparedRun, failure: str | None = None) -> RunRecord:
    """The record of a run; without numbers when it failed.

    Totals are over all stages that the run trains itself. Means over steps, and curves of what each step
    emits, are over those that sample (over all of a purely supervised run): supervised steps have an
    advantage everywhere and no clip, and would blur what is compared.

    Raises:
        DataError: a file of the run is damaged.
    """
    from rlpost.monitor import read_metrics

    arm = run.arm or ""
    if failure is not None:
        return RunRecord(run.task, arm, run.seed, failure=failure)
    sampling = {stage.name for stage in run.config.stages if stage.has_rollouts}
    whole = read_metrics(run.directory)
    records = [r for r in whole if not sampling or r["stage"] in sampling]
    if not records:
        raise DataError("a complete run has no metrics", where=run.directory)
    start = whole[0]["step"] - 1
    evaluations = _evaluations(run.directory)
    curves = {name: _points(records, value) for name, value in STEP_CURVES.items()}
    for name in dict.fromkeys(name for _, result in evaluations for name in result):
        curves[name] = [(step, result[name]) for step, result in evaluations if name in result]
    values = {name: total(whole) for name, total in TOTALS.items()}
    values |= {name: measure(records) for name, measure in STEP_MEASURES.items()}
    values |= {name: curve[-1][1] for name, curve in curves.items() if name.startswith(("accuracy", "pass@"))}
    values["wall_s"] = _read(run.directory / SUMMARY).get("wall_s")
    tokens, total = [(start, 0.0)], 0.0
    for record in whole:
        total += record.get("learner/trained_tokens") or 0.0
        tokens.append((record["step"], total))
    return RunRecord(run.task, arm, run.seed, values, curves, tokens)


def chosen_k(records: Iterable[RunRecord]) -> int | None:
    """The k at which pass@k is shown: 8 when all evaluated it, else the largest; None when only 1."""
    shared: set[int] | None = None
    for record in records:
        if record.failure is None:
            names = [name for name in record.curves if name.startswith("pass@") and "/" not in name]
            own = {int(name.removeprefix("pass@")) for name in names}
            shared = own if shared is None else shared & own
    known = (shared or set()) - {1}
    return PREFERRED_K if PREFERRED_K in known else max(known, default=None)


def _evaluations(directory: Path) -> list[tuple[int, dict[str, float]]]:
    """(step, {"accuracy": ..., "pass@1": ..., "accuracy/NAME": ...}) of the run's evaluations."""
    found = []
    for folder in sorted(directory.glob("evaluations/step-*")):
        values = {}
        for path in sorted([*folder.glob("results.json"), *folder.glob("*/results.json")]):
            of_set = "" if path.parent == folder else f"/{path.parent.name}"
            result = _read(path)
            metrics = result["metrics"]
            values[f"accuracy{of_set}"] = metrics[f"avg@{result['samples_per_problem']}"]["value"]
            passes = {name: m["value"] for name, m in metrics.items() if name.startswith("pass@")}
            values |= {f"{name}{of_set}": value for name, value in passes.items()}
        found.append((int(folder.name.removeprefix("step-")), values))
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("a file of a run cannot be read", where=path, found=error) from error
    return value


Record = Mapping[str, Any]


def _metric(name: str) -> Callable[[Record], float | None]:
    return lambda record: record.get(name)


def _clip_share(record: Record) -> float | None:
    """Tokens clipped on either side; None in a step without an update that has a clip."""
    sides = [record.get("policy/clip_share_low"), record.get("policy/clip_share_high")]
    known = [side for side in sides if side is not None]
    return sum(known) if known else None


def _generated_tokens(record: Record) -> float | None:
    samples, length = record.get("rollout/samples"), record.get("rollout/response_tokens_mean")
    return None if samples is None or length is None else samples * length


def _points(records: Sequence[Record], value: Callable[[Record], float | None]) -> Curve:
    found = ((record["step"], value(record)) for record in records)
    return [(step, known) for step, known in found if known is not None]


Measure = Callable[[Sequence[Record]], float | None]


def _total(value: Callable[[Record], float | None]) -> Measure:
    def total(records: Sequence[Record]) -> float | None:
        known = [v for _, v in _points(records, value)]
        return sum(known) if known else None

    return total


def _mean(value: Callable[[Record], float | None]) -> Measure:
    """Over the steps that have the metric."""

    def mean(records: Sequence[Record]) -> float | None:
        known = [v for _, v in _points(records, value)]
        return sum(known) / len(known) if known else None

    return mean


def _at_the_end(value: Callable[[Record], float | None]) -> Measure:
    """The mean over the last tenth of the steps, which a single noisy step does not decide."""
    return lambda records: _mean(value)(records[-max(1, round(END_SHARE * len(records))) :])


STEP_CURVES: dict[str, Callable[[Record], float | None]] = {
    "nonzero_response_share": _metric("signal/nonzero_response_share"),
    "informative_group_share": _metric("signal/informative_group_share"),
    "clip_share": _clip_share,
    "entropy": _metric("policy/entropy"),
    "response_tokens": _metric("rollout/response_tokens_mean"),
}
"""A number of each step, by the curve's name."""

TOTALS: dict[str, Measure] = {
    "trained_tokens": _total(_metric("learner/trained_tokens")),
    "generated_tokens": _total(_generated_tokens),
    "generated_samples": _total(_metric("rollout/samples")),
    "skipped_updates": _total(_metric("learner/skipped_updates")),
}
"""A number of a whole run, from all its steps."""

STEP_MEASURES: dict[str, Measure] = {
    "nonzero_response_share": _mean(STEP_CURVES["nonzero_response_share"]),
    "informative_group_share": _mean(STEP_CURVES["informative_group_share"]),
    "clip_share": _mean(_clip_share),
    "entropy_end": _at_the_end(STEP_CURVES["entropy"]),
}
"""The same from the steps of stages that sample."""
