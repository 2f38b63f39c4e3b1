"""Multiple choice: the option that the response settles on is the gold one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

BOX = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
MARKER = re.compile(
    r"(?i)\b(?:answer|choice|option)\**\s*(?:is|:|=)[\s:*]*+(?:(?:option|choice)\s+)?(?!not\b)"
)
STOP = re.compile(r"\n|\.(?:\s|$)|;|,?\s+(?:because|since|not|which)\b")
PICK = re.compile(r"(?<![\w'’])\(?([A-Z])\)?\**\s+is\s+(?:the\s+)?(?:correct|right|best)\b")
DRESS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}|[*_$`{}]|\\[()\[\]]")
MARKED = re.compile(r"\(([A-Z])\)|([A-Z])(?:[).:,\]]|\s+[-–—(=]|\s*$)")  # (B), B), B. or B alone
BARE = re.compile(r"([B-HJ-Z])(?=\s)")  # B and more text; A and I are words of their own
ANOTHER = re.compile(r"\s*(?:,|/|&|,?\s*\bor\b|,?\s*\band\b)\s*\(?[A-Z]\)?(?![\w'’])")
DENIED = re.compile(r"(?i)\b(?:not|neither|nor|except|wrong|incorrect)\b|n['’]t\b")


def reward(completion: str, answer: str | int, choices: Sequence[str] | None = None) -> dict[str, Any]:
    """1.0 when the response gives the gold option and no other, otherwise 0.0; unparseable without an option.

    The response's answer is what its last `\\boxed{}` holds, else what follows its last "answer is" up to the
    end of the clause, else the last option that "is correct", else its last line. It begins with the option's
    letter, `B` or `(B)` or `B) text`, or holds one letter in parentheses, or is, where `choices` are given,
    the text of an option.

    Args:
        completion: the model's response.
        answer: the gold option: its letter, its number from 0 as an int, or, with `choices`, its text.
        choices: the texts of the options in their order; their letters are A and so on.

    >>> reward("It is cold, so the answer is (B).", "B")["score"]
    1.0
    """
    gold = gold_letter(answer, choices)
    text = statement(completion)
    found = option(text, choices)
    if found is None:
        return {"score": 0.0, "outcome": "unparseable", "note": f"no single option in {text[:100]!r}"}
    return {"score": float(found == gold), "note": f"found {found}"}


def gold_letter(answer: str | int, choices: Sequence[str] | None) -> str:
    """The gold option's letter.

    Raises:
        ValueError: it is none of the options.
    """
    letters = ascii_uppercase[: len(choices) if choices else None]
    if isinstance(answer, int):
        if 0 <= answer < len(letters):
            return letters[answer]
        raise ValueError(f"the gold answer is option number {answer}, of {len(letters)} from 0")
    for letter, choice in zip(letters, choices or [], strict=False):
        if plain(choice) == plain(answer):
            return letter
    letter = answer.strip("(). ").upper()
    if len(letter) != 1 or letter not in letters:
        raise ValueError(
            f"the gold answer {answer[:100]!r} is none of the options {letters[0]} to {letters[-1]}"
        )
    return letter


def statement(completion: str) -> str:
    """The part of the response that gives the answer."""
    boxes = BOX.findall(completion)
    if boxes:
        return boxes[-1]
    markers = list(MARKER.finditer(completion))
    if markers:
        rest = completion[markers[-1].end() :]
        stop = STOP.search(rest)
        return rest[: stop.start()] if stop else rest
    picks = PICK.findall(completion)
    return picks[-1] if picks else completion.strip().rpartition("\n")[2]


def option(text: str, choices: Sequence[str] | None) -> str | None:
    """The letter of the one option that the text names; None when it names none or several."""
    text = DRESS.sub(lambda dress: dress[1] or "", text).strip()
    letters = ascii_uppercase[: len(choices) if choices else None]
    for letter, choice in zip(letters, choices or [], strict=False):
        if plain(text) == plain(choice):
            return letter
    if re.fullmatch(r"\(?[a-z]\)?\.?", text):
        text = text.upper()
    named = MARKED.match(text) or BARE.match(text)
    if named is None:
        inside = set(re.findall(r"\(([A-Z])\)", "" if DENIED.search(text) else text))
        return inside.pop() if len(inside) == 1 and inside <= set(letters) else None
    if any(ANOTHER.match(text, end) for end in (named.end(named.lastindex or 0), named.end())):
        return None
    letter = named[named.lastindex or 0]
    return letter if letter in letters else None


def plain(text: str) -> str:
    """The text without case, surplus white space and a full stop."""
    return " ".join(text.split()).strip(" .").casefold()


def gold_completion(answer: str | int, choices: Sequence[str] | None = None) -> str:
    """A response that must score 1.0."""
    return f"({gold_letter(answer, choices)})"


def selfcheck() -> list[tuple[dict[str, Any], float]]:
    """Cases: arguments and the score that they must get."""
    right = [
        "B",
        "(B)",
        "b",
        "B. in winter",
        "The answer is B.",
        "The correct answer is: **B**",
        "**Answer:** (B) in winter, not in summer",
        "Answer: B because the days are short",
        r"\boxed{B}",
        r"\boxed{\text{(B)}}",
        "A is too early. The answer is option B",
        "Not A. B is correct.",
        "Answer: B - in winter",
        "I would choose (B) here",
        "A first guess is A.\n\nB",
    ]
    wrong = [
        "A",
        "The answer is C.",
        "The answer is not B",
        "The answer is A, not B.",
        "The answer is A or B",
        "The answer is B or C",
        "(B), (C)",
        "B/C",
        "Surely not (B)",
        "Either (B) or (C)",
        "The answer is not (B)",
        r"\boxed{A} since B is wrong",
        r"\boxed{B, C}",
        "Both look right",
        "A B C D",
        "Because",
        "",
    ]
    seasons = {"choices": ["in spring", "in winter", "in summer"]}
    return [
        *(({"completion": text, "answer": "B"}, 1.0) for text in right),
        *(({"completion": text, "answer": "B"}, 0.0) for text in wrong),
        ({"completion": "The answer is in winter.", "answer": 1, **seasons}, 1.0),
        ({"completion": "B) in winter", "answer": "In winter", **seasons}, 1.0),
        ({"completion": "The answer is in summer.", "answer": 1, **seasons}, 0.0),
        ({"completion": "The answer is A dog", "answer": "A"}, 0.0),
        ({"completion": "D", "answer": "B", **seasons}, 0.0),
    ]
