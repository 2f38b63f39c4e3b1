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
    """Brings the learners back, as often as `cluster.max_restarts` allows without any progress.

    Args:
        restart: ends all ranks, in whatever state they are, and starts fresh ones.
        abandon: forgets all that is being sampled and scored: it belongs to weights that are gone.
        rewind: takes back what was written after a step.
        report: told what happens.
    """

    def __init__(
        self,
        saver: Saver,
        max_restarts: int,
        restart: Callable[[], None],
        abandon: Callable[[], None],
        rewind: Callable[[int], None],
        report: Callable[[str], None],
    ) -> None:
        self._saver, self._max_restarts = saver, max_restarts
        self._restart, self._abandon, self._rewind, self._report = restart, abandon, rewind, report
        self._lost_at, self._times = -1, 0

    def after(self, error: ActorLostError, state: RunState) -> tuple[RunState, Path | None]:
        """The state to go on from, and what the learners are to load, as at the start of a resumed run.

        Args:
            state: as it was when the rank was lost.

        Raises:
            ActorLostError: `error`, when it is not about a learner, or happened too often in this step.
        """
        self._times = self._times + 1 if state.step == self._lost_at else 1
        self._lost_at = state.step
        if error.role != LEARNER or self._times > self._max_restarts:
            raise error
        self._report(f"{error}\n  the learner ranks start afresh from the last checkpoint")
        self._restart()
        self._abandon()
        found = self._saver.restore(self._report)
        state, learner = (RunState(), None) if found is None else found
        self._rewind(state.step)
        self._report(f"going on after step {state.step}")
        return state, learner


def rewind(directory: RunDirectory, truncate: Callable[[int], None]) -> Callable[[int], None]:
    """Takes back rollouts, evaluations and metrics of steps that will be made again."""

    def to(step: int) -> None:
        directory.drop_after(step)
        truncate(step)

    return to
