"""DPO and IPO as advantages: pairs of responses to one prompt, of which one is preferred."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.segments import Groups, segment_sum, sequence_sum, trained

PreferenceKind = Literal["dpo", "ipo"]


def preference_loss(
    margin_P: Tensor, beta: float = 0.1, kind: PreferenceKind = "dpo", label_smoothing: float = 0.0
) -> Tensor:
    """The paper's loss of each pair [P].

    Args:
        margin_P: Delta = (lp_w - lp_l) - (ref_w - ref_l), log-probs summed over the responses.
        beta: strength of the reference.
        kind: "dpo" -(1-e) log sigma(beta Delta) - e log sigma(-beta Delta) (arXiv 2305.18290), or "ipo"
            (Delta - 1/(2 beta))^2; some implementations take means over the tokens there.
        label_smoothing: e, the share of preferences believed to be the wrong way round.
    """
    if kind == "ipo":
        return (margin_P - 0.5 / beta).square()
    scaled_P = beta * margin_P
    return -(1.0 - label_smoothing) * logsigmoid(scaled_P) - label_smoothing * logsigmoid(-scaled_P)


@dataclass(frozen=True)
class Preference:
    """A_w = -A_l = -d loss / d Delta of `preference_loss`: for DPO beta sigma(-beta Delta).

    In a group of two, the response with the higher reward is preferred. A larger group is the mean over
    all of its pairs with different rewards (ours); a pair of equal rewards says nothing. Delta is
    that of pi_old, so with denominator `current` and the token sum the first update of a step has
    exactly the gradient of the paper's loss.

    Attributes:
        beta: strength of the reference.
        kind: "dpo" or "ipo".
        label_smoothing: of DPO, in [0, 0.5).
    """

    beta: float = 0.1
    kind: PreferenceKind = "dpo"
    label_smoothing: float = 0.0
    signals: ClassVar[frozenset[str]] = frozenset({"old_logprob", "ref_logprob"})
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError(f"beta must be above 0, found {self.beta:g}")
        if not 0.0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 0.5), found {self.label_smoothing:g}")
        if self.kind == "ipo" and self.label_smoothing > 0.0:
            raise ValueError("label_smoothing belongs to kind dpo")

    def __call__(self, batch: TokenBatch) -> Tensor:
        gap_N = batch.signal("old_logprob") - batch.signal("ref_logprob")
        gap_S = sequence_sum(trained(gap_N, batch), batch)
        groups = Groups(batch.group_S, batch.reward_S)
        chosen_P, rejected_P = _pairs(groups)
        slope_P = self._slope(gap_S[chosen_P] - gap_S[rejected_P])
        pairs_G = segment_sum(torch.ones_like(slope_P), groups.id_S[chosen_P], groups.count)
        slope_P = slope_P / pairs_G[groups.id_S[chosen_P]]
        advantage_S = segment_sum(slope_P, chosen_P, batch.S) - segment_sum(slope_P, rejected_P, batch.S)
        return batch.spread(advantage_S)

    def _slope(self, margin_P: Tensor) -> Tensor:
        """-d loss / d Delta [P]."""
        if self.kind == "ipo":
            return 2.0 * (0.5 / self.beta - margin_P)
        wrong_P = torch.sigmoid(-self.beta * margin_P)
        return self.beta * (wrong_P - self.label_smoothing)

    @property
    def formula(self) -> str:
        margin = "D = log(pi_w/pi_l) - log(ref_w/ref_l)"
        if self.kind == "ipo":
            return f"A_w = -A_l = 2 ({0.5 / self.beta:g} - D), {margin}"
        smoothing = f" - {self.label_smoothing:g}" if self.label_smoothing else ""
        return f"A_w = -A_l = {self.beta:g} (sigmoid(-{self.beta:g} D){smoothing}), {margin}"


def _pairs(groups: Groups) -> tuple[Tensor, Tensor]:
    """(preferred, other): sequences [P] of every pair in a group whose first has the higher value."""
    size_G = groups.size_G.to(torch.int64)
    order_S = torch.argsort(groups.id_S, stable=True)
    start_G = size_G.cumsum(0) - size_G
    partners_S = size_G[groups.id_S]
    first_P = torch.repeat_interleave(partners_S)
    before_S = partners_S.cumsum(0) - partners_S
    within_P = torch.arange(first_P.shape[0], device=first_P.device) - before_S[first_P]
    second_P = order_S[start_G[groups.id_S[first_P]] + within_P]
    better_P = groups.value_S[first_P] > groups.value_S[second_P]
    return first_P[better_P], second_P[better_P]
