"""How data errors are worded: bad rows collected into one message, and nearest names."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from rlpost.errors import DataError

Reason = Literal["not_json", "missing_column", "wrong_type", "empty", "messages", "conflict"]
"""Why a row is broken: no JSON object; a column is not there; its value is of another kind; or empty; chat
messages that nobody can answer here; an id or an answer that contradicts another, or two responses of a pair
that are one."""

REASONS: tuple[Reason, ...] = get_args(Reason)
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

    def __init__(self, reason: Reason, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason


class BadRows:
    """The bad rows of one source, so that one message can speak of all of them."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._found: list[tuple[Place, str]] = []
        self._reasons: Counter[Reason] = Counter()

    def __len__(self) -> int:
        return len(self._found)

    @property
    def reasons(self) -> dict[Reason, int]:
        """How many rows for each reason; every reason is there."""
        return {reason: self._reasons[reason] for reason in REASONS}

    def add(self, place: Place, error: RowError) -> None:
        """Note that the row at `place` cannot be used."""
        self._found.append((place, str(error)))
        self._reasons[error.reason] += 1

    def raise_above(self, share: float, total: int) -> None:
        """Raise one DataError that lists the first rows and counts all, when there are too many.

        Args:
            share: of the rows that may be bad; never all of them.
            total: rows that were looked at.
        """
        if not self._found or (len(self) <= share * total and len(self) < total):
            return
        raise DataError(
            self._headline(total),
            where=self.source,
            found=self._listing(),
            needed=f"at most {share:.4g} of the rows (data.max_broken_share)" if share else None,
            remedy="correct or remove these rows; nothing was started",
        )

    def remark(self, total: int) -> str | None:
        """What to tell when the rows are left out; None without any."""
        if not self._found:
            return None
        counts = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items() if count)
        return f"{self.source}: {self._headline(total)}, left out ({counts})\n{' ' * 10}{self._listing()}"

    def _headline(self, total: int) -> str:
        return f"{len(self)} of {total} {'row' if total == 1 else 'rows'} cannot be used"

    def _listing(self) -> str:
        return listing(f"{place}: {problem}" for place, problem in sorted(self._found))


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
