"""What an objective reports about a batch and about one evaluation of its loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.denominator import LOG_RATIO_BOUND, Denominator
from rlpost.estimator.mask import Masked
from rlpost.estimator.measures import Measures
from rlpost.estimator.prepared import Prepared, PreparedTerm
from rlpost.estimator.segments import Groups, masked, sequence_mean, sequence_sum, trained_length
from rlpost.estimator.selection import Narrowed
from rlpost.estimator.term import Term


def response_measures(batch: TokenBatch, advantages: Sequence[Tensor]) -> Measures:
    """The share of sampled responses with an advantage, before any selection after the advantages.

    DCPO's response utilisation ratio (arXiv 2509.02333). Demonstrations do not count.
    """
    nonzero_N = torch.zeros_like(batch.mask_N)
    for advantage_N in advantages:
        nonzero_N |= advantage_N.bool() & batch.mask_N
    useful_S = (sequence_sum(nonzero_N, batch) > 0) & ~batch.demonstration_S
    sampled = _count(~batch.demonstration_S)
    share = (_count(useful_S), sampled)
    return Measures(means={"signal/nonzero_response_share": share})


def selection_measures(batch: TokenBatch, formed: Narrowed, left: Narrowed) -> Measures:
    """How much of the rollouts the selections left, and what it is worth.

    Args:
        batch: the whole batch.
        formed: what the advantages, its first column, were formed over.
        left: what goes into the updates.
    """
    advantage_S, rollout_S = sequence_mean(formed.columns_N[0], formed.batch), ~formed.batch.demonstration_S
    left_S = torch.zeros_like(batch.demonstration_S).index_fill(0, left.index_S, True)[formed.index_S]
    advantage_R, kept_R = advantage_S[rollout_S], advantage_S[rollout_S & left_S]
    sampled = _count(~batch.demonstration_S)
    kept = torch.tensor(float(kept_R.shape[0]))
    used_N = left.batch.sampled_N if left.keep_N is None else left.batch.sampled_N & left.keep_N
    return Measures(
        means={
            "selection/kept_sequence_share": (kept, sampled),
            "selection/kept_token_share": (
                _count(used_N),
                _count(batch.sampled_N),
            ),
            "selection/variance_before": _variance(advantage_R),
            "selection/variance_after": _variance(kept_R),
            "selection/useful_share": (_count(kept_R), kept),
        }
    )


def _count(value_X: Tensor) -> Tensor:
    """How many are True, or not 0; float64."""
    return value_X.count_nonzero().to(torch.float64)


def _variance(value_R: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of squared deviations from the mean, and how many there are."""
    count = torch.tensor(float(value_R.shape[0]))
    centred_R = value_R - value_R.sum() / count.clamp(min=1.0)
    return centred_R.square().sum(), count


def batch_measures(batch: TokenBatch, prepared: Prepared) -> Measures:
    """Statistics of a preparation: which groups and tokens of the rollouts carry signal, what was dropped.

    Demonstrations are counted on their own, and enter none of these.
    """
    kept = prepared.batch
    measures = demonstration_counts(kept)
    rollout_S = ~batch.demonstration_S
    if not bool(rollout_S.any()) and batch.S:
        return measures
    groups = Groups(batch.group_S[rollout_S], batch.reward_S[rollout_S])
    left_S = ~kept.demonstration_S
    nonzero_N = torch.zeros_like(kept.mask_N)
    for term in prepared.terms:
        nonzero_N |= term.advantage_N.bool() & term.weight_N.bool()
    trained_N, sampled_N = prepared.trained_N & kept.sampled_N, nonzero_N & kept.sampled_N
    dropped = groups.count - torch.unique(kept.group_S[left_S]).shape[0]
    return measures + Measures(
        sums={
            "signal/groups": torch.tensor(float(groups.count)),
            "signal/dropped_groups": torch.tensor(float(dropped)),
            "signal/dropped_sequences": _count(rollout_S) - _count(left_S),
        },
        means={
            "signal/informative_group_share": (
                _count(groups.informative_G),
                torch.tensor(float(groups.count)),
            ),
            "signal/nonzero_advantage_share": (_count(sampled_N), _count(trained_N)),
            "signal/trained_token_share": (_count(trained_N), _count(batch.sampled_N)),
        },
    )


def demonstration_counts(batch: TokenBatch) -> Measures:
    """How many demonstrations there are, and how many of their tokens are to be learnt; none without any."""
    rows = _count(batch.demonstration_S)
    if not int(rows):
        return Measures()
    tokens = _count(batch.mask_N) - _count(batch.sampled_N)
    return Measures(sums={"demonstrations/rows": rows, "demonstrations/tokens": tokens})


def loss_measures(term: Term, loss: Tensor, weight_N: Tensor, *, alone: bool) -> Measures:
    """The paper's own value of a term's loss; in an objective of several terms also under its label."""
    if alone:
        return Measures(sums={"policy/loss": loss})
    return Measures(
        sums={
            "policy/loss": loss,
            f"policy/loss/{term.label}": loss,
            f"policy/trained_tokens/{term.label}": _count(weight_N),
        }
    )


def coefficient_measures(term: Term, fixed: PreparedTerm) -> Measures:
    """sum_t weight_t |A_t| of a term: how strongly it pulls beside the others, before ratios and masks."""
    size = (fixed.weight_N * fixed.advantage_N).abs().sum()
    return Measures(sums={f"policy/coefficient/{term.label}": size})


def term_measures(denominator: Denominator, decision: Masked, ratio_N: Tensor, trained_N: Tensor) -> Measures:
    """Ratios and clip shares of one term over its trained tokens; nothing when its ratio is always 1.

    Args:
        trained_N: bool [N]; none of a demonstration, which no old policy has sampled.
    """
    if denominator.is_current:
        return Measures()
    count = _count(trained_N)
    dropped_N = trained_N & ~decision.multiplier_N.bool()
    ratio_N = masked(ratio_N, trained_N)
    return Measures(
        means={
            "policy/ratio_mean": (ratio_N.sum().to(torch.float64), count),
            "policy/clip_share_low": (_count(dropped_N & (ratio_N < 1.0)), count),
            "policy/clip_share_high": (_count(dropped_N & (ratio_N > 1.0)), count),
        },
        maxima={"policy/ratio_max": ratio_N.amax()} if float(count) else {},
    )


def policy_measures(logprob_N: Tensor, entropy_N: Tensor | None, batch: TokenBatch) -> Measures:
    """Entropy, and the distance to the reference where its log-probs are known, over what was sampled.

    Of demonstrations: how likely the policy finds them, and its entropy there.
    """
    sampled_N = batch.sampled_N
    mixed = bool(batch.demonstration_S.any())
    count = _count(sampled_N)
    means = {}
    if entropy_N is not None:
        own_N = masked(entropy_N.detach(), sampled_N) if mixed else entropy_N.detach()
        means["policy/entropy"] = (own_N.sum().to(torch.float64), count)
    if "ref_logprob" in batch.signals:
        gap_N = masked(batch.signals["ref_logprob"].to(logprob_N.dtype) - logprob_N, sampled_N)
        gap_N = gap_N.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).to(torch.float64)
        means["policy/kl_ref_k3"] = (torch.expm1(gap_N).sub_(gap_N).sum(), count)
    if mixed:
        shown_N = batch.mask_N & ~sampled_N
        shown = _count(shown_N)
        means["demonstrations/logprob_mean"] = (masked(logprob_N, shown_N).sum().to(torch.float64), shown)
        if entropy_N is not None:
            own_N = masked(entropy_N.detach(), shown_N)
            means["demonstrations/entropy"] = (own_N.sum().to(torch.float64), shown)
    return Measures(means=means)


def mismatch_measures(logprob_N: Tensor, batch: TokenBatch) -> Measures:
    """How far the sampler's log-probs lie from the learner's, w = pi_old / mu."""
    if "behaviour_logprob" not in batch.signals:
        return Measures()
    old_N = logprob_N if batch.on_policy else batch.signals.get("old_logprob")
    if old_N is None:
        return Measures()
    sampled_N = batch.sampled_N
    gap_N = old_N - batch.signals["behaviour_logprob"]
    known_N = sampled_N & ~gap_N.isnan()
    count = _count(known_N)
    unknown = _count(sampled_N) - count
    if int(count) < batch.N:
        gap_N = masked(gap_N, known_N)
    gap_N = gap_N.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).to(torch.float64)
    # Where nothing is known the gap is 0, so the excess of the weight over 1 is 0 too.
    excess_N = torch.expm1(gap_N)
    excess, size_N = excess_N.sum(), gap_N.abs()
    outside = _count((excess_N < -0.5) | (excess_N > 1.0))
    chi2 = excess_N.dot(excess_N) + 2.0 * excess
    length_S = trained_length(batch, known_N)
    total_S = sequence_sum(gap_N, batch)
    sequences = _count(length_S)
    product_S = total_S.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return Measures(
        sums={"mismatch/unknown_tokens": unknown},
        means={
            "mismatch/k3": (excess - gap_N.sum(), count),
            "mismatch/logprob_gap_mean": (size_N.sum(), count),
            "mismatch/weight_mean": (excess + count, count),
            "mismatch/weight_square_mean": (chi2 + count, count),
            "mismatch/chi2": (chi2, count),
            "mismatch/sequence_chi2": (torch.expm1(2.0 * product_S).sum(), sequences),
            "mismatch/log_perplexity_gap": (-(total_S / length_S.clamp(min=1.0)).sum(), sequences),
            "mismatch/outside_share": (outside, count),
        },
        maxima={"mismatch/logprob_gap_max": size_N.amax()} if float(count) else {},
    )
