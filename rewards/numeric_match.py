"""Numeric match: the number that the response gives equals the gold one, exactly or within a tolerance."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, Literal

MARKER = re.compile(r"(?i)####|\banswers?\**\s*(?:is|:|=)[\s:*]*+(?!not\b)")
BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>[-+]?[$€£¥]?[-+]?)"
    r"(?:(?P<whole>\d+)\s+(?=\d+\s*/))?"
    r"(?P<value>\d+(?:\.\d+)?|\.\d+)"
    r"(?:[eE](?P<exponent>[-+]?\d+)(?!\w))?"
    r"(?:\s*/\s*(?P<below>\d+(?:\.\d+)?))?"
    r"(?P<percent>\s*(?:%|percent\b))?"
)
SPELLINGS = [
    (re.compile(r"−|–"), "-"),
    (re.compile(r"\\[,;!: ]|\\(?=[$%])|\{,\}"), ""),
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
    (re.compile(r"(?<=\d)\s*+\\[dtc]?frac\s*\{(\d+)\}\s*\{(\d+)\}"), r" \1/\2"),
    (re.compile(r"\\[dtc]?frac\s*\{(\d+)\}\s*\{(\d+)\}"), r"\1/\2"),
    (re.compile(r"(?<=\d)\s*+(?:\\times|\\cdot|[×*·])\s*10\s*(?:\^|\*\*)\s*\{?([-+]?\d+)\}?"), r"e\1"),
    (re.compile(r"(?<![\w.])10\s*(?:\^|\*\*)\s*\{?([-+]?\d+)\}?"), r"1e\1"),
]
LONGEST, LARGEST_EXPONENT = 100, 400  # characters and powers of ten beyond any number that anybody computed


def reward(
    completion: str,
    answer: str | float,
    absolute: float = 0.0,
    relative: float = 0.0,
    percent: Literal["exact", "either"] = "exact",
) -> dict[str, Any]:
    """1.0 when |found - gold| <= max(absolute, relative * |gold|), otherwise 0.0.

    The response's number is the last one in its last `\\boxed{}`, else the first one after its last "answer
    is" or `####`, else the last one at all; a response without any is unparseable. It may be written 1,234.5
    or 2 3/4 or \\frac{3}{4} or 1.5e3 or 1.5 x 10^3 (with a times sign) or 12%, with a currency sign or a
    unit. Numbers are compared exactly, as fractions.

    Args:
        completion: the model's response.
        answer: the gold number, written in one of these ways.
        absolute: tolerance in the unit of the gold answer.
        relative: tolerance as a share of the gold answer.
        percent: with "exact", 12% is 0.12 and nothing else; with "either", the sign may be missing or be one
            too many: 12% also equals 12.

    >>> reward("The answer is 9.80 m/s", "9.81", relative=0.01)["score"]
    1.0
    """
    if absolute < 0 or relative < 0:
        raise ValueError(f"a tolerance is negative: absolute {absolute}, relative {relative}")
    gold = read(NUMBER.search(spelled(str(answer))))
    if gold is None:
        raise ValueError(f"the gold answer holds no number: {str(answer)[:200]!r}")
    found = extract(spelled(completion))
    if found is None:
        return {"score": 0.0, "outcome": "unparseable", "note": "no number in the response"}
    (value, sign), (target, gold_sign) = found, gold
    tolerance = max(Fraction(str(absolute)), Fraction(str(relative)) * abs(target))
    values = [value]
    if percent == "either" and sign != gold_sign:
        values.append(value * 100 if sign else value / 100)
    close = any(abs(v - target) <= tolerance for v in values)
    return {"score": float(close), "note": f"found {float(value):g}"}


def spelled(text: str) -> str:
    """The text with every number in one of the ways that NUMBER reads."""
    for pattern, replacement in SPELLINGS:
        text = pattern.sub(replacement, text)
    return text


def extract(text: str) -> tuple[Fraction, bool] | None:
    """The number that the response gives as its answer, and whether it bears a percent sign."""
    boxes = BOXED.findall(text)
    if boxes:
        return read(last_number(boxes[-1]))
    markers = list(MARKER.finditer(text))
    first = NUMBER.search(text, markers[-1].end()) if markers else None
    return read(first or last_number(text))


def last_number(text: str) -> re.Match[str] | None:
    """The last number in the text."""
    return next(reversed(list(NUMBER.finditer(text))), None)


def read(number: re.Match[str] | None) -> tuple[Fraction, bool] | None:
    """The number's value, exactly, and whether it bears a percent sign; None for 1/0 and endless digits."""
    if number is None or len(number[0]) > LONGEST or abs(int(number["exponent"] or 0)) > LARGEST_EXPONENT:
        return None
    below = Fraction(number["below"] or 1)
    if below == 0:
        return None
    value = Fraction(number["value"]) * Fraction(10) ** int(number["exponent"] or 0) / below
    value += int(number["whole"] or 0)
    value = -value if "-" in number["sign"] else value
    return (value / 100, True) if number["percent"] else (value, False)


def selfcheck() -> list[tuple[dict[str, Any], float]]:
    """Cases: arguments and the score that they must get."""
    right = [
        ("1234.5", "The answer is 1,234.50 dollars."),
        ("0.75", r"\boxed{\frac{3}{4}}"),
        ("3/4", "so it is .75"),
        ("2.75", "2 3/4 cups"),
        ("2.75", r"\boxed{2\frac{3}{4}}"),
        ("1500", "1.5e3"),
        ("1500", r"$1.5 \times 10^{3}$ m"),
        ("1000000", "10^6"),
        ("0.12", "12%"),
        ("12%", "12 percent"),
        ("-5", "The answer is −$5, 3 less than before"),
        ("7", "#### 7 in 2 days"),
    ]
    wrong = [
        ("1234.5", "1,234.6"),
        ("0.75", r"\boxed{\frac{4}{3}}"),
        ("2.75", "3/4"),
        ("1500", "1.5e4"),
        ("12", "12%"),
        ("5", "-5"),
        ("3", "5-4"),
        ("1", "1/0"),
        ("7", "The answer is 2, not 7"),
        ("7", "none"),
        ("7", ""),
    ]
    near = {"answer": "9.81", "relative": 0.01}
    return [
        *(({"answer": gold, "completion": text}, 1.0) for gold, text in right),
        *(({"answer": gold, "completion": text}, 0.0) for gold, text in wrong),
        ({"completion": "9.9", **near}, 1.0),
        ({"completion": "9.91", **near}, 0.0),
        ({"completion": "100.5", "answer": 100, "absolute": 0.5}, 1.0),
        ({"completion": "100.51", "answer": 100, "absolute": 0.5}, 0.0),
        ({"completion": "12%", "answer": "12", "percent": "either"}, 1.0),
        ({"completion": "0.12", "answer": "12%", "percent": "either"}, 1.0),
        ({"completion": "13%", "answer": "12", "percent": "either"}, 0.0),
    ]
