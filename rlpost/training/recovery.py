"""Going on after a learner rank was lost: the whole group starts afresh from the last checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlpost.cluster import LEARNER
from rlpost.errors import ActorLostError
from rlpost.training.run_directory import RunDirectory
from rlpost.training.saving import Saver
from rlpost.training.state import RunState


class Recovery:
    """Brings the learners back, as often as `cluster.max_restarts` allows before a new step is done.

    Args:
        abandon: forgets all that is being sampled and scored: it belongs to weights that are gone.
        restart: ends all ranks, in whatever state they are, and starts fresh ones.
        rewind: takes back what was written after a step.
        report: told what happens.
    """

    def __init__(
        self,
        saver: Saver,
        max_restarts: int,
        abandon: Callable[[], None],
        restart: Callable[[], None],
        rewind: Callable[[int], None],
        report: Callable[[str], None],
    ) -> None:
        self._saver, self._max_restarts = saver, max_restarts
        self._abandon, self._restart, self._rewind, self._report = abandon, restart, rewind, report
        self._furthest, self._times = -1, 0

    def after(self, error: ActorLostError, state: RunState) -> tuple[RunState, Path | None]:
        """The state to go on from, and what the learners are to load, as at the start of a resumed run.

        A rank that is lost while the group starts counts like any other.

        Args:
            state: as it was when the rank was lost.

        Raises:
            ActorLostError: the last one, when it is not about a learner, or one too many.
        """
        while True:
            self._count(error, state.step)
            self._report(
                f"{error}\n  the learner ranks start afresh from the last checkpoint, {self._times} of "
                f"at most {self._max_restarts} times until step {self._furthest + 1} is done"
            )
            try:
                # First, because workers that come to life again could not read the lost rank's weights.
                self._abandon()
                self._restart()
                break
            except ActorLostError as again:
                error = again
        found = self._saver.restore(self._report)
        state, learner = (RunState(), None) if found is None else found
        self._rewind(state.step)
        self._report(f"going on after step {state.step}")
        return state, learner

    def _count(self, error: ActorLostError, step: int) -> None:
        """Refuse to go on where that would lead nowhere.

        Losses are counted until the run is further than it ever was: the steps between the checkpoint and
        a loss are no progress.
        """
        if step > self._furthest:
            self._furthest, self._times = step, 0
        self._times += 1
        if error.role != LEARNER or self._times > self._max_restarts:
            raise error


def rewind(directory: RunDirectory, truncate: Callable[[int], None]) -> Callable[[int], None]:
    """Takes back rollouts, evaluations and metrics of steps that will be made again."""

    def to(step: int) -> None:
        directory.drop_after(step)
        truncate(step)

    return to
