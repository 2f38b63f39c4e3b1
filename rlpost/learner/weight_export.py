"""WeightExport: how a learner rank's weights leave its process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlpost.machine import own_address
from rlpost.weights.broadcast import Sender
from rlpost.weights.bundle import WeightBundle
from rlpost.weights.communicator import LOOPBACK, Host, Meeting
from rlpost.weights.places import Place
from rlpost.weights.shared_weights import SharedWeights

Pieces = Iterable[Mapping[str, Tensor]]
"""The whole weights, some at a time; on other ranks than the first nothing, but all must go through it."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What rank 0 says before a broadcast: where it waits, and what it will send.

    Attributes:
        device: torch's name of the kind that the weights are on, such as "cuda".
        places: every tensor in the order of sending.
    """

    device: str
    host: str
    port: int
    places: tuple[Place, ...]


class WeightExport:
    """One rank's end of every way to the engines; all ranks make the same calls.

    Args:
        dtype: of floating tensors outside.
    """

    def __init__(self, rank: int, dtype: torch.dtype) -> None:
        self._rank, self._dtype = rank, dtype
        self._shared: SharedWeights | None = None
        self._host: Host | None = None
        self._places: tuple[Place, ...] = ()
        self._sender: Sender | None = None

    def to_shared_memory(self, version: int, pieces: Pieces) -> WeightBundle | None:
        """A version in rank 0's memory, described."""
        if self._rank:
            return _go_through(pieces)
        self._shared = self._shared or SharedWeights()
        return self._shared.export(version, pieces, self._dtype)

    def offer(self, places: Sequence[Place], device: str, *, local: bool, deadline_s: float) -> Offer | None:
        """Wait for engines at a new address; who met before is left."""
        if self._rank:
            return None
        self.leave()
        self._host = Host(deadline_s=deadline_s, address=LOOPBACK if local else own_address())
        self._places = tuple(places)
        return Offer(device, self._host.address, self._host.port, self._places)

    def join(self, meeting: Meeting) -> None:
        """Meet the engines where `offer` said."""
        if self._rank:
            return
        if self._host is None:
            raise ValueError("a broadcast is joined after it was offered")
        self._sender = Sender(meeting, self._host, self._places)

    def send(self, version: int, pieces: Pieces) -> WeightBundle | None:
        """Send a version to all engines."""
        if self._rank:
            return _go_through(pieces)
        if self._sender is None:
            raise ValueError("weights are sent after a broadcast was joined")
        return self._sender.send(version, pieces)

    def leave(self) -> None:
        """Part with the engines, if any were met."""
        if self._sender is not None:
            self._sender.close()
        self._sender = self._host = None


def _go_through(pieces: Pieces) -> None:
    for _ in pieces:
        pass
