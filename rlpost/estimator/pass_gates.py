"""Gates that go by how many of a prompt's rollouts succeed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rlpost.estimator.batch import TokenBatch
from rlpost.estimator.measures import Measures
from rlpost.estimator.segments import trained_length


@dataclass(frozen=True)
class PromptCounts:
    """What a gate counts of each prompt: int64 [G], and which prompt a sequence belongs to.

    Attributes:
        prompt_S: int64 [S], from 0 to G-1.
        rollouts_G: those that are in the batch, however many were asked for.
        right_G: those of them that succeed.
        demonstrations_G: rows with a token to learn from.
    """

    prompt_S: Tensor
    rollouts_G: Tensor
    right_G: Tensor
    demonstrations_G: Tensor

    @classmethod
    def of(cls, batch: TokenBatch, success: float) -> PromptCounts:
        """The counts of a batch; a rollout succeeds from the reward `success` on."""
        labels, prompt_S = torch.unique(batch.group_S, return_inverse=True)
        rollout_S = ~batch.demonstration_S
        shown_S = batch.demonstration_S & (trained_length(batch, batch.mask_N) > 0)

        def count(flag_S: Tensor) -> Tensor:
            none_G = torch.zeros(labels.shape[0], dtype=torch.int64, device=prompt_S.device)
            return none_G.index_add(0, prompt_S, flag_S.to(torch.int64))

        right_S = rollout_S & (batch.reward_S >= success)
        return cls(prompt_S, count(rollout_S), count(right_S), count(shown_S))

    @property
    def measures(self) -> Measures:
        """The share of prompts with each number of successes, and with nothing but successes."""
        tried_G = self.rollouts_G > 0
        prompts = _count(tried_G)
        most = int(self.rollouts_G.max()) if tried_G.any() else -1
        shares = {
            f"hybrid/pass_count/{k}": (_count(tried_G & (self.right_G == k)), prompts)
            for k in range(most + 1)
        }
        solved = _count(tried_G & (self.right_G == self.rollouts_G))
        return Measures(means={**shares, "hybrid/solved_all_share": (solved, prompts)})


def _count(flag_G: Tensor) -> Tensor:
    return flag_G.sum().to(torch.float64)


@dataclass(frozen=True)
class PassRateGate:
    """1[P > threshold] or 1[P <= threshold], P the share of the prompt's rollouts that succeed.

    HPT's switch between learning from rollouts and from a demonstration (arXiv 2509.04419, eq. 10). It
    compares counts, k > floor(threshold n + 1e-9), so that 2 of 8 is never above 2/8; n is the number
    of rollouts that came back. The task's reward counts, before any shaping. Every row of the prompt has
    the same weight; a prompt without rollouts has no P and weight 0 on either side.

    Attributes:
        threshold: gamma. 1 or above sends every prompt to the "at_most" side, below 0 to the other.
        success: a rollout succeeds from this reward on.
        side: "above" for the rollouts' term, "at_most" for the demonstrations'.
        without_demonstration: what a prompt with P <= threshold but no demonstration learns from: its
            "rollouts" after all (ours; where none succeeds they are all equal and teach nothing), or
            "nothing".
    """

    threshold: float = 0.0
    success: float = 1.0
    side: Literal["above", "at_most"] = "above"
    without_demonstration: Literal["rollouts", "nothing"] = "rollouts"
    signals: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, batch: TokenBatch) -> Tensor:
        counts = PromptCounts.of(batch, self.success)
        low_G, shown_G = self._low(counts), counts.demonstrations_G > 0
        if self.without_demonstration == "rollouts":
            low_G = low_G & shown_G
        open_G = ~low_G if self.side == "above" else low_G
        return (open_G & (counts.rollouts_G > 0)).to(torch.float64)[counts.prompt_S]

    def measures(self, batch: TokenBatch) -> Measures:
        counts = PromptCounts.of(batch, self.success)
        tried_G, shown_G = counts.rollouts_G > 0, counts.demonstrations_G > 0
        low_G = self._low(counts) & tried_G
        prompts = _count(tried_G)
        shares = {
            "hybrid/gated_share": (_count(low_G & shown_G), prompts),
            "hybrid/without_demonstration": (_count(low_G & ~shown_G), prompts),
        }
        return counts.measures + Measures(means=shares)

    def _low(self, counts: PromptCounts) -> Tensor:
        """bool [G], P <= threshold."""
        return counts.right_G <= torch.floor(self.threshold * counts.rollouts_G.to(torch.float64) + 1e-9)

    @property
    def formula(self) -> str:
        sign = ">" if self.side == "above" else "<="
        rate = f"P = share of the prompt's R >= {self.success:g}"
        if self.without_demonstration == "nothing":
            return f"1 if P {sign} {self.threshold:g}, else 0; {rate}"
        rest = "or there is no demonstration" if self.side == "above" else "and there is a demonstration"
        return f"1 if P {sign} {self.threshold:g} {rest}, else 0; {rate}"


SCHEDULES: dict[str, dict[str, tuple[float, ...]]] = {
    "type0": {
        "rollouts": (0, 0.125, 0.25, 0.5, 1, 1, 1, 1),
        "demonstrations": (0, 0.5, 1, 0.5, 0.25, 0.125, 0, 0),
        "supervised": (1, 0.5, 0.25, 0.125, 0, 0, 0, 0),
    },
    "type1": {
        "rollouts": (0, 0.125, 0.25, 0.5, 1, 1, 1, 1),
        "demonstrations": (1, 1, 1, 1, 1, 1, 1, 1),
        "supervised": (1, 0.5, 0.25, 0.125, 0, 0, 0, 0),
    },
    "type2": {
        "rollouts": (0, 0.125, 0.25, 0.5, 1, 1, 1, 1),
        "demonstrations": (0, 0, 0, 0, 0, 0, 0, 0),
        "supervised": (1, 0.5, 0.25, 0.125, 0, 0, 0, 0),
    },
}
"""HPT's soft schedules, from its released code: coefficients of RL on rollouts, of RL on the
demonstration, and of supervised learning, by the right rows among seven rollouts and the demonstration,
from 1, where none but the demonstration is right, to 8."""


@dataclass(frozen=True)
class PassCountTable:
    """w = weights[j], j = ceil(k (m - 1) / n): a weight by how many of the prompt's rollouts succeed.

    HPT's soft alternatives to its switch (arXiv 2509.04419, eq. 9; the tables are in its released code
    alone). A table of m weights goes from no success, the first one, to nothing but successes, the last
    one. k of n rollouts succeed; with n = m - 1 every count has its own weight, which is HPT's group of
    seven rollouts and a demonstration that counts as right. For other n the place is scaled and rounded
    up (ours), so that only prompts without any success have the first weight. A prompt without rollouts
    has weight 0.

    Attributes:
        schedule: one of HPT's tables; None takes `weights`.
        coefficient: which of its three columns: "rollouts" and "demonstrations" weigh the
            reinforcement of either, "supervised" the likelihood of the demonstration.
        weights: a table of your own.
        success: a rollout succeeds from this reward on.
    """

    schedule: Literal["type0", "type1", "type2"] | None = "type1"
    coefficient: Literal["rollouts", "demonstrations", "supervised"] = "rollouts"
    weights: tuple[float, ...] | None = None
    success: float = 1.0
    signals: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if (self.schedule is None) == (self.weights is None):
            raise ValueError("needs either schedule or weights; set schedule to null to give weights")
        if self.weights is not None:
            if len(self.weights) < 2 or min(self.weights) < 0:
                raise ValueError(f"weights must be at least 2 numbers of 0 or above, found {self.weights}")
            object.__setattr__(self, "weights", tuple(self.weights))

    @property
    def table(self) -> tuple[float, ...]:
        """The weights, from no success to nothing but successes."""
        if self.weights is not None:
            return self.weights
        return SCHEDULES[str(self.schedule)][self.coefficient]

    def __call__(self, batch: TokenBatch) -> Tensor:
        counts = PromptCounts.of(batch, self.success)
        table_J = torch.tensor(self.table, dtype=torch.float64, device=batch.group_S.device)
        tried_G = counts.rollouts_G.clamp(min=1)
        place_G = (counts.right_G * (len(self.table) - 1) + tried_G - 1) // tried_G
        return (table_J[place_G] * (counts.rollouts_G > 0))[counts.prompt_S]

    def measures(self, batch: TokenBatch) -> Measures:
        return PromptCounts.of(batch, self.success).measures

    @property
    def formula(self) -> str:
        table = ", ".join(f"{weight:g}" for weight in self.table)
        return (
            f"[{table}] by the successes k of n, from 0 to n; rounded up between them; R >= {self.success:g}"
        )
