"""Objective: a weighted sum of estimators, prepared once per batch, evaluated per micro-batch.

For each term and token the surrogate to differentiate is

    loss_t = - weight_t * m_t * A_t * exp(log pi_theta,t - log pi_den,t)

(unified-hpt.md, eq. 6), in which only log pi_theta carries gradient. `prepare` fixes all that
needs the whole batch: selection, advantages, aggregation weights. `loss` then works on any
subset of whole sequences, and the losses and gradients of the subsets add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from rlpost.estimator.advantage import Advantage
from rlpost.estimator.aggregation import Aggregation
from rlpost.estimator.batch import TokenBatch, token_index
from rlpost.estimator.denominator import Denominator
from rlpost.estimator.granularity import Granularity, TokenRatio
from rlpost.estimator.mask import Keep, Mask
from rlpost.estimator.measures import Measures
from rlpost.estimator.regulariser import Entropy, Regulariser
from rlpost.estimator.report import batch_measures, term_measures
from rlpost.estimator.segments import masked
from rlpost.estimator.selection import KeepAll, Selection
from rlpost.estimator.shaping import Shaping


@dataclass(frozen=True)
class Term:
    """One estimator: its parts, the rows it reads, and its weight in the objective."""

    advantage: Advantage
    denominator: Denominator
    aggregation: Aggregation
    granularity: Granularity = TokenRatio()
    mask: Mask = Keep()
    shaping: tuple[Shaping, ...] = ()
    rows: Literal["all", "rollouts", "demonstrations"] = "rollouts"
    weight: float = 1.0

    def rows_S(self, batch: TokenBatch) -> Tensor:
        """bool [S], the sequences this term reads."""
        if self.rows == "all":
            return torch.ones_like(batch.demonstration_S)
        return batch.demonstration_S if self.rows == "demonstrations" else ~batch.demonstration_S


@dataclass(frozen=True)
class PreparedTerm:
    """What a term needs of the whole batch: float64 [N] each, weight 0 on untrained tokens."""

    advantage_N: Tensor
    weight_N: Tensor


@dataclass(frozen=True)
class Prepared:
    """A batch with everything fixed but the current policy.

    Attributes:
        batch: the selected sequences.
        terms: one for each term of the objective.
        update_S: int64 [S], the optimizer update that each sequence belongs to.
        kept_S: int64 [S], each sequence's index in the batch that was given to `prepare`.
        measures: statistics of the preparation, such as the share of informative groups.
    """

    batch: TokenBatch
    terms: tuple[PreparedTerm, ...]
    update_S: Tensor
    kept_S: Tensor
    measures: Measures

    def rows(self, index_S: Tensor) -> Prepared:
        """The sequences `index_S` alone; weights keep the whole batch's denominators."""
        index_N, _ = token_index(self.batch.sequence_N, self.batch.S, index_S)
        return Prepared(
            self.batch.rows(index_S),
            tuple(PreparedTerm(t.advantage_N[index_N], t.weight_N[index_N]) for t in self.terms),
            self.update_S[index_S],
            self.kept_S[index_S],
            self.measures,
        )

    def updates(self) -> Iterator[Tensor]:
        """The sequence indices of each optimizer update, in order."""
        count = int(self.update_S.max()) + 1 if self.update_S.numel() else 0
        for update in range(count):
            yield (self.update_S == update).nonzero(as_tuple=True)[0]

    def to(self, device: torch.device | str) -> Prepared:
        """The same on `device`."""
        return Prepared(
            self.batch.to(device),
            tuple(PreparedTerm(t.advantage_N.to(device), t.weight_N.to(device)) for t in self.terms),
            self.update_S.to(device),
            self.kept_S.to(device),
            self.measures,
        )


@dataclass(frozen=True)
class LossOutput:
    """The scalar to differentiate and what it reports."""

    loss: Tensor
    measures: Measures


@dataclass(frozen=True)
class Objective:
    """Terms, the selection before them, and regularisers beside them."""

    terms: tuple[Term, ...]
    selection: Selection = KeepAll()
    regularisers: tuple[Regulariser, ...] = ()

    @property
    def signals(self) -> frozenset[str]:
        """The union of what the parts read; the loop computes exactly these."""
        return self.signals_for(on_policy=False)

    def signals_for(self, *, on_policy: bool) -> frozenset[str]:
        """The same; on policy, a ratio to the old policy needs no "old_logprob" of its own."""
        spared = frozenset({"old_logprob"}) if on_policy else frozenset()
        return self.selection.signals.union(
            *(term.denominator.signals - spared for term in self.terms),
            *(term.advantage.signals for term in self.terms),
            *(shaping.signals for term in self.terms for shaping in term.shaping),
            *(regulariser.signals for regulariser in self.regularisers),
        )

    @property
    def needs_group(self) -> bool:
        """True when an advantage compares the responses of one prompt."""
        return any(term.advantage.needs_group for term in self.terms)

    @property
    def needs_entropy_gradient(self) -> bool:
        """True when `loss` must be given an entropy that carries gradient."""
        return any(isinstance(r, Entropy) for r in self.regularisers)

    def prepare(self, batch: TokenBatch, updates: int = 1) -> Prepared:
        """Select, form advantages over whole groups, and fix the weights of every token.

        Args:
            batch: everything that was sampled in a step, all ranks together.
            updates: optimizer updates the kept sequences are divided into, in order; fewer when
                there are fewer sequences, so that none is empty.
        """
        keep_S = self.selection(batch)
        kept_S = keep_S.nonzero(as_tuple=True)[0]
        advantages = [self._advantage(term, batch) for term in self.terms]
        index_N, _ = token_index(batch.sequence_N, batch.S, kept_S)
        kept = batch.rows(kept_S)
        position_S = torch.arange(kept.S, device=kept_S.device)
        update_S = position_S * min(updates, kept.S) // max(kept.S, 1)
        terms = []
        for term, advantage_N in zip(self.terms, advantages, strict=True):
            active_N = kept.mask_N & term.rows_S(kept)[kept.sequence_N]
            weight_N = term.aggregation(kept, active_N, update_S)
            terms.append(PreparedTerm(masked(advantage_N[index_N], active_N), term.weight * weight_N))
        measures = batch_measures(batch, keep_S, [t.advantage_N for t in terms], kept)
        return Prepared(kept, tuple(terms), update_S, kept_S, measures)

    @staticmethod
    def _advantage(term: Term, batch: TokenBatch) -> Tensor:
        reward_S = batch.reward_S
        for shaping in term.shaping:
            reward_S = shaping.reward(reward_S, batch)
        advantage_N = term.advantage(replace(batch, reward_S=reward_S))
        for shaping in term.shaping:
            advantage_N = shaping.advantage(advantage_N, batch)
        return advantage_N.detach()

    def loss(self, logprob_N: Tensor, prepared: Prepared, entropy_N: Tensor | None = None) -> LossOutput:
        """The surrogate of the given sequences, already divided by the global denominators.

        Args:
            logprob_N: log pi_theta [N] of the tokens in `prepared.batch`, with gradient.
            prepared: `prepare`'s result, or some rows of it.
            entropy_N: [N]; with gradient when `needs_entropy_gradient`, otherwise for the
                report only.

        Returns:
            a scalar to call backward on (a graph also when there is no token), and measures:
            among them "policy/loss", the paper's own value of the loss.
        """
        batch = prepared.batch
        logprob_N = masked(logprob_N, batch.mask_N)
        total = logprob_N.sum() * 0.0
        measures = Measures(sums={"policy/loss": total.detach(), "policy/surrogate": total.detach()})
        for term, fixed in zip(self.terms, prepared.terms, strict=True):
            surrogate, term_report = self._term_loss(term, fixed, logprob_N, batch)
            total = total + surrogate
            measures = measures + term_report
        if entropy_N is not None:
            entropy_N = masked(entropy_N, batch.mask_N)
            mean = (entropy_N.detach().sum().to(torch.float64), batch.mask_N.sum().to(torch.float64))
            measures = measures + Measures(means={"policy/entropy": mean})
        weight_N = prepared.terms[0].weight_N.to(logprob_N.dtype)
        for regulariser in self.regularisers:
            value = (weight_N * regulariser(logprob_N, entropy_N, batch)).sum() * regulariser.coefficient
            total = total + value
            report = {"policy/loss": value.detach(), regulariser.metric: value.detach()}
            measures = measures + Measures(sums=report)
        measures = measures + Measures(sums={"policy/surrogate": total.detach()})
        return LossOutput(total, measures)

    @staticmethod
    def _term_loss(
        term: Term, fixed: PreparedTerm, logprob_N: Tensor, batch: TokenBatch
    ) -> tuple[Tensor, Measures]:
        """The surrogate of one term, and its report."""
        current_N = logprob_N.detach()
        advantage_N = fixed.advantage_N.to(logprob_N.dtype)
        weight_N = fixed.weight_N.to(logprob_N.dtype)
        log_ratio_N = masked(term.denominator.log_ratio(current_N, batch), batch.mask_N)
        ratio_N = torch.exp(term.granularity(log_ratio_N, batch))
        decision = term.mask(ratio_N, advantage_N, batch)
        coefficient_N = decision.multiplier_N * advantage_N * term.denominator.weight(ratio_N)
        surrogate = -(weight_N * coefficient_N * torch.exp(logprob_N - current_N)).sum()

        value_N = decision.multiplier_N * term.denominator.value(ratio_N, current_N)
        if not term.denominator.linear:
            value_N = torch.where(decision.multiplier_N == 0.0, decision.held_N, value_N)
            share_N = term.granularity.value_share(batch)
            value_N = value_N if share_N is None else value_N * share_N
        value_N = -weight_N * advantage_N * value_N
        return surrogate, term_measures(
            term.denominator, decision, ratio_N, current_N, value_N, weight_N, batch
        )

    def coefficients(self, logprob_N: Tensor, prepared: Prepared) -> Tensor:
        """The analytic d loss / d log pi [N] of the terms: -weight * m * A * pi/pi_den.

        The gradient contract that every algorithm is tested against; regularisers are not in it.
        """
        batch = prepared.batch
        logprob_N = masked(logprob_N.detach(), batch.mask_N)
        total_N = torch.zeros_like(logprob_N)
        for term, fixed in zip(self.terms, prepared.terms, strict=True):
            log_ratio_N = masked(term.denominator.log_ratio(logprob_N, batch), batch.mask_N)
            ratio_N = torch.exp(term.granularity(log_ratio_N, batch))
            advantage_N = fixed.advantage_N.to(logprob_N.dtype)
            multiplier_N = term.mask(ratio_N, advantage_N, batch).multiplier_N
            total_N -= fixed.weight_N * multiplier_N * advantage_N * term.denominator.weight(ratio_N)
        return total_N

    def describe(self) -> str:
        """The objective's parts, one a line, for people."""
        lines = [f"selection    {self.selection.formula}"]
        for number, term in enumerate(self.terms, start=1):
            head = f"term {number} of {len(self.terms)} (weight {term.weight:g}, rows: {term.rows})"
            lines += [head] if len(self.terms) > 1 else []
            lines += [f"shaping      {shaping.formula}" for shaping in term.shaping]
            lines += [
                f"advantage    {term.advantage.formula}",
                f"denominator  {term.denominator.formula}",
                f"granularity  {term.granularity.formula}",
                f"mask         {term.mask.formula}",
                f"aggregation  {term.aggregation.formula}",
            ]
        lines += [f"regulariser  {regulariser.formula}" for regulariser in self.regularisers]
        lines.append("loss_t = - m_t A_t exp(log pi_t - log pi_den,t), gradient through log pi_t only")
        return "\n".join(lines)
