"""Verifiable reward functions, one readable file each, meant to be copied and changed.

A file holds `reward(...)`, whose arguments are `completion`, `prompt` and any of the dataset's columns, and
`selfcheck()`, its cases with the scores they must get. Importing this package needs the standard library
alone.
"""

from __future__ import annotations

from pathlib import Path

ALIASES = {"math": "math_answer"}


def names() -> list[str]:
    """The shipped reward functions, by the names that a configuration may use."""
    files = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return sorted([name for name in files if not name.startswith("_")] + list(ALIASES))


def find(name: str) -> Path | None:
    """The file of the shipped reward function `name`; None when there is none."""
    if name not in names():
        return None
    return Path(__file__).parent / f"{ALIASES.get(name, name)}.py"
