"""GSM8K: the number that the response ends in equals the number after `####` in the gold answer."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
NUMBER = re.compile(rf"(?<![\d.])[-+]?[$€£]?(?:{WHOLE}(?:\.\d+|/\d+)?|\.\d+)")
BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
FRACTION = re.compile(r"\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}")
UNIT = re.compile(r"(?<=\d)(?:\s|\\[,;!: ]|~)*\\(?:text|mbox|mathrm|textbf|mathbf)\s*\{[^{}]*\}")
NOISE = re.compile(r"\\[,;!: ]|\\(?=[$%])|[{}]")
LONGEST = 100  # characters: an "answer" beyond that is no number that anybody computed


def reward(completion: str, answer: str) -> dict[str, Any]:
    """1.0 when the response's number equals the gold one, otherwise 0.0; unparseable without any number.

    The response's number is the first one after its last `####`, else the last one in its last `\\boxed{}`,
    else the last one at all. Thousands separators, currency signs, units, a trailing dot and trailing zeros
    do not matter.

    Args:
        completion: the model's response.
        answer: the dataset's worked solution ending in `#### 72`, or the number alone.

    >>> reward("She sold 24 in May, so the answer is $1,072.00.", "48 + 1024 = 1072 #### 1072")["score"]
    1.0
    """
    gold = value(answer.rpartition("####")[2], first=True)
    if gold is None:
        raise ValueError(f"the gold answer holds no number: {answer[-200:]!r}")
    found = extract(completion)
    if found is None:
        return {"score": 0.0, "outcome": "unparseable", "note": "no number in the response"}
    return {"score": float(found == gold), "note": f"found {found}"}


def extract(completion: str) -> Fraction | None:
    """The number that the response gives as its answer."""
    _, marker, tail = completion.rpartition("####")
    if marker:
        return value(tail, first=True)
    boxes = BOXED.findall(completion)
    return value(boxes[-1] if boxes else completion)


def value(text: str, first: bool = False) -> Fraction | None:
    """The first or the last number in `text`, exactly."""
    text = FRACTION.sub(r"\1/\2", text.replace("−", "-").replace("{,}", ","))
    text = NOISE.sub("", UNIT.sub("", text))
    numbers = NUMBER.findall(text)
    if not numbers:
        return None
    number = re.sub(r"[,$€£]", "", numbers[0] if first else numbers[-1])
    if len(number) > LONGEST or re.search(r"/0+$", number):
        return None
    return Fraction(number)


def selfcheck() -> list[tuple[dict[str, Any], float]]:
    """Cases: arguments and the score that they must get."""
    gold = "48/2 = <<48/2=24>>24 clips in May.\n48+24 = <<48+24=72>>72 altogether.\n#### 72"
    right = [
        "#### 72",
        "The answer is 72.",
        "The answer is 72.0",
        "72 clips",
        "It is $72.",
        r"So \boxed{72}",
        "####72 clips in 2 months",
        r"\boxed{72 \text{ clips in 2 months}}",
        "#### 71, no: #### 72",
        "We get 48 + 24 = 72",
        "72/1",
        r"\boxed{\text{72}}",
        r"\(\boxed{\$72.00}\)",
    ]
    wrong = [
        "#### 73",
        "The answer is -72.",
        "720",
        "7.2",
        "72 or 73",
        r"\boxed{73} and 72",
        "72 #### 73",
        "72/5",
        "",
        "none",
        "172",
        "0.72",
    ]
    return [
        *(({"completion": text, "answer": gold}, 1.0) for text in right),
        *(({"completion": text, "answer": gold}, 0.0) for text in wrong),
        ({"completion": "He has 1,234,567 of them", "answer": "#### 1,234,567"}, 1.0),
        ({"completion": r"\boxed{1{,}234}", "answer": "1234"}, 1.0),
        ({"completion": "It fell by 3: the answer is -3", "answer": "#### -3"}, 1.0),
        ({"completion": r"\boxed{\frac{1}{2}}", "answer": "0.5"}, 1.0),
        ({"completion": r"\boxed{\frac{1}{2}}", "answer": "2"}, 0.0),
        ({"completion": "about .5", "answer": "0.50"}, 1.0),
        ({"completion": "5-3", "answer": "-3"}, 0.0),
        ({"completion": "5 - 3", "answer": "-3"}, 0.0),
        ({"completion": "1/0", "answer": "1"}, 0.0),
    ]
