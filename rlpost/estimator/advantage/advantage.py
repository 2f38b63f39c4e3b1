"""What every advantage is."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor

from rlpost.estimator.batch import TokenBatch


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
