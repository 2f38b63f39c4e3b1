"""Buckets: what vLLM's processes are told of weights that come, and how they read them in shared memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor

from rlpost.weights.checksums import copy_with_checksum
from rlpost.weights.places import BUCKET_BYTES, Place, cut_places, plan_places, tensor_at
from rlpost.weights.shared_memory import HEADER_BYTES, OwnedMemory, Region, check_region, map_region
from rlpost.weights.shared_tensors import SharedTensors


class SharedBuffer(OwnedMemory):
    """Memory of one bucket, through which tensors go that are not in shared memory already."""

    def updates(
        self, tensors: Mapping[str, Tensor], limit: int = BUCKET_BYTES
    ) -> Iterator[dict[str, list[Any]]]:
        """What each call of vLLM's `update_weights` says; there are as many as the bytes need.

        A process must have done what an update says before the next is asked for.

        Args:
            tensors: on any device; `SharedTensors` are read where they are.
            limit: bytes of a bucket; a larger tensor travels alone.
        """
        buckets = (
            ((tensors.region, bucket) for bucket in cut_places(tensors.places, limit))
            if isinstance(tensors, SharedTensors)
            else self._written(tensors, limit)
        )
        for region, bucket in buckets:
            yield {"region": list(astuple(region)), "places": [list(astuple(place)) for place in bucket]}

    def _written(self, tensors: Mapping[str, Tensor], limit: int) -> Iterator[tuple[Region, list[Place]]]:
        for planned in cut_places(plan_places(tensors, HEADER_BYTES), limit):
            bucket = plan_places({place.name: tensors[place.name] for place in planned}, HEADER_BYTES)
            self.begin()
            self.reserve(bucket[-1].end)
            for place in bucket:
                tensor_at(place, self.map).copy_(tensors[place.name].detach())
            yield self.finish(), bucket


def broadcast_updates(places: Sequence[Place], limit: int = BUCKET_BYTES) -> Iterator[dict[str, list[Any]]]:
    """What each call of `update_weights` says of weights that the learner broadcasts: no region."""
    for bucket in cut_places(places, limit):
        yield {"region": [], "places": [list(astuple(place)) for place in bucket]}


def as_places(fields: Sequence[Sequence[Any]]) -> list[Place]:
    """The places of an update."""
    return [Place(name, dtype, tuple(shape), offset) for name, dtype, shape, offset in fields]


def read_update(region: Sequence[Any], places: Sequence[Sequence[Any]]) -> dict[str, tuple[Tensor, int]]:
    """The receiver's own copies, on the CPU, of the tensors of one update, each with its checksum.

    Raises:
        WeightTransferError: the memory is gone, of another host, or was overwritten meanwhile.
    """
    found = {}
    described = Region(*region)
    memory = map_region(described)
    for place in as_places(places):
        shared = tensor_at(place, memory)
        own = torch.empty_like(shared)
        found[place.name] = own, copy_with_checksum(shared, own)
    check_region(described, memory)
    return found
