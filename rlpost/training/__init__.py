"""The training loop, the run directory, checkpoints and resuming; and replaying a saved step.

Everything below this folder is told what to do; here it is decided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlpost.training.replaying import replay
    from rlpost.training.run import train

__all__ = ["replay", "train"]


def __getattr__(name: str) -> Any:
    if name == "train":
        from rlpost.training.run import train

        return train
    if name == "replay":
        from rlpost.training.replaying import replay

        return replay
    raise AttributeError(name)
