"""One-token rollouts (OTR, arXiv 2509.26313) on plain logits: the formulas that a head must reproduce.

Each row of `logits_NV` is a position of a demonstration, `target_N` its token. Losses are per position: their
mean over a response, and over responses, is the paper's (eq. 8, as its reviews quote it). Drawing and
rewards carry no gradient, log pi does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlpost.estimator.actions import OneToken
from rlpost.estimator.measures import Measures


def sampled_loss(logits_NV: Tensor, target_N: Tensor, sample_NK: Tensor, miss: float) -> Tensor:
    """-(1/K) sum_j R(a_j) log pi(a_j) [N], with R = 1 where a_j is the target, else `miss`.

    Args:
        sample_NK: int64, tokens drawn with replacement.
    """
    logp_NK = torch.log_softmax(logits_NV, dim=-1).gather(1, sample_NK)
    reward_NK = torch.full_like(logp_NK, miss).masked_fill(sample_NK == target_N[:, None], 1.0)
    return -(reward_NK * logp_NK).mean(dim=1)


def grouped_loss(logits_NV: Tensor, target_N: Tensor, sample_NK: Tensor, miss: float) -> Tensor:
    """The same [N] from counts: -(n/K) log pi(x) - (miss/K) sum_{a != x} n_a log pi(a)."""
    logp_NV = torch.log_softmax(logits_NV, dim=-1)
    share_NV = torch.zeros_like(logp_NV)
    share_NV.scatter_add_(
        1, sample_NK, torch.full_like(sample_NK, 1.0 / sample_NK.shape[1], dtype=share_NV.dtype)
    )
    hit_N = share_NV.gather(1, target_N[:, None])[:, 0]
    missed_NV = share_NV.scatter(1, target_N[:, None], 0.0)
    return -hit_N * logp_NV.gather(1, target_N[:, None])[:, 0] - miss * (missed_NV * logp_NV).sum(dim=1)


def expected_loss(logits_NV: Tensor, target_N: Tensor, temperature: float, miss: float) -> Tensor:
    """`sampled_loss` on average [N]: -sum_a q(a) R(a) log pi(a), with q = softmax(z / temperature)."""
    logp_NV = torch.log_softmax(logits_NV, dim=-1)
    q_NV = torch.softmax(logits_NV.detach() / temperature, dim=-1)
    reward_NV = torch.full_like(q_NV, miss).scatter(1, target_N[:, None], 1.0)
    return -(q_NV * reward_NV * logp_NV).sum(dim=1)


def expected_gradient(logits_NV: Tensor, target_N: Tensor, temperature: float, miss: float) -> Tensor:
    """d expected_loss / d logits [N, V] in closed form: -(1 - miss) q(x) (e_x - pi) - miss (q - pi).

    At temperature 1 the second part vanishes, and the first is that of -(1 - miss) pi(x): DFT's gradient
    times 1 - miss.
    """
    pi_NV, q_NV = torch.softmax(logits_NV, dim=-1), torch.softmax(logits_NV / temperature, dim=-1)
    target_NV = torch.zeros_like(pi_NV).scatter(1, target_N[:, None], 1.0)
    hit_N1 = q_NV.gather(1, target_N[:, None])
    return -((1.0 - miss) * hit_N1 * (target_NV - pi_NV) + miss * (q_NV - pi_NV))


def one_token_measures(actions: OneToken, hit_N: Tensor, tried_N: Tensor) -> Measures:
    """What one-token rollouts came to.

    Args:
        hit_N: the share of draws that were the target, or its probability in the exact form.
        tried_N: bool, the positions that count.
    """
    hit_N = hit_N[tried_N].to(torch.float64)
    missed, hits = abs(actions.miss) * (1.0 - hit_N).sum(), hit_N.sum()
    count = tried_N.sum().to(torch.float64)
    means = {"otr/hit_share": (hits, count), "otr/miss_term_share": (missed, hits + missed)}
    if actions.form == "sampled":
        means["otr/no_hit_share"] = ((hit_N == 0).sum().to(torch.float64), count)
    return Measures(means=means)
