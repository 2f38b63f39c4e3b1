"""PolicyState: the policy's tensors on a learner rank, and what of them goes to engines and checkpoints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlpost.config.schema import ModelConfig
from rlpost.data.collate import ModelInputs
from rlpost.learner.passes import GradientPasses
from rlpost.learner.policy import Policy
from rlpost.models import Adapter, load_model
from rlpost.weights.fingerprints import combined, fingerprints
from rlpost.weights.places import Place, plan_places
from rlpost.weights.transfer import policy_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PolicyState(GradientPasses):
    """All of the policy is trained, or an adapter beside its frozen weights (`model.lora`).

    What leaves the learner for engines is a plain model either way: an adapter is added to the weights that
    it stands beside. A checkpoint holds what is trained; a reference is a copy of that alone.
    """

    _config: ModelConfig
    _seed: int
    adapter: Adapter | None = None
    reference: Policy | None = None
    """The policy itself where it has an adapter, which keeps another version of its factors."""
    _base: dict[str, str | None] | None = None

    @abstractmethod
    def _shapes(self) -> dict[str, Sequence[int]]:
        """Of every whole tensor of the policy's model, by name, tied ones once."""

    @abstractmethod
    def _weights(self) -> dict[str, Tensor] | None:
        """What a checkpoint holds (`_held`), whole, on the CPU, on rank 0; None on others, which call too."""

    @abstractmethod
    def _pieces(self, *, merged: bool = True) -> Iterator[dict[str, Tensor]]:
        """The whole weights, some at a time; on other ranks than the first nothing.

        In no more memory than a bucket and, with an adapter, the one weight that it was added to. All ranks
        must go through all pieces. A piece is gone when the next is asked for.

        Args:
            merged: with the adapter in them; otherwise those that it stands beside.
        """

    @abstractmethod
    def _set_weights(self, saved: Mapping[str, Tensor]) -> None:
        """Take up what a checkpoint holds, by name; every rank passes all of it."""

    @abstractmethod
    def _factors(self) -> dict[str, Tensor]:
        """Copies of the adapter's whole weights, on every rank, on its device."""

    @abstractmethod
    def _frozen_policy(self) -> Policy:
        """A policy without adapter, with the weights as they are, for good, without gradient."""

    @abstractmethod
    def _policy_of(self, network: PreTrainedModel) -> Policy:
        """The policy that computes with `network`."""

    def _load_policy(self) -> Policy:
        network = load_model(self._config.model_copy(update={"dtype": "float32"}), self._seed)
        return self._policy_of(self._adapted(network.to(device_of(self._ranks.rank))))

    def _adapted(self, network: PreTrainedModel) -> PreTrainedModel:
        """The policy's network, with the adapter where there is to be one."""
        if self._config.lora is not None:
            self.adapter = Adapter(network, self._config, self._seed)
        return network

    def _held(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the policy: its model's tensors, or the adapter's alone."""
        if self.adapter is None:
            return policy_tensors(self.policy.model)
        return dict(self.adapter.trained)

    def _held_shapes(self) -> dict[str, Sequence[int]]:
        shapes = self._shapes()
        return {name: shapes[name] for name in self._held()}

    def _whole(self, dtype: torch.dtype) -> dict[str, Tensor] | None:
        """Copies of the whole weights, an adapter in them, on the CPU, on rank 0; None on others."""
        found = {
            name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
            for piece in self._pieces()
            for name, tensor in piece.items()
        }
        return None if self._ranks.rank else found

    def _places(self, dtype: torch.dtype) -> list[Place]:
        """Where each tensor that `_pieces` gives lies in one stretch of memory."""
        own, shapes = policy_tensors(self.policy.model), self._shapes()
        whole = {n: torch.empty(shapes[n], dtype=own[n].dtype, device="meta") for n in own}
        return plan_places(whole if self.adapter is None else dict(self.adapter.base(whole)), 0, dtype)

    def _beside(self) -> dict[str, str | None] | None:
        """What the adapter stands beside, as in `save_state`, the same on every rank; None without one."""
        if self.adapter is not None and self._base is None:
            found: dict[str, int] = {}
            for piece in self._pieces(merged=False):
                found |= fingerprints(piece)
            facts = {"init": self._config.init, "revision": self._config.revision}
            self._base = self._ranks.gather(facts | {"fingerprint": combined(found)})[0]
        return self._base

    def _count(self) -> dict[str, float]:
        """How many parameters are trained, as metrics."""
        shapes, parameters = self._shapes(), dict(self.policy.model.named_parameters())
        sizes = {name: torch.Size(shapes[name]).numel() for name in parameters}
        trained = sum(size for name, size in sizes.items() if parameters[name].requires_grad)
        return {
            "learner/trainable_parameters": float(trained),
            "learner/trainable_share": trained / sum(sizes.values()),
        }

    def _freeze(self) -> Policy:
        """The reference: the policy as it is, for good."""
        if self.adapter is None:
            return self._frozen_policy()
        self.adapter.freeze(self._factors())
        return self.policy

    def _drop_reference(self) -> None:
        """Before the next one: there need not be memory for both."""
        self.reference = None
        if self.adapter is not None:
            self.adapter.thaw()

    def _logprobs_of_reference(self, reference: Policy, inputs: ModelInputs, temperature: float) -> Tensor:
        if self.adapter is None:
            return self._frozen_logprobs(reference, inputs, temperature)
        with self.adapter.frozen():
            return self._all_logprobs(inputs, temperature)[0]

    def _saved_reference(self) -> Mapping[str, Tensor] | None:
        """What a checkpoint holds of the reference; all ranks must call."""
        if self.reference is None:
            return None
        return self._reference_weights(self.reference) if self.adapter is None else self.adapter.kept

    def _restore_reference(self, reference: Policy, saved: Mapping[str, Tensor]) -> None:
        """The inverse; every rank passes all of it."""
        if self.adapter is None:
            self._set_reference(reference, saved)
        else:
            device = self.policy.device
            self.adapter.freeze({name: tensor.to(device) for name, tensor in saved.items()})

    def _frozen_logprobs(self, policy: Policy, inputs: ModelInputs, temperature: float) -> Tensor:
        """Under a model of its own: a reference or a teacher."""
        return policy.all_logprobs(inputs, temperature, self._train.tokens_per_microbatch)[0]

    def _reference_weights(self, reference: Policy) -> dict[str, Tensor] | None:
        """The whole weights on rank 0; None or all of them on other ranks, all of which must call."""
        return policy_tensors(reference.model)

    @torch.no_grad()
    def _set_reference(self, reference: Policy, saved: Mapping[str, Tensor]) -> None:
        """Take up whole weights by name; every rank passes all of them."""
        for name, tensor in policy_tensors(reference.model).items():
            tensor.copy_(saved[name])


def device_of(rank: int) -> torch.device:
    """Where a rank computes: an accelerator of its machine in turn, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", rank % torch.cuda.device_count())
