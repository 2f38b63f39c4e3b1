"""Selections: which sequences enter the update?

A selection sees the batch with its task rewards, before any shaping, and never changes the
advantages: those are formed over the whole groups first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.segments import Groups


class Selection(Protocol):
    """Maps a batch to the sequences that are trained."""

    signals: ClassVar[frozenset[str]]

    def __call__(self, batch: TokenBatch) -> Tensor:
        """`keep_S`, bool [S]."""
        ...

    @property
    def formula(self) -> str:
        """In the notation of the papers."""
        ...


@dataclass(frozen=True)
class KeepAll:
    """Every sequence; those without signal stay in the denominators."""

    signals: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, batch: TokenBatch) -> Tensor:
        return torch.ones(batch.S, dtype=torch.bool, device=batch.group_S.device)

    @property
    def formula(self) -> str:
        return "all sequences"


@dataclass(frozen=True)
class DropUniform:
    """Groups whose task rewards are all equal leave the batch and the denominators (DAPO)."""

    signals: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, batch: TokenBatch) -> Tensor:
        groups = Groups(batch.group_S, batch.reward_S)
        return groups.informative_G[groups.id_S] | batch.demonstration_S

    @property
    def formula(self) -> str:
        return "groups with max(R) > min(R)"
