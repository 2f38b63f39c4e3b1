"""The end of a trained run: a last evaluation, the policy, the summary, the report, the last words."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from typing import Any

from rlpost.monitor import write_report
from rlpost.training.evaluating import before_and_after
from rlpost.training.loop import Run
from rlpost.training.run_directory import RunDirectory


def finish(run: Run, directory: RunDirectory) -> None:
    """Evaluate once more, write the policy, the summary and the report, and say where they are."""
    state, config = run.state, run.config
    run.status.at(state, "finishing")
    run.evaluator.evaluate(state, config.stages[-1])
    run.status.at(state, "finishing")  # with the last score
    run.learners.save_policy(directory.policy)
    summary = {
        "id": run.status.id,
        "name": config.name,
        "eval": before_and_after(state.evaluations, config),
        "others": {
            name: before_and_after(state.evaluations_of(name), config) for name in config.evaluation.others
        },
        "steps": state.step,
        "wall_s": round(state.wall_s, 3),
        "samples": state.samples,
        "trained_tokens": state.trained_tokens,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    directory.write_summary(summary)
    write_report(directory.path)
    run.progress.finish(closing_lines(summary, directory))


def closing_lines(summary: Mapping[str, Any], directory: RunDirectory) -> list[str]:
    """The last screen: what was learnt, and where everything is."""
    lines = []
    for name, scores in {"": summary["eval"], **summary["others"]}.items():
        if not scores:
            continue
        before, after = scores["before"], scores["after"]
        lines.append(
            f"accuracy on {after['problems']} held-out problems{name and f' of {name}'}: "
            f"{before['accuracy']:.3f} before -> {after['accuracy']:.3f} after "
            f"({after['level']:.0%} interval {after['low']:.3f} to {after['high']:.3f})"
        )
    lines.append(
        f"{summary['steps']} steps, {summary['samples']} samples, {summary['wall_s']:.0f} s of training"
    )
    lines.append(f"run     {directory.path}")
    lines.append(f"policy  {directory.policy}")
    lines.append(f"report  {directory.path / 'report.html'}")
    return lines
