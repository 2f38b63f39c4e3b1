"""What every learner backend is: signals, updates, weights, checkpoints.

The driver talks to one learner *rank* through exactly these methods, and calls each of them on all
ranks, which may wait for each other in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from rlpost.config.schema import TeacherConfig, TrainConfig
from rlpost.data.collate import ModelInputs
from rlpost.estimator import Objective, Prepared
from rlpost.learner.critic import CriticPlan
from rlpost.learner.weight_export import Offer
from rlpost.weights.bundle import WeightBundle
from rlpost.weights.communicator import Meeting


class Learner(Protocol):
    """One rank of the policy's trainer."""

    def signals(self, inputs: ModelInputs, names: Sequence[str], temperature: float) -> dict[str, Tensor]:
        """Per-token signals [N] (float32, CPU) for this rank's rows, without gradient.

        Names: "old_logprob" (current policy), "ref_logprob" (frozen reference), "teacher_logprob"
        (the stage's teacher), "entropy" (current policy, nats), and the heads of the stage's critic, such as
        "value". One forward pass per model, whatever is asked for.
        """
        ...

    def update(
        self,
        inputs: ModelInputs,
        prepared: Prepared,
        objective: Objective,
        temperature: float,
        values_only: bool = False,
    ) -> dict[str, float]:
        """One optimizer step over this rank's rows, and one of the critic; gradients are summed over ranks.

        Args:
            values_only: the critic alone learns; the policy stays as it is.

        Raises:
            NonFiniteError: before either step; the batch was saved for replay.
        """
        ...

    def start_stage(
        self,
        train: TrainConfig,
        reference: bool,
        critic: CriticPlan | None = None,
        teacher: TeacherConfig | None = None,
    ) -> None:
        """Fresh optimizer state and schedule; with `reference`, freeze a copy of the weights as they are.

        Args:
            critic: the stage's; one of the same kind that the stage before had goes on.
            teacher: the model that gives "teacher_logprob"; it is never trained, and not saved.
        """
        ...

    def export_weights(self, version: int, shared: bool = False) -> WeightBundle | None:
        """A snapshot of the policy's weights under the driver's version number, on rank 0.

        None on the other ranks, all of which must be called.

        Args:
            shared: leave the tensors in shared memory of rank 0's process and describe them in the
                bundle, for engines on the same host; good until the second export after this one.
        """
        ...

    def offer_weights(self, local: bool, deadline_s: float) -> Offer | None:
        """Wait for engines that are to receive the weights together; rank 0 says where, and what is to come.

        Args:
            local: all engines are on this host.
            deadline_s: longest wait for them, here and in the calls that follow.
        """
        ...

    def join_broadcast(self, meeting: Meeting) -> None:
        """Meet the engines, which join at the same time; after `offer_weights`, on all ranks.

        Raises:
            BrokenTransferError: not all of them came.
        """
        ...

    def send_weights(self, version: int) -> WeightBundle | None:
        """Send a snapshot of the weights to the engines, while all of them receive; on all ranks.

        On rank 0, the bundle has fingerprints of what was sent, and tensors without contents.

        Raises:
            BrokenTransferError: an engine is gone or too late; `offer_weights` is next.
        """
        ...

    def probe(self, sequences: Sequence[tuple[int, ...]]) -> list[tuple[float, ...]]:
        """Log-probs (temperature 1) of tokens 1.. of each sequence, as in `Engine.probe`.

        All ranks must be called, with the same sequences.
        """
        ...

    def save(self, directory: Path) -> None:
        """Weights, optimizer, schedule, reference and RNG, enough to go on exactly; rank 0 writes.

        Every backend writes the same files, and reads those of any other and of any number of ranks.
        """
        ...

    def load(self, directory: Path, weights_only: bool = False) -> None:
        """The inverse of `save`, after `start_stage`.

        Args:
            weights_only: leave optimizer, schedule and reference of the new stage as they are; a
                reference is frozen again from the loaded weights.

        Raises:
            CheckpointError: the saved weights are those of another architecture.
        """
        ...

    def save_policy(self, directory: Path) -> None:
        """A plain Hugging Face directory: weights, config, tokenizer, chat template."""
        ...
