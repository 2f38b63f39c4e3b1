"""Critic: the value network of a learner rank, its passes and steps, but for where its tensors live."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlpost.config.schema import CriticConfig, TrainConfig
from rlpost.data.collate import ModelInputs
from rlpost.errors import CheckpointError
from rlpost.estimator import Measures, Prepared
from rlpost.learner.critic.losses import HeadLoss, head_loss
from rlpost.learner.critic.state import OPTIMIZER, WEIGHTS, save_critic, saved_critic
from rlpost.learner.learner_state import read_tensors, saved_tensors
from rlpost.learner.local_update import on_cpu
from rlpost.learner.microbatch import BLANK, cut
from rlpost.learner.optimizer import learning_rate
from rlpost.learner.ranks import Ranks


@dataclass(frozen=True)
class CriticPlan:
    """What a stage's critic is to be.

    Attributes:
        heads: the signals it gives: values, one for each horizon, of which the last is the actor's; or
            "outcome", a token reward model's logit.
    """

    settings: CriticConfig
    heads: tuple[str, ...]

    @property
    def kind(self) -> dict[str, Any]:
        """What must be equal for the weights of one critic to fit another; JSON values."""
        return {"shared": self.settings.shared, "init": self.settings.init, "heads": list(self.heads)}

    @property
    def loss(self) -> HeadLoss:
        """What the heads learn."""
        return head_loss(self.heads, self.settings.value_clip)

    def as_json(self) -> dict[str, Any]:
        """For a saved batch; `from_json` is the inverse."""
        return {"settings": self.settings.model_dump(mode="json"), "heads": list(self.heads)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CriticPlan:
        return cls(CriticConfig(**value["settings"]), tuple(value["heads"]))

    def train(self, train: TrainConfig) -> TrainConfig:
        """The critic's optimizer settings in a stage."""
        own = self.settings
        changes = {
            "learning_rate": own.learning_rate,
            "warmup_steps": 0,
            "max_grad_norm": own.max_grad_norm,
        }
        return train.model_copy(update=changes)

    def policy_train(self, train: TrainConfig) -> TrainConfig:
        """The policy's, whose schedule begins when the critic's warm-up is over."""
        return train.model_copy(update={"steps": train.steps - self.settings.warmup_steps})


class Critic(ABC):
    """V_t, what the heads make of the state before token t, and how they learn their `value_targets`.

    The loss is a mean over the whole update, on all ranks, so it depends neither on micro-batches nor on
    the number of ranks. A backend says where weights, gradients and optimizer state live. All methods are
    called by all ranks.
    """

    def __init__(self, plan: CriticPlan, train: TrainConfig, ranks: Ranks, device: torch.device) -> None:
        self.plan, self._train, self._ranks, self._device = plan, plan.train(train), ranks, device
        self.updates = 0

    def restart(self, plan: CriticPlan, train: TrainConfig) -> None:
        """Fresh optimizer state and schedule for another stage; `plan` is of the same kind."""
        self.plan, self._train, self.updates = plan, plan.train(train), 0
        self._restart()

    def signals(self, inputs: ModelInputs) -> dict[str, Tensor]:
        """The values [N] (float32, CPU) of each head, without gradient."""
        sizes = [len(ids) for ids in inputs.response_ids]
        pieces = [torch.zeros(0, len(self.plan.heads))] * len(sizes)
        bins = [rows for rows in self._cut(inputs) if any(sizes[row] for row in rows)]
        for number in range(self._reading_passes(len(bins))):
            rows = bins[number] if number < len(bins) else []
            value_NK = self._read(inputs.rows(rows) if rows else BLANK).float().cpu()
            if rows:
                for row, piece in zip(rows, value_NK.split([sizes[row] for row in rows]), strict=True):
                    pieces[row] = piece
        value_NK = torch.cat([torch.zeros(0, len(self.plan.heads)), *pieces])
        return {head: value_NK[:, k].contiguous() for k, head in enumerate(self.plan.heads)}

    def accumulate(self, inputs: ModelInputs, prepared: Prepared, *, alone: bool) -> Measures:
        """Forward and backward passes over this rank's rows; the gradient stays in place.

        Args:
            alone: the policy takes no step, so nothing of it may change.

        Returns:
            sums that add up over ranks, for `critic_report`.
        """
        self._start_gradient(alone)
        counts = self._ranks.gather({"units": self.plan.loss.units(prepared.batch)})
        units = sum(count["units"] for count in counts)
        bins = self._cut(inputs)
        passes = self._passes(len(bins))
        measures = Measures()
        for number in range(passes):
            last = number == passes - 1
            if number >= len(bins):
                self._backward(self._values(BLANK).sum() * 0.0, last)
                continue
            rows = bins[number]
            part = prepared.rows(torch.tensor(rows, dtype=torch.int64)).to(self._device)
            loss, measured = self._loss(self._values(inputs.rows(rows)), part, units)
            self._backward(loss, last)
            measures = measures + on_cpu(measured)
        return measures

    def fault(self, measures: Measures) -> str | None:
        """What is not finite on this rank after `accumulate`, in words; None when all is well."""
        loss = float(measures.sums.get(self.plan.loss.metric, 0.0))
        return None if torch.tensor(loss).isfinite() else f"the critic's loss is {loss}"

    def step(self, norm: Tensor) -> dict[str, float]:
        """Clip the gradient, whose norm is `norm`, and take an optimizer step; returns what to report."""
        rate = learning_rate(self._train, self.updates)
        self._step(rate, norm)
        self.updates += 1
        return {"critic/grad_norm": float(norm), "critic/learning_rate": rate}

    def write(self, directory: Path) -> None:
        """Save all that is needed to go on exactly; rank 0 writes."""
        weights, moments = self._weights(), self._moments()
        if weights is not None and moments is not None:
            kind = self.plan.kind
            save_critic(directory, weights=weights, moments=moments, updates=self.updates, kind=kind)

    def load(self, directory: Path, *, weights_only: bool) -> bool:
        """The inverse of `write`.

        Args:
            weights_only: leave the optimizer and the schedule of the new stage as they are.

        Returns:
            whether a critic of this kind was saved.

        Raises:
            CheckpointError: what was saved is damaged or of another architecture.
        """
        saved = saved_critic(directory)
        if saved is None or saved[1] != self.plan.kind:
            return False
        self._set_weights(saved_tensors(directory / WEIGHTS, self._shapes()))
        if not weights_only:
            self._set_moments(read_tensors(directory / OPTIMIZER))
            self.updates = saved[0]
        return True

    @abstractmethod
    def close(self) -> None:
        """Give up what a library keeps of it; nothing of the critic can be used after that."""

    @abstractmethod
    def summed_norm(self) -> Tensor:
        """The norm of the gradient summed over ranks, which is now in place; the same on every rank."""

    @abstractmethod
    def discard_gradient(self) -> None:
        """Forget the gradient, as if there had been no backward pass."""

    @abstractmethod
    def _restart(self) -> None:
        """Take up `_train`: layout, optimizer settings, fresh optimizer state."""

    @abstractmethod
    def _values(self, inputs: ModelInputs) -> Tensor:
        """V [N, K] of the rows' response tokens, with gradient; one forward pass."""

    @abstractmethod
    def _read(self, inputs: ModelInputs) -> Tensor:
        """The same without gradient."""

    @abstractmethod
    def _passes(self, microbatches: int) -> int:
        """How many forward and backward passes this rank makes for so many micro-batches of its own."""

    @abstractmethod
    def _reading_passes(self, microbatches: int) -> int:
        """The same of passes without gradient."""

    @abstractmethod
    def _start_gradient(self, alone: bool) -> None:
        """Before the first backward pass of an update."""

    @abstractmethod
    def _backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of `loss`; `last` says that no other follows in this update."""

    @abstractmethod
    def _step(self, rate: float, norm: Tensor) -> None:
        """Clip the gradient and take an optimizer step; the gradient is gone then."""

    @abstractmethod
    def _shapes(self) -> dict[str, Sequence[int]]:
        """Of every whole tensor of the critic's own, by name."""

    @abstractmethod
    def _weights(self) -> dict[str, Tensor] | None:
        """The whole weights on rank 0, on the CPU; None on other ranks."""

    @abstractmethod
    def _set_weights(self, saved: Mapping[str, Tensor]) -> None:
        """Take up whole weights by name; every rank passes all of them."""

    @abstractmethod
    def _moments(self) -> dict[str, Tensor] | None:
        """AdamW's state as in `save_state` on rank 0; None on other ranks."""

    @abstractmethod
    def _set_moments(self, saved: Mapping[str, Tensor]) -> None:
        """Take up AdamW's state; every rank passes all of it."""

    def _cut(self, inputs: ModelInputs) -> list[list[int]]:
        return cut(inputs.lengths, self._train.tokens_per_microbatch, self._train.layout)

    def _loss(self, value_NK: Tensor, part: Prepared, units: int) -> tuple[Tensor, Measures]:
        """This part's share of the loss, and what it measures.

        Args:
            units: what the loss is a mean over, in the whole update, on all ranks.
        """
        loss = self.plan.loss
        if not units or not loss.units(part.batch):
            # A pass without units keeps its graph, because a backend may wait for its gradient.
            return value_NK.sum() * 0.0, Measures()
        return loss(value_NK, part, units)


def load_critic(critic: Critic | None, directory: Path) -> None:
    """Take up a saved critic to go on with its stage.

    Raises:
        CheckpointError: what was saved does not belong to this critic, or a critic to what was saved.
    """
    saved = saved_critic(directory)
    if critic is None and saved is None:
        return
    if critic is None or not critic.load(directory, weights_only=False):
        raise CheckpointError(
            "the saved critic and this learner's are not the same",
            where=directory,
            found="no critic" if saved is None else f"a critic of {saved[1]}",
            needed="none: the algorithm reads no values" if critic is None else f"one of {critic.plan.kind}",
            remedy="resume with the algorithm and the `critic` that the checkpoint was written under",
        )
