"""DPO and its variants as advantages: pairs of responses to one prompt, of which one is preferred."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.measures import Measures
from rlpost.estimator.segments import Groups, segment_sum, sequence_sum, trained, trained_length

PreferenceKind = Literal["dpo", "robust", "hinge", "ipo"]

CERTAIN = -1e-4
"""The mean log-prob from which a response's odds do not grow further: those of probability 1 are infinite."""


def preference_loss(
    margin_P: Tensor,
    beta: float = 0.1,
    kind: PreferenceKind = "dpo",
    label_smoothing: float = 0.0,
    target: float = 0.0,
) -> Tensor:
    """The paper's loss of each pair [P]; x = beta Delta - target.

    Args:
        margin_P: Delta = s_w - s_l, the difference of the responses' scores; for DPO
            (lp_w - lp_l) - (ref_w - ref_l), log-probs summed over the responses.
        beta: the factor of the margin; for IPO that of the distance to the reference.
        kind: "dpo" -(1-e) log sigma(x) - e log sigma(-x) (arXiv 2305.18290; with e > 0 "conservative");
            "robust" [-(1-e) log sigma(x) + e log sigma(-x)] / (1-2e), whose mean over labels that are
            wrong with probability e is the loss without errors (arXiv 2403.00409); "hinge"
            max(0, 1 - beta Delta) (SLiC, arXiv 2305.10425; with a reference arXiv 2309.06657); "ipo"
            (Delta - 1/(2 beta))^2 (arXiv 2310.12036).
        label_smoothing: e, the share of preferences believed to be the wrong way round.
        target: gamma, what beta Delta is to exceed (SimPO, arXiv 2405.14734).
    """
    if kind == "ipo":
        return (margin_P - 0.5 / beta).square()
    x_P = beta * margin_P - target
    if kind == "hinge":
        return (1.0 - x_P).clamp(min=0.0)
    right_P, wrong_P = logsigmoid(x_P), logsigmoid(-x_P)
    if kind == "robust":
        return (label_smoothing * wrong_P - (1.0 - label_smoothing) * right_P) / (1.0 - 2.0 * label_smoothing)
    return -(1.0 - label_smoothing) * right_P - label_smoothing * wrong_P


@dataclass(frozen=True)
class Scores:
    """What is compared: a number for each sequence, float64 [S].

    Attributes:
        score_S: s.
        slope_S: d s / d log pi_t, the same for all tokens of a sequence.
        logprob_S: the summed log-prob of the response.
    """

    score_S: Tensor
    slope_S: Tensor
    logprob_S: Tensor


@dataclass(frozen=True)
class Preference:
    """A_w,t = - (d loss / d Delta) (d s_w / d log pi_t), A_l,t the same with the other sign.

    For DPO that is beta sigma(-beta Delta) and minus it. In a group of two, the response with the higher
    reward is preferred. A larger group is the mean over all of its pairs with different rewards
    (ours); a pair of equal rewards says nothing. Delta is that of pi_old, so with denominator `current`
    and the token sum inside each prompt, the first update of a step has exactly the gradient of the
    paper's loss.

    Attributes:
        beta: see `preference_loss`.
        kind: see `preference_loss`.
        label_smoothing: of dpo and robust, in [0, 0.5).
        target: of dpo, at least 0.
        score: what of a response is compared. "sum" is s = sum_t log pi_t, "mean" its mean over the
            tokens, "odds" log(p / (1 - p)) of p = exp(mean) (ORPO, arXiv 2403.07691).
        reference: subtract the same of the reference policy; False needs none.
    """

    beta: float = 0.1
    kind: PreferenceKind = "dpo"
    label_smoothing: float = 0.0
    target: float = 0.0
    score: Literal["sum", "mean", "odds"] = "sum"
    reference: bool = True
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError(f"beta must be above 0, found {self.beta:g}")
        if not 0.0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 0.5), found {self.label_smoothing:g}")
        if self.label_smoothing > 0.0 and self.kind not in ("dpo", "robust"):
            raise ValueError(f"label_smoothing belongs to kind dpo and robust, found kind {self.kind}")
        if self.target < 0:
            raise ValueError(f"target must be 0 or above, found {self.target:g}")
        if self.target > 0 and self.kind != "dpo":
            raise ValueError(f"target belongs to kind dpo, found kind {self.kind}")
        if self.score == "odds" and self.reference:
            raise ValueError("score odds compares without a reference; set reference: false")

    @property
    def signals(self) -> frozenset[str]:
        """The reference's log-probs only where they are compared with."""
        return frozenset({"old_logprob", "ref_logprob"} if self.reference else {"old_logprob"})

    def __call__(self, batch: TokenBatch) -> Tensor:
        groups, chosen_P, rejected_P, scores = self._compare(batch)
        slope_P = self._slope(scores.score_S[chosen_P] - scores.score_S[rejected_P])
        pairs_G = segment_sum(torch.ones_like(slope_P), groups.id_S[chosen_P], groups.count)
        slope_P = slope_P / pairs_G[groups.id_S[chosen_P]]
        advantage_S = segment_sum(slope_P, chosen_P, batch.S) - segment_sum(slope_P, rejected_P, batch.S)
        return batch.spread(advantage_S * scores.slope_S)

    def measures(self, batch: TokenBatch) -> Measures:
        """Of the policy before the step, over all pairs: the paper's loss, who is ahead, by how much."""
        _, chosen_P, rejected_P, scores = self._compare(batch)
        margin_P = scores.score_S[chosen_P] - scores.score_S[rejected_P]
        loss_P = preference_loss(margin_P, self.beta, self.kind, self.label_smoothing, self.target)
        count = torch.tensor(float(margin_P.shape[0]))
        return Measures(
            sums={"preference/pairs": count},
            means={
                "preference/loss": (loss_P.sum(), count),
                "preference/accuracy": ((margin_P > 0).sum(), count),
                "preference/margin": (margin_P.sum(), count),
                "preference/chosen_logprob": (scores.logprob_S[chosen_P].sum(), count),
                "preference/rejected_logprob": (scores.logprob_S[rejected_P].sum(), count),
            },
        )

    def _compare(self, batch: TokenBatch) -> tuple[Groups, Tensor, Tensor, Scores]:
        """The groups, the preferred and the other sequence [P] of every pair, and all scores."""
        groups = Groups(batch.group_S, batch.reward_S)
        return groups, *_pairs(groups), self._scores(batch)

    def _scores(self, batch: TokenBatch) -> Scores:
        logprob_N = batch.signal("old_logprob")
        logprob_S = sequence_sum(trained(logprob_N, batch), batch)
        score_S, slope_S = logprob_S, torch.ones_like(logprob_S)
        if self.reference:
            score_S = sequence_sum(trained(logprob_N - batch.signal("ref_logprob"), batch), batch)
        if self.score != "sum":
            length_S = trained_length(batch, batch.mask_N).clamp(min=1.0)
            score_S, slope_S = score_S / length_S, 1.0 / length_S
        if self.score == "odds":
            mean_S = score_S.clamp(max=CERTAIN)
            against_S = -torch.expm1(mean_S)
            score_S, slope_S = mean_S - against_S.log(), slope_S / against_S
        return Scores(score_S, slope_S, logprob_S)

    def _slope(self, margin_P: Tensor) -> Tensor:
        """-d loss / d Delta [P]."""
        e, x_P = self.label_smoothing, self.beta * margin_P - self.target
        if self.kind == "ipo":
            return 2.0 * (0.5 / self.beta - margin_P)
        if self.kind == "hinge":
            return self.beta * (x_P < 1.0).to(torch.float64)
        wrong_P = torch.sigmoid(-x_P)
        if self.kind == "robust":
            return self.beta * ((1.0 - e) * wrong_P + e * (1.0 - wrong_P)) / (1.0 - 2.0 * e)
        return self.beta * (wrong_P - e)

    @property
    def formula(self) -> str:
        beta, e = f"{self.beta:g}", f"{self.label_smoothing:g}"
        x = f"{beta} D - {self.target:g}" if self.target else f"{beta} D"
        wrong = f"sigmoid({self.target:g} - {beta} D)" if self.target else f"sigmoid(-{beta} D)"
        slope = {
            "dpo": f"{beta} ({wrong} - {e})" if self.label_smoothing else f"{beta} {wrong}",
            "robust": f"{beta} ({1.0 - self.label_smoothing:g} {wrong} + {e} sigmoid({x})) "
            f"/ {1.0 - 2.0 * self.label_smoothing:g}",
            "hinge": f"{beta} 1[{x} < 1]",
            "ipo": f"2 ({0.5 / self.beta:g} - D)",
        }[self.kind]
        if self.score == "sum":
            return f"A_w = -A_l = {slope}, {self._margin}"
        return f"A_w = S/{self._share('w')}, A_l = -S/{self._share('l')}, S = {slope}, {self._margin}"

    def _share(self, which: str) -> str:
        """1 / (d s / d log pi_t)."""
        return f"(n_{which} (1 - p_{which}))" if self.score == "odds" else f"n_{which}"

    @property
    def _margin(self) -> str:
        if self.score == "odds":
            return "D = log odds(p_w) - log odds(p_l), p = exp(mean_t log pi_t)"
        per = {w: f"(1/n_{w}) " if self.score == "mean" else "" for w in "wl"}
        if not self.reference:
            return f"D = {per['w']}log pi_w - {per['l']}log pi_l"
        return f"D = {per['w']}log(pi_w/ref_w) - {per['l']}log(pi_l/ref_l)"


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
