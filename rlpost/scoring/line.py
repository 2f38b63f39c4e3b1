"""ScoringLine: trajectories go in as they are sampled, and come out scored, while the driver goes on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

from rlpost.data.trajectory import Trajectory
from rlpost.scoring.scorer import Scorer


class ScoringLine:
    """Scores on a thread of its own, in the order of arrival; a context manager.

    Args:
        scorer: does the work; it has the deadlines.
        background: False scores within `put`, so that nothing depends on threads.
    """

    def __init__(self, scorer: Scorer, *, background: bool) -> None:
        self.scorer, self.background = scorer, background
        self._thread = ThreadPoolExecutor(1, "scoring")
        self._waiting: deque[Future[list[Trajectory]]] = deque()
        self._seconds = 0.0

    @property
    def busy(self) -> bool:
        """Whether some trajectories were put in and not taken out."""
        return bool(self._waiting)

    def put(self, trajectories: Sequence[Trajectory]) -> None:
        """Have these scored."""
        if not trajectories:
            return
        if self.background:
            self._waiting.append(self._thread.submit(self._score, trajectories))
            return
        done: Future[list[Trajectory]] = Future()
        done.set_result(self._score(trajectories))
        self._waiting.append(done)

    def take(self, wait_s: float = 0.0) -> list[Trajectory]:
        """What is scored, waiting at most `wait_s` seconds for the first.

        Raises:
            ScoringError: the scoring processes cannot go on.
        """
        if self._waiting and wait_s > 0:
            wait([self._waiting[0]], wait_s)
        scored: list[Trajectory] = []
        while self._waiting and self._waiting[0].done():
            scored += self._waiting.popleft().result()
        return scored

    def take_seconds(self) -> float:
        """Seconds that scoring took since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def take_repeated(self) -> int:
        """Calls of reward functions that were made again for one sample since the last time."""
        return self.scorer.take_repeated()

    def describe(self) -> list[str]:
        """Which processes score at the moment; [] where nothing is to be scored."""
        return self.scorer.describe() if self.busy else []

    def drop(self) -> None:
        """Forget everything that was put in."""
        for future in self._waiting:
            future.cancel()
        wait(self._waiting)
        self._waiting.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _score(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        start = time.perf_counter()
        scored = self.scorer.score(trajectories)
        self._seconds += time.perf_counter() - start
        return scored
