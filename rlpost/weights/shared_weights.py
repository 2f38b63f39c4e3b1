"""Weights in shared memory: the learner writes them once, every engine of the host reads them there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from rlpost.weights.bundle import WeightBundle
from rlpost.weights.checksums import copy_with_checksum
from rlpost.weights.places import Place, plan_places, tensor_at
from rlpost.weights.shared_memory import HEADER_BYTES, OwnedMemory
from rlpost.weights.shared_tensors import SharedTensors


class SharedWeights:
    """The owner's end: the newest policy version and the one before it.

    The two lie in memories of their own, which are used in turn. So an engine may still read a version,
    or a restarted worker be given it, while the next one is written. A version is given up when the
    second one after it is begun; who reads it then is told, see `check_region`.
    """

    def __init__(self) -> None:
        self._memories = (OwnedMemory(), OwnedMemory())

    def export(
        self, version: int, pieces: Iterable[Mapping[str, Tensor]], dtype: torch.dtype | None
    ) -> WeightBundle:
        """Write a version; its bundle is a description, which may be sent to processes of this host.

        Args:
            pieces: the weights, some at a time, on any device; a piece is read before the next is
                asked for. Should one raise, the newest complete version stays.
            dtype: of floating tensors in the bundle; None leaves them as they are.
        """
        older, newer = self._memories
        older.begin()
        places: list[Place] = []
        checksums: dict[str, int] = {}
        for piece in pieces:
            new = plan_places(piece, places[-1].end if places else HEADER_BYTES, dtype)
            if new:
                older.reserve(new[-1].end)
            for place in new:
                target = tensor_at(place, older.map)
                checksums[place.name] = copy_with_checksum(piece[place.name], target)
            places += new
        bundle = WeightBundle(version, SharedTensors(older.finish(), places), checksums)
        self._memories = (newer, older)
        return bundle

    def close(self) -> None:
        """Let go of the memory; processes that have it mapped keep it."""
        for memory in self._memories:
            memory.close()
