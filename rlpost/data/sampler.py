"""PromptSampler: which prompts each step tries, over seeded epochs, resumable exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlpost.data.prompts import PromptSet
from rlpost.data.trajectory import Prompt
from rlpost.errors import CheckpointError, ConfigError


class PromptSampler:
    """Uniform epochs: every prompt once per epoch, a new order each time.

    A step draws `prompts_per_step` prompts and, where it asks, more. The order of an epoch depends on
    (seed, epoch) and, where a step straddles two epochs, on the prompts it drew from the old one: they
    wait until the step is over, so that no step holds a prompt twice.

    Args:
        prompts: what to draw from.
        prompts_per_step: prompts of one batch.
        seed: with the epoch, decides the order; independent of any global generator.
        shuffle: False keeps the dataset's order in every epoch.

    Raises:
        ConfigError: a batch is larger than the dataset.
    """

    def __init__(
        self, prompts: PromptSet | Sequence[Prompt], prompts_per_step: int, seed: int, shuffle: bool = True
    ) -> None:
        self._prompts = tuple(prompts)
        self._size = prompts_per_step
        self._seed = seed
        self._shuffle = shuffle
        if not 1 <= prompts_per_step <= len(self._prompts):
            raise ConfigError(
                "a step needs more prompts than the data has"
                if prompts_per_step > 0
                else "a step needs at least one prompt",
                where="train.prompts_per_step",
                found=prompts_per_step,
                needed=f"1 to {len(self._prompts)}, the number of prompts",
            )
        self._epoch = 0
        self._reached = 0
        self._waiting: list[int] = []
        self._drawn: set[int] = set()
        self._order = self._epoch_order()

    @property
    def epoch(self) -> int:
        """Complete passes over the data so far."""
        return self._epoch + (self._reached - len(self._waiting)) // len(self._prompts)

    def next_batch(self) -> list[Prompt]:
        """The next step's `prompts_per_step` prompts, all different."""
        self._drawn = set()
        return self.more(self._size)

    def more(self, count: int) -> list[Prompt]:
        """The next `count` prompts that this step has not drawn yet; fewer when the data has no more."""
        taken: list[int] = []
        while len(taken) < count and len(self._drawn) < len(self._prompts):
            fresh = [i for i in self._waiting if i not in self._drawn][: count - len(taken)]
            self._waiting = [i for i in self._waiting if i not in fresh]
            while len(fresh) < count - len(taken) and self._reached < len(self._order):
                index = self._order[self._reached]
                self._reached += 1
                (self._waiting if index in self._drawn else fresh).append(index)
            taken += fresh
            self._drawn.update(fresh)
            if len(taken) < count and len(self._drawn) < len(self._prompts):
                # Whoever waits was drawn in this step, from the old epoch: then it has begun in this step
                # too, and all of it was drawn. So nobody waits here.
                self._epoch, self._reached = self._epoch + 1, 0
                self._order = self._epoch_order()
        return [self._prompts[i] for i in taken]

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the steps to come, as plain JSON data; taken between two steps."""
        return {
            "epoch": self._epoch,
            "reached": self._reached,
            "waiting": list(self._waiting),
            "made_with": self._settings(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken.

        Raises:
            CheckpointError: the state was taken with other prompts, batch size, seed or shuffling.
        """
        settings = self._settings()
        differing = [name for name in settings if state["made_with"].get(name) != settings[name]]
        if differing:
            raise CheckpointError(
                "the saved position in the data belongs to other settings",
                where="prompt sampler",
                found=", ".join(f"{name} = {settings[name]}" for name in differing),
                needed=", ".join(f"{name} = {state['made_with'].get(name)}" for name in differing),
                remedy="resume with the data, seed and train.prompts_per_step of the saved run",
            )
        self._epoch, self._reached = state["epoch"], state["reached"]
        self._waiting, self._drawn = list(state["waiting"]), set()
        self._order = self._epoch_order()

    def _epoch_order(self) -> list[int]:
        """Indices of all prompts in the order of the current epoch."""
        count = len(self._prompts)
        order = list(range(count))
        if self._shuffle:
            generator = np.random.default_rng((self._seed % 2**64, self._epoch))
            order = generator.permutation(count).tolist()
        return order

    def _settings(self) -> dict[str, Any]:
        ids = hashlib.sha256("\n".join(p.id for p in self._prompts).encode()).hexdigest()
        return {
            "prompts": len(self._prompts),
            "prompt ids": ids[:16],
            "prompts_per_step": self._size,
            "seed": self._seed,
            "shuffle": self._shuffle,
        }
