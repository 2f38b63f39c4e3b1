"""What runs inside vLLM's own processes: the weights' way in, the owner's watch, unsampled ids.

vLLM imports this module by its name, in each process that holds a model; nothing of the package
imports it. Only here and in `vllm_engine.py` is vLLM imported.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

from rlpost.rollout.vllm_buckets import as_places, read_update
from rlpost.rollout.vllm_names import BACKEND, OWNER_VARIABLE, VOCABULARY_KEY
from rlpost.weights.broadcast import Receiver, Seat
from rlpost.weights.communicator import Meeting
from rlpost.weights.fingerprints import fingerprints
from rlpost.weights.places import Place


@dataclass
class JoinInfo(WeightTransferInitInfo):
    """Where the learner and all engines meet; not needed for shared memory.

    Attributes:
        meeting: the fields of `Meeting`.
        rank: of the engine's first process.
    """

    meeting: Sequence[Any]
    rank: int


@dataclass
class BucketInfo(WeightTransferUpdateInfo):
    """One bucket.

    Attributes:
        region: the fields of `Region`; empty for a bucket that the learner broadcasts.
        places: the fields of `Place`, for each tensor.
    """

    region: Sequence[Any]
    places: Sequence[Sequence[Any]]


class PolicyTransfer(WeightTransferEngine[JoinInfo, BucketInfo]):
    """Loads buckets with vLLM's layer-wise reload, and keeps what it saw to report.

    vLLM's layers repack what they are given (fused projections, kernel layouts), so a checksum of
    the model's own memory could not be compared with the learner's. Checksums are of the copies
    that this process handed to vLLM; that vLLM loaded each parameter is checked by name.
    """

    init_info_cls = JoinInfo
    update_info_cls = BucketInfo
    supports_draft_weight_update = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.received: dict[str, int] = {}
        self._loaded: set[str] = set()
        self._parameters: set[str] = set()
        self._receiver: Receiver | None = None

    def init_transfer_engine(self, init_info: JoinInfo) -> None:
        """Meet the learner and all engines' processes."""
        self.shutdown()
        parallel = self.parallel_config
        own = parallel.data_parallel_index * parallel.world_size + parallel.rank
        self._receiver = Receiver(Seat(Meeting(*init_info.meeting), init_info.rank + own, ()))

    def start_weight_update(self) -> None:
        """Prepare every layer to be loaded anew."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self.received, self._loaded = {}, set()
        self._parameters = {name for name, _ in self.model.named_parameters()}
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: BucketInfo) -> None:
        """Load one bucket."""
        # vLLM may keep a tensor until the rest of its layer has come, in a later bucket.
        if update_info.region:
            copies = read_update(update_info.region, update_info.places)
            self.received |= {name: checksum for name, (_, checksum) in copies.items()}
            tensors = {name: tensor for name, (tensor, _) in copies.items()}
        else:
            tensors = self._broadcast(as_places(update_info.places))
            self.received |= fingerprints(tensors)
        on_device = ((name, tensor.to(self.device)) for name, tensor in tensors.items())
        self._loaded |= self.model.load_weights(on_device)

    def finish_weight_update(self) -> None:
        """Finish every layer, and repack the heads that layer-wise reload passes over.

        Raises:
            RuntimeError: a parameter of the model was not in any bucket.
        """
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        if missing := sorted(self._parameters - self._loaded):
            raise RuntimeError(f"{len(missing)} parameters were not loaded, {missing[0]!r} the first of them")
        repack_heads(self.model)

    def shutdown(self) -> None:
        """Leave the broadcast."""
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None

    def _broadcast(self, bucket: Sequence[Place]) -> dict[str, torch.Tensor]:
        if self._receiver is None:
            raise RuntimeError("this process has joined no broadcast")
        return self._receiver.receive(bucket)


def repack_heads(model: torch.nn.Module) -> None:
    """Pack embeddings and heads again from their weights.

    On a CPU they multiply with a packed copy of the weight. A head that is tied to the embeddings
    loads no weight of its own, so the reload leaves its copy as it was, and the logits would
    silently be those of the old weights.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for layer in model.modules():
        if isinstance(layer, VocabParallelEmbedding) and hasattr(layer, "cpu_linear"):
            layer.quant_method.process_weights_after_loading(layer)


class WorkerExtension:
    """Methods that vLLM adds to its worker class, for `collective_rpc`."""

    weight_transfer_engine: PolicyTransfer

    def received_checksums(self) -> dict[str, int]:
        """The checksum by name of every tensor of the last weight update."""
        return self.weight_transfer_engine.received


class KnownTokensOnly(LogitsProcessor):
    """Ids that the model has but the tokenizer does not (a padded vocabulary) are never sampled."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self.vocabulary = int(vllm_config.additional_config[VOCABULARY_KEY])

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Take the unknown ids' probability away."""
        logits[:, self.vocabulary :] = float("-inf")
        return logits

    def is_argmax_invariant(self) -> bool:
        """An unknown id could be the likeliest."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Every request is treated alike."""


def end_with_owner(owner: int) -> None:
    """From now on, end this process and its parent engine process when process `owner` ends."""
    engine = os.getppid()
    try:
        handle = os.pidfd_open(owner)
    except ProcessLookupError:
        _end(owner, engine)
        return

    def watch() -> None:
        select.select([handle], [], [])
        _end(owner, engine)

    threading.Thread(target=watch, name="owner-watch", daemon=True).start()


def _end(owner: int, engine: int) -> None:
    # vLLM puts its workers under an engine process, or runs them in it; that one is the owner's child.
    if engine not in (owner, 1) and os.getppid() == engine:
        os.kill(engine, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


WeightTransferEngineFactory.register_engine(BACKEND, PolicyTransfer)
if os.environ.get(OWNER_VARIABLE, str(os.getpid())) != str(os.getpid()):
    end_with_owner(int(os.environ[OWNER_VARIABLE]))
