"""What a reward function may return, read into one plain record that survives JSON."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

NOTE_CHARACTERS = 2000
FAILED = ("timeout", "error")


class Verdict(TypedDict):
    """A RewardResult as plain data: what a worker process sends.

    One that is scored and has no score says that the function does not apply to this sample.
    """

    score: float | None
    outcome: Literal["scored", "unparseable", "timeout", "error"]
    parts: dict[str, float]
    note: str


def failure(note: str, outcome: Literal["timeout", "error"] = "error") -> Verdict:
    """The verdict on a sample that could not be scored."""
    return Verdict(score=None, outcome=outcome, parts={}, note=note[:NOTE_CHARACTERS])


def not_applicable() -> Verdict:
    """The verdict of a function that has nothing to say about a sample."""
    return Verdict(score=None, outcome="scored", parts={}, note="")


class Logged:
    """What one call of a TRL function logs through `log_extra` and `log_metric`, for its samples.

    Args:
        count: samples of the call.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._parts: list[dict[str, float]] = [{} for _ in range(count)]
        self._remarks: list[list[str]] = [[] for _ in range(count)]

    def extra(self, column: str, values: Sequence[Any]) -> None:
        """One value for each sample: a number becomes a part, anything else a remark in the note."""
        if len(values) != self.count:
            raise ValueError(f"log_extra({column!r}) got {len(values)} values for {self.count} responses")
        for parts, remarks, value in zip(self._parts, self._remarks, values, strict=True):
            number = _number(value)
            if number is None:
                remarks.append(f"{column}={_show(value)}")
            else:
                parts[str(column)] = number

    def metric(self, name: str, value: Any) -> None:
        """One number for the call: a part of each of its samples."""
        self.extra(name, [value] * self.count)

    def added_to(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """The verdicts, one for each sample, with what was logged."""
        return [
            Verdict(
                score=verdict["score"],
                outcome=verdict["outcome"],
                parts={**verdict["parts"], **parts},
                note="; ".join(n for n in (verdict["note"], *remarks) if n)[:NOTE_CHARACTERS],
            )
            for verdict, parts, remarks in zip(verdicts, self._parts, self._remarks, strict=True)
        ]


def read_return(value: Any) -> Verdict:
    """The verdict that a reward function's return value stands for.

    A number or bool is the score. A mapping has `score` and may have `outcome`, `note`, `parts`; its other
    numbers become parts, anything else in it goes to the note. A RewardResult is taken as it is. Whatever
    is not a finite score (None, NaN, a string, a list) is an error with a note that says so, never a zero.
    """
    if isinstance(value, Mapping):
        return _from_mapping(value)
    if all(hasattr(value, name) for name in ("score", "outcome", "parts", "note")):
        fields = {name: getattr(value, name) for name in ("score", "outcome", "parts", "note")}
        return _from_mapping(fields)
    score = _number(value)
    if score is None:
        return failure(f"the reward function returned {_show(value)}; needed a finite number")
    return Verdict(score=score, outcome="scored", parts={}, note="")


def _from_mapping(value: Mapping[str, Any]) -> Verdict:
    outcome = value.get("outcome", "scored")
    if outcome not in ("scored", "unparseable", *FAILED):
        return failure(f"the reward function returned the unknown outcome {_show(outcome)}")
    extras = {k: v for k, v in value.items() if k not in ("score", "outcome", "note", "parts")}
    parts, remarks = {}, [str(value.get("note") or "")]
    for name, part in {**(value.get("parts") or {}), **extras}.items():
        number = _number(part)
        if number is not None:
            parts[str(name)] = number
        elif isinstance(part, float):
            return failure(f"the reward function returned {name}={part}; needed a finite number")
        else:
            remarks.append(f"{name}={_show(part)}")
    note = "; ".join(r for r in remarks if r)[:NOTE_CHARACTERS]
    if outcome in FAILED:
        return Verdict(score=None, outcome=outcome, parts=parts, note=note)
    if outcome == "unparseable" and value.get("score") is None:
        return Verdict(score=0.0, outcome=outcome, parts=parts, note=note)
    if "score" not in value:
        return failure(f"the reward function returned a dict without `score`: {_show(value)}")
    score = _number(value["score"])
    if score is None:
        return failure(f"the reward function returned score={_show(value['score'])}; needed a finite number")
    return Verdict(score=score, outcome=outcome, parts=parts, note=note)


def _number(value: Any) -> float | None:
    """A finite float; numpy and torch scalars count, strings do not."""
    if not isinstance(value, numbers.Real) and getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _show(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = "a value whose repr fails"
    if len(text) > 200:
        text = f"{text[:200]}..."
    return f"{text} ({type(value).__name__})" if value is not None else text
