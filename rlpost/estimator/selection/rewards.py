"""Selections by the rewards of a group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.segments import Groups
from rlpost.estimator.selection.selection import Selected


@dataclass(frozen=True)
class DropUniform:
    """Groups whose task rewards are all equal leave the batch and the denominators (DAPO)."""

    signals: ClassVar[frozenset[str]] = frozenset()
    before_advantages: ClassVar[bool] = False

    def __call__(self, batch: TokenBatch, advantage_N: Tensor) -> Selected:
        groups = Groups(batch.group_S, batch.reward_S)
        return Selected(groups.informative_G[groups.id_S] | batch.demonstration_S)

    @property
    def formula(self) -> str:
        return "groups with max(R) > min(R)"
