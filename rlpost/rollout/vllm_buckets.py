"""Tensors on their way to another process of this machine, through one buffer of shared memory.

The buffer is anonymous memory (memfd): it has no name that could be left behind, counts against no
/dev/shm limit, and is gone when the last process that maps it is.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BUCKET_BYTES = 256 * 2**20
"""Weights that travel together; a larger tensor travels alone."""

_ALIGNMENT = 64


@dataclass(frozen=True)
class Place:
    """Where one tensor lies in the buffer.

    Attributes:
        dtype: torch's name of it, such as "bfloat16".
        offset: bytes from the start of the buffer.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


def plan_buckets(tensors: Mapping[str, Tensor], limit: int = BUCKET_BYTES) -> Iterator[list[Place]]:
    """Places of all tensors in their order, bucket by bucket, each bucket of at most `limit` bytes.

    The number of buckets depends on the bytes, not on the number of tensors.
    """
    bucket: list[Place] = []
    end = 0
    for name, tensor in tensors.items():
        if bucket and end + tensor.nbytes > limit:
            yield bucket
            bucket, end = [], 0
        bucket.append(Place(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), end))
        end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    if bucket:
        yield bucket


class SharedBuffer:
    """The sender's end: owns the memory and grows it to the largest bucket seen."""

    def __init__(self) -> None:
        self._file = os.memfd_create("rlpost-weights", os.MFD_CLOEXEC)
        self._map: mmap.mmap | None = None
        self.size = 0

    @property
    def path(self) -> str:
        """Where processes of the same user can open the memory while this one lives."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    def write(self, bucket: Sequence[Place], tensors: Mapping[str, Tensor]) -> None:
        """Copy the bucket's tensors, from any device, to their places."""
        last = bucket[-1]
        self._reserve(max(1, last.offset + tensors[last.name].nbytes))
        for place in bucket:
            view(self._map, place).copy_(tensors[place.name].detach())

    def close(self) -> None:
        """Let go of the memory."""
        self._map = None
        os.close(self._file)

    def _reserve(self, size: int) -> None:
        if size > self.size:
            os.ftruncate(self._file, size)
            self._map = mmap.mmap(self._file, size)
            self.size = size


class BufferReader:
    """The receiver's end: maps the sender's memory, once for each size that it grows to."""

    def __init__(self) -> None:
        self._of: tuple[str, int] | None = None
        self._map: mmap.mmap | None = None

    def read(self, path: str, size: int, bucket: Sequence[Place]) -> Iterator[tuple[str, Tensor]]:
        """(name, copy of the tensor on the CPU) for each of the bucket.

        Raises:
            OSError: the sender is gone.
        """
        if self._of != (path, size):
            file = os.open(path, os.O_RDWR)
            try:
                self._map = mmap.mmap(file, size)
            finally:
                os.close(file)
            self._of = (path, size)
        for place in bucket:
            # The receiver may keep a tensor until the rest of its layer has come, in a later bucket.
            yield place.name, view(self._map, place).clone()


def view(memory: mmap.mmap | None, place: Place) -> Tensor:
    """The tensor at `place`, sharing the memory."""
    dtype = getattr(torch, place.dtype)
    count = torch.Size(place.shape).numel()
    if count == 0 or memory is None:
        return torch.empty(place.shape, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=place.offset).view(place.shape)
