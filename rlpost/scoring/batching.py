"""Samples that are scored together, and alone again when that fails: no result depends on its neighbours."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlpost.scoring.task import Batch, Reply, Task

if TYPE_CHECKING:
    from rlpost.scoring.executor import Executor
    from rlpost.scoring.protocol import RewardDescription


def score_tasks(executor: Executor, tasks: Sequence[Task]) -> tuple[list[Reply], int]:
    """One reply for each task, in their order, and how many were scored alone after their batch had failed.

    Args:
        tasks: all of operation "score".

    Raises:
        ScoringError: as `Executor.run`.
    """
    places = _batches(tasks, executor.descriptions)
    units = [
        Batch([tasks[k] for k in group], executor.descriptions[tasks[group[0]].reward].concurrent)
        if len(group) > 1
        else tasks[group[0]]
        for group in places
    ]
    replies: dict[int, Reply] = {}
    again: list[int] = []
    for group, reply in zip(places, executor.run(units), strict=True):
        parts = [reply] if len(group) == 1 else _divided(reply, len(group))
        again += [] if parts else group
        replies |= zip(group, parts, strict=False)
    replies |= zip(again, executor.run([tasks[k] for k in again]), strict=True) if again else ()
    return [replies[k] for k in range(len(tasks))], len(again)


def _batches(tasks: Sequence[Task], descriptions: Sequence[RewardDescription]) -> list[list[int]]:
    """The tasks' places, by batch; a batch is filled in the order of the tasks."""
    batches: list[list[int]] = []
    filling: dict[Hashable, list[int]] = {}
    for place, task in enumerate(tasks):
        size = descriptions[task.reward].batch_size
        if size == 1:
            batches.append([place])
            continue
        key = _kind(task)
        batch = filling.get(key)
        if batch is None or len(batch) == size:
            filling[key] = batch = []
            batches.append(batch)
        batch.append(place)
    return batches


def _kind(task: Task) -> Hashable:
    """What samples of one call have in common: a function must not see a column that its row lacks."""
    return task.reward, frozenset(task.columns), isinstance(task.columns.get("prompt"), (list, tuple))


def _divided(reply: Reply, count: int) -> list[Reply]:
    """A reply for each sample of a batch; [] when the batch failed as a whole."""
    value: Mapping[str, Any] = reply.value or {}
    verdicts, seconds = value.get("verdicts", ()), value.get("seconds", ())
    if not len(verdicts) == len(seconds) == count:
        return []
    return [Reply(reply.number, v, s) for v, s in zip(verdicts, seconds, strict=True)]
