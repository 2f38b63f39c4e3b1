"""Gates: with which weight does each sequence enter a term?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch


class Gate(Protocol):
    """Maps a whole batch, before any selection, to the weights of its sequences in one term."""

    signals: ClassVar[frozenset[str]]

    def __call__(self, batch: TokenBatch) -> Tensor:
        """`weight_S`, float64 [S]; a sequence of weight 0 is not in the term at all."""
        ...

    @property
    def formula(self) -> str:
        """In the notation of the papers."""
        ...


@dataclass(frozen=True)
class Open:
    """Every sequence with weight 1."""

    signals: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, batch: TokenBatch) -> Tensor:
        return torch.ones(batch.S, dtype=torch.float64, device=batch.group_S.device)

    @property
    def formula(self) -> str:
        return "1"
