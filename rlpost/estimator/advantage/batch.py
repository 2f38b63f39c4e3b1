"""Advantages whose scale is the whole batch's: what one step has seen, over all its prompts.

The batch is the rows that the term reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rlpost.estimator.advantage.group import GroupNormalised
from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.segments import Groups, at_trained, masked, trained_index

Whitening = Literal["sample", "population"]

VARIANCE_FLOOR = 1e-8
"""What every implementation of the whitening adds to the variance, or bounds it by."""


def whitened(value_N: Tensor, batch: TokenBatch, kind: Whitening) -> Tensor:
    """(x - mu) / std over the trained tokens, each counted once; float64 [N], 0 elsewhere.

    "sample" is (x - mu) rsqrt(var_unbiased + 1e-8), "population" (x - mu) rsqrt(max(var_biased, 1e-8)):
    the two forms in use. Equal values give exactly 0.
    """
    index_M = trained_index(batch)
    value_M = value_N.index_select(0, index_M).to(torch.float64)
    if value_M.numel() < 2 or bool(value_M.max() == value_M.min()):
        return torch.zeros(batch.N, dtype=torch.float64, device=value_N.device)
    variance = value_M.var(unbiased=kind == "sample")
    divided = variance + VARIANCE_FLOOR if kind == "sample" else variance.clamp(min=VARIANCE_FLOOR)
    return at_trained((value_M - value_M.mean()) * divided.rsqrt(), index_M, batch)


@dataclass(frozen=True)
class BatchScaled:
    """A_i = (R_i - mean R) / (std over the batch + epsilon): "Lite PPO" (arXiv 2508.08221).

    The mean is the group's, the standard deviation that of all rewards of the batch.

    Attributes:
        std: "sample" divides by the number of rewards less one, "population" by their number.
    """

    std: Literal["sample", "population"] = "sample"
    epsilon: float = 1e-4
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.epsilon < 0:
            raise ValueError(f"epsilon must be 0 or above, found {self.epsilon:g}")

    def __call__(self, batch: TokenBatch) -> Tensor:
        groups = Groups(batch.group_S, batch.reward_S)
        everything = Groups(torch.zeros_like(batch.group_S), batch.reward_S)
        advantage_S = groups.centred_S / (everything.std_S(self.std == "sample") + self.epsilon)
        return batch.spread(masked(advantage_S, groups.informative_G[groups.id_S]))

    @property
    def formula(self) -> str:
        return f"A_i = (R_i - mean(R)) / (std_{self.std}(R over the batch) + {self.epsilon:g})"


@dataclass(frozen=True)
class GroupCentredWhitened:
    """R_i - mean R on every token, whitened over the trained tokens of the batch: REINFORCE++-baseline
    (arXiv 2501.03262).

    Long responses count more in the whitening, so that its mean is not 0 although every group's is: a
    group without signal beside others gets a small advantage that is not 0. The paper has it so;
    selection `drop_uniform` leaves such groups out of the loss. A batch of equal rewards gets exactly 0.

    Attributes:
        whiten: "sample" or "population" variance.
    """

    whiten: Whitening = "sample"
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    needs_group: ClassVar[bool] = True

    def __call__(self, batch: TokenBatch) -> Tensor:
        centred_S = Groups(batch.group_S, batch.reward_S).centred_S
        return whitened(batch.spread(centred_S), batch, self.whiten)

    @property
    def formula(self) -> str:
        return f"A_it = whiten_{self.whiten}(R_i - mean(R)) over the trained tokens of the batch"


REWARD_PART = "reward_part/"
"""How the sequence signals begin that hold one reward function's part."""


@dataclass(frozen=True)
class GDPO:
    """Every part of the reward normalised by itself as in GRPO, then added up, then scaled over the batch
    (arXiv 2601.05242).

    A_i = w_i / sqrt(var w + 1e-8), w_i = sum_p weight_p (R_ip - mean R_p) / (std R_p + epsilon).

    It reads all sequence signals "reward_part/NAME" of the batch, and not the reward itself, so what is
    shaped into the reward does not show. The parts come multiplied by the weights that the reward gives
    them, but each is divided by its own deviation, which takes the size of such a weight away again
    (not its sign): what a part is to count is said in `weights` here. With one part it is GRPO's advantage
    up to a factor. The mean of w over the batch is 0 already, because every group's is; so nothing is
    subtracted, and a group without signal gets exactly 0. Ours: each response counts once in the last
    step's variance (over S - 1), not each token.

    Attributes:
        weights: part name to weight, for those that do not count 1.
        std: "sample" divides by G-1, "population" by G.
    """

    weights: Mapping[str, float] = field(default_factory=dict, hash=False)
    std: Literal["sample", "population"] = "sample"
    epsilon: float = 1e-6
    signals: ClassVar[frozenset[str]] = frozenset()
    sequence_signals: ClassVar[frozenset[str]] = frozenset({"reward_parts"})
    needs_group: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.epsilon < 0:
            raise ValueError(f"epsilon must be 0 or above, found {self.epsilon:g}")

    def __call__(self, batch: TokenBatch) -> Tensor:
        known = sorted(name for name in batch.sequence_signals if name.startswith(REWARD_PART))
        if not known:
            raise KeyError(f"advantage gdpo needs sequence signals {REWARD_PART}NAME, the batch has none")
        weights = {REWARD_PART + name: weight for name, weight in self.weights.items()}
        unknown = sorted(set(weights) - set(known))
        if unknown:
            raise KeyError(f"advantage gdpo weights {unknown}, which are not among the batch's {known}")
        normalise = GroupNormalised(self.std, self.epsilon)
        total_S = torch.zeros(batch.S, dtype=torch.float64, device=batch.group_S.device)
        for name in known:
            part_S = normalise.per_sequence(batch.group_S, batch.sequence_signal(name))
            total_S = total_S + weights.get(name, 1.0) * part_S
        variance = total_S.square().sum() / max(batch.S - 1, 1)
        return batch.spread(total_S * (variance + VARIANCE_FLOOR).rsqrt())

    @property
    def formula(self) -> str:
        weights = "".join(f", weight of {name} = {weight:g}" for name, weight in sorted(self.weights.items()))
        normalised = f"(R_ip - mean(R_p)) / (std_{self.std}(R_p) + {self.epsilon:g})"
        return f"A_i = w_i / std(w over the batch), w_i = sum_p weight_p {normalised}{weights}"
