"""Overlong filtering: responses that hit the token limit leave the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.selection.selection import Selected, Statistics


@dataclass(frozen=True)
class OverlongFilter:
    """Truncated responses leave the batch (DAPO, arXiv 2503.14476), the denominators included.

    Demonstrations stay, cut or whole: what was cut from them says nothing of the policy.

    Attributes:
        statistics: "kept" leaves their rewards in the group's statistics, as most implementations do;
            "dropped" takes them out of the group as well.
    """

    statistics: Statistics = "kept"
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()

    @property
    def before_advantages(self) -> bool:
        return self.statistics == "dropped"

    def __call__(self, batch: TokenBatch, advantage_N: Tensor) -> Selected:
        return Selected(~batch.truncated_S | batch.demonstration_S)

    @property
    def formula(self) -> str:
        return f"responses that were not truncated; group statistics {self.statistics}"
