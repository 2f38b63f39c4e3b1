"""The records that flow through a run: Prompt, Turn, Trajectory, RewardResult.

Token ids are the only truth; text is a view of them. A record is made once (by the
dataset, an engine, a scorer) and later stages only read it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["eos", "stop", "length"]
Outcome = Literal["scored", "unparseable", "timeout", "error"]
OUTCOMES: tuple[Outcome, ...] = ("scored", "unparseable", "timeout", "error")
EpisodeEnd = Literal["done", "turn_limit", "token_limit", "timeout", "error"]
"""Why an episode ended: its environment said so, a limit of the recipe, or a failure of the environment."""


@dataclass(frozen=True, slots=True)
class RewardResult:
    """What scoring one response came to.

    Attributes:
        score: the reward, finite; None exactly when `outcome` is "timeout" or "error":
            a failure to score is never a zero. An "unparseable" response was examined and
            holds no answer; its score is what the verifier says that is worth, usually 0.
        outcome: "scored", "unparseable", "timeout" or "error".
        parts: named components, before weighting (also extra numbers a reward reports).
        note: for people: what was extracted, or the error's text.
    """

    score: float | None
    outcome: Outcome = "scored"
    parts: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome {self.outcome!r} is not one of {', '.join(OUTCOMES)}")
        failed = self.outcome in ("timeout", "error")
        if failed != (self.score is None):
            raise ValueError(f"score {self.score!r} does not fit outcome {self.outcome!r}")
        if self.score is not None and not math.isfinite(self.score):
            raise ValueError(f"score must be finite, found {self.score!r}")

    @property
    def failed(self) -> bool:
        return self.score is None


@dataclass(frozen=True, slots=True)
class Prompt:
    """One problem, tokenised once.

    Attributes:
        id: stable over runs: the dataset's own id, or a hash of the row's content.
        text: the prompt after the chat template (a view of `token_ids`).
        token_ids: what the model reads.
        columns: the dataset row; reward functions receive these by name.
        demonstration: the turns of a demonstrated response: one, or a dialogue's, of which those that are
            `by_policy` are to be learnt, each ending in EOS; None without one.
        rejected: the turns of a response that the demonstration is preferred to; None without pairs.
        place: file and line, or dataset and row, for messages; "" when nobody knows.
        messages: the prompt as the chat messages that the template was applied to; () without a template.
        prefill: how every response begins: the end of `token_ids`, which reward functions read in front of
            what was sampled.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)
    demonstration: tuple[Turn, ...] | None = None
    rejected: tuple[Turn, ...] | None = None
    place: str = field(default="", compare=False)
    messages: tuple[Mapping[str, Any], ...] = field(default=(), compare=False)
    prefill: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """A contiguous run of tokens by one speaker.

    Attributes:
        token_ids: the tokens, as sampled or as the environment gave them.
        text: a view of them.
        by_policy: True when the policy sampled them; only such tokens are trained.
        logprobs: log-probability of each token under the *processed* sampling
            distribution (temperature, top-k, top-p), in nats; NaN for tokens not sampled.
        versions: the policy version that sampled each token; -1 for tokens not sampled.
        reward: what the environment gave for this turn; 0 where it gave nothing, and for its own turns.
    """

    token_ids: tuple[int, ...]
    text: str
    by_policy: bool
    logprobs: tuple[float, ...]
    versions: tuple[int, ...]
    reward: float = 0.0

    def __post_init__(self) -> None:
        if not len(self.token_ids) == len(self.logprobs) == len(self.versions):
            raise ValueError(
                f"a turn needs one log-prob and one version per token, found {len(self.token_ids)} tokens, "
                f"{len(self.logprobs)} log-probs, {len(self.versions)} versions"
            )


@dataclass(frozen=True, slots=True)
class Episode:
    """How the environment of a trajectory ended.

    Attributes:
        end: "timeout" and "error" are failures: such a trajectory is never trained on.
        note: for people: what failed.
        info: the numbers that the environment reported, such as {"success": 1.0}.
        cut_observations: those that were cut to the recipe's limit.
    """

    end: EpisodeEnd
    note: str = ""
    info: Mapping[str, float] = field(default_factory=dict)
    cut_observations: int = 0

    @property
    def failed(self) -> bool:
        return self.end in ("timeout", "error")


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One response to one prompt, over one or more turns.

    Attributes:
        id: unique in the run and reproducible: "{stage}-{step:06d}-{prompt id}-{sample:03d}"; a greedy
            one ends in "greedy".
        prompt: the prompt it answers.
        turns: the last one is by the policy. None at all only where the environment failed before the first.
        finish_reason: why the last turn ended; "stop" where there is none.
        seed: the seed that alone decided its tokens, given the weights.
        reward: None until scored.
        greedy: sampled at temperature 0, to compare its siblings with; never trained on.
        episode: how its environment ended; None without an environment.
    """

    id: str
    prompt: Prompt
    turns: tuple[Turn, ...]
    finish_reason: FinishReason
    seed: int
    reward: RewardResult | None = None
    greedy: bool = False
    episode: Episode | None = None

    @property
    def token_ids(self) -> list[int]:
        """All tokens after the prompt, observations included."""
        return [t for turn in self.turns for t in turn.token_ids]

    @property
    def text(self) -> str:
        return "".join(turn.text for turn in self.turns)

    @property
    def truncated(self) -> bool:
        """Whether a limit ended it: that of its last turn, or one of the whole episode."""
        limited = self.episode is not None and self.episode.end in ("turn_limit", "token_limit")
        return limited or self.finish_reason == "length"

    @property
    def length(self) -> int:
        return sum(len(turn.token_ids) for turn in self.turns)


Group = Sequence[Trajectory]
"""The trajectories of one prompt in one step."""
