"""How data errors are worded: bad rows collected into one message, and nearest names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from rlpost.errors import DataError

ROWS_SHOWN = 5
_LONGEST_SHOWN = 40
_CONTINUATION = "\n" + " " * 10  # lines up under the value column of RlpostError


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a row stands in its source, from 1: "line 12" of a text file, "row 12" of others."""

    number: int
    unit: str = "row"

    def __str__(self) -> str:
        return f"{self.unit} {self.number}"


class RowError(Exception):
    """One row breaks its schema; caught inside this package and collected in `BadRows`."""


class BadRows:
    """The bad rows of one source, so that one error can speak of all of them."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._found: list[tuple[Place, str]] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, place: Place, problem: str) -> None:
        """Note that the row at `place` cannot be used because of `problem`."""
        self._found.append((place, problem))

    def raise_if_any(self, total: int) -> None:
        """Raise one DataError that lists the first rows and counts all.

        Args:
            total: rows that were looked at.
        """
        if not self._found:
            return
        raise DataError(
            f"{len(self)} of {total} {'row' if total == 1 else 'rows'} cannot be used",
            where=self.source,
            found=listing(f"{place}: {problem}" for place, problem in sorted(self._found)),
            remedy="correct or remove these rows; nothing was started",
        )


def listing(lines: Iterable[str]) -> str:
    """Lines as the value of an error's detail: the first few, and how many more there are."""
    lines = list(lines)
    shown = lines[:ROWS_SHOWN]
    if len(lines) > ROWS_SHOWN:
        shown.append(f"... and {len(lines) - ROWS_SHOWN} more")
    return _CONTINUATION.join(shown)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `name` most likely means; None when nothing is close."""
    by_lower = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[close[0]] if close else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" or nothing; to be put behind a name that was not found."""
    guess = nearest(name, names)
    return f" (did you mean {guess!r}?)" if guess else ""


def describe(value: object) -> str:
    """A value's kind in the words of JSON, and the value itself when it is short."""
    kinds = {str: "text", bool: "a boolean", int: "a number", float: "a number", list: "a list"}
    if value is None:
        return "null"
    kind = kinds.get(type(value), "an object" if isinstance(value, dict) else f"a {type(value).__name__}")
    shown = repr(value)
    return f"{kind} {shown}" if len(shown) <= _LONGEST_SHOWN else kind
