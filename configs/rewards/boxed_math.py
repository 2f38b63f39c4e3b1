"""Mathematics with a format, as DCPO rewards it (arXiv 2509.02333): right 1, wrong 0, no answer in a box -1.

A file of your own as `rewards.function` takes it, here one that builds on a shipped function.
"""

from __future__ import annotations

from typing import Any

from rewards.math_answer import BOX, boxed, gold_completion
from rewards.math_answer import reward as grade
from rewards.math_answer import warm_up as warm_up_grader

__all__ = ["gold_completion", "reward", "selfcheck", "warm_up"]


def reward(completion: str, answer: str | float) -> dict[str, Any]:
    """1.0 for the right answer in a box, 0.0 for another one in a box, -1.0 without a box that ends.

    Args:
        completion: the model's response.
        answer: the gold answer in LaTeX without a box, or a number.
    """
    if BOX not in completion or boxed(completion) is None:
        return {"score": -1.0, "outcome": "unparseable", "note": "no answer in a box"}
    return grade(completion, answer)


def warm_up() -> None:
    """Pay for imports and grammars once per process, before the first deadline runs."""
    warm_up_grader()


def selfcheck() -> list[tuple[dict[str, Any], float]]:
    """Cases: arguments and the score that they must get."""
    cases = [
        (r"Hence $\boxed{0.5}$.", r"\frac{1}{2}", 1.0),
        (r"Hence $\boxed{0.4}$.", r"\frac{1}{2}", 0.0),
        ("The answer is 0.5.", r"\frac{1}{2}", -1.0),
        (r"\boxed{\frac{1}{2", r"\frac{1}{2}", -1.0),
        ("", "42", -1.0),
    ]
    return [({"completion": text, "answer": answer}, score) for text, answer, score in cases]
