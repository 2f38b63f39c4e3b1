"""The numbers a comparison shows: their names, what they mean, how they are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlpost.comparison.statistics import Mean

DASH = "–"
Form = Literal["percent", "points", "count", "number", "seconds"]


@dataclass(frozen=True)
class Measure:
    """One number of a run.

    Attributes:
        key: in comparison.json and comparison.csv; "pass@K" stands for the k that is shown.
        title: of its column.
        form: how it is written.
        meaning: how it comes about.
    """

    key: str
    title: str
    form: Form
    meaning: str


MEASURES = (
    Measure("accuracy", "accuracy", "percent", "held-out samples that are right, after the last step"),
    Measure("pass@K", "pass@K", "percent", "chance that one of K samples is right, after the last step"),
    Measure("trained_tokens", "trained tokens", "count", "tokens that entered the loss"),
    Measure("generated_tokens", "sampled tokens", "count", "tokens of all responses sampled in training"),
    Measure("generated_samples", "samples", "count", "responses sampled in training"),
    Measure(
        "nonzero_response_share",
        "non-zero advantages",
        "percent",
        "responses in the batch with an advantage that is not 0, before any selection that reads "
        "advantages, mean over steps; 100 % where uniform groups are replaced by further ones",
    ),
    Measure(
        "informative_group_share",
        "informative groups",
        "percent",
        "prompts whose samples did not all earn the same, mean over steps",
    ),
    Measure(
        "clip_share",
        "clipped",
        "percent",
        "trained tokens clipped on either side, mean over steps with updates",
    ),
    Measure("entropy_end", "entropy at the end", "number", "nats a token, mean over the last tenth of steps"),
    Measure("skipped_updates", "skipped updates", "count", "updates without any advantage, so not taken"),
    Measure("wall_s", "training time", "seconds", "seconds a run, evaluations included, start-up not"),
)
DIFFERENCES = ("accuracy", "pass@K")
"""The measures whose paired difference to the first arm is shown."""


def title_of(measure: Measure, k: int | None) -> str:
    """The title, with the k that is shown."""
    return measure.title.replace("K", str(k)) if measure.key == "pass@K" else measure.title


def key_of(measure: Measure, k: int | None) -> str:
    """The key, with the k that is shown."""
    return f"pass@{k}" if measure.key == "pass@K" else measure.key


def shown(measure: Measure, k: int | None) -> bool:
    """Whether there is anything to show: pass@K only where more than one sample a problem was taken."""
    return measure.key != "pass@K" or k is not None


def write(mean: Mean | None, form: Form, *, interval: bool, signed: bool = False) -> str:
    """A mean as people read it: "41.2 ± 3.0 %"; a dash for none.

    Args:
        form: "points" are hundredths without a unit, for differences of shares.
        interval: also write the half width of the interval, where there is one.
        signed: write a plus sign.
    """
    if mean is None:
        return DASH
    scale, digits, unit = {
        "percent": (100.0, 1, " %"),
        "points": (100.0, 1, ""),
        "count": (1.0, 0, ""),
        "number": (1.0, 3, ""),
        "seconds": (1.0, 0, " s"),
    }[form]
    value = f"{mean.value * scale:{'+' if signed else ''},.{digits}f}"
    if not interval or mean.half_width is None:
        return value + unit
    return f"{value} ± {mean.half_width * scale:,.{digits}f}{unit}"
