"""How far an evaluation is: a bar with a running score on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rlpost.evaluation import EvaluationProgress
from rlpost.monitor.progress import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LINE_EVERY_S = 10.0


class EvaluationDisplay:
    """Shows one benchmark's progress; a context manager.

    Args:
        title: the benchmark, and the model where there are several.
        samples: per problem.
        clock: seconds that only rise.
    """

    def __init__(
        self, title: str, samples: int, console: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._title, self._samples, self._console, self._clock = title, samples, console, clock
        self._started = self._last_line = clock()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._begun = False

    def __enter__(self) -> EvaluationDisplay:
        if self._console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[state]}"),
                console=self._console,
            )
            self._task = self._bar.add_task(self._title, total=None, state="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, progress: EvaluationProgress) -> None:
        """Show how far it is now; as a line at the start, at the end and about every ten seconds between."""
        now = self._clock()
        if not self._begun:
            self._begin(progress)
        ended = progress.done == progress.problems
        state = progress_text(progress, self._samples, now - self._started)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=progress.problems, completed=progress.done, state=state)
        elif ended or now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            self._print(f"{self._title}: {state}")

    def _begin(self, progress: EvaluationProgress) -> None:
        self._begun, self._started = True, self._clock()
        if progress.reused or progress.ignored_lines:
            ignored = progress.ignored_lines
            told = f"; {ignored:,} lines of unfinished problems are ignored" if ignored else ""
            self._print(f"{self._title}: {progress.reused:,} problems were done before{told}")
        elif self._bar is None:
            self._print(f"{self._title}: {progress.problems:,} problems x {self._samples}")

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def progress_text(progress: EvaluationProgress, samples: int, seconds: float) -> str:
    """Done and total, the running score, what went wrong, tokens per second, and the time left.

    Args:
        seconds: since this call began to sample.
    """
    parts = [f"{progress.done:,}/{progress.problems:,}"]
    if progress.accuracy is not None:
        parts.append(f"avg@{samples} {100 * progress.accuracy:.1f} %")
        parts.append(f"cut {100 * progress.cut / progress.samples:.1f} %")
    if progress.failed:
        parts.append(f"failed {progress.failed:,}")
    if progress.too_long:
        parts.append(f"too long {progress.too_long:,}")
    fresh = progress.done - progress.reused
    if fresh and seconds > 0:
        parts.append(f"{progress.tokens / seconds:,.0f} tokens/s")
        left = (progress.problems - progress.done) * seconds / fresh
        parts.append(f"{duration(left)} left" if left else f"in {duration(seconds)}")
    return ", ".join(parts)
