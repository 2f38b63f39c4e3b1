"""Checksums of tensors at memory speed, in the same pass as a copy where there is one."""

from __future__ import annotations

import numpy as np
import torch
import xxhash
from torch import Tensor

CHUNK_BYTES = 2**19
"""Copied, then hashed while it is still in a core's own cache; large enough to hide the cost of the calls."""


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
    held = _bytes(target.reshape(-1))
    if source.dtype == target.dtype:
        given = _bytes(source.reshape(-1))
        for start in range(0, len(held), CHUNK_BYTES):
            chunk = held[start : start + CHUNK_BYTES]
            # In pieces of this size faster than torch, whose calls take as long as the hashing.
            np.copyto(chunk, given[start : start + CHUNK_BYTES])
            digest.update(chunk)
    else:
        step = CHUNK_BYTES // target.element_size()
        pieces = zip(target.reshape(-1).split(step), source.reshape(-1).split(step), strict=True)
        for number, (into, piece) in enumerate(pieces):
            into.copy_(piece)
            digest.update(held[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES])
    return digest.intdigest()


def _digest_of_kind(tensor: Tensor) -> xxhash.xxh3_64:
    return xxhash.xxh3_64(f"{tensor.dtype}{tuple(tensor.shape)}".encode())


def _bytes(flat: Tensor) -> np.ndarray:
    return flat.view(torch.uint8).numpy()
