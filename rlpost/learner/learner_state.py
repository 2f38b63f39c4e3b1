"""A learner's state on disk: safetensors for tensors, JSON for the rest, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from rlpost.errors import CheckpointError
from rlpost.weights.transfer import policy_tensors

WEIGHTS, REFERENCE, OPTIMIZER, RNG, FACTS = (
    "weights.safetensors",
    "reference.safetensors",
    "optimizer.safetensors",
    "rng.safetensors",
    "learner.json",
)
FORMAT = 1
NAMED_AT_MOST = 8
"""Differing tensors that an error message lists before it counts the rest."""


def save_state(
    directory: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    updates: int,
    reference: nn.Module | None,
) -> None:
    """Write everything that `load_state` reads.

    Args:
        updates: optimizer updates done in the stage, on which the learning rate depends.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / WEIGHTS, policy_tensors(model))
    _write(directory / OPTIMIZER, _optimizer_tensors(model, optimizer))
    _write(directory / RNG, _rng_tensors())
    if reference is not None:
        _write(directory / REFERENCE, policy_tensors(reference))
    facts = {"format": FORMAT, "updates": updates, "reference": reference is not None}
    (directory / FACTS).write_text(json.dumps(facts, indent=2) + "\n")


def load_weights(directory: Path, model: nn.Module) -> None:
    """Copy the saved weights into `model`.

    Raises:
        CheckpointError: they are missing, damaged, or of another architecture.
    """
    _copy_into(directory / WEIGHTS, policy_tensors(model))


def load_state(
    directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer, reference: nn.Module | None
) -> int:
    """Copy the saved state into what is given; returns the number of updates done in the stage.

    Raises:
        CheckpointError: a file is missing or damaged, the weights are of another architecture, or a
            reference is held here and not saved (or the other way round).
    """
    facts = _facts(directory)
    if facts["reference"] != (reference is not None):
        raise CheckpointError(
            "the saved learner and this one do not both hold a reference model",
            where=directory,
            found="a reference" if facts["reference"] else "no reference",
            needed="none" if reference is None else "one: the objective reads ref_logprob",
            remedy="resume with the algorithm that the checkpoint was written under",
        )
    load_weights(directory, model)
    if reference is not None:
        _copy_into(directory / REFERENCE, policy_tensors(reference))
    _restore_optimizer(directory / OPTIMIZER, model, optimizer)
    _restore_rng(_read(directory / RNG))
    return int(facts["updates"])


def _facts(directory: Path) -> dict[str, object]:
    path = directory / FACTS
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError("the learner's state cannot be read", where=path, found=error) from error
    if facts.get("format") != FORMAT:
        raise CheckpointError(
            "the learner's state has another format",
            where=path,
            found=facts.get("format"),
            needed=FORMAT,
            remedy="resume with the version of rlpost that wrote it",
        )
    return facts


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{key}.{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _restore_optimizer(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    saved = _read(path)
    optimizer.state.clear()
    for name, parameter in model.named_parameters():
        state = {
            key: saved[f"{key}.{name}"]
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"{key}.{name}" in saved
        }
        if state:
            # AdamW keeps its step counter on the CPU.
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
            }


def _rng_tensors() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore_rng(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError("saved tensors cannot be read", where=path, found=error) from error


def _copy_into(path: Path, own: Mapping[str, Tensor]) -> None:
    saved = _read(path)
    differing = [
        f"{name}: saved {_shape(saved.get(name))}, here {_shape(own.get(name))}"
        for name in sorted(saved.keys() | own.keys())
        if _shape(saved.get(name)) != _shape(own.get(name))
    ]
    if differing:
        more = len(differing) - NAMED_AT_MOST
        listed = differing[:NAMED_AT_MOST] + ([f"and {more} more"] if more > 0 else [])
        raise CheckpointError(
            "the saved weights are those of another architecture",
            where=path,
            found="; ".join(listed),
            needed="the same names and shapes",
            remedy="resume with the model that the checkpoint was written with",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def _shape(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else str(list(tensor.shape))
