"""Places: where each tensor lies in one stretch of memory, and how they are cut into buckets."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BUCKET_BYTES = 256 * 2**20
"""Weights that travel together; a larger tensor travels alone."""

_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Place:
    """Where one tensor lies.

    Attributes:
        dtype: torch's name of it, such as "bfloat16".
        offset: bytes from the start of the memory.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Of the tensor."""
        return torch.Size(self.shape).numel() * getattr(torch, self.dtype).itemsize

    @property
    def end(self) -> int:
        """The first byte after the tensor, and after what aligns the next one."""
        return self.offset + -(-self.nbytes // _ALIGNMENT) * _ALIGNMENT


def plan_places(tensors: Mapping[str, Tensor], start: int, dtype: torch.dtype | None = None) -> list[Place]:
    """Places for the tensors, one after the other from byte `start`, a multiple of 64.

    Args:
        dtype: that floating tensors are converted to; None leaves them as they are.
    """
    places = []
    for name, tensor in tensors.items():
        kept = dtype if dtype and tensor.is_floating_point() else tensor.dtype
        place = Place(name, str(kept).removeprefix("torch."), tuple(tensor.shape), start)
        places.append(place)
        start = place.end
    return places


def cut_places(places: Sequence[Place], limit: int = BUCKET_BYTES) -> Iterator[list[Place]]:
    """The places in their order, in buckets of at most `limit` bytes.

    The number of buckets depends on the bytes, not on the number of tensors.
    """
    bucket: list[Place] = []
    size = 0
    for place in places:
        if bucket and size + place.nbytes > limit:
            yield bucket
            bucket, size = [], 0
        bucket.append(place)
        size += place.end - place.offset
    if bucket:
        yield bucket


def tensor_at(place: Place, memory: mmap.mmap) -> Tensor:
    """The tensor at `place`, sharing the memory."""
    dtype = getattr(torch, place.dtype)
    count = torch.Size(place.shape).numel()
    if count == 0:
        return torch.empty(place.shape, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=place.offset).view(place.shape)
