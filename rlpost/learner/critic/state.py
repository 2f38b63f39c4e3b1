"""A critic's state on disk, beside the policy's: safetensors and JSON, the same from every backend."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rlpost.errors import CheckpointError
from rlpost.learner.learner_state import write_tensors

WEIGHTS, OPTIMIZER, FACTS = "critic.safetensors", "critic_optimizer.safetensors", "critic.json"


def save_critic(
    directory: Path,
    *,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    updates: int,
    kind: Mapping[str, Any],
) -> None:
    """Write the files that the function below and `saved_tensors` read.

    Args:
        weights: whole float32 tensors by the critic's own names; of a shared backbone the head alone.
        moments: AdamW's state as in `save_state`.
        updates: of the critic in the stage.
        kind: what makes the weights fit another critic; JSON values.
    """
    write_tensors(directory / WEIGHTS, weights)
    write_tensors(directory / OPTIMIZER, moments)
    (directory / FACTS).write_text(json.dumps({"updates": updates, "kind": dict(kind)}, indent=2) + "\n")


def saved_critic(directory: Path) -> tuple[int, dict[str, Any]] | None:
    """The updates and the kind of the critic that was saved; None when there was none.

    Raises:
        CheckpointError: the facts are damaged.
    """
    path = directory / FACTS
    if not path.exists():
        return None
    try:
        facts = json.loads(path.read_text())
        return int(facts["updates"]), dict(facts["kind"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError("the critic's state cannot be read", where=path, found=error) from error
