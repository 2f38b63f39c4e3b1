"""Named tensors in the shared memory of another process, and what is sent instead of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from rlpost.weights.places import Place, tensor_at
from rlpost.weights.shared_memory import Region, map_region


class SharedTensors(Mapping[str, Tensor]):
    """Named tensors in the shared memory of a process of this host.

    Pickled, it is a description: some 40 bytes a tensor and its name. Each tensor is a view, good
    until the owner gives up the version; what is written to it reaches no other process.

    Raises (when a tensor is asked for):
        WeightTransferError: the owner is gone, or of another host, or has overwritten the contents.
    """

    def __init__(self, region: Region, places: Sequence[Place]) -> None:
        self.region = region
        self.places = tuple(places)
        self._by_name = {place.name: place for place in places}

    def __getitem__(self, name: str) -> Tensor:
        place = self._by_name[name]
        return tensor_at(place, map_region(self.region))

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __reduce__(self) -> tuple[Any, ...]:
        region = self.region
        described = (region.host, region.path, region.inode, region.size, region.writing)
        places = [(p.name, p.dtype, p.shape, p.offset) for p in self.places]
        return _described, (described, places)

    @property
    def nbytes(self) -> int:
        """Of all tensors together; the memory is not looked at."""
        return sum(place.nbytes for place in self.places)


def _described(region: tuple[Any, ...], places: Sequence[tuple[Any, ...]]) -> SharedTensors:
    return SharedTensors(Region(*region), [Place(*place) for place in places])
