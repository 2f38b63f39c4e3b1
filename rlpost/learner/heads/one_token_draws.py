"""Draws of one-token rollouts: inverse transform sampling over a vocabulary that is walked in blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlpost.estimator import OneToken
from rlpost.learner.heads.logit_blocks import LogitBlocks
from rlpost.learner.heads.token_draws import uniforms

CHUNK_DRAWS = 2**18
"""Draws whose random numbers are made at once: hashing needs some copies of them, 2 MiB each."""


@dataclass(frozen=True)
class Misses:
    """The draws that were not the target, sorted by the block of columns they lie in.

    Attributes:
        row_M: int32, the position that drew.
        token_M: int32, what it drew.
        ends: where each block's draws end.
    """

    row_M: Tensor
    token_M: Tensor
    ends: tuple[int, ...]

    @staticmethod
    def none(device: torch.device, blocks: int) -> Misses:
        """No draw at all."""
        nothing = torch.zeros(0, dtype=torch.int32, device=device)
        return Misses(nothing, nothing, (0,) * blocks)

    def of_block(self, number: int) -> tuple[Tensor, Tensor]:
        """(row, token) of one block's, int64."""
        part = slice(self.ends[number - 1] if number else 0, self.ends[number])
        return self.row_M[part].to(torch.int64), self.token_M[part].to(torch.int64)


def draw_misses(
    blocks: LogitBlocks,
    target_W: Tensor,
    key_W: Tensor,
    actions: OneToken,
    *,
    max_W: Tensor,
    total_W: Tensor,
    logsumexp_W: Tensor,
) -> tuple[Misses, Tensor]:
    """Draw K tokens at each position, with replacement, and leave out the targets.

    A draw u in (0, 1] is the first token at which the cumulative sum of q = exp((z - max) / kappa) reaches
    u times the total. Numbers are in ascending order, so each block takes those that end in it. Sums are in
    float64: what is drawn depends on how the vocabulary is cut by rounding errors alone.

    Args:
        max_W: the largest logit.
        total_W: float64, the sum of q.
        logsumexp_W: of the logits themselves.

    Returns:
        (misses, missed_W): missed_W is the sum of log pi over a position's misses, float64.
    """
    threshold_WK = _thresholds(key_W, actions.samples, total_W)
    base_W, missed_W = torch.zeros_like(total_W), torch.zeros_like(total_W)
    taken_W = torch.zeros_like(target_W)
    memory = torch.empty(len(target_W) * blocks.width, dtype=torch.float64, device=target_W.device)
    found, ends = [], [0]
    for start, stop in blocks.spans:
        z_WB = blocks.logits(start, stop)
        q_WB = torch.sub(z_WB, max_W[:, None], out=blocks.scratch(z_WB)).div_(actions.temperature).exp_()
        sum_WB = memory[: z_WB.numel()].view_as(z_WB).copy_(q_WB).cumsum_(dim=1)
        reached_W = base_W + sum_WB[:, -1]
        upto_W = torch.searchsorted(threshold_WK, reached_W[:, None], right=True)[:, 0]
        if stop == blocks.spans[-1][1]:
            # Rounding may leave the sum a little below the total; what is left over ends here.
            upto_W = torch.full_like(upto_W, actions.samples)
        row_M, rank_M = _ranges(taken_W, upto_W)
        wanted_M = torch.minimum(threshold_WK[row_M, rank_M] - base_W[row_M], sum_WB[row_M, -1])
        column_M = _first_reaching(sum_WB, row_M, wanted_M)
        miss_M = column_M + start != target_W[row_M]
        row_M, column_M = row_M[miss_M], column_M[miss_M]
        logp_M = z_WB[row_M, column_M] - logsumexp_W[row_M]
        missed_W.index_add_(0, row_M, logp_M.to(torch.float64))
        found.append((row_M.to(torch.int32), (column_M + start).to(torch.int32)))
        ends.append(ends[-1] + len(row_M))
        base_W, taken_W = reached_W, upto_W
    rows, tokens = zip(*found, strict=True)
    return Misses(torch.cat(rows), torch.cat(tokens), tuple(ends[1:])), missed_W


def _thresholds(key_W: Tensor, count: int, total_W: Tensor) -> Tensor:
    """What cumulative sums must reach for each draw, ascending, float64 [W, K]."""
    threshold_WK = torch.empty(len(key_W), count, dtype=torch.float64, device=key_W.device)
    rows = max(1, CHUNK_DRAWS // count)
    for start in range(0, len(key_W), rows):
        part = slice(start, start + rows)
        torch.mul(
            uniforms(key_W[part], count).sort(dim=1).values, total_W[part, None], out=threshold_WK[part]
        )
    return threshold_WK


def _ranges(begin_W: Tensor, end_W: Tensor) -> tuple[Tensor, Tensor]:
    """Each row w as often as its range is long, and the numbers begin_w to end_w - 1."""
    length_W = end_W - begin_W
    row_M = torch.repeat_interleave(length_W)
    before_W = length_W.cumsum(0) - length_W
    return row_M, torch.arange(len(row_M), device=row_M.device) + (begin_W - before_W)[row_M]


def _first_reaching(sum_WB: Tensor, row_M: Tensor, wanted_M: Tensor) -> Tensor:
    """The first column whose value is `wanted_M` or more, in rows that ascend and reach it."""
    width = sum_WB.shape[1]
    flat, offset_M = sum_WB.view(-1), row_M * width
    low_M, high_M = torch.zeros_like(row_M), torch.full_like(row_M, width - 1)
    for _ in range((width - 1).bit_length()):
        middle_M = (low_M + high_M) >> 1
        below_M = flat[offset_M + middle_M] < wanted_M
        low_M = torch.where(below_M, middle_M + 1, low_M)
        high_M = torch.where(below_M, high_M, middle_M)
    return low_M
