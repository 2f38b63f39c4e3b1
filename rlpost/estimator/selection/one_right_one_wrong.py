"""OREAL's selection: of every prompt one right and one wrong response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.measures import Measures
from rlpost.estimator.segments import segment_sum
from rlpost.estimator.selection.selection import Selected


@dataclass(frozen=True)
class OneRightOneWrong:
    """Of each prompt with 0 < p < 1 one random right and one random wrong response (arXiv 2502.06781).

    p is the share of the prompt's rollouts that are right. Prompts with p = 0 or p = 1 leave the batch.
    Advantages were formed over all responses before. Chance is the sequence signal "draw_seed" alone, the
    smallest of which wins, so the order of the responses has no part in it. Demonstrations stay.

    Attributes:
        success: a response is right from this task reward on, before any shaping.
    """

    success: float = 1.0
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset({"draw_seed"})
    before_advantages: ClassVar[bool] = False

    def __call__(self, batch: TokenBatch, advantage_N: Tensor) -> Selected:
        labels, group_S = torch.unique(batch.group_S, return_inverse=True)
        rollout_S = ~batch.demonstration_S
        right_S = rollout_S & (batch.reward_S >= self.success)
        wrong_S = rollout_S & ~right_S
        right_G = segment_sum(right_S, group_S, labels.shape[0]) > 0
        wrong_G = segment_sum(wrong_S, group_S, labels.shape[0]) > 0
        mixed_S = (right_G & wrong_G)[group_S]
        drawn_S = batch.sequence_signal("draw_seed")
        # Responses of two kinds of each prompt: one of each is taken.
        taken_S = _smallest(drawn_S, 2 * group_S + right_S, mixed_S & rollout_S)
        return Selected(
            taken_S | batch.demonstration_S,
            measures=Measures(
                sums={
                    "selection/all_right_prompts": (right_G & ~wrong_G).sum().to(torch.float64),
                    "selection/all_wrong_prompts": (wrong_G & ~right_G).sum().to(torch.float64),
                }
            ),
        )

    @property
    def formula(self) -> str:
        return f"of each prompt one R >= {self.success:g} and one below, by chance; prompts with both only"


def _smallest(value_S: Tensor, segment_S: Tensor, among_S: Tensor) -> Tensor:
    """bool [S], of every segment the sequence with the smallest value; the first one among equals.

    Args:
        among_S: bool [S], the sequences that take part.
    """
    order_S = torch.argsort(value_S, stable=True)
    order_S = order_S[among_S[order_S]]
    order_S = order_S[torch.argsort(segment_S[order_S], stable=True)]
    segment_R = segment_S[order_S]
    first_R = torch.ones_like(segment_R, dtype=torch.bool)
    first_R[1:] = segment_R[1:] != segment_R[:-1]
    return torch.zeros_like(among_S).index_fill(0, order_S[first_R], True)
