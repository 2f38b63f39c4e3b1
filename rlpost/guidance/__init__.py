"""The body of `rlpost guide`: hard problems, each as it is and with the beginning of a solution too.

POPE (arXiv 2601.18779): `walk` finds the problems that the policy never solves, and the shortest beginning
with which it does; `prefixes` cuts solutions and refuses what holds the answer; `guided` writes the prompts.
What comes out is a dataset of prompts like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlpost.guidance.command import make_guidance

__all__ = ["make_guidance"]


def __getattr__(name: str) -> Any:
    if name == "make_guidance":
        from rlpost.guidance.command import make_guidance

        return make_guidance
    raise AttributeError(name)
