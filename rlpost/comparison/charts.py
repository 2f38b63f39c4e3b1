"""The comparison's charts: one line an arm, the mean over seeds, in the band between lowest and highest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from rlpost.comparison.results import ArmResult, BandPoint, TaskResult
from rlpost.monitor.charts import COLOURS, plain_axes

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BAND_OPACITY = 0.14
DASHES = ("solid", "dash", "dot")


@dataclass(frozen=True)
class BandChart:
    """One chart.

    Attributes:
        title: its heading.
        curve: the name of what is drawn; "pass@K" stands for the k that is shown.
        axis: of the values.
        percent: values are shares.
        along: what the horizontal axis counts.
    """

    title: str
    curve: str
    axis: str
    percent: bool = False
    along: Literal["step", "tokens"] = "step"


CHARTS = (
    BandChart("Accuracy over steps", "accuracy", "accuracy", percent=True),
    BandChart("Accuracy over trained tokens", "accuracy", "accuracy", percent=True, along="tokens"),
    BandChart("pass@K over steps", "pass@K", "chance", percent=True),
    BandChart("pass@K over trained tokens", "pass@K", "chance", percent=True, along="tokens"),
    BandChart("Responses with a non-zero advantage", "nonzero_response_share", "share", percent=True),
    BandChart("Groups that carry signal", "informative_group_share", "share", percent=True),
    BandChart("Clipped tokens, both sides", "clip_share", "share", percent=True),
    BandChart("Entropy", "entropy", "nats per token"),
    BandChart("Response length", "response_tokens", "tokens"),
)


def charts_of(task: TaskResult) -> list[BandChart]:
    """Those of the main held-out set, of the further ones, and of what steps emit; without pass@k no such."""
    known = [
        replace(chart, title=_with_k(chart.title, task), curve=_with_k(chart.curve, task))
        for chart in CHARTS
        if task.k is not None or "K" not in chart.curve
    ]
    held_out = [chart for chart in known if chart.curve.startswith(("accuracy", "pass@"))]
    return [
        *held_out,
        *(
            replace(chart, title=f"{name}: {chart.title}", curve=f"{chart.curve}/{name}")
            for name in task.others
            for chart in held_out
        ),
        *(chart for chart in known if chart not in held_out),
    ]


def _with_k(text: str, task: TaskResult) -> str:
    return text.replace("pass@K", f"pass@{task.k}")


def look(index: int) -> tuple[str, str]:
    """(colour, dash) of the arm with this index; both repeat only after many arms."""
    return COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]


def draw_task(task: TaskResult) -> list[tuple[str, Figure, list[str]]]:
    """(title, figure, arms that do not emit it) of every chart that has something to show."""
    drawn = []
    for chart in charts_of(task):
        name = chart.curve
        known = [(index, arm) for index, arm in enumerate(task.arms) if arm.curves.get(name)]
        if known:
            figure = _draw(chart, [(look(index), arm.name, arm.curves[name]) for index, arm in known])
            drawn.append((chart.title, figure, _silent(task.arms, name)))
    return drawn


def _silent(arms: Sequence[ArmResult], name: str) -> list[str]:
    """Arms that were trained but emit nothing of this name."""
    return [arm.name for arm in arms if any(arm.curves.values()) and not arm.curves.get(name)]


def _draw(chart: BandChart, lines: Sequence[tuple[tuple[str, str], str, Sequence[BandPoint]]]) -> Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    for (colour, _), _, points in lines:  # bands first, so that no band hides a line
        x = [getattr(point, chart.along) for point in points]
        figure.add_scatter(
            x=x + x[::-1],
            y=[point.high for point in points] + [point.low for point in reversed(points)],
            fill="toself",
            fillcolor=_translucent(colour),
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
        )
    form = ".1%" if chart.percent else ".4~g"
    for (colour, dash), name, points in lines:
        figure.add_scatter(
            x=[getattr(point, chart.along) for point in points],
            y=[point.mean for point in points],
            name=name,
            mode="lines+markers" if len(points) < 12 else "lines",
            marker={"size": 6},
            line={"color": colour, "width": 2, "dash": dash},
            customdata=[[point.low, point.high, point.n] for point in points],
            hovertemplate=f"{name}: %{{y:{form}}} (%{{customdata[0]:{form}}} to %{{customdata[1]:{form}}}, "
            "n = %{customdata[2]})<extra></extra>",
            showlegend=False,
        )
    along_steps = chart.along == "step"
    x = "step" if along_steps else "trained tokens"
    plain_axes(figure, x=x, y=chart.axis, percent=chart.percent, unified=along_steps)
    figure.update_layout(height=290)
    return figure


def _translucent(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{BAND_OPACITY})"
