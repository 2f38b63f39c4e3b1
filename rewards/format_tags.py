"""Format: the response is `<think>...</think>` followed by `<answer>...</answer>` and nothing else."""

from __future__ import annotations

import re
from typing import Any

TAG = re.compile(r"</?(?:think|answer)>")
ORDER = ["<think>", "</think>", "<answer>", "</answer>"]


def reward(completion: str) -> float:
    """1.0 for each tag exactly once and in order, both parts filled, no text outside; otherwise 0.0.

    Args:
        completion: the model's response.

    >>> reward("<think>2 + 2</think> <answer>4</answer>")
    1.0
    """
    if TAG.findall(completion) != ORDER:
        return 0.0
    before, thought, between, answer, after = TAG.split(completion)
    outside = before + between + after
    return float(not outside.strip() and bool(thought.strip()) and bool(answer.strip()))


def selfcheck() -> list[tuple[dict[str, Any], float]]:
    """Cases: arguments and the score that they must get."""
    return [
        ({"completion": "<think>2 + 2</think><answer>4</answer>"}, 1.0),
        ({"completion": "\n<think>\na < b\n</think>\n<answer>\n4\n</answer>\n"}, 1.0),
        ({"completion": "<answer>4</answer><think>2 + 2</think>"}, 0.0),
        ({"completion": "<think>2 + 2</think><answer>4"}, 0.0),
        ({"completion": "<think>2 + 2</think><answer>4</answer><answer>5</answer>"}, 0.0),
        ({"completion": "<think> </think><answer>4</answer>"}, 0.0),
        ({"completion": "Sure! <think>2 + 2</think><answer>4</answer>"}, 0.0),
        ({"completion": "<think><think>2 + 2</think></think><answer>4</answer>"}, 0.0),
        ({"completion": ""}, 0.0),
    ]
