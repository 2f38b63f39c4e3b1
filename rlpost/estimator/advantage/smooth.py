"""DCPO's advantage: a response against its siblings and against all that its prompt has ever scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.segments import Groups, masked


def merge_statistics(
    count_X: Tensor,
    mean_X: Tensor,
    variance_X: Tensor,
    more_X: Tensor,
    more_mean_X: Tensor,
    more_variance_X: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and population variance of two sets of rewards together; float64 [X] each.

    The count-weighted form of arXiv 2509.02333, eq. 29-30. Two constant sets of one value have exactly that
    mean and variance 0; beside an empty set the other is returned unchanged. Of the empty set nothing
    but its count is read.
    """
    total_X = count_X + more_X
    share_X = more_X / total_X.clamp(min=1.0)
    gap_X = masked(more_mean_X - mean_X, (count_X > 0) & (more_X > 0))
    mean_both_X = mean_X + gap_X * share_X
    inside_X = (1.0 - share_X) * variance_X + share_X * more_variance_X
    variance_both_X = inside_X + share_X * (1.0 - share_X) * gap_X.square()
    first_X, second_X = more_X == 0, count_X == 0
    mean_both_X = torch.where(first_X, mean_X, torch.where(second_X, more_mean_X, mean_both_X))
    variance_both_X = torch.where(first_X, variance_X, variance_both_X)
    return total_X, mean_both_X, torch.where(second_X & ~first_X, more_variance_X, variance_both_X)


@dataclass(frozen=True)
class SmoothNormalised:
    """DCPO's smooth advantage standardisation (arXiv 2509.02333, eq. 5-7).

    A_new = (R_i - mean R) / std R in the group; A_tot the same with the mean and deviation of all rewards of
    the prompt so far, these among them. At visit v (1 for the first):

        S_new = ((v-1)/v) A_new + (1/v) A_tot,   S_tot = (1/v) A_new + ((v-1)/v) A_tot

    and A_i is the one that is smaller in size (S_tot if equal). Nothing is added to the deviations;
    a deviation of 0 makes its A 0. So a first visit is GRPO's advantage, a group of equal rewards at a later
    visit still gets A_tot / v, and a prompt whose rewards never differed gets exactly 0. A group of one
    is such a group of equal rewards: it has a signal from its second visit on, hence `needs_group` is False.

    The history arrives as sequence signals: "prompt_visits" (v - 1), and "prompt_samples", "prompt_mean" and
    "prompt_variance" (population) of all earlier rewards of the prompt. Groups of different sizes are
    weighted by their counts (ours; with equal sizes it is the paper's formula).

    Attributes:
        std: of the current group: "population" as in the paper's eq. 30, or "sample" as in the authors' code,
            which also enters the merge. The history's is always as given.
    """

    std: Literal["population", "sample"] = "population"
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset(
        {"prompt_visits", "prompt_samples", "prompt_mean", "prompt_variance"}
    )
    needs_group: ClassVar[bool] = False

    def __call__(self, batch: TokenBatch) -> Tensor:
        groups = Groups(batch.group_S, batch.reward_S)
        deviation_S = groups.std_S(self.std == "sample")
        mean_S, variance_S = groups.mean_G[groups.id_S], deviation_S.square()
        _, total_mean_S, total_variance_S = merge_statistics(
            batch.sequence_signal("prompt_samples").to(torch.float64),
            batch.sequence_signal("prompt_mean").to(torch.float64),
            batch.sequence_signal("prompt_variance").to(torch.float64),
            groups.size_G[groups.id_S],
            mean_S,
            variance_S,
        )
        new_S = masked(groups.centred_S / deviation_S, groups.informative_G[groups.id_S])
        gap_S = groups.value_S - total_mean_S
        total_S = masked(gap_S / total_variance_S.sqrt(), total_variance_S > 0)
        first_S = 1.0 / (batch.sequence_signal("prompt_visits").to(torch.float64) + 1.0)
        smooth_new_S = (1.0 - first_S) * new_S + first_S * total_S
        smooth_total_S = first_S * new_S + (1.0 - first_S) * total_S
        smaller_S = smooth_new_S.abs() < smooth_total_S.abs()
        return batch.spread(torch.where(smaller_S, smooth_new_S, smooth_total_S))

    @property
    def formula(self) -> str:
        new = f"A_new = (R_i - mean(R)) / std_{self.std}(R)"
        both = "((v-1) A_new + A_tot)/v, (A_new + (v-1) A_tot)/v"
        return f"A_i = the smaller of {both}; {new}, A_tot the same over all visits 1..v"
