"""ModelWorkers: rollout workers that load the model under evaluation themselves; no learner is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from rlpost.benchmarking.options import EvalOptions
from rlpost.cluster import WORKER, ActorGroup, start_cluster, worker_bundles
from rlpost.config.schema import ClusterConfig, ModelConfig
from rlpost.data.trajectory import Trajectory
from rlpost.errors import WeightTransferError
from rlpost.evaluation.manifest import checksum_of_weights
from rlpost.rollout import RolloutWorker
from rlpost.rollout.engine import Sample, SampleRequest
from rlpost.training.worker_pool import WorkerPool
from rlpost.weights.bundle import TransferReceipt

VERSION = 0
"""The policy version that the samples of saved weights carry."""


class ModelWorkers:
    """A `SampleSource` over workers as training has them: a lost one is replaced, its problems asked again.

    Args:
        capacity: see `SampleSource`.
        report: told when a worker was replaced.
    """

    def __init__(
        self,
        group: ActorGroup,
        cluster: ClusterConfig,
        capacity: int | None,
        report: Callable[[str], None],
    ) -> None:
        self.capacity, self._cluster, self.group = capacity, cluster, group
        self._receipt: TransferReceipt | None = None
        self.pool = WorkerPool(group, cluster, self._prepare, report)

    def load(self) -> str:
        """Have all workers load the model; returns one checksum of its weights.

        Raises:
            WeightTransferError: they did not all load the same.
            ConfigError: the model cannot be loaded.
        """
        receipts: list[TransferReceipt] = self.pool.call_all(
            "load_saved_weights", VERSION, deadline_s=self._cluster.deadline_s, setting="cluster.deadline_s"
        )
        self._receipt = receipts[0]
        for worker, receipt in enumerate(receipts):
            check_same_weights(receipts[0], receipt, f"rollout worker {worker}")
        return checksum_of_weights(receipts[0].checksums)

    @property
    def device(self) -> str:
        """What they hold the model on: torch's name of the kind, such as "cuda"."""
        return self.group.call(0, "receivers").device

    def submit(self, groups: Sequence[Sequence[SampleRequest]]) -> None:
        """Deal the groups out to the workers with the least to do."""
        self.pool.submit(groups)

    def poll(self, wait_s: float) -> list[Sample]:
        """What workers have finished.

        Raises:
            RlpostError: workers were lost too often without a response in between.
        """
        samples = [answer for answer in self.pool.poll(wait_s) if not isinstance(answer, Trajectory)]
        if samples:
            self.pool.forgive()
        return samples

    def _prepare(self, member: int) -> bool:
        receipt = self.group.call(member, "load_saved_weights", VERSION)
        if self._receipt is not None:
            check_same_weights(self._receipt, receipt, f"rollout worker {member}, started anew")
        return True


@contextmanager
def model_workers(
    model: ModelConfig, options: EvalOptions, logs: Path, report: Callable[[str], None]
) -> Iterator[ModelWorkers]:
    """The workers that the options ask for; they end with the context.

    They are Ray actors; one alone lives in this process, unless a Ray cluster is named.
    """
    rollout, on_ray = options.rollout(), options.on_ray
    cluster_config = options.cluster.model_copy(
        update={"mode": "ray" if on_ray else "inline", "address": options.ray_address}
    )
    cores = max(1, (os.cpu_count() or 1) // options.workers)
    worker = {
        "model": model,
        "rollout": rollout,
        "seed": options.seed,
        "threads": cores if on_ray and not torch.cuda.is_available() else None,
        "background": on_ray,
    }
    # Inline, what shares a batch is to depend on the problems alone, so that a result repeats exactly.
    capacity = None if not on_ray and rollout.engine == "torch" else rollout.slots * options.workers
    with start_cluster(cluster_config, logs if on_ray else None, report) as cluster:
        cluster.phase = f"evaluating {model.init}"
        cluster.hold(worker_bundles(options.workers, options.devices_per_worker))
        group = cluster.start_group(WORKER, RolloutWorker, [worker] * options.workers)
        try:
            yield ModelWorkers(group, cluster_config, capacity, report)
        finally:
            if not on_ray:
                group.call_all("close")


def check_same_weights(first: TransferReceipt, other: TransferReceipt, who: str) -> None:
    """Raise WeightTransferError, naming a tensor, where two engines do not hold the same weights."""
    names = sorted(first.checksums.keys() | other.checksums.keys())
    unlike = [name for name in names if first.checksums.get(name) != other.checksums.get(name)]
    if unlike:
        raise WeightTransferError(
            "the workers did not load the same weights",
            where=f"{who}, tensor {unlike[0]!r}",
            found=f"{len(unlike)} of {len(names)} tensors differ from the first worker's",
            needed="the same files for all: a model directory must not change during an evaluation, and must "
            "be the same on every machine",
        )
