"""Countdown: reach a target with given numbers; a problem has many right answers."""

from __future__ import annotations

from functools import cache
from itertools import combinations_with_replacement, islice, permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from rlpost.data.tasks.task import Task, hashed_indices
from rlpost.errors import ConfigError

OPERATORS = "+-*"
_DIGITS = range(1, 10)
Hand = tuple[int, ...]
Shape = tuple[tuple[int, ...], tuple[str, ...]]
"""An expression without its numbers: the order in which they stand, and the operators between them."""


class Countdown(Task):
    """`537=22:` is answered by `3*5+7`, or by `7+5*3`: each number once, the target as the value.

    The numbers are digits from 1 to 9; expressions have no parentheses, and `*` binds tighter than `+`
    and `-`. A problem is a hand of numbers and a target from 1 to `highest_target` that some expression
    reaches. A fixed hash holds `test_size` problems out, each asked in one order of its numbers. The train
    split is `size` prompts, drawn by the seed from all orders of all other problems. The demonstration is
    drawn from all right expressions; the column `numbers` is for the reward function.
    """

    numbers: int = Field(default=3, ge=2, le=4)
    """Numbers of a hand."""
    operators: str = OPERATORS
    """What may stand between two numbers: some of `+-*`."""
    highest_target: int = Field(default=50, ge=1)
    """Problems with a larger target are left out."""
    size: int = Field(default=2048, ge=1)
    """Prompts in the train split."""
    test_size: int = Field(default=200, ge=1)
    """Problems in the test split, at most half of all."""

    @field_validator("operators")
    @classmethod
    def _known_operators(cls, operators: str) -> str:
        if not operators or set(operators) - set(OPERATORS) or len(set(operators)) < len(operators):
            raise ValueError(f"needed some of {OPERATORS}, each once")
        return operators

    def _test_rows(self) -> list[dict[str, Any]]:
        generator = np.random.default_rng(0)
        orders = [(i, generator.permutation(self._hand(i)).tolist()) for i in self._held_out()]
        return self._rows([(i, tuple(order)) for i, order in orders], generator)

    def _train_rows(self, seed: int) -> list[dict[str, Any]]:
        held_out, generator = self._held_out(), np.random.default_rng(seed % 2**64)
        pool = [
            (index, order)
            for index in range(len(self._problems))
            if index not in held_out
            for order in _orders(self._hand(index))
        ]
        if self.size > len(pool):
            raise self._too_many("size", self.size, len(pool))
        drawn = generator.choice(len(pool), self.size, replace=False).tolist()
        return self._rows([pool[i] for i in drawn], generator)

    @property
    def _problems(self) -> list[tuple[int, int]]:
        return _problems(self.numbers, self.operators, self.highest_target)

    def _hand(self, index: int) -> Hand:
        return _table(self.numbers, self.operators)[1][self._problems[index][0]]

    def _held_out(self) -> dict[int, None]:
        """Indices of the test problems; a dict because it keeps their order and looks up fast."""
        available = len(self._problems)
        if self.test_size > available // 2:
            raise self._too_many("test_size", self.test_size, available // 2)
        name = f"countdown-{self.numbers}-{self.operators}-{self.highest_target}"
        return dict.fromkeys(islice(hashed_indices(name, available), self.test_size))

    def _rows(self, prompts: list[tuple[int, Hand]], generator: np.random.Generator) -> list[dict[str, Any]]:
        """One row for each (problem, its numbers in the order of the prompt)."""
        shapes, hands, values = _table(self.numbers, self.operators)
        rows = []
        for index, order in prompts:
            hand, target = self._problems[index]
            solving = np.flatnonzero(values[:, hand] == target)
            right = sorted({_written(shapes[i], hands[hand]) for i in solving})
            rows.append(
                {
                    "prompt": f"{''.join(map(str, order))}={target}:",
                    "answer": str(target),
                    "numbers": list(order),
                    "demonstration": right[generator.integers(len(right))],
                }
            )
        return rows

    def _too_many(self, option: str, found: int, available: int) -> ConfigError:
        return ConfigError(
            "the task has fewer problems than wanted",
            where=f"data.task_options.{option}",
            found=found,
            needed=f"at most {available}",
        )


@cache
def _table(numbers: int, operators: str) -> tuple[list[Shape], list[Hand], NDArray[np.int64]]:
    """All shapes, all hands (ascending), and the value of each shape for each hand, [shape, hand]."""
    shapes = list(product(permutations(range(numbers)), product(operators, repeat=numbers - 1)))
    hands = list(combinations_with_replacement(_DIGITS, numbers))
    numbers_by_place = np.array(hands).T
    return shapes, hands, np.stack([_values(shape, numbers_by_place) for shape in shapes])


@cache
def _problems(numbers: int, operators: str, highest_target: int) -> list[tuple[int, int]]:
    """The pairs (index of the hand, target) that some expression solves, ascending."""
    values = _table(numbers, operators)[2]
    reached = (np.unique(column).tolist() for column in values.T)
    return [(hand, t) for hand, targets in enumerate(reached) for t in targets if 1 <= t <= highest_target]


@cache
def _orders(hand: Hand) -> list[Hand]:
    """The hand in every order, each once."""
    return sorted(set(permutations(hand)))


def _values(shape: Shape, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """The value of one shape for every hand; `numbers` is [place, hand]."""
    order, operators = shape
    total, term = np.zeros_like(numbers[0]), numbers[order[0]]
    for operator, place in zip(operators, order[1:], strict=True):
        if operator == "*":
            term = term * numbers[place]
        else:
            total, term = total + term, numbers[place] if operator == "+" else -numbers[place]
    return total + term


def _written(shape: Shape, hand: Hand) -> str:
    order, operators = shape
    return "".join(f"{hand[place]}{after}" for place, after in zip(order, (*operators, ""), strict=True))
