"""Seeds of what the core and the learner draw: the one source of randomness inside an update.

A seed belongs to a row of a step, so what is drawn depends neither on micro-batches, ranks and packing nor on
whether the run was resumed.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

SEED_BITS = 53
"""Float64, which sequence signals are in, holds integers of so many bits exactly."""


def draw_seeds(seed: int, step: int, rows: int) -> Tensor:
    """The sequence signal "draw_seed": an integer below 2**53 for each row of a step, float64 [S]."""
    digests = (hashlib.sha256(f"draw {seed} {step} {row}".encode()).digest() for row in range(rows))
    seeds = [int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS) for digest in digests]
    return torch.tensor(seeds, dtype=torch.float64)
