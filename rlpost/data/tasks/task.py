"""What every synthetic task is: typed options and a method that makes rows."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from rlpost.config.schema import Section
from rlpost.data.problems import did_you_mean
from rlpost.errors import ConfigError


class Task(Section):
    """A synthetic dataset; its fields are the keys of `data.task_options`.

    Rows have the columns "prompt", "answer" and "demonstration", and others that a reward reads. The
    splits "train" and "test" share no problem, and "test" holds the same problems in the same order
    whatever the seed.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    def rows(self, split: str, seed: int) -> list[dict[str, Any]]:
        """The problems of a split; the same arguments always give the same rows.

        Raises:
            ConfigError: the split does not exist, or more problems are wanted than there are.
        """
        if split not in self.splits:
            raise ConfigError(
                f"the task has no split {split!r}{did_you_mean(split, self.splits)}",
                where="data.split",
                needed=" or ".join(self.splits),
            )
        return self._test_rows() if split == "test" else self._train_rows(seed)

    @abstractmethod
    def _test_rows(self) -> list[dict[str, Any]]: ...

    @abstractmethod
    def _train_rows(self, seed: int) -> list[dict[str, Any]]: ...


def hashed_indices(name: str, count: int) -> Iterator[int]:
    """Indices below `count`, each once, in an order that only `name` decides, for ever.

    SHA-256 of "name/0", "name/1", ... modulo `count`, repetitions skipped. Held-out problems are
    the first ones, so no version of any random generator can change them.
    """
    seen: set[int] = set()
    step = 0
    while len(seen) < count:
        index = int.from_bytes(hashlib.sha256(f"{name}/{step}".encode()).digest()[:8]) % count
        step += 1
        if index not in seen:
            seen.add(index)
            yield index
