"""Aggregations: how are tokens averaged?

A part maps the trained tokens of a batch to `weight_N`, such that the aggregated loss is
sum_t weight_t L_t. Denominators count the whole optimizer batch (all micro-batches, all
ranks), one for each update; cutting the batch later never changes them. A sequence without
trained tokens is not counted anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.segments import segment_sum, trained_length


class Aggregation(Protocol):
    """Maps trained tokens to their weights in the loss."""

    def __call__(self, batch: TokenBatch, mask_N: Tensor, update_S: Tensor) -> Tensor:
        """`weight_N`, float64 [N].

        Args:
            mask_N: bool [N], the tokens that count.
            update_S: int64 [S], the optimizer update that each sequence belongs to.
        """
        ...

    @property
    def formula(self) -> str:
        """In the notation of the papers."""
        ...


def _over_updates(value_S: Tensor, update_S: Tensor) -> Tensor:
    """Sum of a sequence value over the sequence's update, given back to each sequence [S]."""
    count = int(update_S.max()) + 1 if update_S.numel() else 0
    return segment_sum(value_S, update_S, count)[update_S]


def _sequence_mean(batch: TokenBatch, mask_N: Tensor, update_S: Tensor) -> tuple[Tensor, Tensor]:
    """(1 / number of live sequences in the update, trained length), both float64 [S]."""
    length_S = trained_length(batch, mask_N)
    live_S = _over_updates((length_S > 0).to(torch.float64), update_S)
    return 1.0 / live_S.clamp(min=1.0), length_S


def _spread(weight_S: Tensor, batch: TokenBatch, mask_N: Tensor) -> Tensor:
    """The weight of each sequence on its tokens that count; 0 on the others."""
    weight_N = batch.spread(weight_S)
    # Weights are finite, and where tokens are dropped here and there a product is faster than a selection.
    return weight_N if mask_N is batch.mask_N and batch.all_trained else weight_N * mask_N


@dataclass(frozen=True)
class TokenMean:
    """sum_t L / sum_t 1 over the whole batch (DAPO)."""

    def __call__(self, batch: TokenBatch, mask_N: Tensor, update_S: Tensor) -> Tensor:
        total_S = _over_updates(trained_length(batch, mask_N), update_S)
        return _spread(1.0 / total_S.clamp(min=1.0), batch, mask_N)

    @property
    def formula(self) -> str:
        return "sum_it L / sum_i n_i"


@dataclass(frozen=True)
class TokenSum:
    """sum_t L."""

    def __call__(self, batch: TokenBatch, mask_N: Tensor, update_S: Tensor) -> Tensor:
        return mask_N.to(torch.float64)

    @property
    def formula(self) -> str:
        return "sum_it L"


@dataclass(frozen=True)
class SequenceMeanTokenSum:
    """mean over sequences of sum_t L (REINFORCE, RLOO: the response as one action)."""

    def __call__(self, batch: TokenBatch, mask_N: Tensor, update_S: Tensor) -> Tensor:
        share_S, _ = _sequence_mean(batch, mask_N, update_S)
        return _spread(share_S, batch, mask_N)

    @property
    def formula(self) -> str:
        return "mean_i sum_t L"


@dataclass(frozen=True)
class SequenceMeanTokenMean:
    """mean over sequences of mean_t L (the original GRPO)."""

    def __call__(self, batch: TokenBatch, mask_N: Tensor, update_S: Tensor) -> Tensor:
        share_S, length_S = _sequence_mean(batch, mask_N, update_S)
        return _spread(share_S / length_S.clamp(min=1.0), batch, mask_N)

    @property
    def formula(self) -> str:
        return "mean_i (1/n_i) sum_t L"


@dataclass(frozen=True)
class SequenceSumOverConstant:
    """mean over sequences of sum_t L / C (Dr. GRPO, arXiv 2503.20783).

    Attributes:
        constant: C; None takes the run's maximum response length.
    """

    constant: float | None = None

    def __post_init__(self) -> None:
        if self.constant is not None and self.constant <= 0:
            raise ValueError(f"constant must be positive, found {self.constant:g}")

    def __call__(self, batch: TokenBatch, mask_N: Tensor, update_S: Tensor) -> Tensor:
        if self.constant is None:
            raise ValueError("the constant C is not set; build the objective with max_response_tokens")
        share_S, _ = _sequence_mean(batch, mask_N, update_S)
        return _spread(share_S / self.constant, batch, mask_N)

    @property
    def formula(self) -> str:
        constant = "max_response_tokens" if self.constant is None else f"{self.constant:g}"
        return f"mean_i (1/C) sum_t L, C = {constant}"


@dataclass(frozen=True)
class SequenceSumTokenMean:
    """sum over sequences of mean_t L: DCPO's only-token mean (arXiv 2509.02333, eq. 8).

    Attributes:
        scale: "sum" adds up all responses of the update, over its prompts too (the paper does not
            write that reduction; its advantages already carry the weights). "mean_over_responses"
            divides by their number, which makes it the mean over sequences.
    """

    scale: Literal["sum", "mean_over_responses"] = "sum"

    def __call__(self, batch: TokenBatch, mask_N: Tensor, update_S: Tensor) -> Tensor:
        if self.scale == "mean_over_responses":
            return SequenceMeanTokenMean()(batch, mask_N, update_S)
        return _spread(1.0 / trained_length(batch, mask_N).clamp(min=1.0), batch, mask_N)

    @property
    def formula(self) -> str:
        return f"{'sum_i' if self.scale == 'sum' else 'mean_i'} (1/n_i) sum_t L"


@dataclass(frozen=True)
class PromptMean:
    """mean over prompts of an average inside each prompt: (1/N_q) sum_q agg_q L.

    N_q counts the prompts that have a live token in the update, in rows of any kind and whether or
    not this term trains on them. Terms over different rows of one batch so share their N_q, and a
    prompt counts once whichever of them it feeds (ours).

    Attributes:
        inside: the average over the prompt's own tokens and sequences.
        constant: C of "sequence_sum_over_constant"; None takes the run's maximum response length.
        counts: what the average inside divides by: the prompt's rows that this term trains ("own"), all
            its "rollouts", or "all" its rows. With "all", terms over rollouts and demonstrations
            together are one average, in which a demonstration counts as one more response (LUFFY).
    """

    inside: Literal[
        "token_mean",
        "token_sum",
        "sequence_mean_token_sum",
        "sequence_mean_token_mean",
        "sequence_sum_over_constant",
    ] = "token_mean"
    constant: float | None = None
    counts: Literal["own", "rollouts", "all"] = "own"

    def __post_init__(self) -> None:
        if self.constant is not None and self.inside != "sequence_sum_over_constant":
            raise ValueError(f"constant has no meaning with inside {self.inside!r}")
        _ = self._inner

    @property
    def lacks_constant(self) -> bool:
        """True when C is left to the run."""
        return self.inside == "sequence_sum_over_constant" and self.constant is None

    @property
    def _inner(self) -> Aggregation:
        if self.inside == "sequence_sum_over_constant":
            return SequenceSumOverConstant(self.constant)
        return _INSIDE[self.inside]

    def __call__(self, batch: TokenBatch, mask_N: Tensor, update_S: Tensor) -> Tensor:
        _, group_S = torch.unique(batch.group_S, return_inverse=True)
        width = int(group_S.max()) + 1 if group_S.numel() else 1
        prompts, prompt_S = torch.unique(update_S * width + group_S, return_inverse=True)
        inside_N = self._inner(batch, self._counted(batch, mask_N), prompt_S)
        if self.counts != "own":
            inside_N = inside_N * mask_N
        live_S = (trained_length(batch, batch.mask_N) > 0).to(torch.float64)
        live_P = segment_sum(live_S, prompt_S, prompts.shape[0]) > 0
        update_P = torch.div(prompts, width, rounding_mode="floor")
        count = int(update_S.max()) + 1 if update_S.numel() else 0
        prompts_U = segment_sum(live_P, update_P, count).clamp(min=1.0)
        return inside_N / batch.spread(prompts_U[update_S])

    def _counted(self, batch: TokenBatch, mask_N: Tensor) -> Tensor:
        """bool [N], the tokens that the average inside divides by."""
        return {"own": mask_N, "rollouts": batch.sampled_N, "all": batch.mask_N}[self.counts]

    @property
    def formula(self) -> str:
        over = {"own": "", "rollouts": " over all rollouts", "all": " over rollouts and demonstrations"}
        return f"mean over prompts of [{self._inner.formula}]{over[self.counts]}"


_INSIDE: dict[str, Aggregation] = {
    "token_mean": TokenMean(),
    "token_sum": TokenSum(),
    "sequence_mean_token_sum": SequenceMeanTokenSum(),
    "sequence_mean_token_mean": SequenceMeanTokenMean(),
}
