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
        keep_N: bool [N], the tokens whose policy loss counts.
        counted_N: bool [N], the tokens in its denominators; all of `keep_N`, and those that a
            selection left there.
        columns_N: further token tensors [N] that are cut with it.
        measures: what the selections reported.
    """

    batch: TokenBatch
    index_S: Tensor
    keep_N: Tensor
    counted_N: Tensor
    columns_N: tuple[Tensor, ...] = ()
    measures: Measures = field(default_factory=Measures)

    @classmethod
    def of(cls, batch: TokenBatch) -> Narrowed:
        """The whole batch."""
        device = batch.group_S.device
        everything_N = torch.ones(batch.N, dtype=torch.bool, device=device)
        return cls(batch, torch.arange(batch.S, device=device), everything_N, everything_N)

    def by(self, selected: Selected) -> Narrowed:
        """What a selection leaves of it."""
        keep_N, counted_N = self.keep_N, self.counted_N
        if selected.keep_N is not None:
            both_N = keep_N & selected.keep_N
            if selected.denominators == "renewed":
                counted_N = both_N if counted_N is keep_N else counted_N & selected.keep_N
            keep_N = both_N
        measures = self.measures + selected.measures
        if bool(selected.keep_S.all()):
            return replace(self, keep_N=keep_N, counted_N=counted_N, measures=measures)
        index_S = selected.keep_S.nonzero(as_tuple=True)[0]
        index_N, sequence_N = token_index(self.batch.sequence_N, self.batch.S, index_S)
        one_mask = counted_N is keep_N
        keep_N = keep_N[index_N]
        return Narrowed(
            self.batch.cut(index_S, index_N, sequence_N),
            self.index_S[index_S],
            keep_N,
            keep_N if one_mask else counted_N[index_N],
            tuple(column_N[index_N] for column_N in self.columns_N),
            measures,
        )


@dataclass(frozen=True)
class KeepAll:
    """Every sequence; those without signal stay in the denominators."""

    signals: ClassVar[frozenset[str]] = frozenset()
    before_advantages: ClassVar[bool] = False

    def __call__(self, batch: TokenBatch, advantage_N: Tensor) -> Selected:
        return Selected(torch.ones(batch.S, dtype=torch.bool, device=batch.group_S.device))

    @property
    def formula(self) -> str:
        return "all sequences"
