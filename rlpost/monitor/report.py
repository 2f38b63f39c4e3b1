"""report.html: one self-contained page about a run, finished or not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rlpost.errors import DataError, UserError
from rlpost.monitor.catalogue import describe
from rlpost.monitor.charts import draw_accuracy, draw_charts, stage_colours
from rlpost.monitor.dialogue import ending, response
from rlpost.monitor.page import card, page, section, table
from rlpost.monitor.progress import duration
from rlpost.monitor.writer import read_metrics

REPORT_FILE = "report.html"
SAMPLES_SHOWN = 5
BEFORE_AFTER = ("before", "after")

Points = dict[int, tuple[float, float, float]]


def write_report(run_dir: Path | str) -> Path:
    """Write RUN_DIR/report.html from config.yaml, metrics.jsonl, summary.json and rollouts/.

    Whatever is missing is left out, so a run can be looked at while it trains. The page holds
    everything that it shows, its chart library included, and loads nothing.

    Returns:
        The page's path.

    Raises:
        UserError: there is no such run.
        DataError: a file of the run is damaged; the message names file and line.
    """
    run = Path(run_dir)
    config, records = run / "config.yaml", read_metrics(run)
    if not config.is_file() and not records:
        raise UserError(
            "there is no run", where=run, needed="a run directory with config.yaml or metrics.jsonl"
        )
    config_text = config.read_text(encoding="utf-8") if config.is_file() else ""
    summary = _read_json(run / "summary.json")
    name = _run_name(config_text, run)
    points, others = _accuracy_points(run, records, summary), _other_points(run)
    body = [
        f"<header><h1>{escape(name)}</h1><p>{_run_id(run)}{_status(summary, records)}</p></header>",
        _cards(summary, records, points, others),
        _warnings(records),
        _charts(records, points, others),
        _trajectories(run),
        _configuration(config_text),
    ]
    path = run / REPORT_FILE
    partial = path.with_name(REPORT_FILE + ".partial")
    partial.write_text(page(name, "\n".join(body)), encoding="utf-8")
    partial.replace(path)
    return path


def find_warnings(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(metric, what was wrong) for every metric that left its healthy range at some step."""
    found = []
    for name in sorted({key for record in records for key in record} - {"step", "stage"}):
        steps = [(record["step"], record[name]) for record in records if name in record]
        broken = [step for step, value in steps if value is None]
        if broken:
            found.append((name, f"not a finite number in {_steps(broken, len(steps))}"))
        try:
            metric = describe(name)
        except KeyError:
            continue
        off = [(step, value) for step, value in steps if value is not None and metric.warning(value)]
        if off:
            middle = sum(bound for bound in (metric.low, metric.high) if bound is not None)
            worst = max(off, key=lambda at: abs(at[1] - middle))
            found.append(
                (
                    name,
                    f"{metric.warning(worst[1])} in {_steps([step for step, _ in off], len(steps))}; "
                    f"furthest {worst[1]:.4g} at step {worst[0]}. Healthy: {metric.healthy}",
                )
            )
    return found


def _steps(steps: Sequence[int], of: int) -> str:
    return f"{len(steps)} of {of} steps, first at step {steps[0]}"


def _run_id(run: Path) -> str:
    run_id = _read_json(run / "run.json").get("id")
    return f"run <code>{escape(str(run_id))}</code>, " if run_id else ""


def _status(summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    if summary:
        return "finished"
    last = records[-1]["step"] if records else 0
    return f"not finished: step {last} was the last one written"


def _cards(
    summary: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    points: Points,
    others: Mapping[str, Points],
) -> str:
    cards = _accuracy_cards(summary, points)
    for name, own in others.items():
        first, last = own[min(own)], own[max(own)]
        cards.append(card(f"accuracy of {name}", f"{last[0]:.1%}", f"first {first[0]:.1%}"))
    rewards = [r["reward/mean"] for r in records if r.get("reward/mean") is not None]
    if rewards:
        cards.append(card("last reward", f"{rewards[-1]:.3f}", f"first {rewards[0]:.3f}"))
    steps = summary.get("steps", records[-1]["step"] if records else 0)
    cards.append(card("steps", f"{steps:,}"))
    wall = summary.get("wall_s", sum(r.get("time/step_s") or 0.0 for r in records))
    cards.append(card("wall time", duration(wall)))
    for key, metric, title in (
        ("samples", "rollout/samples", "responses"),
        ("trained_tokens", "learner/trained_tokens", "tokens trained on"),
    ):
        count = summary.get(key, sum(r.get(metric) or 0 for r in records))
        cards.append(card(title, f"{int(count):,}"))
    return f'<div class="cards">{"".join(cards)}</div>'


def _accuracy_cards(summary: Mapping[str, Any], points: Points) -> list[str]:
    """Before and after, as the summary says; for an unfinished run the first and the newest evaluation."""
    known = summary.get("eval") or {}
    if known:
        shown = [
            (key, (known[key]["accuracy"], known[key]["low"], known[key]["high"])) for key in BEFORE_AFTER
        ]
    else:
        ends = sorted({min(points), max(points)}) if points else []
        shown = [(f"at step {step}", points[step]) for step in ends]
    return [
        card(
            f"accuracy {when}", f"{value:.1%}", f"{100 * low:.1f} to {100 * high:.1f} %", i == len(shown) - 1
        )
        for i, (when, (value, low, high)) in enumerate(shown)
    ]


def _warnings(records: Sequence[Mapping[str, Any]]) -> str:
    found = find_warnings(records)
    if not records:
        return '<p class="calm">No step was written yet.</p>'
    if not found:
        return '<p class="calm">Every metric stayed in its healthy range.</p>'
    items = "".join(f"<li><code>{escape(name)}</code> {escape(text)}</li>" for name, text in found)
    return f'<div class="warnings"><strong>Worth a look</strong><ul>{items}</ul></div>'


def _charts(records: Sequence[Mapping[str, Any]], points: Points, others: Mapping[str, Points]) -> str:
    sets = {"Accuracy on held-out problems, with 95 % intervals": points} if points else {}
    sets |= {f"Accuracy on the held-out set {name}": own for name, own in others.items()}
    figures = [(title, draw_accuracy(own)) for title, own in sets.items()] + draw_charts(records)
    if not figures:
        return ""
    parts = []
    for i, (title, figure) in enumerate(figures):
        chart = figure.to_html(
            full_html=False,
            include_plotlyjs="inline" if i == 0 else False,
            config={"displaylogo": False, "displayModeBar": False, "responsive": True},
            div_id=f"chart-{i}",
        )
        parts.append(f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{chart}</figure>')
    stages = stage_colours(records)
    legend = "".join(
        f'<span class="stage"><i style="background:{colour}"></i>{escape(stage)}</span>'
        for stage, colour in stages.items()
    )
    return section("Curves", f'<p class="stages">{legend}</p><div class="charts">{"".join(parts)}</div>')


def _trajectories(run: Path) -> str:
    files = sorted((run / "rollouts").glob("step-*.jsonl"))
    if not files:
        return ""
    chosen = sorted({0, len(files) // 2, len(files) - 1})
    parts = []
    for index in chosen:
        records = _read_lines(files[index])
        stride = max(1, len(records) // SAMPLES_SHOWN)
        rows = [_trajectory_row(record) for record in records[::stride][:SAMPLES_SHOWN]]
        step = int(files[index].stem.removeprefix("step-"))
        parts.append(f"<h3>Step {step}</h3>")
        parts.append(table(("prompt", "response", "reward", "outcome", "ended"), rows))
    note = (
        f"<p>{SAMPLES_SHOWN} evenly spaced responses of the first, the middle and the last step on disk.</p>"
    )
    return section("What the model wrote", note + "".join(parts))


def _trajectory_row(record: Mapping[str, Any]) -> tuple[str, ...]:
    reward = record.get("reward")
    return (
        f"<pre>{escape(str(record.get('prompt', '')))}</pre>",
        response(record),
        "-" if reward is None else f"{reward:.3g}",
        escape(str(record.get("outcome"))) + _note(record),
        escape(ending(record)),
    )


def _note(record: Mapping[str, Any]) -> str:
    note = str(record.get("note") or "")
    return f'<br><small title="{escape(note)}">{escape(note[:200])}</small>' if note else ""


def _configuration(text: str) -> str:
    if not text:
        return ""
    return section(
        "Configuration", f"<details><summary>config.yaml</summary><pre>{escape(text)}</pre></details>"
    )


def _accuracy_points(run: Path, records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Points:
    """{step: (accuracy, low, high)} from the evaluations' own files, the metrics and the summary."""
    points: Points = {}
    for record in records:
        if record.get("eval/accuracy") is not None:
            value = record["eval/accuracy"]
            low, high = record.get("eval/accuracy_low", value), record.get("eval/accuracy_high", value)
            points[record["step"]] = (value, low, high)
    for path in sorted((run / "evaluations").glob("step-*/results.json")):
        points[_step_of(path.parent)] = _accuracy(path)
    for key in BEFORE_AFTER:
        known = (summary.get("eval") or {}).get(key)
        if known and "step" in known:
            points.setdefault(known["step"], (known["accuracy"], known["low"], known["high"]))
    return points


def _other_points(run: Path) -> dict[str, Points]:
    """The same of the sets in `evaluation.others`, by name."""
    others: dict[str, Points] = {}
    for path in sorted((run / "evaluations").glob("step-*/*/results.json")):
        others.setdefault(path.parent.name, {})[_step_of(path.parent.parent)] = _accuracy(path)
    return others


def _accuracy(path: Path) -> tuple[float, float, float]:
    """An evaluation's accuracy with its interval, from its results.json."""
    result = _read_json(path)
    accuracy = result["metrics"][f"avg@{result['samples_per_problem']}"]
    return accuracy["value"], accuracy["low"], accuracy["high"]


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _run_name(config_text: str, run: Path) -> str:
    import yaml

    try:
        config = yaml.safe_load(config_text)
    except yaml.YAMLError:
        config = None
    return str(config.get("name", run.name)) if isinstance(config, dict) else run.resolve().name


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError("a file of the run is damaged", where=path, found=error) from error
    return value if isinstance(value, dict) else {}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise DataError(
                "a line of the rollouts is damaged", where=f"{path}:{number}", found=error
            ) from error
    return records
