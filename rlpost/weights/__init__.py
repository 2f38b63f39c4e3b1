"""A policy version on its way from the learner to the engines, with the proofs that it arrived.

A bundle carries checksums, an engine answers with a receipt, `WeightTransfer` compares and probes.
Within a host the tensors stay in the learner's shared memory (`SharedWeights`) and the bundle describes them.
"""

from rlpost.weights.bundle import TransferReceipt, WeightBundle, verify_receipt
from rlpost.weights.checksums import checksum, copy_with_checksum
from rlpost.weights.shared_memory import host_identity
from rlpost.weights.shared_tensors import SharedTensors
from rlpost.weights.shared_weights import SharedWeights
from rlpost.weights.transfer import WeightTransfer, policy_tensors

__all__ = [
    "SharedTensors",
    "SharedWeights",
    "TransferReceipt",
    "WeightBundle",
    "WeightTransfer",
    "checksum",
    "copy_with_checksum",
    "host_identity",
    "policy_tensors",
    "verify_receipt",
]
