"""Scores with their error bars as one inline SVG drawing."""

from __future__ import annotations

from html import escape

from rlpost.benchmarking.tables import Results, benchmarks_of
from rlpost.evaluation import EvaluationResult

COLOURS = ("#2563eb", "#ea580c", "#059669", "#7c3aed", "#db2777", "#0891b2", "#ca8a04", "#475569")
WIDTH, LEFT, RIGHT, ROW, GAP, TOP = 1000, 190, 90, 26, 16, 34


def score_chart(results: Results) -> str:
    """A group of rows for each benchmark, a row in it for each model; the axis is percent from 0 to 100."""
    y, rows = TOP, []
    for benchmark in benchmarks_of(results):
        rows.append(_text(0, y + ROW / 2 + 5, benchmark, "start", "font-weight:600"))
        for number, of_model in enumerate(results.values()):
            if benchmark in of_model:
                rows.append(_row(y + ROW / 2, of_model[benchmark], COLOURS[number % len(COLOURS)]))
                y += ROW
        y += GAP
    grid = "".join(_grid_line(percent, y - GAP) for percent in range(0, 101, 20))
    return (
        f'<svg viewBox="0 0 {WIDTH} {y}" role="img" aria-label="scores with 95 % intervals" '
        f'style="width:100%;height:auto;display:block">{grid}{"".join(rows)}</svg>'
    )


def legend(results: Results) -> str:
    """Which colour is which model."""
    marks = (f'<i style="background:{COLOURS[k % len(COLOURS)]}"></i>' for k in range(len(results)))
    items = (
        f'<span class="stage">{mark}{escape(name)}</span>' for mark, name in zip(marks, results, strict=True)
    )
    return f'<div class="stages">{"".join(items)}</div>'


def _row(y: float, result: EvaluationResult, colour: str) -> str:
    a = result.accuracy
    low, value, high = (_x(100 * number) for number in (a.low, a.value, a.high))
    ends = "".join(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 5}" y2="{y + 5}" stroke="{colour}" stroke-width="2"/>'
        for x in (low, high)
    )
    bar = f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>'
    point = f'<circle cx="{value:.1f}" cy="{y}" r="5" fill="{colour}"/>'
    return bar + ends + point + _text(WIDTH, y + 5, f"{100 * a.value:.1f} %", "end", "")


def _grid_line(percent: int, bottom: float) -> str:
    x = _x(percent)
    line = f'<line x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{bottom}" stroke="#e2e8f0"/>'
    return line + _text(x, TOP - 16, f"{percent} %", "middle", "fill:#64748b;font-size:12px")


def _x(percent: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * percent / 100


def _text(x: float, y: float, text: str, anchor: str, style: str) -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="14" style="{style}">{escape(text)}</text>'
    )
