"""What every learner backend is: signals, updates, weights, checkpoints.

The driver talks to one learner *rank* through exactly these methods; the torch backend
implements them, on one process or over gloo/NCCL ranks, and DeepSpeed implements the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from rlpost.data.collate import ModelInputs
from rlpost.estimator import Objective, Prepared
from rlpost.weights.bundle import WeightBundle


class Learner(Protocol):
    """One rank of the policy's trainer."""

    def signals(self, inputs: ModelInputs, names: Sequence[str], temperature: float) -> dict[str, Tensor]:
        """Per-token signals [N] (float32, CPU) for this rank's rows, without gradient.

        Names: "old_logprob" (current policy), "ref_logprob" (frozen reference), "entropy"
        (current policy, nats). One forward pass per model, whatever is asked for.
        """
        ...

    def update(
        self, inputs: ModelInputs, prepared: Prepared, objective: Objective, temperature: float
    ) -> dict[str, float]:
        """One optimizer step over this rank's rows; gradients are summed over ranks.

        Raises:
            NonFiniteError: before the optimizer step; the batch was saved for replay.
        """
        ...

    def start_stage(self, settings: Mapping[str, object]) -> None:
        """Fresh optimizer state and schedule for a stage (a dumped TrainConfig)."""
        ...

    def export_weights(self) -> WeightBundle:
        """The policy's weights as the version they are."""
        ...

    def save(self, directory: Path) -> None:
        """Weights, optimizer, schedule, version and RNG, enough to go on exactly."""
        ...

    def load(self, directory: Path) -> None:
        """The inverse of `save`."""
        ...

    def save_policy(self, directory: Path) -> None:
        """A plain Hugging Face directory: weights, config, tokenizer, chat template."""
        ...
