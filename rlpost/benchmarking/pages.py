"""table.md and report.html of an output directory, from the results that lie there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rlpost.benchmarking.chart import legend, score_chart
from rlpost.benchmarking.models import model_names
from rlpost.benchmarking.tables import (
    DIFFERENCE_HEADINGS,
    Results,
    benchmarks_of,
    differences,
    markdown_table,
    score_text,
)
from rlpost.evaluation import EvaluationResult, load_result
from rlpost.evaluation.generations import write_text
from rlpost.evaluation.results import finished_evaluations, read_results
from rlpost.evaluation.tables import RESULT_HEADINGS, result_cells
from rlpost.monitor.page import page, section, table

MARKDOWN, REPORT, ORDER = "table.md", "report.html", "order.json"

NOTES = (
    "Scores are avg@k in percent: the chance that one response is right, the mean over problems. Intervals "
    "are at 95 % with the problem as the unit. Truncated: responses that hit the token limit. Failed: "
    "samples that could not be had or scored. Too long: problems whose prompt does not fit the model. Failed "
    "samples and problems that are too long count as wrong."
)
DIFFERENCE_NOTES = (
    "Change in points, paired by problem, with its 95 % interval; p of a two-sided sign-flip test, not "
    "corrected for the number of comparisons; up/down: problems on which the first model is better and worse."
)
STYLE = """<style>
.numbers { overflow-x: auto; margin: 0 0 14px; }
.numbers table { font-variant-numeric: tabular-nums; }
.numbers td:nth-child(n), .numbers th { width: auto; white-space: nowrap; }
.numbers.scores td:nth-child(n+2), .numbers.scores th:nth-child(n+2) { text-align: right; }
.chart { padding: 14px 20px; margin-bottom: 14px; }
.warnings { margin: 14px 0; }
</style>"""


def write_order(output: Path, models: Sequence[str], benchmarks: Sequence[str]) -> None:
    """Keep the order in which models and benchmarks were named, which is that of the pages."""
    write_text(output / ORDER, json.dumps({"models": list(models), "benchmarks": list(benchmarks)}) + "\n")


def write_pages(output: Path) -> list[Path]:
    """Write both, for the finished evaluations in `output`; the HTML page loads nothing.

    Raises:
        DataError: no evaluation is finished there, or one is damaged.
    """
    results = read_all(output)
    rows = [difference.cells for difference in differences(results)]
    write_text(output / MARKDOWN, _markdown(results, rows))
    write_text(output / REPORT, _html(results, rows))
    return [output / MARKDOWN, output / REPORT]


def renew_pages(output: Path) -> None:
    """Write both again, where results changed under them; nothing where there are none."""
    if (output / MARKDOWN).is_file():
        write_pages(output)


def read_all(output: Path) -> dict[str, dict[str, EvaluationResult]]:
    """The results in OUTPUT/BENCHMARK, of one model, or in OUTPUT/MODEL/BENCHMARK; in the order of the last
    call, and what is not of it after that."""
    results: dict[str, dict[str, EvaluationResult]] = {}
    for directory in finished_evaluations(output):
        *above, benchmark = directory.relative_to(output).parts or (directory.name,)
        name = above[0] if above else model_names([_manifest(directory)["model"]["init"]])[0]
        results.setdefault(name, {})[benchmark] = load_result(directory)
    order = json.loads((output / ORDER).read_text()) if (output / ORDER).is_file() else {}
    models, benchmarks = order.get("models", ()), order.get("benchmarks", ())
    return {
        name: {benchmark: results[name][benchmark] for benchmark in _ordered(results[name], benchmarks)}
        for name in _ordered(results, models)
    }


def _ordered(names: Iterable[str], first: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: first.index(name) if name in first else len(first))


def _manifest(directory: Path) -> dict[str, Any]:
    return read_results(directory)["manifest"]


def _markdown(results: Results, rows: Sequence[Sequence[str]]) -> str:
    names = benchmarks_of(results)
    parts = [f"# {_title(results)}\n"]
    if len(results) > 1:
        scores = [[name, *(score_text(of.get(b)) for b in names)] for name, of in results.items()]
        parts.append(markdown_table(("model", *names), scores))
    for name, of_model in results.items():
        cells = [result_cells(benchmark, result) for benchmark, result in of_model.items()]
        parts += [f"## {name}\n", markdown_table(RESULT_HEADINGS, cells)]
    if rows:
        parts += ["## Differences\n", markdown_table(DIFFERENCE_HEADINGS, rows), DIFFERENCE_NOTES + "\n"]
    parts.append(NOTES + "\n")
    parts += ["## How\n", markdown_table(("model", "benchmark", "sampled"), _how(results))]
    return "\n".join(parts)


def _html(results: Results, rows: Sequence[Sequence[str]]) -> str:
    names, several = benchmarks_of(results), len(results) > 1
    title = _title(results)
    chart = f'<div class="chart">{score_chart(results)}</div>'
    body = [STYLE, f"<header><h1>{escape(title)}</h1><p>{escape(_headline(results))}</p></header>"]
    body += [_warnings(results), section("Scores", (legend(results) if several else "") + chart)]
    if several:
        scores = [[name, *(score_text(of.get(b)) for b in names)] for name, of in results.items()]
        body.append(_numbers(("model", *names), scores))
    for name, of_model in results.items():
        cells = [result_cells(benchmark, result) for benchmark, result in of_model.items()]
        body.append(section(name if several else "Numbers", _numbers(RESULT_HEADINGS, cells)))
    body.append(f"<p>{escape(NOTES)}</p>")
    if rows:
        notes = f"<p>{escape(DIFFERENCE_NOTES)}</p>"
        body.append(section("Differences", _numbers(DIFFERENCE_HEADINGS, rows) + notes))
    how = _numbers(("model", "benchmark", "sampled"), _how(results), "")
    body.append(section("How it was sampled", how + _manifests(results)))
    return page(title, "\n".join(body))


def _title(results: Results) -> str:
    return "Evaluation of " + ", ".join(results)


def _headline(results: Results) -> str:
    first = next(iter(next(iter(results.values())).values()))
    benchmarks = benchmarks_of(results)
    counts = f"{len(results)} model{'s' * (len(results) > 1)} on {', '.join(benchmarks)}"
    return (
        f"{counts}; {first.samples_per_problem} response{'s' * (first.samples_per_problem > 1)} per problem"
    )


def _warnings(results: Results) -> str:
    found = []
    for name, of_model in results.items():
        for benchmark, result in of_model.items():
            where = f"{name} on {benchmark}"
            if not result.complete:
                found.append(f"{where}: {result.failed_share:.1%} of samples failed; a lower bound, no more")
            if result.too_long:
                found.append(f"{where}: {result.too_long:,} problems have prompts that do not fit the model")
            if result.unanswered:
                found.append(f"{where}: {result.unanswered:,} samples could not be had")
            if result.truncated_share > 0.1:
                cut = f"{result.truncated_share:.0%} of responses hit the token limit"
                found.append(f"{where}: {cut}, of which {result.truncated_correct:,} are right all the same")
    items = "".join(f"<li>{escape(line)}</li>" for line in found)
    return f'<div class="warnings"><strong>To know first</strong><ul>{items}</ul></div>' if found else ""


def _numbers(headings: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "scores") -> str:
    cells = [[escape(cell) for cell in row] for row in rows]
    return f'<div class="numbers {kind}">{table(headings, cells)}</div>'


def _how(results: Results) -> list[list[str]]:
    return [
        [name, benchmark, _sampled(_manifest(result.output))]
        for name, of_model in results.items()
        for benchmark, result in of_model.items()
    ]


def _sampled(manifest: Mapping[str, Any]) -> str:
    """The settings that decide a score, in one line."""
    settings, model = manifest["settings"], manifest["model"]
    sampling = settings["sampling"]
    parts = [f"temperature {sampling['temperature']:g}"]
    parts += [f"top-p {sampling['top_p']:g}"] * (sampling["top_p"] < 1)
    parts += [f"top-k {sampling['top_k']}"] * (sampling["top_k"] > 0)
    parts += [f"at most {sampling['max_tokens']:,} tokens", f"seed {settings['seed']}", manifest["engine"]]
    if model.get("dtype"):
        parts.append(model["dtype"])
    if model.get("weights_checksum"):
        parts.append(f"weights {model['weights_checksum']}")
    return ", ".join(parts)


def _manifests(results: Results) -> str:
    return "".join(
        f"<details><summary>manifest of {escape(f'{name} on {benchmark}')}</summary>"
        f"<pre>{escape(json.dumps(_manifest(result.output), indent=2))}</pre></details>"
        for name, of_model in results.items()
        for benchmark, result in of_model.items()
    )
