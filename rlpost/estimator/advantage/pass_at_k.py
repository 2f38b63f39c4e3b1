"""Advantages that train the best of k responses instead of the average one.

G is the number of responses of a prompt; groups may differ in it. A group with fewer than k responses says
nothing about the best of k and gets 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.segments import Groups, masked, reverse_scan, segment_sum


def binomial_ratio(part_X: Tensor, whole_X: Tensor, k: int) -> Tensor:
    """C(part, k) / C(whole, k) = prod_{j<k} (part - j) / (whole - j); float64 [X], 0 where part < k.

    A running product of numbers in [0, 1], so that it is exact to about k roundings and cannot overflow.
    """
    ratio_X = torch.ones_like(part_X, dtype=torch.float64)
    for j in range(k):
        ratio_X = ratio_X * (part_X - j).clamp(min=0.0) / (whole_X - j).clamp(min=1.0)
    return ratio_X


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be 1 or above, found {k}")


@dataclass(frozen=True)
class PassAtK:
    """The analytic advantage of pass@k training (arXiv 2508.10751), for right and wrong responses.

    With c right ones among G, F = G - c and q = C(F, k) / C(G, k), the chance that k of them all fail:
    A = sqrt(q / (1 - q)) for a right one, -(c / F) of that for a wrong one; 0 where q is 0 or 1.
    This is the mean, over all k-subsets that hold the response, of the subset's best reward normalised by
    its population deviation, in closed form. k = 1 is GRPO with the population deviation.

    Attributes:
        k: 1 or above.
        success: a response is right when its reward is at or above this number.
    """

    k: int = 2
    success: float = 0.5
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_k(self.k)

    def __call__(self, batch: TokenBatch) -> Tensor:
        right_S = batch.reward_S >= self.success
        groups = Groups(batch.group_S, right_S)
        wrong_G = segment_sum(~right_S, groups.id_S, groups.count)
        fail_G = binomial_ratio(wrong_G, groups.size_G, self.k)
        informative_G = (fail_G > 0) & (fail_G < 1) & (groups.size_G >= self.k)
        high_G = masked((fail_G / (1.0 - fail_G)).sqrt(), informative_G)
        low_G = -high_G * (groups.size_G - wrong_G) / wrong_G.clamp(min=1.0)
        return batch.spread(torch.where(right_S, high_G[groups.id_S], low_G[groups.id_S]))

    @property
    def formula(self) -> str:
        right, wrong = f"sqrt(q/(1-q)) if R_i >= {self.success:g}", "-(c/F) sqrt(q/(1-q)) if not"
        return f"A_i = {right}, {wrong}; q = C(F,k)/C(G,k), k = {self.k}"


@dataclass(frozen=True)
class PKPO:
    """The unbiased gradient of E[max of k rewards], for any rewards (arXiv 2505.15201).

    A_i = G u_i, u_i = (1/C(G,k)) sum over the k-subsets S with i of (max_S R - b). The paper's estimator is
    sum_i u_i grad log p(y_i); the factor G makes it a mean over the responses of a prompt, as with every
    other advantage here, so the aggregation `sequence_mean_token_sum` gives the paper's gradient.

    Attributes:
        k: 1 or above; 1 is plain REINFORCE, A = R.
        variant: "plain" has b = 0, and equal rewards R then give k R, not 0.
            "leave_one_out_minus_one" has b = max R over S without i, which is unbiased as well and
            varies less: only the best of a subset is moved, by its lead over the second. b = 0 for k = 1.
    """

    k: int = 2
    variant: Literal["plain", "leave_one_out_minus_one"] = "leave_one_out_minus_one"
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_k(self.k)

    def __call__(self, batch: TokenBatch) -> Tensor:
        if self.k == 1:
            return batch.spread(batch.reward_S.to(torch.float64))
        groups = Groups(batch.group_S, batch.reward_S)
        order_S = _order(groups, descending=self.variant != "plain")
        id_S, size_S = groups.id_S[order_S], groups.size_G[groups.id_S[order_S]]
        position_S = reverse_scan(torch.ones_like(size_S), id_S, 1.0) - 1.0  # how many follow in the group
        advantage_S = self._sorted(groups, order_S, id_S, size_S, position_S)
        advantage_S = masked(advantage_S, size_S >= self.k)
        return batch.spread(torch.empty_like(advantage_S).index_copy(0, order_S, advantage_S))

    def _sorted(
        self, groups: Groups, order_S: Tensor, id_S: Tensor, size_S: Tensor, position_S: Tensor
    ) -> Tensor:
        """The advantages in the order of the sort, in which `position_S` others follow in the group.

        Subsets are counted by their best member, or by their best and second: C(G,k) = (G/k) C(G-1,k-1) turns
        G/C(G,k) into k/C(G-1,k-1), and every count into a ratio of binomials.
        """
        k, value_S = self.k, groups.value_S[order_S]
        step_S = (k - 1) / (size_S - 1.0).clamp(min=1.0)
        if self.variant == "plain":
            # Ascending: with r below it a response is the best of C(r,k-1) subsets; in C(r_j-1,k-2) more
            # a response j above it is.
            below_S = size_S - 1.0 - position_S
            best_S = binomial_ratio(below_S, size_S - 1.0, k - 1)
            weight_S = step_S * binomial_ratio(below_S - 1.0, size_S - 2.0, k - 2)
            term_S = weight_S * value_S
            return k * (best_S * value_S + reverse_scan(term_S, id_S, 1.0) - term_S)
        # Descending: the response leads C(r_j,k-2) subsets whose second is a response j below it.
        # Only differences count, so the group's smallest reward is taken as 0.
        value_S = value_S - groups.low_G[id_S]
        best_S = binomial_ratio(position_S, size_S - 1.0, k - 1)
        term_S = step_S * binomial_ratio(position_S, size_S - 2.0, k - 2) * value_S
        return k * (best_S * value_S - (reverse_scan(term_S, id_S, 1.0) - term_S))

    @property
    def formula(self) -> str:
        base = " - max R over S without i" if self.variant != "plain" and self.k > 1 else ""
        return f"A_i = (G/C(G,k)) sum over k-subsets S with i of (max_S R{base}), k = {self.k}"


def _order(groups: Groups, *, descending: bool) -> Tensor:
    """int64 [S], the sequences group by group, sorted by value inside each."""
    by_value_S = torch.argsort(groups.value_S, descending=descending, stable=True)
    return by_value_S[torch.argsort(groups.id_S[by_value_S], stable=True)]


@dataclass(frozen=True)
class BestMinusSecond:
    """The best response of a group gets its lead R_(1) - R_(2), all others 0 (arXiv 2503.19595).

    PKPO's leave-one-out form at k = G, up to its factor G. Two equal bests, or a group of one, get 0.

    Attributes:
        divide_by_std: divide by the group's unbiased deviation + epsilon.
    """

    divide_by_std: bool = False
    epsilon: float = 1e-6
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.epsilon < 0:
            raise ValueError(f"epsilon must be 0 or above, found {self.epsilon:g}")

    def __call__(self, batch: TokenBatch) -> Tensor:
        groups = Groups(batch.group_S, batch.reward_S)
        best_S = groups.value_S == groups.high_G[groups.id_S]
        second_G = groups.largest(torch.where(best_S, -torch.inf, groups.value_S))
        single_G = segment_sum(best_S, groups.id_S, groups.count) == 1
        lead_S = (groups.high_G - second_G)[groups.id_S]
        if self.divide_by_std:
            lead_S = lead_S / (groups.std_S(unbiased=True) + self.epsilon)
        led_S = best_S & (single_G & groups.informative_G)[groups.id_S]
        return batch.spread(masked(lead_S, led_S))

    @property
    def formula(self) -> str:
        divided = f" / (std_sample(R) + {self.epsilon:g})" if self.divide_by_std else ""
        return f"A_i = (R_(1) - R_(2)){divided} for the best response, 0 for the others"
