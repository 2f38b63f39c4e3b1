"""Copying a letter: correct responses whose lengths differ widely."""

from __future__ import annotations

from itertools import islice
from string import ascii_letters
from typing import Any

import numpy as np
from pydantic import Field

from rlpost.data.tasks.task import Task, hashed_indices
from rlpost.errors import ConfigError


class Ragged(Task):
    """`copy 5 k:` is answered by `kkkkk`; lengths run from 1 to `longest` with a heavy tail.

    A problem is a letter (upper or lower case) and a length n. Problems are drawn without
    repetition with weight 1/n, so that most answers are short and a few are long. Every fifth
    problem, by a fixed hash, is held out for the test split.
    """

    longest: int = Field(default=64, ge=2, le=4096)
    """Characters of the longest answer."""
    size: int = Field(default=512, ge=1)
    """Problems in the train split."""
    test_size: int = Field(default=128, ge=1)
    """Problems in the test split."""

    def _test_rows(self) -> list[dict[str, Any]]:
        return self._drawn(sorted(self._held_out()), self.test_size, "test_size", seed=0)

    def _train_rows(self, seed: int) -> list[dict[str, Any]]:
        held_out = self._held_out()
        pool = [index for index in range(self._problems) if index not in held_out]
        return self._drawn(pool, self.size, "size", seed)

    @property
    def _problems(self) -> int:
        return len(ascii_letters) * self.longest

    def _held_out(self) -> set[int]:
        return set(islice(hashed_indices(f"ragged-{self.longest}", self._problems), self._problems // 5))

    def _drawn(self, pool: list[int], size: int, option: str, seed: int) -> list[dict[str, Any]]:
        if size > len(pool):
            raise ConfigError(
                "the task has fewer problems than wanted",
                where=f"data.task_options.{option}",
                found=size,
                needed=f"at most {len(pool)}",
            )
        weight = 1.0 / np.array([self._problem(index)[1] for index in pool])
        generator = np.random.default_rng(seed % 2**64)
        drawn = generator.choice(pool, size, replace=False, p=weight / weight.sum())
        return [self._row(index) for index in drawn.tolist()]

    def _problem(self, index: int) -> tuple[str, int]:
        letter, shorter = divmod(index, self.longest)
        return ascii_letters[letter], shorter + 1

    def _row(self, index: int) -> dict[str, Any]:
        letter, length = self._problem(index)
        answer = letter * length
        return {"prompt": f"copy {length} {letter}:", "answer": answer, "demonstration": answer}
