"""The numbers a comparison shows: their names, what they mean, how they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rlpost.comparison.statistics import Mean

DASH = "–"
Form = Literal["percent", "points", "count", "number", "seconds"]


@dataclass(frozen=True)
class Measure:
    """One number of a run.

    Attributes:
        key: in comparison.json and comparison.csv; "pass@K" stands for the k that is shown, and "/NAME" at
            the end for a further set of held-out problems.
        title: of its column.
        form: how it is written.
        meaning: how it comes about.
    """

    key: str
    title: str
    form: Form
    meaning: str

    @property
    def is_compared(self) -> bool:
        """Whether it is of held-out problems, so that its paired difference to the first arm is shown."""
        return self.key.partition("/")[0].startswith(("accuracy", "pass@"))


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


def measures_of(k: int | None, others: Sequence[str]) -> list[Measure]:
    """What is shown of a task.

    Args:
        k: of the pass@k that is shown; None, where one sample a problem was taken, shows none.
        others: names of the further held-out sets; their measures are called `accuracy/NAME`.
    """
    known = [_with_k(m, k) for m in MEASURES if m.key != "pass@K" or k is not None]
    held_out = [m for m in known if m.is_compared]
    rest = [m for m in known if not m.is_compared]
    return [of_set(m, name) for name in ("", *others) for m in held_out] + rest


def of_set(measure: Measure, name: str) -> Measure:
    """The same measure of another set of held-out problems; "" is the main one."""
    if not name:
        return measure
    title, meaning = f"{name}: {measure.title}", f"of the held-out set {name}: {measure.meaning}"
    return replace(measure, key=f"{measure.key}/{name}", title=title, meaning=meaning)


def _with_k(measure: Measure, k: int | None) -> Measure:
    if measure.key != "pass@K":
        return measure
    texts = {name: getattr(measure, name).replace("K", str(k)) for name in ("key", "title", "meaning")}
    return replace(measure, **texts)


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
