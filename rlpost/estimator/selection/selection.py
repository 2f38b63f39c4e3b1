"""What every selection decides, and how a batch goes through several."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch, token_index
from rlpost.estimator.measures import Measures

Renewal = Literal["kept", "renewed"]
Statistics = Literal["kept", "dropped"]


@dataclass(frozen=True)
class Selected:
    """What a selection decided.

    Attributes:
        keep_S: bool [S], the sequences that stay in the batch.
        keep_N: bool [N], the tokens whose policy loss counts; None means all. The others stay in the
            batch: a ratio over the whole sequence, and a KL term, still read them.
        denominators: whether those others stay in the loss's denominators ("kept") or leave them.
        measures: what to report of it.
    """

    keep_S: Tensor
    keep_N: Tensor | None = None
    denominators: Renewal = "renewed"
    measures: Measures = field(default_factory=Measures)


class Selection(Protocol):
    """Maps a batch to what is trained."""

    signals: ClassVar[frozenset[str]]
    sequence_signals: ClassVar[frozenset[str]]

    @property
    def before_advantages(self) -> bool:
        """True when dropped sequences must not enter the group statistics either."""
        ...

    def __call__(self, batch: TokenBatch, advantage_N: Tensor) -> Selected:
        """The decision, from the first term's advantages (zeros while there are none yet)."""
        ...

    @property
    def formula(self) -> str:
        """In the notation of the papers."""
        ...


@dataclass(frozen=True)
class Narrowed:
    """A batch on its way through the selections.

    Attributes:
        batch: what is left of it.
        index_S: int64, where its sequences were in the whole batch.
        keep_N: bool [N], the tokens whose policy loss counts; None means all.
        counted_N: bool [N], the tokens in its denominators; all of `keep_N`, and those that a
            selection left there. None means all.
        columns_N: further token tensors [N] that are cut with it.
        measures: what the selections reported.
    """

    batch: TokenBatch
    index_S: Tensor
    keep_N: Tensor | None = None
    counted_N: Tensor | None = None
    columns_N: tuple[Tensor, ...] = ()
    measures: Measures = field(default_factory=Measures)

    @classmethod
    def of(cls, batch: TokenBatch) -> Narrowed:
        """The whole batch."""
        return cls(batch, torch.arange(batch.S, device=batch.group_S.device))

    def by(self, selected: Selected) -> Narrowed:
        """What a selection leaves of it."""
        keep_N, counted_N = _both(self.keep_N, selected.keep_N), self.counted_N
        if selected.denominators == "renewed":
            counted_N = _both(counted_N, selected.keep_N)
        measures = self.measures + selected.measures
        if bool(selected.keep_S.all()):
            return replace(self, keep_N=keep_N, counted_N=counted_N, measures=measures)
        index_S = selected.keep_S.nonzero(as_tuple=True)[0]
        index_N, sequence_N = token_index(self.batch.sequence_N, self.batch.S, index_S)
        return Narrowed(
            self.batch.cut(index_S, index_N, sequence_N),
            self.index_S[index_S],
            None if keep_N is None else keep_N.index_select(0, index_N),
            None if counted_N is None else counted_N.index_select(0, index_N),
            tuple(column_N.index_select(0, index_N) for column_N in self.columns_N),
            measures,
        )


def _both(mask_N: Tensor | None, other_N: Tensor | None) -> Tensor | None:
    """The tokens under both masks; None means all."""
    if mask_N is None or other_N is None:
        return other_N if mask_N is None else mask_N
    return mask_N & other_N


@dataclass(frozen=True)
class KeepAll:
    """Every sequence; those without signal stay in the denominators."""

    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    before_advantages: ClassVar[bool] = False

    def __call__(self, batch: TokenBatch, advantage_N: Tensor) -> Selected:
        return Selected(torch.ones(batch.S, dtype=torch.bool, device=batch.group_S.device))

    @property
    def formula(self) -> str:
        return "all sequences"
