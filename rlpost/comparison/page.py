"""report.html of a comparison: one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from rlpost.comparison.charts import draw_task, look
from rlpost.comparison.measures import DASH
from rlpost.comparison.results import ArmResult, Results, TaskResult, algorithm_of
from rlpost.comparison.terminal import cell, difference
from rlpost.monitor.page import page, section, table

STYLE = """<style>
.numbers { overflow-x: auto; }
.numbers table { font-variant-numeric: tabular-nums; font-size: 12.5px; }
.numbers th, .numbers td { padding: 7px 7px; }
.numbers td:nth-child(n), .numbers th { width: auto; white-space: nowrap; }
.numbers th { white-space: normal; vertical-align: bottom; }
.numbers td:nth-child(n+2), .numbers th:nth-child(n+2) { text-align: right; }
.swatch { display: inline-block; width: 18px; height: 0; border-top: 3px solid; margin-right: 8px;
  vertical-align: middle; }
.stages { flex-wrap: wrap; font-size: 14px; }
.failed { color: #b91c1c; }
.warnings { margin: 14px 0; }
.warnings pre { margin: 6px 0 10px; }
ul.plain { color: #475569; padding-left: 20px; }
</style>"""


def write_page(results: Results, path: Path) -> None:
    """Write the page; it holds everything that it shows, and loads nothing."""
    several = len(results.tasks) > 1
    title = "Comparison: " + ", ".join(task.name for task in results.tasks)
    body = [
        STYLE,
        f"<header><h1>{escape(title)}</h1><p>{escape(_headline(results))}</p></header>",
        _failures(results),
        _how_to_read(results),
    ]
    drawn = 0
    for task in results.tasks:
        part, drawn = _task(task, len(results.seeds), drawn)
        body.append(section(f"Task {task.name}" if several else "Results", part))
    body.append(_arms(results))
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(page(title, "\n".join(body)), encoding="utf-8")
    partial.replace(path)


def _headline(results: Results) -> str:
    arms = len({arm.name for task in results.tasks for arm in task.arms})
    seeds = ", ".join(map(str, results.seeds))
    counts = ((len(results.tasks), "task"), (arms, "arm"), (len(results.seeds), "seed"))
    words = " x ".join(f"{count} {unit if count == 1 else unit + 's'}" for count, unit in counts)
    return f"{words} ({seeds})"


def _failures(results: Results) -> str:
    parts = []
    if results.failures:
        items = "".join(
            f"<li>{escape(f'{r.task}, {r.arm}, seed {r.seed}')}<pre>{escape(r.failure or '')}</pre></li>"
            for r in results.failures
        )
        parts.append(
            f'<div class="warnings"><strong>{len(results.failures)} of {len(results.records)} runs failed; '
            f"the means are over the others</strong><ul>{items}</ul></div>"
        )
    for task in results.tasks:
        if task.budget_differences:
            items = "".join(f"<li><code>{escape(line)}</code></li>" for line in task.budget_differences)
            parts.append(
                f'<div class="warnings"><strong>Task {escape(task.name)}: the arms do not have the same '
                f"task and budget</strong><ul>{items}</ul></div>"
            )
    return "".join(parts)


def _how_to_read(results: Results) -> str:
    n = len(results.seeds)
    if n == 1:
        spread = "One seed says nothing about chance: there are no intervals. "
    else:
        spread = (
            f"± is half the width of a 95 % t-interval of the mean over n = {n} seeds; with few seeds it is "
            "wide. A difference is taken seed by seed (paired), and an interval that holds 0 is no evidence "
            "for one. "
        )
    return (
        f"<p>{spread}Curves are means over seeds, bands go from the lowest seed to the highest. "
        f"{DASH} is a number that the arm does not emit; it is not 0.</p>"
    )


def _task(task: TaskResult, seeds: int, drawn: int) -> tuple[str, int]:
    """The part about a task, and how many charts the page has after it."""
    budget = [f"shared, trained once a seed: {line}" for line in task.shared]
    if task.budget_differences:
        budget += [f"{arm.name}: {line}" for arm in task.arms for line in arm.budget]
    else:
        budget += [f"each run: {line}" for line in task.budget]
    budget += [f"besides the algorithm, the arms differ in {line}" for line in task.varied]
    lines = "".join(f"<li>{escape(line)}</li>" for line in budget)
    charts, drawn = _charts(task, drawn)
    parts = [f'<ul class="plain">{lines}</ul>', _numbers(task, seeds), _differences(task), charts]
    if not any(arm.curves.get("accuracy") for arm in task.arms):
        parts.append("<p>Nothing was evaluated: evaluation.data names held-out problems.</p>")
    elif task.k is None:
        parts.append("<p>evaluation.samples_per_problem=8 would add pass@8.</p>")
    return "".join(parts), drawn


def _numbers(task: TaskResult, seeds: int) -> str:
    measures = task.measures
    n = f" (n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{seeds})"
    with_n = [m.title + (n if m.is_compared else "") for m in measures]
    rows = [
        (
            _name(index, arm),
            *(_marked(cell(arm, m, interval=m.is_compared)) for m in measures),
            f'<span class="failed">{len(arm.failures)} of {seeds}</span>' if arm.failures else "0",
        )
        for index, arm in enumerate(task.arms)
    ]
    meanings = "".join(f"<li><b>{escape(m.title)}</b>: {escape(m.meaning)}</li>" for m in measures)
    return (
        f'<div class="numbers">{table(("arm", *with_n, "failed"), rows)}</div>'
        f"<details><summary>what the columns mean</summary><ul>{meanings}</ul></details>"
    )


def _marked(text: str) -> str:
    return f'<span class="failed">{text}</span>' if text == "failed" else escape(text)


def _differences(task: TaskResult) -> str:
    if len(task.arms) < 2:
        return ""
    measures = [m for m in task.measures if m.is_compared]
    first = task.arms[0].name
    rows = []
    for index, arm in enumerate(task.arms[1:], start=1):
        means = [arm.differences[m.key] for m in measures]
        n = min((mean.n for mean in means if mean is not None), default=0)
        rows.append((_name(index, arm), *(escape(difference(arm, m)) for m in measures), str(n)))
    headings = ("arm", *(f"{m.title} minus {first}'s, in points" for m in measures), "n")
    return (
        f"<h3>Against {escape(first)}, seed by seed, with 95 % intervals</h3>"
        f'<div class="numbers">{table(headings, rows)}</div>'
    )


def _charts(task: TaskResult, drawn: int) -> tuple[str, int]:
    parts = []
    for title, figure, silent in draw_task(task):
        chart = figure.to_html(
            full_html=False,
            include_plotlyjs="inline" if drawn == 0 else False,
            config={"displaylogo": False, "displayModeBar": False, "responsive": True},
            div_id=f"chart-{drawn}",
        )
        drawn += 1
        note = f" <small>({', '.join(silent)}: not emitted)</small>" if silent else ""
        parts.append(f'<figure class="chart"><figcaption>{escape(title)}{note}</figcaption>{chart}</figure>')
    if not parts:
        return "", drawn
    names = "".join(f"<span>{_name(i, arm)}</span>" for i, arm in enumerate(task.arms))
    width = task.steps_per_point
    note = f"<p>Each point that is not an evaluation is the mean of {width} steps.</p>" if width > 1 else ""
    return (
        f'<h3>Curves</h3><p class="stages">{names}</p>{note}<div class="charts">{"".join(parts)}</div>',
        drawn,
    )


def _name(index: int, arm: ArmResult) -> str:
    colour, dash = look(index)
    line = {"solid": "solid", "dash": "dashed", "dot": "dotted"}[dash]
    return f'<i class="swatch" style="border-color:{colour};border-top-style:{line}"></i>{escape(arm.name)}'


def _arms(results: Results) -> str:
    parts: list[str] = []
    for task in results.tasks:
        rows: Sequence[tuple[str, str]] = [
            (escape(arm.name), f"<pre>{escape(algorithm_of(arm))}</pre>") for arm in task.arms
        ]
        parts.append(
            f"<h3>{escape(task.name)}</h3>{table(('arm', 'budget and algorithm of each stage'), rows)}"
        )
    return section("Arms", f"<details><summary>algorithm of every arm</summary>{''.join(parts)}</details>")
