"""Chains of digit arithmetic, worked out step by step: easy and hard ones, shown with mistakes or without."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from string import ascii_lowercase
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from rlpost.data.tasks.task import Task
from rlpost.errors import ConfigError

OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}
HELD_OUT_OF = 5
MOST_REPEATED = 1000
"""Problems drawn in a row, none of them new, after which there are too few."""


class Chain(Task):
    """`3b+5c*2=` is answered by `b3+58c8*26`: step b is 3 + 5 = 8, step c is 8 * 2, whose last digit is 6.

    A problem is a digit and steps, each with a letter of its own, an operator and a digit; of every result
    the last digit is kept. The answer writes every step out in five characters, all of which must be right: a
    policy that gets a step right with probability p gets n steps right with p^n.

    There are two levels, each with operators and a number of steps; the column `level` says which one a row
    is of. By default all rows are easy. A demonstration may hold mistakes: a step with a wrong result, with
    which the later steps go on. A fifth of all problems, by a hash of their text, is held out, whatever the
    options: the test split of one level holds no problem that another set of options trains on.
    """

    operators: str = "+-"
    """Those of easy rows."""
    steps: int = Field(default=2, ge=1, le=len(ascii_lowercase))
    """Of easy rows."""
    hard_operators: str = "*"
    """Those of hard rows."""
    hard_steps: int = Field(default=5, ge=1, le=len(ascii_lowercase))
    """Of hard rows."""
    base: int = Field(default=10, ge=2, le=10)
    """Of the numbers: digits are below it, and fewer of them are fewer sums to know."""
    hard_share: float = Field(default=0.0, ge=0, le=1)
    """Chance that a row is hard."""
    mistakes: float = Field(default=0.0, ge=0, lt=1)
    """Chance, at each step, that a demonstration has a wrong result."""
    hard_mistakes: float | None = Field(default=None, ge=0, lt=1)
    """The same of hard rows; None: as in easy ones."""
    size: int = Field(default=512, ge=1)
    """Rows in the train split."""
    test_size: int = Field(default=128, ge=1)
    """Rows in the test split."""

    @field_validator("operators", "hard_operators")
    @classmethod
    def _operators_are_known(cls, value: str) -> str:
        if not value or set(value) - set(OPERATORS):
            raise ValueError(f"needs some of {' '.join(OPERATORS)}")
        return value

    def _test_rows(self) -> list[dict[str, Any]]:
        return self._drawn(np.random.default_rng(0), self.test_size, held_out=True)

    def _train_rows(self, seed: int) -> list[dict[str, Any]]:
        return self._drawn(np.random.default_rng(seed % 2**64), self.size, held_out=False)

    def _drawn(self, generator: np.random.Generator, size: int, *, held_out: bool) -> list[dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {}
        repeated = 0
        for row in self._endless(generator):
            if is_held_out(row["prompt"]) == held_out:
                repeated = repeated + 1 if row["prompt"] in rows else 0
                rows.setdefault(row["prompt"], row)
            if len(rows) == size:
                return list(rows.values())
            if repeated == MOST_REPEATED:
                break
        raise ConfigError(
            "the task has fewer problems than wanted",
            where="data.task_options",
            found=f"{size} rows, {len(rows)} different problems",
            needed="fewer rows, or more steps, operators or numbers",
        )

    def _endless(self, generator: np.random.Generator) -> Iterator[dict[str, Any]]:
        while True:
            yield self._row(generator, hard=bool(generator.random() < self.hard_share))

    def _row(self, generator: np.random.Generator, *, hard: bool) -> dict[str, Any]:
        operators, count = (self.hard_operators, self.hard_steps) if hard else (self.operators, self.steps)
        chance = self.hard_mistakes if hard and self.hard_mistakes is not None else self.mistakes
        names = generator.permutation(list(ascii_lowercase))[:count].tolist()
        signs = generator.choice(list(operators), count).tolist()
        first, *digits = generator.integers(0, self.base, count + 1).tolist()
        steps = list(zip(names, signs, digits, strict=True))
        return {
            "prompt": f"{first}" + "".join(f"{name}{sign}{digit}" for name, sign, digit in steps) + "=",
            "answer": worked(first, steps, self.base, [0] * count),
            "demonstration": worked(first, steps, self.base, slips(generator, count, self.base, chance)),
            "level": "hard" if hard else "easy",
        }


def worked(value: int, steps: list[tuple[str, str, int]], base: int, slipped: list[int]) -> str:
    """The steps with their results, each gone on with.

    Args:
        slipped: what is added to each result; 0 where it is to be right.
    """
    text = ""
    for (name, sign, digit), slip in zip(steps, slipped, strict=True):
        before, value = value, (OPERATORS[sign](value, digit) + slip) % base
        text += f"{name}{before}{sign}{digit}{value}"
    return text


def slips(generator: np.random.Generator, count: int, base: int, chance: float) -> list[int]:
    """For each step 0, or with that chance a number below the base that makes its result wrong."""
    wrong = generator.integers(1, base, count)
    return np.where(generator.random(count) < chance, wrong, 0).tolist()


def is_held_out(prompt: str) -> bool:
    """Whether a problem belongs to test splits; the same under all options, for ever."""
    return int.from_bytes(hashlib.sha256(f"chain/{prompt}".encode()).digest()[:8]) % HELD_OUT_OF == 0
