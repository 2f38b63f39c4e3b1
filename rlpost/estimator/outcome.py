"""Learning from right and wrong alone: best of n, and the credit of each token (arXiv 2502.06781).

p is the share of a policy's responses to a prompt that are right. w_t is the logit of a token reward model,
which learns nothing but outcomes: sigma(mean_t w_t) is its probability that the response is right.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.segments import (
    at_trained,
    masked,
    reverse_scan,
    sequence_sum,
    trained,
    trained_index,
    trained_length,
)

Credit = Literal["prefix_mean", "raw", "top_share", "uniform"]


def best_of_n_factors(p: float, n: int) -> tuple[float, float]:
    """pi_bon / pi of a right and of a wrong response, the best of n being any right one (eq. 5).

    (1 - (1-p)^n) / p and (1-p)^(n-1). The first is n at p = 0, its limit.
    """
    miss = (1.0 - p) ** n
    return (float(n) if p == 0.0 else (1.0 - miss) / p), (1.0 - p) ** (n - 1)


def best_of_n_slopes(p: float, n: int) -> tuple[float, float]:
    """What multiplies the gradient of right and of wrong responses under best of n (eq. 6).

    n (1-p)^(n-1) and n (1-p)^n. Their quotient is 1 - p whatever n is: with a reward of 1 for right
    responses, a wrong one's R must be shaped to (1 - p) R.
    """
    return n * (1.0 - p) ** (n - 1), n * (1.0 - p) ** n


def best_of_n_divergence(n: int) -> float:
    """KL(pi_bon || pi) = log n - (n - 1) / n of a continuous score, in nats."""
    return math.log(n) - (n - 1) / n


def prefix_mean(value_N: Tensor, batch: TokenBatch) -> Tensor:
    """Mean over the sequence's trained tokens up to and with each one; float64 [N], 0 on other tokens."""
    index_M = trained_index(batch)
    value_M = value_N.index_select(0, index_M).to(torch.float64)
    owner_M = batch.sequence_N.index_select(0, index_M).flip(0)
    total_M = reverse_scan(value_M.flip(0), owner_M, 1.0)
    count_M = reverse_scan(torch.ones_like(value_M), owner_M, 1.0)
    return at_trained((total_M / count_M).flip(0), index_M, batch)


def credit_weights(
    logit_N: Tensor, right_S: Tensor, batch: TokenBatch, credit: Credit = "prefix_mean", share: float = 0.25
) -> Tensor:
    """omega_t: how far each token answers for its response's outcome.

    With c_t = sigma(w_t), or of the prefix mean of w, on right responses omega+ = max(2 c_t - 1, 0), on wrong
    ones omega- = max(1 - 2 c_t, 0) (eq. 10). "top_share" takes the tokens with the largest c_t (on wrong
    responses 1 - c_t) and stretches these to [0, 1]; all of them are 1 where they are equal.

    Args:
        logit_N: w_t.
        right_S: bool [S].
        share: of a sequence's tokens that "top_share" takes, rounded down, at least one.

    Returns:
        float64 [N] in [0, 1], without gradient; 0 on tokens that are not trained.
    """
    if credit == "uniform":
        return batch.mask_N.to(torch.float64)
    logit_N = trained(logit_N.detach().to(torch.float64), batch)
    score_N = logit_N if credit == "raw" else prefix_mean(logit_N, batch)
    signed_N = torch.where(batch.spread(right_S), score_N, -score_N)
    if credit == "top_share":
        return _top_share(torch.sigmoid(signed_N), share, batch)
    # 2 sigma(x) - 1 = tanh(x / 2), which is exactly 0 at 0.
    return torch.tanh(signed_N / 2.0).clamp(min=0.0)


def _top_share(value_N: Tensor, share: float, batch: TokenBatch) -> Tensor:
    """The largest values of each sequence, stretched to [0, 1]; 0 for the others. Earlier tokens win ties."""
    index_M = trained_index(batch)
    value_M, owner_M = value_N.index_select(0, index_M), batch.sequence_N.index_select(0, index_M)
    order_M = torch.argsort(value_M, descending=True, stable=True)
    order_M = order_M[torch.argsort(owner_M[order_M], stable=True)]
    sorted_M, owner_M = value_M[order_M], owner_M[order_M]
    length_S = torch.bincount(owner_M, minlength=batch.S)
    begin_M = (length_S.cumsum(0) - length_S)[owner_M]
    count_M = torch.floor(share * length_S.to(torch.float64) + 1e-9).to(torch.int64).clamp(min=1)[owner_M]
    high_M, low_M = sorted_M[begin_M], sorted_M[begin_M + count_M - 1]
    range_M = high_M - low_M
    stretched_M = torch.where(range_M > 0, (sorted_M - low_M) / torch.where(range_M > 0, range_M, 1.0), 1.0)
    taken_M = torch.arange(len(order_M), device=order_M.device) - begin_M < count_M
    weight_M = torch.zeros_like(value_M).index_copy(0, order_M, masked(stretched_M, taken_M))
    return at_trained(weight_M, index_M, batch)


def outcome_logits(logit_N: Tensor, batch: TokenBatch) -> Tensor:
    """mean_t w_t over the tokens that the policy sampled, float64 [S] with gradient; 0 without any."""
    length_S = trained_length(batch, batch.sampled_N).clamp(min=1.0)
    return sequence_sum(masked(logit_N, batch.sampled_N), batch) / length_S


def outcome_loss(logit_S: Tensor, right_S: Tensor) -> Tensor:
    """Cross-entropy of sigma(mean_t w_t) and the outcome (eq. 12), [S] with gradient.

    Args:
        logit_S: of `outcome_logits`.
        right_S: 1 where the response is right, 0 where it is wrong.
    """
    return functional.binary_cross_entropy_with_logits(logit_S, right_S.to(logit_S.dtype), reduction="none")
