"""Delivery: what every transport comes to."""

from __future__ import annotations

from dataclasses import dataclass

from rlpost.weights.bundle import TransferReceipt, WeightBundle


@dataclass(frozen=True)
class Delivery:
    """A version that all workers have taken.

    Attributes:
        bundle: what was sent, at least its checksums.
        receipts: of every worker, in their order.
        until: when `weights.deadline_s` is over, of `time.monotonic`.
    """

    bundle: WeightBundle
    receipts: list[TransferReceipt]
    until: float
