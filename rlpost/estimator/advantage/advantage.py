"""What every advantage is."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.measures import Measures


class Advantage(Protocol):
    """Maps a batch to one advantage per token."""

    sequence_signals: ClassVar[frozenset[str]]
    needs_group: ClassVar[bool]

    @property
    def signals(self) -> frozenset[str]:
        """The token signals it reads; options may decide."""
        ...

    def __call__(self, batch: TokenBatch) -> Tensor:
        """`advantage_N`, float64 [N]."""
        ...

    @property
    def formula(self) -> str:
        """In the notation of the papers."""
        ...


@runtime_checkable
class MeasuredAdvantage(Protocol):
    """An advantage that also reports."""

    def measures(self, batch: TokenBatch) -> Measures:
        """What a step reports of the batch that the advantage is formed over."""
        ...
