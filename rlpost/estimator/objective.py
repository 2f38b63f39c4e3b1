"""Objective: a weighted sum of estimators, prepared once per batch, evaluated per micro-batch.

For each term and token the surrogate to differentiate is

    loss_t = - weight_t * m_t * A_t * exp(log pi_theta,t - log pi_den,t)

(arXiv 2509.04419, eq. 6), in which only log pi_theta carries gradient. `prepare` fixes all that
needs the whole batch: selection, advantages, aggregation weights. `loss` then works on any
subset of whole sequences, and the losses and gradients of the subsets add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlpost.estimator.actions import OneToken
from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.gate import Open
from rlpost.estimator.granularity import TurnRatio
from rlpost.estimator.measures import Measures
from rlpost.estimator.prepared import Prepared, PreparedTerm
from rlpost.estimator.regulariser import Entropy, Regulariser
from rlpost.estimator.report import (
    batch_measures,
    coefficient_measures,
    loss_measures,
    mismatch_measures,
    policy_measures,
    response_measures,
    selection_measures,
    term_measures,
)
from rlpost.estimator.segments import masked, trained
from rlpost.estimator.selection import KeepAll, Narrowed, Selection
from rlpost.estimator.term import Term
from rlpost.estimator.transform import GradientTransform


@dataclass(frozen=True)
class LossOutput:
    """The scalar to differentiate and what it reports.

    Attributes:
        removed: the surrogate of the tokens that masks removed, for the objective's transform; it shares
            the graph of `loss`. None without a transform, and where nothing was removed.
    """

    loss: Tensor
    measures: Measures
    removed: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """Terms, the selections before them, regularisers beside them, and what is done to their gradient."""

    terms: tuple[Term, ...]
    selection: tuple[Selection, ...] = ()
    regularisers: tuple[Regulariser, ...] = ()
    transform: GradientTransform | None = None

    @property
    def signals(self) -> frozenset[str]:
        """The union of what the parts read; the loop computes exactly these."""
        return self.signals_for(on_policy=False)

    def signals_for(self, *, on_policy: bool) -> frozenset[str]:
        """The same; on policy, ratios to the old policy and masks of it need no "old_logprob"."""
        spared = frozenset({"old_logprob"}) if on_policy else frozenset()
        return frozenset().union(
            *(selection.signals for selection in self.selection),
            *(term.ratio_signals - spared for term in self.terms),
            *(term.signals for term in self.terms),
            *(regulariser.signals - spared for regulariser in self.regularisers),
        )

    @property
    def sequence_signals(self) -> frozenset[str]:
        """What the driver must say of each sequence beside its reward."""
        return frozenset().union(
            *(selection.sequence_signals for selection in self.selection),
            *(term.sequence_signals for term in self.terms),
        )

    @property
    def actions(self) -> OneToken | None:
        """What `loss` must be given a score of at each position; None where log pi_t is all that is read."""
        return next((t.actions for t in self.terms if isinstance(t.actions, OneToken)), None)

    @property
    def value_heads(self) -> tuple[str, ...]:
        """The signals that a critic must give, in its heads' order: () without a critic."""
        return next((term.value_heads for term in self.terms if term.value_heads), ())

    @property
    def is_gated(self) -> bool:
        """True when a gate may leave sequences without a weight."""
        return any(not isinstance(term.gate, Open) for term in self.terms)

    @property
    def needs_group(self) -> bool:
        """True when an advantage compares the responses of one prompt."""
        return any(term.advantage.needs_group for term in self.terms)

    @property
    def reads_rewards(self) -> bool:
        """False when no reward can change what is learnt, as in distillation: nothing need be scored then."""
        return bool(self.selection) or any(term.reads_rewards for term in self.terms)

    def may_remove(self, batch: TokenBatch) -> bool:
        """False where no mask can remove a token: the policy is still the one that ratios compare with."""
        reads = frozenset().union(*(term.ratio_signals for term in self.terms))
        return not (batch.on_policy and reads <= {"old_logprob"})

    @property
    def needs_entropy_gradient(self) -> bool:
        """True when `loss` must be given an entropy that carries gradient."""
        return any(isinstance(r, Entropy) for r in self.regularisers)

    @property
    def adaptive(self) -> tuple[Regulariser, ...]:
        """The regularisers whose coefficients follow a measurement from step to step."""
        return tuple(part for part in self.regularisers if part.is_adaptive)

    def with_coefficients(self, coefficients: Mapping[str, float]) -> Objective:
        """The same with other coefficients of the regularisers whose keys are named ("kl", "entropy")."""
        regularisers = [
            part.with_coefficient(coefficients[part.key]) if part.key in coefficients else part
            for part in self.regularisers
        ]
        return replace(self, regularisers=tuple(regularisers))

    def prepare(self, batch: TokenBatch, updates: int = 1) -> Prepared:
        """Select, form advantages over whole groups, and fix the weights of every token.

        Args:
            batch: everything that was sampled in a step, all ranks together.
            updates: optimizer updates the kept sequences are divided into; see `updates_of`.
        """
        gates = [term.gate(batch) for term in self.terms]
        gated = sum((term.gate.measures(batch) for term in self.terms), Measures())
        left = Narrowed.of(batch)
        for selection in (s for s in self.selection if s.before_advantages):
            nothing_N = torch.zeros(left.batch.N, dtype=torch.float64, device=batch.group_S.device)
            left = left.by(selection(left.batch, nothing_N))
        formed = [term.advantages(left.batch) for term in self.terms]
        reward_S = batch.reward_S.to(torch.float64).index_copy(0, left.index_S, formed[0].reward_S)
        responses = response_measures(
            left.batch,
            [
                masked(term.advantage_N, left.batch.spread(gate_S[left.index_S] > 0.0))
                for term, gate_S in zip(formed, gates, strict=True)
            ],
        )
        targets = {head: target_N for term in formed for head, target_N in term.value_targets.items()}
        advantages = tuple(term.advantage_N for term in formed)
        with_advantages = replace(left, columns_N=(*advantages, *targets.values()))
        left = with_advantages
        for selection in (s for s in self.selection if not s.before_advantages):
            left = left.by(selection(left.batch, left.columns_N[0]))
        prepared = self._weigh(left, [gate_S[left.index_S] for gate_S in gates], reward_S, updates)
        kept_targets = dict(zip(targets, left.columns_N[len(advantages) :], strict=True))
        prepared = replace(prepared, value_targets=kept_targets)
        measures = prepared.measures + left.measures + responses + gated
        if self.selection:
            measures = measures + selection_measures(batch, with_advantages, left)
        for term in formed:
            measures = measures + term.measures
        return replace(prepared, measures=measures + batch_measures(batch, prepared))

    def _weigh(self, left: Narrowed, gates: list[Tensor], reward_S: Tensor, updates: int) -> Prepared:
        """Fix the weights of what the selections left."""
        kept = left.batch
        update_S = updates_of(kept, updates)
        terms = []
        measures = Measures()
        regulated_S = torch.zeros_like(kept.demonstration_S)
        columns = left.columns_N[: len(self.terms)]
        for term, gate_S, advantage_N in zip(self.terms, gates, columns, strict=True):
            weight_N, corrected = term.weights(kept, gate_S, left.keep_N, left.counted_N, update_S)
            measures = measures + corrected
            terms.append(PreparedTerm(trained(advantage_N, kept), weight_N))
            if len(self.terms) > 1:
                measures = measures + coefficient_measures(term, terms[-1])
            regulated_S = regulated_S | (term.rows_S(kept) & (gate_S > 0))
        regulariser_N = torch.zeros_like(terms[0].weight_N)
        if self.regularisers:
            regulated_N = self._regulated(kept).mask_N & kept.spread(regulated_S)
            regulariser_N = self.terms[0].aggregation(kept, regulated_N, update_S)
        return Prepared(kept, tuple(terms), regulariser_N, update_S, left.index_S, reward_S, measures)

    def _regulated(self, batch: TokenBatch) -> TokenBatch:
        """The batch with `mask_N` on what regularisers act on: beside terms over rollouts no demonstration.

        A divergence and an entropy of the policy are estimated from what it says itself.
        """
        samples = any(term.rows == "rollouts" for term in self.terms)
        if not (samples and self.regularisers and bool(batch.demonstration_S.any())):
            return batch
        return replace(batch, mask_N=batch.sampled_N)

    def loss(
        self,
        logprob_N: Tensor,
        prepared: Prepared,
        entropy_N: Tensor | None = None,
        score_N: Tensor | None = None,
    ) -> LossOutput:
        """The surrogate of the given sequences, already divided by the global denominators.

        Args:
            logprob_N: log pi_theta [N] of the tokens in `prepared.batch`, with gradient.
            prepared: `prepare`'s result, or some rows of it.
            entropy_N: [N]; with gradient when `needs_entropy_gradient`, otherwise for the
                report only.
            score_N: [N], what `actions` make of each position, with gradient; read by their terms in the
                place of `logprob_N`.

        Returns:
            a scalar to call backward on (a graph also when there is no token), and measures:
            among them "policy/loss", the paper's own value of the loss.
        """
        batch = prepared.batch
        logprob_N = trained(logprob_N, batch)
        policy_N = logprob_N.detach()
        entropy_N = None if entropy_N is None else trained(entropy_N, batch)
        total = torch.zeros((), dtype=logprob_N.dtype, device=logprob_N.device)
        removed = None
        measures = Measures()
        for term, fixed in zip(self.terms, prepared.terms, strict=True):
            stream_N = _stream(term, logprob_N, score_N, batch)
            current_N = stream_N.detach()
            one_N = torch.exp(stream_N - current_N)
            at = term.evaluate(fixed, current_N, batch)
            weight_N = fixed.weight_N.to(logprob_N.dtype)
            slope_N = term.spread(weight_N * at.coefficient_N, at, current_N, batch)
            total = total - (slope_N * one_N).sum()
            if self.transform is not None and not bool(at.decision.multiplier_N.all()):
                lost_N = weight_N * at.removed_N
                if bool(lost_N.any()):
                    lost = -(term.spread(lost_N, at, current_N, batch) * one_N).sum()
                    removed = lost if removed is None else removed + lost
            value_N = term.value(at, current_N, batch).to(torch.float64)
            value = (fixed.weight_N * fixed.advantage_N * value_N).sum()
            measures = measures + loss_measures(term, -value, weight_N, alone=len(self.terms) == 1)
            measures = measures + term_measures(
                term.denominator, at.decision, at.ratio_N, weight_N.bool() & batch.sampled_N
            )
        regulated = self._regulated(batch)
        for regulariser in self.regularisers:
            weight_N = prepared.regulariser_N.to(logprob_N.dtype)
            value = (weight_N * regulariser(logprob_N, entropy_N, regulated)).sum() * regulariser.coefficient
            total = total + value
            report = {"policy/loss": value.detach(), regulariser.metric: value.detach()}
            measures = measures + Measures(sums=report)
        measures = measures + policy_measures(policy_N, entropy_N, batch) + mismatch_measures(policy_N, batch)
        return LossOutput(total, measures + Measures(sums={"policy/surrogate": total.detach()}), removed)

    def coefficients(self, logprob_N: Tensor, prepared: Prepared) -> Tensor:
        """The analytic d loss / d log pi [N] of the terms: -weight * m * A * pi/pi_den.

        The gradient contract that every algorithm is tested against; regularisers are not in it. For a
        term with other actions than the tokens taken it is d loss / d score.
        """
        return self._slopes(logprob_N, prepared, removed=False)

    def removed_coefficients(self, logprob_N: Tensor, prepared: Prepared) -> Tensor:
        """The same of what the masks removed, -weight * (1 - m) * A * pi/pi_den: minus C's factors [N]."""
        return self._slopes(logprob_N, prepared, removed=True)

    def _slopes(self, logprob_N: Tensor, prepared: Prepared, *, removed: bool) -> Tensor:
        batch = prepared.batch
        logprob_N = trained(logprob_N.detach(), batch)
        total_N = torch.zeros_like(logprob_N)
        for term, fixed in zip(self.terms, prepared.terms, strict=True):
            at = term.evaluate(fixed, logprob_N, batch)
            factor_N = fixed.weight_N * (at.removed_N if removed else at.coefficient_N)
            total_N -= term.spread(factor_N, at, logprob_N, batch)
        return total_N

    def describe(self) -> str:
        """The objective's parts, one a line, for people."""
        lines = [f"selection    {part.formula}" for part in self.selection or (KeepAll(),)]
        for number, term in enumerate(self.terms, start=1):
            name = f"`{term.label}`, " if term.name else ""
            head = f"term {number} of {len(self.terms)} ({name}weight {term.weight:g}, rows: {term.rows})"
            lines += [head] if len(self.terms) > 1 else []
            lines += term.describe()
        lines += [f"regulariser  {regulariser.formula}" for regulariser in self.regularisers]
        lines += [] if self.transform is None else [f"transform    {self.transform.formula}"]
        turns = any(isinstance(term.granularity, TurnRatio) for term in self.terms)
        through = "the whole turn's log pi" if turns else "log pi_t only"
        scored = [not term.actions.is_taken for term in self.terms]
        if any(scored):
            through = "the score" if all(scored) else f"{through}, or the score where there are actions"
        lines.append(f"loss_t = - m_t A_t exp(log pi_t - log pi_den,t), gradient through {through}")
        return "\n".join(lines)


def updates_of(batch: TokenBatch, updates: int) -> Tensor:
    """The optimizer update of each sequence, int64 [S], ascending from 0: equal parts, in order.

    Fewer than `updates` when there are fewer sequences, so that none is empty. Where demonstrations are in
    the batch, neighbouring rows of one prompt stay together, so parts may be unequal.
    """
    position_S = torch.arange(batch.S, device=batch.group_S.device)
    if bool(batch.demonstration_S.any()):
        _, owner_S, size_P = torch.unique_consecutive(batch.group_S, return_inverse=True, return_counts=True)
        position_S = (size_P.cumsum(0) - size_P)[owner_S]
    part_S = position_S * min(updates, batch.S) // max(batch.S, 1)
    update_S: Tensor = torch.unique_consecutive(part_S, return_inverse=True)[1]
    return update_S


def _stream(term: Term, logprob_N: Tensor, score_N: Tensor | None, batch: TokenBatch) -> Tensor:
    """What the term differentiates [N]: log pi, or the score of its actions."""
    if term.actions.is_taken:
        return logprob_N
    if score_N is None:
        raise ValueError(f"term {term.label!r} needs score_N, what its actions make of each position")
    return trained(score_N, batch)
