"""Fingerprints: checksums that every device computes alike, without a copy to the host.

A word of 64 bits is mixed with its position, and the results are added up. The mixing is one-to-one
(the finaliser of SplitMix64, Steele et al. 2014), so a change of a single word is always found; others,
such as words or tensors that changed places, escape once in 2^64.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import xxhash
from torch import Tensor

CHUNK_WORDS = 2**21
"""Mixed at a time: 16 MiB, which bounds the memory that the steps in between take."""


def fingerprints(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """64 bits of each tensor's dtype, shape and bytes; the tensors' device is waited for once."""
    if not tensors:
        return {}
    sums = torch.stack([_mixed_sum(tensor.detach()) for tensor in tensors.values()]).tolist()
    return {
        name: xxhash.xxh3_64_intdigest(f"{tensor.dtype}{tuple(tensor.shape)}{total}".encode())
        for (name, tensor), total in zip(tensors.items(), sums, strict=True)
    }


def combined(found: Mapping[str, int]) -> str:
    """One fingerprint of many tensors, whatever their order; hexadecimal."""
    return f"{xxhash.xxh3_64_intdigest(repr(sorted(found.items())).encode()):016x}"


def _mixed_sum(tensor: Tensor) -> Tensor:
    """The sum, modulo 2^64, over the tensor's words; a scalar on its device."""
    data = tensor.contiguous().reshape(-1).view(torch.uint8)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    step = 8 * CHUNK_WORDS
    for start in range(0, data.numel(), step):
        words = _words(data[start : start + step])
        first = start // 8
        position = torch.arange(first, first + words.numel(), dtype=torch.int64, device=tensor.device)
        total += _mix(words ^ _mix(position + 1)).sum()
    return total


def _words(data: Tensor) -> Tensor:
    """The bytes as whole words; the last one is filled up with zeros."""
    if data.numel() % 8 or data.storage_offset() % 8:
        data = torch.nn.functional.pad(data, (0, -data.numel() % 8))
    return data.view(torch.int64)


def _mix(word: Tensor) -> Tensor:
    # torch shifts signed numbers, so the sign's copies are masked out.
    word = (word ^ ((word >> 30) & (2**34 - 1))) * _signed(0xBF58476D1CE4E5B9)
    word = (word ^ ((word >> 27) & (2**37 - 1))) * _signed(0x94D049BB133111EB)
    return word ^ ((word >> 31) & (2**33 - 1))


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
