"""Sums of two numbers, the answer written with its last digit first."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
from pydantic import Field

from rlpost.data.tasks.task import Task, hashed_indices
from rlpost.errors import ConfigError

_HELD_OUT = 500
_LISTED_DIGITS = 2


class Addition(Task):
    """`12+34=` is answered by `64`: 46 with its digits reversed, in the order carries are made.

    The problems are all ordered pairs of operands with exactly `digits` digits. 500 of them (a fifth
    where there are fewer than 2,500) are the test split, chosen by a fixed hash; the train split
    is all others, in an order that the seed decides. `12+34=` and `34+12=` are different problems. The
    column "rejected" has a sum in which the carry of the ones was forgotten, or that is one too large where
    there is none.
    """

    digits: int = Field(default=2, ge=1, le=9)
    """Digits of each operand; above 2, `size` must be given."""
    reversed: bool = True
    """Write the answer with its last digit first."""
    size: int | None = Field(default=None, ge=1)
    """Problems in the train split; None takes all."""

    def _test_rows(self) -> list[dict[str, Any]]:
        return [self._row(index) for index in self._held_out()]

    def _train_rows(self, seed: int) -> list[dict[str, Any]]:
        held_out = self._held_out()
        available = self._problems - len(held_out)
        if self.size is None and self.digits > _LISTED_DIGITS:
            raise ConfigError(
                f"{available} problems are too many to list",
                where="data.task_options",
                needed=f"size, because digits = {self.digits} is above {_LISTED_DIGITS}",
            )
        size = available if self.size is None else self.size
        if size > available:
            raise ConfigError(
                "the task has fewer problems than wanted",
                where="data.task_options.size",
                found=size,
                needed=f"at most {available}",
            )
        drawn = _distinct(self._problems, size + len(held_out), seed)
        return [self._row(index) for index in islice((i for i in drawn if i not in held_out), size)]

    @property
    def _lowest(self) -> int:
        return 0 if self.digits == 1 else 10 ** (self.digits - 1)

    @property
    def _operands(self) -> int:
        return 10**self.digits - self._lowest

    @property
    def _problems(self) -> int:
        return self._operands**2

    def _held_out(self) -> dict[int, None]:
        """Indices of the test problems; a dict because it keeps their order and looks up fast."""
        count = min(_HELD_OUT, self._problems // 5)
        return dict.fromkeys(islice(hashed_indices(f"addition-{self.digits}", self._problems), count))

    def _row(self, index: int) -> dict[str, Any]:
        a, b = (self._lowest + part for part in divmod(index, self._operands))
        written = str(a + b)
        answer = written[::-1] if self.reversed else written
        carried = a % 10 + b % 10 > 9
        wrong = str(a + b - 10 if carried else a + b + 1)
        return {
            "prompt": f"{a}+{b}=",
            "answer": answer,
            "demonstration": answer,
            "rejected": wrong[::-1] if self.reversed else wrong,
        }


def _distinct(count: int, size: int, seed: int) -> list[int]:
    """`size` different indices below `count` in random order, without listing all of a large range."""
    return np.random.default_rng(seed % 2**64).choice(count, size, replace=False).tolist()
