"""TokenBatch: one ragged batch as flat tensors, with no padding anywhere.

Array names carry their axis: `_N` response tokens, `_S` sequences, `_G` groups.
The N axis holds the tokens *after* the prompt, sequence by sequence; observation
tokens of an environment are on it too, with `mask_N` False.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenBatch:
    """The core's only view of data.

    Attributes:
        sequence_N: int64 [N], the owner of each token, ascending from 0 to S-1. A sequence
            may own no token.
        mask_N: bool [N], True on tokens the policy sampled (or a demonstration holds).
        turn_N: int64 [N], the turn of the token inside its sequence, from 0 and never descending;
            observations are turns too.
        group_S: int64 [S], equal for the sequences of one prompt; any labels.
        reward_S: float64 [S], the scalar reward; for a demonstration what the data says that it is worth,
            which only terms compared with all rows, and those over pairs, read.
        truncated_S: bool [S], True where the response hit the token limit.
        demonstration_S: bool [S], True for rows that the policy did not sample.
        on_policy: True when the policy to be differentiated still is the policy that "old" names
            (one update per step): the old log-prob is then the current one, and the signal
            "old_logprob" is neither needed nor read by the ratio.
        progress: how much of training is done, from 0 to 1; schedules read it.
        signals: named float tensors [N]: "old_logprob", "behaviour_logprob", "ref_logprob",
            "entropy", ... Values at positions with `mask_N` False may be anything, even NaN.
        sequence_signals: named float64 tensors [S]: what the driver knows of a sequence beside
            its reward, such as the statistics of its prompt ("prompt_visits", "prompt_samples",
            "prompt_mean", "prompt_variance", all of earlier steps), the reward of the prompt's greedy
            response ("greedy_reward"), or one reward function's part ("reward_part/NAME").
    """

    sequence_N: Tensor
    mask_N: Tensor
    turn_N: Tensor
    group_S: Tensor
    reward_S: Tensor
    truncated_S: Tensor
    demonstration_S: Tensor
    on_policy: bool = False
    progress: float = 0.0
    signals: Mapping[str, Tensor] = field(default_factory=dict)
    sequence_signals: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, s = self.sequence_N.numel(), self.group_S.numel()
        for name, tensor, size in (
            ("sequence_N", self.sequence_N, n),
            ("mask_N", self.mask_N, n),
            ("turn_N", self.turn_N, n),
            ("group_S", self.group_S, s),
            ("reward_S", self.reward_S, s),
            ("truncated_S", self.truncated_S, s),
            ("demonstration_S", self.demonstration_S, s),
            *((f"signals[{k!r}]", v, n) for k, v in self.signals.items()),
            *((f"sequence_signals[{k!r}]", v, s) for k, v in self.sequence_signals.items()),
        ):
            if tensor.shape != (size,):
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, needed ({size},)")
        first, last = (int(self.sequence_N[0]), int(self.sequence_N[-1])) if n else (0, -1)
        if first < 0 or last >= s or bool((self.sequence_N[1:] < self.sequence_N[:-1]).any()):
            raise ValueError(f"sequence_N must ascend from 0 or above and stay below the {s} sequences")
        if bool(((self.turn_N[1:] < self.turn_N[:-1]) & (self.sequence_N[1:] == self.sequence_N[:-1])).any()):
            raise ValueError("turn_N must not descend inside a sequence")

    @property
    def N(self) -> int:
        return self.sequence_N.shape[0]

    @property
    def S(self) -> int:
        return self.group_S.shape[0]

    @cached_property
    def length_S(self) -> Tensor:
        """int64 [S], all tokens of each sequence, observations included."""
        return torch.bincount(self.sequence_N, minlength=self.S)

    @cached_property
    def all_trained(self) -> bool:
        """True when `mask_N` is True everywhere, so that nothing need be masked."""
        return bool(self.mask_N.all())

    @cached_property
    def span_N(self) -> Tensor:
        """int64 [N], which turn of which sequence a token belongs to, counted through from 0."""
        begins_N = torch.ones_like(self.mask_N)
        begins_N[1:] = (self.sequence_N[1:] != self.sequence_N[:-1]) | (self.turn_N[1:] != self.turn_N[:-1])
        return begins_N.cumsum(0) - 1

    @cached_property
    def span_length_T(self) -> Tensor:
        """int64 [T], all tokens of each turn of each sequence, in the order of `span_N`."""
        return torch.bincount(self.span_N)

    @property
    def sampled_N(self) -> Tensor:
        """bool [N], the tokens under `mask_N` that the policy sampled: none of a demonstration's."""
        if not bool(self.demonstration_S.any()):
            return self.mask_N
        return self.mask_N & ~self.spread(self.demonstration_S)

    def spread(self, value_S: Tensor) -> Tensor:
        """A value of each sequence on all of its tokens [N]."""
        return value_S.index_select(0, self.sequence_N)

    def signal(self, name: str) -> Tensor:
        """The signal [N], or a KeyError that names what is there; a batch without tokens has every signal."""
        if name not in self.signals:
            if not self.N:
                return torch.zeros(0, device=self.mask_N.device)
            raise KeyError(f"the batch has no signal {name!r}, only {sorted(self.signals)}")
        return self.signals[name]

    def sequence_signal(self, name: str) -> Tensor:
        """The sequence signal [S], or a KeyError that names what is there."""
        if name not in self.sequence_signals:
            known = sorted(self.sequence_signals)
            raise KeyError(f"the batch has no sequence signal {name!r}, only {known}")
        return self.sequence_signals[name]

    def with_signals(self, **signals: Tensor) -> TokenBatch:
        """The same batch with more signals."""
        return replace(self, signals={**self.signals, **signals})

    def rows(self, index_S: Tensor) -> TokenBatch:
        """The sequences `index_S` (int64, any order) as a batch of their own."""
        return self.cut(index_S, *token_index(self.sequence_N, self.S, index_S))

    def cut(self, index_S: Tensor, index_N: Tensor, sequence_N: Tensor) -> TokenBatch:
        """`rows`, for a caller that has `token_index` of these sequences already."""
        return TokenBatch(
            sequence_N=sequence_N,
            mask_N=self.mask_N.index_select(0, index_N),
            turn_N=self.turn_N.index_select(0, index_N),
            group_S=self.group_S[index_S],
            reward_S=self.reward_S[index_S],
            truncated_S=self.truncated_S[index_S],
            demonstration_S=self.demonstration_S[index_S],
            on_policy=self.on_policy,
            progress=self.progress,
            signals={k: v.index_select(0, index_N) for k, v in self.signals.items()},
            sequence_signals={k: v[index_S] for k, v in self.sequence_signals.items()},
        )

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch with every tensor on `device`."""
        return TokenBatch(
            sequence_N=self.sequence_N.to(device),
            mask_N=self.mask_N.to(device),
            turn_N=self.turn_N.to(device),
            group_S=self.group_S.to(device),
            reward_S=self.reward_S.to(device),
            truncated_S=self.truncated_S.to(device),
            demonstration_S=self.demonstration_S.to(device),
            on_policy=self.on_policy,
            progress=self.progress,
            signals={k: v.to(device) for k, v in self.signals.items()},
            sequence_signals={k: v.to(device) for k, v in self.sequence_signals.items()},
        )


def token_index(sequence_N: Tensor, S: int, index_S: Tensor) -> tuple[Tensor, Tensor]:
    """Where the tokens of the sequences `index_S` lie, and their new owners.

    Returns:
        (index_N, sequence_N): int64 positions into the old N axis, and the new owner of
        each taken token, both in the order of `index_S`.
    """
    length_S = torch.bincount(sequence_N, minlength=S)
    start_S = length_S.cumsum(0) - length_S
    length_K = length_S[index_S]
    owner_M = torch.repeat_interleave(torch.arange(len(index_S), device=sequence_N.device), length_K)
    moved_K = start_S[index_S] - (length_K.cumsum(0) - length_K)
    position_M = torch.arange(owner_M.shape[0], device=sequence_N.device)
    return position_M.add_(moved_K.index_select(0, owner_M)), owner_M
