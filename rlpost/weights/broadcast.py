"""Broadcast: the learner sends each bucket of weights once, and all engines receive it at the same time.

Both ends cut the same plan into the same buckets, so nothing but bytes travels. What goes wrong shows in
the fingerprints, which the learner takes of what it sends and an engine of what it received.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlpost.errors import BrokenTransferError, WeightTransferError
from rlpost.weights.bundle import WeightBundle
from rlpost.weights.communicator import Communicator, Host, Meeting
from rlpost.weights.fingerprints import fingerprints
from rlpost.weights.places import BUCKET_BYTES, Place, cut_places


@dataclass(frozen=True, slots=True)
class Seat:
    """What a process needs to take part: the meeting, its rank there, and the plan.

    Attributes:
        rank: of the process; the first of an engine's processes, where it has several.
        places: every tensor in the order of sending.
    """

    meeting: Meeting
    rank: int
    places: tuple[Place, ...]


class Sender:
    """Learner rank 0's end.

    Args:
        places: the plan; see `plan_places`.
        limit: bytes of a bucket; a larger tensor travels alone.
    """

    def __init__(
        self,
        meeting: Meeting,
        host: Host,
        places: Sequence[Place],
        limit: int = BUCKET_BYTES,
    ) -> None:
        self._places, self._limit = tuple(places), limit
        self._communicator = Communicator(meeting, 0, host)

    def send(self, version: int, pieces: Iterable[Mapping[str, Tensor]]) -> WeightBundle:
        """Send a version; the bundle has its fingerprints, and tensors without contents.

        Args:
            pieces: the weights, some at a time, on any device; a piece is read before the next is asked
                for. All are asked for, also after a failure, because other ranks may wait in them.

        Raises:
            BrokenTransferError: an engine is gone or too late.
            WeightTransferError: the pieces are not those of the plan.
        """
        tensors = ((name, tensor) for piece in pieces for name, tensor in piece.items())
        found: dict[str, int] = {}
        try:
            for bucket in cut_places(self._places, self._limit):
                buffer = torch.zeros(_size(bucket), dtype=torch.uint8, device=self._communicator.device)
                held = _views(buffer, bucket)
                for place in bucket:
                    _fill(held[place.name], place, next(tensors, None))
                found |= fingerprints(held)
                self._communicator.broadcast(buffer)
        except (BrokenTransferError, WeightTransferError):
            for _ in tensors:
                pass
            raise
        if (left := next(tensors, None)) is not None:
            raise _unplanned(left[0], "a tensor more", "no more tensors")
        return WeightBundle(version, blank_tensors(self._places), found)

    def close(self) -> None:
        """Leave the group."""
        self._communicator.close()


class Receiver:
    """The end of an engine's process; arguments as of `Sender`."""

    def __init__(self, seat: Seat, limit: int = BUCKET_BYTES) -> None:
        self.places, self._limit = seat.places, limit
        self._communicator = Communicator(seat.meeting, seat.rank)

    def buckets(self) -> Iterator[dict[str, Tensor]]:
        """A version's tensors as they come, in memory of their own, on the communicator's device.

        Raises:
            BrokenTransferError: the learner, or another engine, is gone or too late.
        """
        for bucket in cut_places(self.places, self._limit):
            yield self.receive(bucket)

    def receive(self, bucket: Sequence[Place]) -> dict[str, Tensor]:
        """The next bucket."""
        buffer = torch.empty(_size(bucket), dtype=torch.uint8, device=self._communicator.device)
        self._communicator.broadcast(buffer)
        return _views(buffer, bucket)

    def close(self) -> None:
        """Leave the group."""
        self._communicator.close()


def blank_tensors(places: Sequence[Place]) -> dict[str, Tensor]:
    """Tensors of the places' names, dtypes and shapes that hold nothing."""
    return {
        place.name: torch.empty(place.shape, dtype=getattr(torch, place.dtype), device="meta")
        for place in places
    }


def refuse_other_tensors(announced: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise WeightTransferError unless learner and engine have tensors of the same names."""
    if differing := announced.keys() ^ own.keys():
        name = min(differing)
        raise WeightTransferError(
            f"learner and engine do not have the same tensors: {name!r}",
            found=f"only the {'learner' if name in announced else 'engine'} has it",
            remedy="load both from the same model section (model.init)",
        )


def _size(bucket: Sequence[Place]) -> int:
    return bucket[-1].end - bucket[0].offset


def _views(buffer: Tensor, bucket: Sequence[Place]) -> dict[str, Tensor]:
    found = {}
    for place in bucket:
        start = place.offset - bucket[0].offset
        data = buffer[start : start + place.nbytes]
        found[place.name] = data.view(getattr(torch, place.dtype)).view(place.shape)
    return found


def _fill(target: Tensor, place: Place, given: tuple[str, Tensor] | None) -> None:
    if given is None:
        raise _unplanned(place.name, "no tensor", "one of this name")
    name, tensor = given
    if name != place.name or tuple(tensor.shape) != place.shape:
        raise _unplanned(place.name, f"{name} {list(tensor.shape)}", f"{place.name} {list(place.shape)}")
    target.copy_(tensor.detach())


def _unplanned(name: str, found: str, needed: str) -> WeightTransferError:
    return WeightTransferError(
        f"the learner's tensors are not those it announced, from {name!r} on", found=found, needed=needed
    )
