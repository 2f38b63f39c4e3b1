"""Checksums of tensors at memory speed, in the same pass as a copy where there is one."""

from __future__ import annotations

import torch
import xxhash
from torch import Tensor

CHUNK_BYTES = 2 * 2**20
"""Copied, then hashed while it is still in the cache; large enough to hide the cost of the calls."""


def checksum(tensor: Tensor) -> int:
    """XXH3 (64 bits) of the tensor's dtype, shape and bytes in memory order."""
    data = tensor.detach().cpu().contiguous()
    digest = _digest_of_kind(data)
    digest.update(_bytes(data.reshape(-1)))
    return digest.intdigest()


def copy_with_checksum(source: Tensor, target: Tensor) -> int:
    """Copy `source` into `target`; the checksum is that of `target`, read back after the copy.

    Args:
        source: of any dtype, on any device.
        target: of the same shape, contiguous, on the CPU; values are converted to its dtype.
    """
    source = source.detach()
    if not (source.is_cpu and source.is_contiguous()):
        # Another device's memory is read faster in one piece.
        target.copy_(source)
        return checksum(target)
    digest = _digest_of_kind(target)
    step = CHUNK_BYTES // target.element_size()
    for into, piece in zip(target.reshape(-1).split(step), source.reshape(-1).split(step), strict=True):
        into.copy_(piece)
        digest.update(_bytes(into))
    return digest.intdigest()


def _digest_of_kind(tensor: Tensor) -> xxhash.xxh3_64:
    return xxhash.xxh3_64(f"{tensor.dtype}{tuple(tensor.shape)}".encode())


def _bytes(flat: Tensor) -> memoryview:
    return flat.view(torch.uint8).numpy().data
