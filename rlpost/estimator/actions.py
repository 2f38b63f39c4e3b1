"""Actions: whose log-probability does a term differentiate at each position?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol


class Actions(Protocol):
    """What stands at a position in the place of log pi_t."""

    is_taken: ClassVar[bool]

    @property
    def sequence_signals(self) -> frozenset[str]:
        """What the driver must say of each sequence; options may decide."""
        ...

    @property
    def formula(self) -> str:
        """In the notation of the papers."""
        ...


@dataclass(frozen=True)
class Taken:
    """The token that is there: the surrogate differentiates log pi_t."""

    sequence_signals: ClassVar[frozenset[str]] = frozenset()
    is_taken: ClassVar[bool] = True

    @property
    def formula(self) -> str:
        return "the token itself"


@dataclass(frozen=True)
class OneToken:
    """Every position of a demonstration as an episode of one token: OTR (arXiv 2509.26313).

    In the place of log pi(x_t|s_t) stands the score

        s_t = (1/K) sum_j R(a_j) log pi(a_j|s_t),    R(a) = 1 if a = x_t, else `miss`

    of K tokens drawn from softmax(z / temperature), with replacement; drawing and rewards carry no
    gradient. The paper could not be read in full: rewards, K and temperature are as its reviews give them,
    `miss` is the value commonly quoted.

    Attributes:
        samples: K.
        temperature: kappa of the distribution that is drawn from; log pi itself has the policy's.
        miss: beta, the reward of a token that is not the demonstration's.
        form: "sampled", or "exact": the expectation over the whole vocabulary in the place of the
            mean over samples, which leaves nothing to chance.
    """

    samples: int = 256
    temperature: float = 1.3
    miss: float = -0.1
    form: Literal["sampled", "exact"] = "sampled"
    is_taken: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, found {self.samples}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, found {self.temperature:g}")
        if self.miss >= 1:
            raise ValueError(f"miss must be below 1, the reward of a hit, found {self.miss:g}")

    @property
    def sequence_signals(self) -> frozenset[str]:
        """A seed for each sequence, where something is drawn."""
        return frozenset({"draw_seed"}) if self.form == "sampled" else frozenset()

    @property
    def formula(self) -> str:
        drawn = f"softmax(z/{self.temperature:g})"
        score = "sum_a q(a) R(a) log pi(a)" if self.form == "exact" else "(1/K) sum_j R(a_j) log pi(a_j)"
        many = "" if self.form == "exact" else f", K = {self.samples}"
        return f"{score} for log pi_t, a ~ q = {drawn}{many}, R = 1 if a = x_t else {self.miss:g}"
