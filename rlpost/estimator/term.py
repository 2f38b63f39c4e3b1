"""Term: one estimator of the objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from rlpost.estimator.actions import Actions, Taken
from rlpost.estimator.advantage import GAE, Advantage, MeasuredAdvantage
from rlpost.estimator.aggregation import Aggregation
from rlpost.estimator.batch import TokenBatch, token_index
from rlpost.estimator.correction import Correction, correction_measures, mismatch_log_weight
from rlpost.estimator.credit import OutcomeCredit
from rlpost.estimator.denominator import Denominator
from rlpost.estimator.gate import Gate, Open
from rlpost.estimator.granularity import Granularity, TokenRatio
from rlpost.estimator.mask import Keep, Mask, Masked, Ratios
from rlpost.estimator.measures import Measures
from rlpost.estimator.prepared import PreparedTerm
from rlpost.estimator.segments import masked, trained
from rlpost.estimator.shaping import Shaping


@dataclass(frozen=True)
class Evaluated:
    """A term under the current policy; no tensor carries gradient.

    Attributes:
        ratio_N: pi / pi_den over the granularity's span.
        decision: the mask's.
        coefficient_N: m_t A_t pi/pi_den, what multiplies grad log pi, before the token's weight.
        whole_N: A_t pi/pi_den, the same without the mask.
    """

    ratio_N: Tensor
    decision: Masked
    coefficient_N: Tensor
    whole_N: Tensor

    @property
    def removed_N(self) -> Tensor:
        """(1 - m_t) A_t pi/pi_den [N], what the mask took from the coefficient."""
        return (1.0 - self.decision.multiplier_N) * self.whole_N


@dataclass(frozen=True)
class Formed:
    """What a term makes of a whole batch; tensors are float64 and carry no gradient.

    Attributes:
        reward_S: the rewards as the shapings left them.
        advantage_N: as the shapings left them.
        measures: those of the advantage and of the shapings.
        value_targets: the return or outcome [N] that each head of a critic learns; empty without a critic.
    """

    reward_S: Tensor
    advantage_N: Tensor
    measures: Measures
    value_targets: dict[str, Tensor]


@dataclass(frozen=True)
class Term:
    """One estimator: its parts, the rows it trains, and its weight in the objective.

    Attributes:
        rows: the sequences that the term trains.
        compared_with: over which rows the advantage is formed: the term's own, or "all" of the batch, so
            that a prompt's demonstration counts in the group of its rollouts (LUFFY, SRFT).
        name: tells the terms of an objective apart; "" takes the name of its rows.
    """

    advantage: Advantage
    denominator: Denominator
    aggregation: Aggregation
    granularity: Granularity = TokenRatio()
    mask: Mask = Keep()
    shaping: tuple[Shaping, ...] = ()
    correction: tuple[Correction, ...] = ()
    gate: Gate = Open()
    rows: Literal["all", "rollouts", "demonstrations"] = "rollouts"
    weight: float = 1.0
    actions: Actions = Taken()
    compared_with: Literal["own", "all"] = "own"
    name: str = ""

    @property
    def label(self) -> str:
        """How metrics and configurations call the term."""
        return self.name or self.rows

    @property
    def sequence_signals(self) -> frozenset[str]:
        """What the driver must say of each sequence beside its reward."""
        return self.advantage.sequence_signals | self.actions.sequence_signals

    @property
    def value_heads(self) -> tuple[str, ...]:
        """The signals that a critic must give, in its heads' order: () without a critic."""
        if isinstance(self.advantage, GAE):
            return self.advantage.heads
        return next((part.heads for part in self.shaping if isinstance(part, OutcomeCredit)), ())

    @property
    def ratio_signals(self) -> frozenset[str]:
        """What the denominator and the mask read; "old_logprob" among it is not needed on policy."""
        return self.denominator.signals | self.mask.signals

    @property
    def signals(self) -> frozenset[str]:
        """All that the other parts read."""
        return self.advantage.signals.union(
            self.gate.signals,
            *(shaping.signals for shaping in self.shaping),
            *(correction.signals for correction in self.correction),
        )

    @property
    def reads_rewards(self) -> bool:
        """False for an advantage that says so itself (`reads_rewards = False`) beside no part that may."""
        beside = bool(self.shaping) or not isinstance(self.gate, Open)
        return beside or getattr(self.advantage, "reads_rewards", True)

    def rows_S(self, batch: TokenBatch) -> Tensor:
        """bool [S], the sequences this term reads."""
        if self.rows == "all":
            return torch.ones_like(batch.demonstration_S)
        return batch.demonstration_S if self.rows == "demonstrations" else ~batch.demonstration_S

    def advantages(self, batch: TokenBatch) -> Formed:
        """Shaped rewards, advantages and a critic's targets of the rows that this term reads.

        0 on the other rows, which enter the group statistics only where the term is `compared_with` all.
        """
        rows_S = self.rows_S(batch)
        if self.compared_with == "all":
            formed = self._formed(batch)
            own_N = batch.spread(rows_S)
            learned = {head: masked(g_N, own_N) for head, g_N in formed.value_targets.items()}
            return replace(formed, advantage_N=masked(formed.advantage_N, own_N), value_targets=learned)
        if not bool(rows_S.all()):
            index_S = rows_S.nonzero(as_tuple=True)[0]
            index_N, _ = token_index(batch.sequence_N, batch.S, index_S)
            own = self._formed(batch.rows(index_S))
            reward_S = batch.reward_S.to(torch.float64).index_copy(0, index_S, own.reward_S)
            zero_N = torch.zeros(batch.N, dtype=torch.float64, device=batch.mask_N.device)
            learned = {head: zero_N.index_copy(0, index_N, g_M) for head, g_M in own.value_targets.items()}
            return Formed(reward_S, zero_N.index_copy(0, index_N, own.advantage_N), own.measures, learned)
        return self._formed(batch)

    def _formed(self, batch: TokenBatch) -> Formed:
        """The same over all rows of `batch`."""
        reward_S = batch.reward_S
        for shaping in self.shaping:
            reward_S = shaping.reward(reward_S, batch)
        shaped = batch if reward_S is batch.reward_S else replace(batch, reward_S=reward_S)
        targets: dict[str, Tensor] = {}
        if isinstance(self.advantage, GAE):
            advantage_N, returns = self.advantage.with_targets(shaped)
            targets = {head: return_N.detach() for head, return_N in returns.items()}
        else:
            advantage_N = self.advantage(shaped)
        measures = Measures()
        if isinstance(self.advantage, MeasuredAdvantage):
            measures = self.advantage.measures(shaped)
        for shaping in self.shaping:
            if isinstance(shaping, OutcomeCredit):
                targets |= shaping.targets(batch)
            measures = measures + shaping.measures(advantage_N, batch)
            advantage_N = shaping.advantage(advantage_N, batch)
        return Formed(reward_S, advantage_N.detach(), measures, targets)

    def weights(
        self,
        batch: TokenBatch,
        gate_S: Tensor,
        keep_N: Tensor | None,
        counted_N: Tensor | None,
        update_S: Tensor,
    ) -> tuple[Tensor, Measures]:
        """The constant factor of every token in the loss, float64 [N], and what the corrections did.

        Args:
            gate_S: the gate's weights.
            keep_N: the tokens that the selections left to the policy loss; None means all.
            counted_N: the tokens that they left in its denominators; None means all.
            update_S: the optimizer update that each sequence belongs to.
        """
        row_S = torch.where(self.rows_S(batch), gate_S, 0.0)
        active_N = batch.mask_N if counted_N is None else batch.mask_N & counted_N
        factor_N = None
        if not bool((row_S == 1.0).all()):
            factor_N = batch.spread(row_S)
            active_N = active_N & (factor_N > 0.0)
        measures = Measures()
        if self.correction:
            counted_N = active_N
            active_N, corrected_N = _corrected(self.correction, active_N, batch)
            factor_N = corrected_N if factor_N is None else factor_N * corrected_N
            measures = correction_measures(corrected_N, counted_N)
        weight_N = self.aggregation(batch, active_N, update_S)
        if factor_N is not None:
            weight_N = weight_N * factor_N
        if self.weight != 1.0:
            weight_N = weight_N * self.weight
        return weight_N if keep_N is None else weight_N * keep_N, measures

    def evaluate(self, fixed: PreparedTerm, logprob_N: Tensor, batch: TokenBatch) -> Evaluated:
        """Ratios, the mask's decision and gradient coefficients, from detached log-probs [N]."""
        advantage_N = fixed.advantage_N.to(logprob_N.dtype)
        log_ratio_N = trained(self.denominator.log_ratio(logprob_N, batch), batch)
        rows_S = self.rows_S(batch)
        if not bool(rows_S.all()):
            # A demonstration has no log-probs of an old policy or a sampler.
            log_ratio_N = masked(log_ratio_N, batch.spread(rows_S))
        span = self.granularity(log_ratio_N, advantage_N, batch)
        ratio_N = torch.exp(span.log_ratio_N)
        decision = self.mask(Ratios(ratio_N, log_ratio_N, logprob_N, advantage_N), batch)
        if span.moves_N is not None:
            decision = replace(decision, multiplier_N=decision.multiplier_N * span.moves_N)
        whole_N = advantage_N * self.denominator.weight(ratio_N)
        return Evaluated(ratio_N, decision, decision.multiplier_N * whole_N, whole_N)

    def spread(self, coefficient_N: Tensor, at: Evaluated, logprob_N: Tensor, batch: TokenBatch) -> Tensor:
        """Weighted coefficients [N] as factors of grad log pi [N].

        Where the loss is linear in log pi the ratio is a constant, which carries no gradient to share.
        """
        if self.granularity.is_token or self.denominator.value(at.ratio_N, logprob_N) is not None:
            return coefficient_N
        return self.granularity.spread(coefficient_N, batch)

    def value(self, at: Evaluated, logprob_N: Tensor, batch: TokenBatch) -> Tensor:
        """The factor of -A in the paper's own loss [N]."""
        value_N = self.denominator.value(at.ratio_N, logprob_N)
        if value_N is not None:
            return at.decision.multiplier_N * value_N
        share_N = self.granularity.value_share(batch)
        value_N = at.decision.value_N
        return value_N if share_N is None else value_N * share_N

    def describe(self) -> list[str]:
        """The parts, one a line."""
        gate = [] if isinstance(self.gate, Open) else [f"gate         {self.gate.formula}"]
        pooled = ", over rollouts and demonstrations alike" if self.compared_with == "all" else ""
        actions = [] if self.actions.is_taken else [f"actions      {self.actions.formula}"]
        return [
            *gate,
            *actions,
            *(f"shaping      {shaping.formula}" for shaping in self.shaping),
            f"advantage    {self.advantage.formula}{pooled}",
            f"denominator  {self.denominator.formula}",
            f"granularity  {self.granularity.formula}",
            f"mask         {self.mask.formula}",
            *(f"correction   {correction.formula}" for correction in self.correction),
            f"aggregation  {self.aggregation.formula}",
        ]


def _corrected(
    corrections: Sequence[Correction], active_N: Tensor, batch: TokenBatch
) -> tuple[Tensor, Tensor]:
    """Corrections in their order: the tokens that stay in the denominators, and every token's factor."""
    log_weight_N = mismatch_log_weight(batch)
    factor_N = torch.ones_like(log_weight_N)
    for correction in corrections:
        before_N = factor_N
        factor_N = correction(log_weight_N, before_N, active_N, batch)
        if correction.denominators == "renewed":
            active_N = active_N & ~((before_N > 0) & (factor_N == 0))
    return active_N, factor_N
