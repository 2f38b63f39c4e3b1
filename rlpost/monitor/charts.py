"""The report's charts: which metrics are drawn together, one colour per stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#db2777", "#0891b2")
DASHES = ("solid", "dot", "dash")
SMOOTHING_WINDOW = 9
SMOOTHED_FROM = 30


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart.

    Attributes:
        title: its heading.
        series: metric names and what the legend calls them.
        axis: the unit, or what the values are.
        percent: values are shares.
        logarithmic: the axis is.
        smooth: long series get a moving average.
        hidden_at_zero: there is nothing to see unless some value is above 0.
    """

    title: str
    series: tuple[tuple[str, str], ...]
    axis: str
    percent: bool = False
    logarithmic: bool = False
    smooth: bool = True
    hidden_at_zero: bool = False


CHARTS = (
    Chart("Reward", (("reward/mean", "mean"),), "reward"),
    Chart(
        "Reward with and without guidance",
        (("reward/variant/guided/mean", "guided"), ("reward/variant/unguided/mean", "unguided")),
        "reward",
    ),
    Chart(
        "Problems solved so far",
        (("reward/variant/guided/solved", "guided"), ("reward/variant/unguided/solved", "unguided")),
        "problems",
        smooth=False,
    ),
    Chart("Loss", (("policy/loss", "loss"),), "loss"),
    Chart("Preference loss", (("preference/loss", "mean over pairs"),), "loss"),
    Chart(
        "Pairs whose better response is preferred", (("preference/accuracy", "pairs"),), "share", percent=True
    ),
    Chart(
        "Log-prob of pairs",
        (("preference/chosen_logprob", "better"), ("preference/rejected_logprob", "worse")),
        "nats per response",
    ),
    Chart("Distance to the teacher", (("distil/reverse_kl", "reverse KL"),), "nats per token"),
    Chart(
        "Entropy",
        (("policy/entropy", "of what is sampled"), ("demonstrations/entropy", "on demonstrations")),
        "nats per token",
    ),
    Chart("Log-prob of demonstrations", (("demonstrations/logprob_mean", "mean"),), "nats per token"),
    Chart(
        "Response length",
        (("rollout/response_tokens_mean", "mean"), ("rollout/response_tokens_max", "longest")),
        "tokens",
    ),
    Chart("Truncated responses", (("rollout/truncated_share", "truncated"),), "share", percent=True),
    Chart("Gradient norm", (("learner/grad_norm", "before clipping"),), "L2 norm"),
    Chart(
        "Clipped tokens",
        (("policy/clip_share_low", "ratio below 1"), ("policy/clip_share_high", "ratio above 1")),
        "share",
        percent=True,
    ),
    Chart("Value loss", (("critic/loss", "critic's loss"),), "reward squared"),
    Chart(
        "Token reward model",
        (("critic/outcome_accuracy", "right or wrong, told rightly"),),
        "share",
        percent=True,
    ),
    Chart("Explained variance of the returns", (("critic/explained_variance", "critic"),), "share"),
    Chart(
        "Groups that carry signal",
        (("signal/informative_group_share", "informative groups"),),
        "share",
        percent=True,
    ),
    Chart(
        "Prompts that learn from their demonstration",
        (
            ("hybrid/gated_share", "sent to demonstrations"),
            ("hybrid/solved_all_share", "solved by every rollout"),
        ),
        "share",
        percent=True,
    ),
    Chart(
        "Sampler against learner",
        (("mismatch/k3", "KL (k3)"),),
        "nats",
        logarithmic=True,
        hidden_at_zero=True,
    ),
    Chart(
        "Age of the tokens trained on",
        (("rollout/version_lag_mean", "mean"), ("rollout/version_lag_max", "oldest")),
        "versions",
        hidden_at_zero=True,
    ),
    Chart(
        "Rollout workers replaced",
        (("rollout/worker_restarts", "workers"),),
        "workers",
        smooth=False,
        hidden_at_zero=True,
    ),
    Chart(
        "Samples that failed to score",
        (("scoring/timeout", "timeout"), ("scoring/error", "error")),
        "samples",
        smooth=False,
        hidden_at_zero=True,
    ),
    Chart(
        "Time per step",
        (("time/rollout_s", "wait for samples"), ("time/scoring_s", "scoring"), ("time/update_s", "update")),
        "seconds",
    ),
)


def stage_colours(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A colour for each stage, in order of appearance."""
    stages = dict.fromkeys(str(record.get("stage", "")) for record in records)
    return {stage: COLOURS[i % len(COLOURS)] for i, stage in enumerate(stages)}


def draw_charts(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, Figure]]:
    """(title, figure) of every chart that has something to show."""
    return [(chart.title, _draw(chart, records)) for chart in CHARTS if _worth_drawing(chart, records)]


def _worth_drawing(chart: Chart, records: Sequence[Mapping[str, Any]]) -> bool:
    values = [r[name] for r in records for name, _ in chart.series if r.get(name) is not None]
    if chart.hidden_at_zero:
        return any(value > 0 for value in values)
    return bool(values)


def draw_accuracy(points: Mapping[int, tuple[float, float, float]]) -> Figure:
    """Accuracy on held-out problems: {step: (value, low, high)}, with its interval."""
    import plotly.graph_objects as go

    steps = sorted(points)
    value, low, high = (([points[s][i] for s in steps]) for i in range(3))
    figure = go.Figure(
        go.Scatter(
            x=steps,
            y=value,
            mode="lines+markers",
            line={"color": "#0f172a", "width": 2},
            marker={"size": 8},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [h - v for v, h in zip(value, high, strict=True)],
                "arrayminus": [v - b for v, b in zip(value, low, strict=True)],
                "color": "#94a3b8",
                "thickness": 1.5,
            },
            hovertemplate="step %{x}: %{y:.1%}<extra></extra>",
        )
    )
    _dress(figure, Chart("", (), "accuracy", percent=True), legend=False)
    pad = max(1, steps[-1]) * 0.03
    figure.update_xaxes(range=[-pad, steps[-1] + pad])
    figure.update_yaxes(range=[0, 1])
    return figure


def _draw(chart: Chart, records: Sequence[Mapping[str, Any]]) -> Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    colours = stage_colours(records)
    for (name, label), dash in zip(chart.series, DASHES, strict=False):
        for stage, colour in colours.items():
            rows = [r for r in records if str(r.get("stage", "")) == stage and name in r]
            if rows:
                x, y = [r["step"] for r in rows], [r[name] for r in rows]
                if chart.logarithmic:
                    y = [v if v is not None and v > 0 else None for v in y]
                _add_line(figure, x, y, label, dash, colour, chart)
    _dress(figure, chart, legend=len(chart.series) > 1)
    figure.update_xaxes(range=[0, max(record["step"] for record in records)])  # the same in every chart
    return figure


def _add_line(
    figure: Figure, x: list[int], y: list[float | None], label: str, dash: str, colour: str, chart: Chart
) -> None:
    """The values; a long series as a faint line under its moving average."""
    import plotly.graph_objects as go

    form = ".1%" if chart.percent else ".4~g"
    hover = f"step %{{x}}: %{{y:{form}}}<extra>{label}</extra>"
    named = any(trace.name == label and trace.showlegend for trace in figure.data)
    if len(y) < SMOOTHED_FROM or not chart.smooth:
        smooth = y
    else:
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            line={"color": colour, "width": 1},
            opacity=0.3,
            hoverinfo="skip",
            showlegend=False,
        )
        smooth = _moving_average(y)
    figure.add_trace(
        go.Scatter(
            x=x,
            y=smooth,
            name=label,
            mode="lines+markers" if len(y) == 1 else "lines",
            line={"color": colour, "width": 2, "dash": dash},
            hovertemplate=hover,
            showlegend=not named,
        )
    )


def _moving_average(y: Sequence[float | None]) -> list[float | None]:
    half = SMOOTHING_WINDOW // 2
    smooth: list[float | None] = []
    for i in range(len(y)):
        window = [v for v in y[max(0, i - half) : i + half + 1] if v is not None]
        smooth.append(sum(window) / len(window) if window else None)
    return smooth


def _dress(figure: Figure, chart: Chart, legend: bool) -> None:
    plain_axes(figure, x="step", y=chart.axis, percent=chart.percent, unified=legend)
    figure.update_layout(height=250, showlegend=legend, legend={"orientation": "h", "y": 1.12, "x": 0})
    figure.update_yaxes(rangemode="tozero")
    if chart.logarithmic:
        figure.update_yaxes(type="log", exponentformat="power")


def plain_axes(figure: Figure, *, x: str, y: str, percent: bool, unified: bool) -> None:
    """The look that all charts share; `unified` puts the values at one x into one box."""
    figure.update_layout(
        margin={"l": 58, "r": 13, "t": 8, "b": 42},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12, "color": "#475569"},
        hovermode="x unified" if unified else "closest",
    )
    figure.update_xaxes(title=x, gridcolor="#f1f5f9", linecolor="#cbd5e1", zeroline=False)
    figure.update_yaxes(title=y, gridcolor="#e2e8f0", zeroline=False)
    if percent:
        figure.update_yaxes(tickformat=".2~%")
