"""WeightBundle: a version of the policy's weights with the proofs of its integrity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rlpost.errors import WeightTransferError
from rlpost.weights.checksums import checksum
from rlpost.weights.shared_tensors import SharedTensors


@dataclass(frozen=True)
class WeightBundle:
    """Named tensors of one policy version, each with the checksum the learner computed.

    Attributes:
        version: the policy version, counted from 0 (the initial weights).
        tensors: every parameter and persistent buffer of the policy by its Hugging Face name;
            tied tensors appear once. `SharedTensors` are described where others are sent.
        checksums: by name, computed where the tensors were made; see `checksum`.

    Raises:
        WeightTransferError: tensors and checksums have different names; looked at again by who
            receives a bundle.
    """

    version: int
    tensors: Mapping[str, Tensor]
    checksums: Mapping[str, int]

    def __post_init__(self) -> None:
        if differing := self.tensors.keys() ^ self.checksums.keys():
            name = min(differing)
            found = "no tensor" if name in self.checksums else "no checksum"
            raise _altered(name, f"the bundle of version {self.version}", found, "both")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.version, self.tensors, self.checksums)

    @property
    def nbytes(self) -> int:
        """Of all tensors together; shared memory is not looked at."""
        if isinstance(self.tensors, SharedTensors):
            return self.tensors.nbytes
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @classmethod
    def of(cls, version: int, tensors: Mapping[str, Tensor]) -> WeightBundle:
        return cls(version, tensors, {name: checksum(t) for name, t in tensors.items()})


@dataclass(frozen=True, slots=True)
class TransferReceipt:
    """What an engine holds after a transfer: computed from its *own* copy of the tensors."""

    version: int
    checksums: Mapping[str, int]


def verify_receipt(bundle: WeightBundle, receipt: TransferReceipt, where: str = "engine") -> None:
    """Compare what was sent with what arrived: names, then the version, then every checksum.

    Args:
        where: names the engine in the message.

    Raises:
        WeightTransferError: a tensor is missing, unexpected or altered, or the version differs;
            the message names the first such tensor.
    """
    names = sorted(bundle.checksums.keys() | receipt.checksums.keys())
    for name in names:
        if name not in receipt.checksums:
            raise _altered(name, where, "missing", "its checksum")
        if name not in bundle.checksums:
            raise _altered(name, where, "a tensor of this name", "no such tensor")
    if receipt.version != bundle.version:
        raise WeightTransferError(
            "the engine holds another policy version than the learner sent",
            where=where,
            found=f"version {receipt.version}",
            needed=f"version {bundle.version}",
        )
    for name in names:
        sent, arrived = bundle.checksums[name], receipt.checksums[name]
        if sent != arrived:
            raise _altered(name, where, f"checksum {arrived:016x}", f"checksum {sent:016x}")


def _altered(name: str, where: str, found: str, needed: str) -> WeightTransferError:
    return WeightTransferError(
        f"tensor {name!r} did not arrive as it was sent",
        where=where,
        found=found,
        needed=needed,
        remedy="nothing was sampled with these weights; resume from the last checkpoint",
    )
