"""Small pieces of English for plans and messages."""

from __future__ import annotations

from collections.abc import Sequence


def count(number: int, unit: str, units: str | None = None) -> str:
    """`1 step`, `2 steps`; `units` where the plural has no plain s."""
    return f"{number} {unit if number == 1 else units or unit + 's'}"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
