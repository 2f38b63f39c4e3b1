"""What an objective reports about a batch and about one evaluation of its loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.denominator import LOG_RATIO_BOUND, Denominator
from rlpost.estimator.mask import Masked
from rlpost.estimator.measures import Measures
from rlpost.estimator.segments import Groups, masked


def batch_measures(
    batch: TokenBatch, keep_S: Tensor, advantages: Sequence[Tensor], kept: TokenBatch
) -> Measures:
    """Statistics of a preparation: which groups and tokens carry signal, what was dropped."""
    groups = Groups(batch.group_S, batch.reward_S)
    kept_groups = torch.unique(kept.group_S).shape[0]
    informative = groups.informative_G.sum().to(torch.float64)
    # Demonstrations have no reward, so their groups cannot be informative and do not count.
    rewarded = torch.unique(batch.group_S[~batch.demonstration_S]).shape[0]
    trained_N = masked(torch.ones_like(kept.mask_N, dtype=torch.float64), kept.mask_N)
    nonzero_N = torch.zeros_like(kept.mask_N)
    for advantage_N in advantages:
        nonzero_N = nonzero_N | (advantage_N != 0.0)
    all_tokens = batch.mask_N.sum().to(torch.float64)
    return Measures(
        sums={
            "signal/groups": torch.tensor(float(groups.count)),
            "signal/dropped_groups": torch.tensor(float(groups.count - kept_groups)),
            "signal/dropped_sequences": (~keep_S).sum().to(torch.float64),
        },
        means={
            "signal/informative_group_share": (informative, torch.tensor(float(rewarded))),
            "signal/nonzero_advantage_share": (nonzero_N.sum().to(torch.float64), trained_N.sum()),
            "signal/trained_token_share": (trained_N.sum(), all_tokens),
        },
    )


def term_measures(
    denominator: Denominator,
    decision: Masked,
    ratio_N: Tensor,
    logprob_N: Tensor,
    value_N: Tensor,
    weight_N: Tensor,
    batch: TokenBatch,
) -> Measures:
    """Statistics of one term: the paper's loss value, ratios, clip shares, the sampler's gap.

    Shares are over trained tokens, those of weight above 0.
    """
    trained_N = weight_N > 0
    count = trained_N.sum().to(torch.float64)
    dropped_N = trained_N & (decision.multiplier_N == 0.0)
    means = {}
    maxima = {}
    if not denominator.is_current:
        means = {
            "policy/ratio_mean": (masked(ratio_N, trained_N).sum().to(torch.float64), count),
            "policy/clip_share_low": ((dropped_N & (ratio_N < 1.0)).sum().to(torch.float64), count),
            "policy/clip_share_high": ((dropped_N & (ratio_N > 1.0)).sum().to(torch.float64), count),
        }
        if bool(trained_N.any()):
            maxima["policy/ratio_max"] = ratio_N[trained_N].max()
    gap = _mismatch(logprob_N, trained_N & ~batch.demonstration_S[batch.sequence_N], batch)
    report = Measures(sums={"policy/loss": value_N.sum().detach()}, means=means, maxima=maxima)
    return report if gap is None else report + gap


def _mismatch(logprob_N: Tensor, sampled_N: Tensor, batch: TokenBatch) -> Measures | None:
    """How far the sampler's log-probs lie from the learner's, w = pi_old / mu (baselines.md section 7)."""
    if "behaviour_logprob" not in batch.signals:
        return None
    old_N = logprob_N if batch.on_policy else batch.signals.get("old_logprob")
    if old_N is None:
        return None
    gap_N = (old_N - batch.signals["behaviour_logprob"])[sampled_N].to(torch.float64)
    gap_N = gap_N.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    weight_N = torch.exp(gap_N)
    count = torch.tensor(float(gap_N.shape[0]))
    return Measures(
        means={
            "mismatch/k3": ((weight_N - 1.0 - gap_N).sum(), count),
            "mismatch/logprob_gap_mean": (gap_N.abs().sum(), count),
            "mismatch/weight_mean": (weight_N.sum(), count),
            "mismatch/weight_square_mean": (weight_N.square().sum(), count),
        },
        maxima={"mismatch/logprob_gap_max": gap_N.abs().max()} if gap_N.numel() else {},
    )
