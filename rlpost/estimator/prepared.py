"""Prepared: all that is fixed of a batch before the first optimizer update of a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch, token_index
from rlpost.estimator.measures import Measures


@dataclass(frozen=True)
class PreparedTerm:
    """What a term needs of the whole batch: float64 [N] each.

    The weight is 0 on tokens that the term does not train. The advantage is 0 only on tokens that nothing
    trains: the ratio of a sequence may depend on the sign of A on all of its tokens (GMPO).
    """

    advantage_N: Tensor
    weight_N: Tensor

    def cut(self, index_N: Tensor) -> PreparedTerm:
        """The same of the tokens at `index_N` alone."""
        return PreparedTerm(self.advantage_N.index_select(0, index_N), self.weight_N.index_select(0, index_N))


@dataclass(frozen=True)
class Prepared:
    """A batch with everything fixed but the current policy.

    Attributes:
        batch: the selected sequences.
        terms: one for each term of the objective.
        regulariser_N: float64 [N], the weight of every token in the regularisers, 0 without any.
        update_S: int64 [S], the optimizer update that each sequence belongs to.
        kept_S: int64 [S], each sequence's index in the batch that was given to `prepare`.
        reward_S: float64, the first term's shaped reward of every sequence of that batch.
        measures: statistics of the preparation, such as the share of informative groups.
        value_targets: float64 [N] by the critic's head: for "value", or "value/0", "value/1", ... with
            several, the return that it is to learn on each of the batch's sampled tokens; for "outcome" 1 on
            those of right responses; 0 elsewhere. Empty where nothing reads a critic.
    """

    batch: TokenBatch
    terms: tuple[PreparedTerm, ...]
    regulariser_N: Tensor
    update_S: Tensor
    kept_S: Tensor
    reward_S: Tensor
    measures: Measures
    value_targets: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def trained_N(self) -> Tensor:
        """bool [N], the tokens with a weight in some term."""
        trained_N = torch.zeros_like(self.batch.mask_N)
        for term in self.terms:
            trained_N |= term.weight_N.bool()
        return trained_N

    @property
    def has_signal(self) -> bool:
        """True when some token has a weight and an advantage: without regularisers, all else is idle."""
        return any(bool(((t.advantage_N != 0) & (t.weight_N != 0)).any()) for t in self.terms)

    @property
    def weighted_S(self) -> Tensor:
        """int64, the sequences with a weight in some term, in a regulariser or for a critic.

        What a gate has closed has none: it adds exactly nothing to a loss or a gradient.
        """
        if self.value_targets:
            return torch.arange(self.batch.S, device=self.batch.group_S.device)
        weighted_N = self.trained_N | self.regulariser_N.bool()
        weighted_S: Tensor = torch.unique(self.batch.sequence_N[weighted_N])
        return weighted_S

    def rows(self, index_S: Tensor) -> Prepared:
        """The sequences `index_S` alone; weights keep the whole batch's denominators."""
        index_N, sequence_N = token_index(self.batch.sequence_N, self.batch.S, index_S)
        return replace(
            self,
            batch=self.batch.cut(index_S, index_N, sequence_N),
            terms=tuple(t.cut(index_N) for t in self.terms),
            regulariser_N=self.regulariser_N.index_select(0, index_N),
            update_S=self.update_S[index_S],
            kept_S=self.kept_S[index_S],
            value_targets={head: g_N.index_select(0, index_N) for head, g_N in self.value_targets.items()},
        )

    def updates(self) -> Iterator[Tensor]:
        """The sequence indices of each optimizer update, in order."""
        count = int(self.update_S.max()) + 1 if self.update_S.numel() else 0
        for update in range(count):
            yield (self.update_S == update).nonzero(as_tuple=True)[0]

    def to(self, device: torch.device | str) -> Prepared:
        """The same on `device`, but for `reward_S`, which the driver alone reads."""
        return replace(
            self,
            batch=self.batch.to(device),
            terms=tuple(PreparedTerm(t.advantage_N.to(device), t.weight_N.to(device)) for t in self.terms),
            regulariser_N=self.regulariser_N.to(device),
            update_S=self.update_S.to(device),
            kept_S=self.kept_S.to(device),
            value_targets={head: target_N.to(device) for head, target_N in self.value_targets.items()},
        )
