"""A policy version on its way from the learner to the engines, with the proofs that it arrived.

A bundle carries checksums, an engine answers with a receipt, `WeightTransfer` compares and probes.
"""

from rlpost.weights.bundle import TransferReceipt, WeightBundle, checksum, verify_receipt
from rlpost.weights.transfer import WeightTransfer, policy_tensors

__all__ = [
    "TransferReceipt",
    "WeightBundle",
    "WeightTransfer",
    "checksum",
    "policy_tensors",
    "verify_receipt",
]
