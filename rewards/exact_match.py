"""Exact match: the response, or its part after a marker, equals the gold answer as text."""

from __future__ import annotations

from typing import Any


def reward(
    completion: str, answer: Any, after: str | None = None, ignore_case: bool = False
) -> dict[str, Any]:
    """1.0 when the response is the gold answer, but for white space at both ends; otherwise 0.0.

    Args:
        completion: the model's response.
        answer: the gold answer; a number is compared by its text.
        after: compare only what follows the last occurrence of this marker, such as "Answer:". A response
            without the marker is unparseable.
        ignore_case: compare case-folded text.

    >>> reward("The sum is: 46", "46", after=":")["score"]
    1.0
    """
    if after is not None:
        _, marker, completion = completion.rpartition(after)
        if not marker:
            return {"score": 0.0, "outcome": "unparseable", "note": f"no {after!r} in the response"}
    found, gold = completion.strip(), str(answer).strip()
    if ignore_case:
        found, gold = found.casefold(), gold.casefold()
    return {"score": float(found == gold), "note": f"found {found[-200:]!r}"}


def gold_completion(answer: Any, after: str | None = None) -> str:
    """A response that must score 1.0."""
    return f"{after or ''}{answer}"


def selfcheck() -> list[tuple[dict[str, Any], float]]:
    """Cases: arguments and the score that they must get."""
    return [
        ({"completion": "46", "answer": "46"}, 1.0),
        ({"completion": " 46\n", "answer": 46}, 1.0),
        (
            {"completion": "so, Answer: north", "answer": "North", "after": "Answer:", "ignore_case": True},
            1.0,
        ),
        ({"completion": "46.", "answer": "46"}, 0.0),
        ({"completion": "", "answer": "46"}, 0.0),
        ({"completion": "North", "answer": "north"}, 0.0),
        ({"completion": "46", "answer": "46", "after": "Answer:"}, 0.0),
    ]
