"""Drawing tokens: temperature, top-k, top-p, and random numbers that need no generator.

Every random number is a hash of (the sample's seed, the token's position), so nothing that
happens to other rows of a batch can change a draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlpost.errors import RolloutError
from rlpost.rollout.engine import SamplingSettings

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def uniform(seed_B: NDArray[np.uint64], position_B: NDArray[np.int64]) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) on a grid of 2^-53, one per row, decided by (seed, position).

    The seed is mixed once, then taken as the start of a SplitMix64 stream (Steele, Lea, Flood:
    "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014) whose output number
    `position` is returned; counter-based, so any position costs the same.
    """
    state_B = _mix(seed_B + _GAMMA) + (position_B.astype(np.uint64) + np.uint64(1)) * _GAMMA
    return (_mix(state_B) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


@dataclass(frozen=True)
class SamplingPlan:
    """The settings of a batch's rows as tensors; what no row asks for is None and costs nothing.

    Attributes:
        temperature_B1: float64 [B, 1], 1 for greedy rows; None when all are 1.
        greedy_B: bool [B]; None when no row is greedy.
        filtered_F: int64 [F], the rows that want top-k or top-p; None without any.
        top_k_F1: int64 [F, 1].
        top_p_F1: float64 [F, 1].
    """

    temperature_B1: Tensor | None
    greedy_B: Tensor | None
    filtered_F: Tensor | None
    top_k_F1: Tensor | None
    top_p_F1: Tensor | None

    @classmethod
    def of(cls, settings: Sequence[SamplingSettings], vocabulary: int, device: torch.device) -> SamplingPlan:
        """The plan of rows with these settings, over `vocabulary` tokens."""
        heat = [s.temperature or 1.0 for s in settings]
        greedy = [s.temperature == 0 for s in settings]
        filtered = [
            i
            for i, s in enumerate(settings)
            if s.temperature > 0 and (0 < s.top_k < vocabulary or s.top_p < 1)
        ]
        top_k = [settings[i].top_k or vocabulary for i in filtered]
        top_p = [settings[i].top_p for i in filtered]

        def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)[:, None]

        return cls(
            temperature_B1=column(heat, torch.float64) if any(h != 1.0 for h in heat) else None,
            greedy_B=torch.tensor(greedy, device=device) if any(greedy) else None,
            filtered_F=torch.tensor(filtered, device=device) if filtered else None,
            top_k_F1=column(top_k, torch.int64) if filtered else None,
            top_p_F1=column(top_p, torch.float64) if filtered else None,
        )


def draw(logits_BV: Tensor, plan: SamplingPlan, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row by inversion of the cumulative distribution, in float64.

    The token is the first whose cumulative probability exceeds `uniform_B`, so a token of
    probability zero is never drawn. Greedy rows take the largest logit (the first of equals).

    Args:
        logits_BV: any float dtype, unprocessed.
        uniform_B: float64 in [0, 1).

    Returns:
        (token_B, logprob_B): int64, and float64 log-probabilities of the processed
        distribution in nats; of the unscaled one for greedy rows.

    Raises:
        RolloutError: the logits hold NaN or +inf, or a row allows no token.
    """
    score_BV = logits_BV.double()
    if plan.temperature_B1 is not None:
        score_BV = score_BV / plan.temperature_B1
    if plan.filtered_F is not None:
        score_BV[plan.filtered_F] = keep_top(score_BV[plan.filtered_F], plan.top_k_F1, plan.top_p_F1)
    score_BV = score_BV - score_BV.amax(-1, keepdim=True)
    cumulative_BV = score_BV.exp().cumsum(-1)
    total_B1 = cumulative_BV[:, -1:]
    if not bool(torch.isfinite(total_B1).all()):
        raise RolloutError(
            "the policy's logits are not finite: nothing can be sampled",
            found=f"{int((~torch.isfinite(total_B1)).sum())} of {len(total_B1)} rows with NaN or infinity",
            needed="finite logits",
            remedy="look for a non-finite weight: the learner's last update, or the loaded checkpoint",
        )
    token_B1 = torch.searchsorted(cumulative_BV, uniform_B[:, None] * total_B1, right=True)
    if plan.greedy_B is not None:
        token_B1 = torch.where(plan.greedy_B[:, None], score_BV.argmax(-1, keepdim=True), token_B1)
    logprob_B1 = score_BV.gather(-1, token_B1) - total_B1.log()
    return token_B1[:, 0], logprob_B1[:, 0]


def keep_top(score_BV: Tensor, top_k_B1: Tensor, top_p_B1: Tensor) -> Tensor:
    """Scores with everything outside top-k, then top-p, set to -inf.

    Tokens are ranked by score, equal scores by token id. Top-k keeps exactly the first k. Top-p
    keeps, of those renormalised, the shortest head whose mass reaches p: a token stays while
    the mass before it is below p, so the first always stays (Holtzman et al., arXiv 1904.09751).

    Args:
        score_BV: float64, log-probabilities up to a constant per row.
        top_k_B1: int64, at least 1.
        top_p_B1: float64 in (0, 1].
    """
    sorted_BV, order_BV = score_BV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(score_BV.shape[-1], device=score_BV.device)
    sorted_BV = sorted_BV.masked_fill(rank_V >= top_k_B1, -torch.inf)
    mass_BV = torch.softmax(sorted_BV, dim=-1)
    before_BV = mass_BV.cumsum(-1) - mass_BV
    # At p = 1 rounding may bring the mass before the last tokens to 1 already; they stay.
    dropped_BV = (before_BV >= top_p_B1) & (top_p_B1 < 1)
    sorted_BV = sorted_BV.masked_fill(dropped_BV, -torch.inf)
    return torch.empty_like(score_BV).scatter_(-1, order_BV, sorted_BV)
