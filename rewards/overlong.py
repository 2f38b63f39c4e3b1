"""Overlong: DAPO's soft punishment of long responses (arXiv 2503.14476, eq. 13), as a reward by itself.

It counts what a reward function sees: words or characters. In tokens, and against the run's own limit, the
same formula is the part `soft_overlong` of an algorithm.
"""

from __future__ import annotations

from typing import Any, Literal

Unit = Literal["words", "characters"]


def reward(completion: str, limit: int, cache: int | None = None, unit: Unit = "words") -> dict[str, Any]:
    """0.0 up to `limit - cache`, then falling linearly to -1.0 at `limit` and beyond.

    Add it to a reward for the answer; it punishes and never pays.

    Args:
        completion: the model's response.
        limit: length at which the punishment is full.
        cache: length over which it grows; None takes a fifth of the limit, as the paper does.
        unit: "words" (separated by white space) or "characters".

    >>> reward("word " * 90, limit=100, cache=20)["score"]
    -0.5
    """
    cache = max(1, limit // 5) if cache is None else cache
    if not 0 < cache <= limit:
        raise ValueError(f"needed 0 < cache <= limit, found cache {cache}, limit {limit}")
    size = len(completion.split()) if unit == "words" else len(completion)
    return {"score": min(0.0, max(-1.0, (limit - cache - size) / cache)), "length": size}


def selfcheck() -> list[tuple[dict[str, Any], float]]:
    """Cases: arguments and the score that they must get."""
    sizes = [(0, 0.0), (1, 0.0), (80, 0.0), (85, -0.25), (90, -0.5), (99, -0.95), (100, -1.0), (1000, -1.0)]
    return [
        *(({"completion": "word " * size, "limit": 100}, score) for size, score in sizes),
        ({"completion": "x" * 95, "limit": 100, "cache": 10, "unit": "characters"}, -0.5),
        ({"completion": "one word", "limit": 8, "cache": 1, "unit": "characters"}, -1.0),
    ]
