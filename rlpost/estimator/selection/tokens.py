"""Selections that pick tokens out of the sequences that stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.selection import schedule
from rlpost.estimator.selection.selection import Renewal, Selected

Score = Literal["advantage_entropy", "entropy"]


@dataclass(frozen=True)
class TopTokens:
    """The policy loss of the tokens with the highest score, over all rollouts of the batch together.

    "advantage_entropy" is D3S's |A| H (arXiv 2509.22115), "entropy" with a share of 0.2 is the forking
    tokens of arXiv 2506.01939; H is the entropy of the policy before the first update. Tokens of score
    0 are dropped under "advantage_entropy", which changes no gradient. At a share of 1 all are
    kept (ours), so that the loss is the host's, denominators included. Demonstrations keep all tokens.

    Attributes:
        start: share of the rollouts' tokens at the start of training; rounded up.
        end: the same at its end; linear in between.
        denominators: "renewed" averages over the picked tokens (ours), "kept" divides by what the
            loss would be divided by without the selection.
    """

    score: Score = "advantage_entropy"
    start: float = 0.2
    end: float = 1.0
    denominators: Renewal = "renewed"
    signals: ClassVar[frozenset[str]] = frozenset({"entropy"})
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    before_advantages: ClassVar[bool] = False

    def __post_init__(self) -> None:
        schedule.require_shares(start=self.start, end=self.end)

    def __call__(self, batch: TokenBatch, advantage_N: Tensor) -> Selected:
        everything_S = torch.ones_like(batch.demonstration_S)
        share = schedule.share_at(self.start, self.end, batch.progress)
        keep_N = top_tokens(batch, advantage_N, everything_S, share, self.score)
        return Selected(everything_S, keep_N, self.denominators)

    @property
    def formula(self) -> str:
        score = "|A| H" if self.score == "advantage_entropy" else "H"
        return f"tokens: top {schedule.formula(self.start, self.end)} by {score}, n_i {self.denominators}"


def top_tokens(
    batch: TokenBatch, advantage_N: Tensor, keep_S: Tensor, share: float, score: Score
) -> Tensor | None:
    """The `share` of the rollouts' tokens with the highest score; earlier tokens win ties.

    Args:
        keep_S: bool [S], the sequences whose tokens compete.

    Returns:
        bool [N], with every token of demonstrations; None, for all tokens, when the share is 1.
    """
    if share >= 1.0:
        return None
    demonstrated_N = batch.spread(batch.demonstration_S)
    index_M = (batch.sampled_N & batch.spread(keep_S)).nonzero(as_tuple=True)[0]
    if not len(index_M):
        return demonstrated_N
    score_M = batch.signal("entropy").index_select(0, index_M).to(torch.float64)
    if score == "advantage_entropy":
        score_M = score_M * advantage_N.index_select(0, index_M).abs()
    picked_M = _largest(score_M, schedule.rounded_up(share, len(score_M)))
    if score == "advantage_entropy":
        picked_M &= score_M > 0.0
    return demonstrated_N.index_copy(0, index_M, picked_M)


def _largest(score_M: Tensor, count: int) -> Tensor:
    """bool [M], the `count` largest, the earlier ones among equals."""
    threshold = torch.topk(score_M, count, sorted=False).values.min()
    above_M, level_M = score_M > threshold, score_M == threshold
    return above_M | (level_M & (level_M.cumsum(0) <= count - above_M.sum()))
