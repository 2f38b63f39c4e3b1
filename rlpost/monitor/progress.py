"""Progress on the terminal: one live screen for people, plain lines for logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

BARS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 40
LINES_PER_STAGE = 20


@dataclass
class _StageProgress:
    """What is known of the stage that runs."""

    name: str
    steps: int
    done: int
    started_at: float
    started_done: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    rewards: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @property
    def headline(self) -> tuple[str, list[float]]:
        """The number to watch: the reward, or the loss where nothing is rewarded."""
        return ("reward", self.rewards) if self.rewards else ("loss", self.losses)

    @property
    def tokens_per_second(self) -> float | None:
        """Sampled tokens (trained ones in a supervised stage) per second of the last step."""
        m, seconds = self.metrics, self.metrics.get("time/step_s")
        if not seconds:
            return None
        if "rollout/samples" in m and "rollout/response_tokens_mean" in m:
            return m["rollout/samples"] * m["rollout/response_tokens_mean"] / seconds
        return m["learner/trained_tokens"] / seconds if "learner/trained_tokens" in m else None

    def seconds_left(self, now: float) -> float | None:
        """At the pace of this stage so far; None before its first step."""
        finished = self.done - self.started_done
        return (now - self.started_at) / finished * (self.steps - self.done) if finished else None


class Progress:
    """Shows a run: a live display on a terminal, about twenty lines a stage elsewhere.

    Args:
        title: the run's name.
        run_dir: where the run's files are, to be shown.
        log: takes every line too, also those that a live display has no need of.
        console: where to print; the standard output when None.
        clock: seconds that only rise.
    """

    def __init__(
        self,
        title: str,
        run_dir: Path | None = None,
        *,
        log: Callable[[str], None] | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if console is None:
            from rich.console import Console

            console = Console()
        self._title, self._run_dir, self._console, self._clock = title, run_dir, console, clock
        self._log = log
        self._stage: _StageProgress | None = None
        self._evaluations: list[tuple[str, Mapping[str, Any]]] = []
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(
                get_renderable=self._screen, console=self._console, refresh_per_second=4, transient=False
            )
            self._live.start()
        if self._run_dir is not None:
            self._note(f"run {self._title}, files in {self._run_dir}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def stage(self, name: str, steps: int, done: int = 0) -> None:
        """A stage begins, or goes on after `done` of its `steps`."""
        self._stage = _StageProgress(name, steps, done, self._clock(), done)
        already = f", {done} of them done before" if done else ""
        self._note(f"stage {name}: {steps} steps{already}")

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """One step of the stage is done.

        Args:
            step: counted over the whole run.
            metrics: the step's, by the names of `METRICS`.
        """
        stage = self._stage
        if stage is None:
            raise RuntimeError("Progress.step before Progress.stage")
        stage.done += 1
        stage.metrics = metrics
        if "reward/mean" in metrics:
            stage.rewards.append(metrics["reward/mean"])
        # Of pairs the paper's loss: a surrogate's value says nothing about them.
        loss = metrics.get("preference/loss", metrics.get("policy/loss"))
        if loss is not None:
            stage.losses.append(loss)
        every = max(1, stage.steps // LINES_PER_STAGE)
        if stage.done % every == 0 or stage.done in (1, stage.steps):
            self._note(self._line(stage))

    def message(self, text: str) -> None:
        """A line that stays: above the live display, or in the log."""
        self._print(text)

    def evaluation(self, label: str, summary: Mapping[str, Any], name: str = "") -> None:
        """An evaluation is done.

        Args:
            label: when, such as "before", "step 50" or "after".
            summary: `EvaluationResult.summary()`: accuracy, low, high, problems.
            name: of a set in `evaluation.others`, which is only printed; "" for the main one.
        """
        if not name:
            self._evaluations.append((label, summary))
        problems = f"{summary['problems']:,} held-out problems{name and f' of {name}'}"
        self._print(f"accuracy {label}: {accuracy_text(summary)}, {problems}")

    def finish(self, lines: Sequence[str]) -> None:
        """End the display and print the last words."""
        self._stop()
        for line in lines:
            self._print(line)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.refresh()
            self._live.stop()
            self._live = None

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        if self._log is not None:
            self._log(text)

    def _note(self, text: str) -> None:
        """Print what a live display shows in its own way."""
        if self._live is None:
            self._print(text)
        elif self._log is not None:
            self._log(text)

    def _line(self, stage: _StageProgress) -> str:
        name, values = stage.headline
        parts = [f"{stage.name} {stage.done}/{stage.steps}"]
        if values:
            parts.append(f"{name} {values[-1]:.3f}")
        if stage.tokens_per_second is not None:
            parts.append(f"{stage.tokens_per_second:,.0f} tokens/s")
        left = stage.seconds_left(self._clock())
        if left is not None and stage.done < stage.steps:
            parts.append(f"{duration(left)} left")
        return "  ".join(parts)

    def _screen(self) -> RenderableType:
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        stage = self._stage
        if stage is None:
            grid.add_row("stage", "starting ...")
        else:
            left = stage.seconds_left(self._clock())
            grid.add_row("stage", Text(stage.name))
            grid.add_row("step", f"{stage.done} of {stage.steps}")
            grid.add_row("", ProgressBar(total=stage.steps, completed=stage.done, width=SPARKLINE_WIDTH))
            name, values = stage.headline
            if values:
                grid.add_row(name, f"{values[-1]:.3f}  {self._sparkline(values)}")
            speed = stage.tokens_per_second
            grid.add_row("speed", "..." if speed is None else f"{speed:,.0f} tokens/s")
            grid.add_row("time left", "..." if left is None else f"{duration(left)} in this stage")
        for label, summary in self._evaluations[:1] + self._evaluations[1:][-2:]:
            grid.add_row("accuracy", f"{accuracy_text(summary)}  {label}")
        if self._run_dir is not None:
            grid.add_row("files", Text(str(self._run_dir)))
        return Panel(grid, title=Text(self._title), title_align="left", border_style="blue", expand=False)

    def _sparkline(self, values: Sequence[float]) -> str:
        return sparkline(values) if self._console.encoding.lower().startswith("utf") else ""


def sparkline(values: Sequence[float], width: int = SPARKLINE_WIDTH) -> str:
    """The values as bars between their own minimum and maximum; long series are averaged in bins."""
    finite = [v for v in values if abs(v) < float("inf")]
    if not finite:
        return ""
    count = min(width, len(finite))
    edges = [i * len(finite) // count for i in range(count + 1)]
    bins = [sum(finite[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, span = min(bins), max(bins) - min(bins)
    if span == 0:
        return BARS[0] * count
    return "".join(BARS[min(len(BARS) - 1, int((v - low) / span * len(BARS)))] for v in bins)


def duration(seconds: float) -> str:
    """Seconds as people say them: "42 s", "3 min 05 s", "2 h 10 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def accuracy_text(summary: Mapping[str, Any]) -> str:
    """ "71.2 % (67.1 to 75.0)" for an evaluation's summary; the range is its confidence interval."""
    return f"{summary['accuracy']:.1%} ({100 * summary['low']:.1f} to {100 * summary['high']:.1f})"
