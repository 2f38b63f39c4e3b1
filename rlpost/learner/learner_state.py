"""A learner's state on disk: safetensors for tensors, JSON for the rest, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rlpost.errors import CheckpointError

WEIGHTS, REFERENCE, OPTIMIZER, RNG, FACTS = (
    "weights.safetensors",
    "reference.safetensors",
    "optimizer.safetensors",
    "rng.safetensors",
    "learner.json",
)
FORMAT = 1
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""AdamW's state of one parameter."""
NAMED_AT_MOST = 8
"""Differing tensors that an error message lists before it counts the rest."""


def save_state(
    directory: Path,
    *,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    updates: int,
    reference: Mapping[str, Tensor] | None,
    base: Mapping[str, str | None] | None = None,
) -> None:
    """Write the files that the functions below read; every backend writes the same ones.

    Args:
        weights: whole float32 tensors by their names in the model, tied ones once; with an adapter, its
            tensors alone.
        moments: AdamW's state as `KEY.NAME`, with the keys of `MOMENTS`.
        updates: optimizer updates done in the stage, on which the learning rate depends.
        reference: the same tensors of the frozen reference, if there is one.
        base: what an adapter stands beside: "init", "revision" and "fingerprint".
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_tensors(directory / WEIGHTS, weights)
    write_tensors(directory / OPTIMIZER, moments)
    write_tensors(directory / RNG, _rng_tensors())
    if reference is not None:
        write_tensors(directory / REFERENCE, reference)
    facts = {"format": FORMAT, "updates": updates, "reference": reference is not None}
    if base is not None:
        facts["base"] = dict(base)
    (directory / FACTS).write_text(json.dumps(facts, indent=2) + "\n")


def saved_updates(directory: Path, *, reference: bool) -> int:
    """The number of updates done in the stage when the state was saved.

    Args:
        reference: whether the learner that is to take up the state holds a reference.

    Raises:
        CheckpointError: the facts are missing or damaged, or a reference is held here and not saved
            (or the other way round).
    """
    facts = _facts(directory)
    if facts["reference"] != reference:
        raise CheckpointError(
            "the saved learner and this one do not both hold a reference model",
            where=directory,
            found="a reference" if facts["reference"] else "no reference",
            needed="one: the objective reads ref_logprob" if reference else "none",
            remedy="resume with the algorithm that the checkpoint was written under",
        )
    return int(str(facts["updates"]))


def check_base(directory: Path, base: Mapping[str, str | None] | None) -> None:
    """Raise CheckpointError unless what was saved stands beside these very weights.

    Args:
        base: as in `save_state`; None for a learner that trains all weights.
    """
    saved = _facts(directory).get("base")
    if (saved is None) != (base is None):
        raise CheckpointError(
            "the saved learner and this one do not train the same weights",
            where=directory,
            found="all weights of the model" if saved is None else "an adapter",
            needed="all weights" if base is None else "an adapter (model.lora)",
            remedy="resume with the `model.lora` that the checkpoint was written under",
        )
    if isinstance(saved, dict) and base is not None and saved["fingerprint"] != base["fingerprint"]:
        raise CheckpointError(
            "the saved adapter was trained beside other weights",
            where=directory,
            found=_spell_base(saved),
            needed=_spell_base(base),
            remedy="resume with the base model that the checkpoint was written with (model.init)",
        )


def _spell_base(base: Mapping[str, str | None]) -> str:
    revision = f" at revision {base['revision']}" if base["revision"] else ""
    return f"{base['init']}{revision}, whose weights have the fingerprint {base['fingerprint']}"


def saved_tensors(path: Path, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The tensors of a file, which must have these names and shapes.

    Raises:
        CheckpointError: the file is missing, damaged, or of another architecture.
    """
    saved = read_tensors(path)
    found = {name: list(tensor.shape) for name, tensor in saved.items()}
    needed = {name: list(shape) for name, shape in shapes.items()}
    differing = [
        f"{name}: saved {found.get(name, 'nothing')}, here {needed.get(name, 'nothing')}"
        for name in sorted(found.keys() | needed.keys())
        if found.get(name) != needed.get(name)
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
    return saved


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError("saved tensors cannot be read", where=path, found=error) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `read_tensors`."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def restore_rng(directory: Path) -> None:
    """Set torch's random state to the saved one.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    states = read_tensors(directory / RNG)
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


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


def _rng_tensors() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states
