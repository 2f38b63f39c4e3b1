"""Lookahead: which steps' batches are being sampled, and when the next one may begin.

The batch of step s is sampled from prompts that the sampler draws for step s, whatever the schedule. With
a staleness of k it may begin once step s - 1 - k has been trained: then every token of it comes from
weights that are at most k steps older than those it trains (the capacity rule of AReaL, arXiv 2505.24298,
counted in whole steps). With k = 0 sampling and training take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlpost.data import PromptSampler
from rlpost.data.trajectory import Prompt, Trajectory
from rlpost.estimator import Objective
from rlpost.training.rounds import Gathered, Rounds, draws_once, rounds

Launch = Callable[[int, Sequence[Prompt]], list[str]]
"""Has prompts of a stage's step sampled; returns the ids of the trajectories to come, prompt by prompt."""


@dataclass
class OpenBatch:
    """One step's batch on its way.

    Attributes:
        step: of the stage, from 1.
        rounds: says what is sampled next.
        asked: ids of this round's trajectories, in order.
        arrived: those of them that are scored.
        trajectories: scored ones of complete rounds.
        gathered: the whole batch once it is complete.
        sampler: the sampler's state after this batch's last draw; a resumed run goes on there.
        epoch: the sampler's, then.
    """

    step: int
    rounds: Rounds
    asked: list[str] = field(default_factory=list)
    arrived: dict[str, Trajectory] = field(default_factory=dict)
    trajectories: list[Trajectory] = field(default_factory=list)
    gathered: Gathered | None = None
    sampler: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0

    @property
    def missing(self) -> int:
        """Trajectories of this round that have not arrived."""
        return len(self.asked) - len(self.arrived)


class Lookahead:
    """Opens batches in the order of their steps, and puts each together as its trajectories arrive.

    A batch draws all its prompts before the next one draws its first, so that resuming after a step finds
    the prompts of the next step untouched. Where a selection refills, the next batch therefore begins when
    this one is complete.

    Args:
        sampler: draws the prompts.
        prompts_per_step: groups of one batch.
        steps: of the stage; none is opened beyond them.
        launch: has prompts sampled.
        complete: told of every batch whose round is complete.
    """

    def __init__(
        self,
        sampler: PromptSampler,
        objective: Objective,
        prompts_per_step: int,
        steps: int,
        launch: Launch,
        complete: Callable[[OpenBatch], None],
    ) -> None:
        self._sampler, self._objective = sampler, objective
        self._prompts_per_step, self._steps = prompts_per_step, steps
        self._launch, self._complete = launch, complete
        self._once = draws_once(objective)
        self._open: dict[int, OpenBatch] = {}
        self._batch_of: dict[str, OpenBatch] = {}
        self._until = 0

    @property
    def missing(self) -> dict[int, int]:
        """Trajectories that have not arrived, by the step of each open batch."""
        return {step: batch.missing for step, batch in self._open.items() if batch.gathered is None}

    def open(self, first: int, last: int) -> None:
        """From now on, batches of the steps `first` to `last` may be sampled; those open go on."""
        self._until = min(last, self._steps)
        newest = max(self._open, default=first - 1)
        while newest < self._until and self._may_follow(newest):
            newest += 1
            batch = OpenBatch(newest, rounds(self._sampler, self._objective, self._prompts_per_step))
            self._open[newest] = batch
            self._ask(batch, next(batch.rounds))

    def take(self, trajectories: Sequence[Trajectory]) -> None:
        """Scored trajectories, of any open batches and in any order.

        Raises:
            KeyError: one that was not asked for, or came before.
        """
        for trajectory in trajectories:
            batch = self._batch_of.pop(trajectory.id)
            batch.arrived[trajectory.id] = trajectory
            if not batch.missing:
                self._end_round(batch)

    def pop(self, step: int) -> OpenBatch | None:
        """The batch of that step; None while it is not complete."""
        return self._open.pop(step) if self._open[step].gathered is not None else None

    def _may_follow(self, newest: int) -> bool:
        return self._once or newest not in self._open or self._open[newest].gathered is not None

    def _ask(self, batch: OpenBatch, prompts: Sequence[Prompt]) -> None:
        batch.asked, batch.arrived = self._launch(batch.step, prompts), {}
        self._batch_of.update(dict.fromkeys(batch.asked, batch))
        self._note_sampler(batch)

    def _end_round(self, batch: OpenBatch) -> None:
        arrived = [batch.arrived[key] for key in batch.asked]
        batch.trajectories += arrived
        self._complete(batch)
        try:
            self._ask(batch, batch.rounds.send(arrived))
        except StopIteration as end:
            batch.gathered = end.value
            if not self._once:
                self._note_sampler(batch)
                self.open(batch.step + 1, self._until)

    def _note_sampler(self, batch: OpenBatch) -> None:
        batch.sampler, batch.epoch = self._sampler.state_dict(), self._sampler.epoch
