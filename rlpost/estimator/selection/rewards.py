"""Selections by the rewards of a group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.segments import Groups
from rlpost.estimator.selection.selection import Selected, Selection


@runtime_checkable
class Refilling(Protocol):
    """A selection that may have further prompts sampled, until enough groups are informative.

    Attributes:
        refill: whether it asks for that.
        max_rounds: rounds of sampling that a step may take, the first one included.
    """

    @property
    def refill(self) -> bool: ...

    @property
    def max_rounds(self) -> int: ...

    def informative(self, group_S: Tensor, reward_S: Tensor) -> Tensor:
        """bool [S], the responses of groups that need no replacement, from task rewards before shaping."""
        ...


def refilling(selection: Iterable[Selection]) -> Refilling | None:
    """The first selection for which further prompts are to be sampled; None without one."""
    return next((part for part in selection if isinstance(part, Refilling) and part.refill), None)


@dataclass(frozen=True)
class DropUniform:
    """Groups whose task rewards are all equal leave the batch and the denominators (DAPO).

    With `refill`, DAPO's dynamic sampling (arXiv 2503.14476): the run samples further prompts until
    the batch has all its groups, or `max_rounds` rounds were made. Informative groups beyond those are
    dropped and counted.

    Demonstrations are in no group here, whatever their reward: they stay, those of dropped groups too. With
    `refill` a prompt that is passed over leaves with its demonstration.
    """

    refill: bool = False
    max_rounds: int = 8
    surplus: Literal["drop"] = "drop"
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    before_advantages: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.max_rounds < 1:
            raise ValueError(f"max_rounds must be at least 1, found {self.max_rounds}")

    def informative(self, group_S: Tensor, reward_S: Tensor) -> Tensor:
        """bool [S], the responses of groups whose rewards are not all equal."""
        groups = Groups(group_S, reward_S)
        return groups.informative_G[groups.id_S]

    def __call__(self, batch: TokenBatch, advantage_N: Tensor) -> Selected:
        rollout_S = ~batch.demonstration_S
        keep_S = batch.demonstration_S.clone()
        keep_S[rollout_S] = self.informative(batch.group_S[rollout_S], batch.reward_S[rollout_S])
        return Selected(keep_S)

    @property
    def formula(self) -> str:
        more = f", refilled in at most {self.max_rounds} rounds" if self.refill else ""
        return f"groups with max(R) > min(R){more}"
