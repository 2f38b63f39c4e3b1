"""Random numbers of single tokens, a function of a sequence's seed and a token's place in it.

There is no generator whose state would have to be kept: whatever way a batch is cut, packed or spread over
ranks, and whether or not the run was resumed, a token draws the same numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNIFORM_BITS = 53
"""What float64 holds exactly."""


def token_keys(draw_seed_S: Tensor, sequence_N: Tensor) -> Tensor:
    """A key for every token, int64 [N].

    Args:
        draw_seed_S: integers below 2**53 in float64, the sequence signal "draw_seed".
        sequence_N: int64, the owner of each token, ascending; sequences are whole.
    """
    length_S = torch.bincount(sequence_N, minlength=len(draw_seed_S))
    start_S = length_S.cumsum(0) - length_S
    place_N = torch.arange(len(sequence_N), device=sequence_N.device) - start_S[sequence_N]
    return _mixed(_mixed(draw_seed_S.to(torch.int64))[sequence_N], place_N + 1)


def uniforms(key_N: Tensor, count: int) -> Tensor:
    """Numbers in (0, 1], float64 [N, count], each a function of its key and its column alone."""
    column_K = torch.arange(1, count + 1, device=key_N.device)
    bits_NK = _right(_mixed(key_N[:, None], column_K), 64 - UNIFORM_BITS)
    return bits_NK.to(torch.float64).add_(1.0).mul_(2.0**-UNIFORM_BITS)


def _mixed(state: Tensor, step: Tensor | int = 1) -> Tensor:
    """The `step`-th output of splitmix64 (Steele, Lea & Flood 2014) from a state; int64 that wraps around."""
    x = state + step * _signed(0x9E3779B97F4A7C15)
    x = (x ^ _right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _right(x, 31)


def _right(x: Tensor, bits: int) -> Tensor:
    """A shift that fills up with zeros; torch's own repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
