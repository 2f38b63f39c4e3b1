"""WeightBundle: a version of the policy's weights with the proofs of its integrity."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rlpost.errors import WeightTransferError


def checksum(tensor: Tensor) -> int:
    """CRC-32 of the tensor's bytes in memory order; dtype and shape are mixed in."""
    data = tensor.detach().cpu().contiguous()
    crc = zlib.crc32(f"{data.dtype}{tuple(data.shape)}".encode())
    if data.numel() == 0:
        return crc
    return zlib.crc32(data.reshape(-1).view(torch.uint8).numpy(), crc)


@dataclass(frozen=True)
class WeightBundle:
    """Named tensors of one policy version, each with the checksum the learner computed.

    Attributes:
        version: the policy version, counted from 0 (the initial weights).
        tensors: every parameter and persistent buffer of the policy by its Hugging Face name;
            tied tensors appear once.
        checksums: CRC-32 by name, computed where the tensors were made.
    """

    version: int
    tensors: Mapping[str, Tensor]
    checksums: Mapping[str, int]

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
            raise _altered(name, where, f"checksum {arrived:08x}", f"checksum {sent:08x}")


def _altered(name: str, where: str, found: str, needed: str) -> WeightTransferError:
    return WeightTransferError(
        f"tensor {name!r} did not arrive as it was sent",
        where=where,
        found=found,
        needed=needed,
        remedy="nothing was sampled with these weights; resume from the last checkpoint",
    )
