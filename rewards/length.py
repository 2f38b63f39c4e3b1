"""Length: the response is as long as wanted; outside of that the reward falls linearly to 0."""

from __future__ import annotations

from typing import Any, Literal

Unit = Literal["words", "characters"]


def reward(
    completion: str, least: int = 0, most: int | None = None, slack: int = 0, unit: Unit = "words"
) -> dict[str, Any]:
    """1.0 from `least` to `most`, 0.0 at a distance of more than `slack` from that, linear between.

    Args:
        completion: the model's response.
        least: shortest wanted length.
        most: longest wanted length; None sets no bound.
        slack: distance over which the reward falls; 0 for all or nothing.
        unit: "words" (separated by white space) or "characters".

    >>> reward("one two three", least=2, most=4)["score"]
    1.0
    >>> reward("one two three", most=1, slack=3)["score"]
    0.5
    """
    if least < 0 or slack < 0 or (most is not None and most < least):
        raise ValueError(f"no length is wanted: least {least}, most {most}, slack {slack}")
    size = len(completion.split()) if unit == "words" else len(completion)
    distance = max(0, least - size, 0 if most is None else size - most)
    return {"score": max(0.0, 1 - distance / (slack + 1)), "length": size}


def selfcheck() -> list[tuple[dict[str, Any], float]]:
    """Cases: arguments and the score that they must get."""
    wanted = {"least": 3, "most": 5}
    return [
        ({"completion": "a b c", **wanted}, 1.0),
        ({"completion": " a b  c\nd e ", **wanted}, 1.0),
        ({"completion": "a b", **wanted}, 0.0),
        ({"completion": "a b c d e f", **wanted}, 0.0),
        ({"completion": "", **wanted}, 0.0),
        ({"completion": "a b c d e f", "slack": 1, **wanted}, 0.5),
        ({"completion": "a b c d e f g", "slack": 1, **wanted}, 0.0),
        ({"completion": "a", "slack": 3, **wanted}, 0.5),
        ({"completion": "abc", "unit": "characters", **wanted}, 1.0),
        ({"completion": "a b c", "unit": "characters", "most": 4}, 0.0),
        ({"completion": "a b c d e f"}, 1.0),
    ]
