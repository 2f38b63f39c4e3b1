"""Weights, gradients and optimizer state of one learner rank: arithmetic on the sizes of parameters.

ZeRO (Rajbhandari et al. 2020, section 5) divides over the ranks: from stage 1 on the optimizer's state, from
2 on the gradients, from 3 on the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlpost.sizing.model_facts import Parameter


@dataclass(frozen=True)
class Convention:
    """Bytes of one parameter.

    Attributes:
        weights: that forward passes read.
        gradients: in all forms that are kept.
        masters: the optimizer's own copy of the weights, where there is one.
        moments: of AdamW, both.
    """

    weights: int
    gradients: int
    masters: int
    moments: int

    @property
    def update(self) -> int:
        """All but the weights."""
        return self.gradients + self.masters + self.moments


LEARNER = Convention(weights=4, gradients=4, masters=4, moments=8)
"""Ours: all of it float32. Whole state (ZeRO 0, the torch backend) needs no masters."""
ESTIMATORS = {
    2: Convention(weights=2, gradients=2 + 4, masters=4, moments=8),
    3: Convention(weights=2, gradients=4, masters=4, moments=8),
}
"""DeepSpeed's estimators, by stage: weights of 16 bits, masters and moments of 32; gradients of 32 bits, and
for stage 2 of 16 bits too."""


@dataclass(frozen=True)
class ModelStates:
    """Bytes on one rank between an update's last backward pass and its step.

    Attributes:
        optimizer: masters and moments.
    """

    weights: int
    gradients: int
    optimizer: int


def model_states(
    parameters: Sequence[Parameter], stage: int, ranks: int, convention: Convention = LEARNER
) -> ModelStates:
    """What a rank holds, with DeepSpeed's padding: no rank may hold less than another.

    Args:
        stage: of ZeRO; 0 for the torch backend.
    """
    total = sum(p.elements for p in parameters)
    trained = sum(p.elements for p in parameters if p.trained)
    if stage == 0:
        return ModelStates(
            total * convention.weights, trained * convention.gradients, trained * convention.moments
        )
    if stage == 3:
        whole = sum(-(-p.elements // ranks) for p in parameters)
        part = sum(-(-p.elements // ranks) for p in parameters if p.trained)
    else:
        flat = _flattened(parameters, ranks)
        whole, part = total - trained + flat, flat // ranks
    return ModelStates(
        whole * convention.weights,
        (trained if stage == 1 else part) * convention.gradients,
        part * (convention.masters + convention.moments),
    )


def own_part(parameters: Sequence[Parameter], stage: int, ranks: int) -> int:
    """Trained elements whose optimizer state one rank holds, padding included."""
    if stage == 0:
        return sum(p.elements for p in parameters if p.trained)
    if stage == 3:
        return sum(-(-p.elements // ranks) for p in parameters if p.trained)
    return _flattened(parameters, ranks) // ranks


def _flattened(parameters: Sequence[Parameter], ranks: int) -> int:
    """Elements of ZeRO 1's and 2's flat tensors, matrices and vectors apart, each a multiple of 2 x ranks."""
    unit = 2 * ranks
    sizes = [
        sum(p.elements for p in parameters if p.trained and p.vector == vector) for vector in (False, True)
    ]
    return sum(-(-size // unit) * unit for size in sizes)


_BUFFERS = 1.5
"""The estimators' factor of host memory."""


@dataclass(frozen=True)
class Estimate:
    """What DeepSpeed's estimators answer: bytes of one machine's host memory and of one accelerator."""

    host: int
    accelerator: int


def deepspeed_estimate(
    parameters: int,
    largest_module: int,
    *,
    stage: int,
    ranks_per_machine: int = 1,
    machines: int = 1,
    offload_optimizer: bool = False,
    offload_parameters: bool = False,
) -> Estimate:
    """`estimate_zero2_model_states_mem_needs` and `estimate_zero3_...` of DeepSpeed, from our counts.

    They take half as much again of host memory, for buffers.

    Args:
        parameters: in all, tied ones once.
        largest_module: of the module that holds most itself (`ModelFacts.largest_module`).

    Raises:
        ValueError: another stage than 2 and 3, for which DeepSpeed has no estimator.
    """
    if stage not in ESTIMATORS:
        raise ValueError(f"DeepSpeed has estimators for the stages 2 and 3, found {stage}")
    held, ranks = ESTIMATORS[stage], ranks_per_machine * machines
    gathered = 4 * largest_module if stage == 3 else 0
    if stage == 2:
        weights, loaded = held.weights * parameters, parameters * 4 * ranks_per_machine
        if offload_optimizer:
            # 16 bytes whatever the gradients take: they count those of 32 bits.
            return Estimate(int(parameters * max(4 * ranks, 16) * _BUFFERS), weights)
        return Estimate(int(loaded * _BUFFERS), weights + int(held.update * parameters / ranks))
    if not offload_optimizer:
        everything = held.weights + held.update
        host = int(largest_module * 4 * ranks_per_machine * _BUFFERS)
        return Estimate(host, gathered + int(everything * parameters / ranks))
    outside = held.update + (held.weights if offload_parameters else 0)
    inside = 0 if offload_parameters else int(held.weights * parameters / ranks)
    return Estimate(int(parameters * outside * (1 / machines) * _BUFFERS), gathered + inside)
