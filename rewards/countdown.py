"""Countdown: an expression that uses each given number exactly once and has the target as its value."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from itertools import permutations
from typing import Any

TOKEN = re.compile(r"[0-9]+|[-+*/()]")
LONGEST = 100  # characters: no expression of a handful of numbers is longer; it bounds time and nesting


def reward(completion: str, numbers: Sequence[int], answer: int | str) -> dict[str, Any]:
    """1.0 when the expression is right, otherwise 0.0; unparseable when the response is no expression.

    The response is nothing but the expression: the numbers, `+ - * /`, parentheses, white space. A number is
    never negative by itself; division is exact.

    Args:
        completion: the model's response.
        numbers: those to use, each once; a number that is given twice is used twice.
        answer: the target.

    >>> reward("7+3*5", [3, 5, 7], "22")["score"]
    1.0
    """
    if len(completion) > LONGEST:
        return {"score": 0.0, "outcome": "unparseable", "note": f"{len(completion)} characters"}
    tokens = tokenize(completion)
    if tokens is None:
        return {"score": 0.0, "outcome": "unparseable", "note": "other characters than an expression's"}
    try:
        value = evaluate(tokens)
    except SyntaxError as error:
        return {"score": 0.0, "outcome": "unparseable", "note": str(error)}
    except ZeroDivisionError:
        return {"score": 0.0, "note": "divides by zero"}
    used = sorted(int(token) for token in tokens if token.isdigit())
    if used != sorted(numbers):
        return {"score": 0.0, "note": f"uses {used}"}
    return {"score": float(value == int(answer)), "note": f"is {value}"}


def tokenize(text: str) -> list[str] | None:
    """Numbers, operators and parentheses; None when there is anything else."""
    return TOKEN.findall(text) if not TOKEN.sub("", text).strip() else None


def evaluate(tokens: Sequence[str]) -> Fraction:
    """The value of an expression.

    Raises:
        SyntaxError: it is none.
        ZeroDivisionError: it divides by zero.
    """
    rest = deque(tokens)
    value = read_sum(rest)
    if rest:
        raise SyntaxError(f"{rest[0]!r} where an operator or the end was expected")
    return value


def read_sum(rest: deque[str]) -> Fraction:
    """Take terms joined by + and - from the left of `rest`."""
    value = read_product(rest)
    while rest and rest[0] in "+-":
        operator, term = rest.popleft(), read_product(rest)
        value = value + term if operator == "+" else value - term
    return value


def read_product(rest: deque[str]) -> Fraction:
    """Take factors joined by * and / from the left of `rest`."""
    value = read_factor(rest)
    while rest and rest[0] in "*/":
        operator, factor = rest.popleft(), read_factor(rest)
        value = value * factor if operator == "*" else value / factor
    return value


def read_factor(rest: deque[str]) -> Fraction:
    """Take a number, or a sum in parentheses, from the left of `rest`."""
    token = rest.popleft() if rest else "the end"
    if token.isdigit():
        return Fraction(int(token))
    if token != "(":
        raise SyntaxError(f"{token!r} where a number was expected")
    value = read_sum(rest)
    if not rest or rest.popleft() != ")":
        raise SyntaxError("a parenthesis never closes")
    return value


def gold_completion(numbers: Sequence[int], answer: int | str) -> str:
    """A response that must score 1.0, by trying everything.

    Raises:
        ValueError: the target is out of reach.
    """
    found = search([(Fraction(n), str(n)) for n in numbers], Fraction(int(answer)))
    if found is None:
        raise ValueError(f"no expression of {list(numbers)} is {answer}")
    return found


def search(terms: Sequence[tuple[Fraction, str]], target: Fraction) -> str | None:
    """An expression of all terms, given as value and text, with the value `target`."""
    if len(terms) == 1:
        return terms[0][1] if terms[0][0] == target else None
    for i, j in permutations(range(len(terms)), 2):
        (a, left), (b, right) = terms[i], terms[j]
        others = [term for k, term in enumerate(terms) if k not in (i, j)]
        values = {"+": a + b, "-": a - b, "*": a * b} | ({"/": a / b} if b else {})
        for operator, value in values.items():
            if found := search([*others, (value, f"({left}{operator}{right})")], target):
                return found
    return None


def selfcheck() -> list[tuple[dict[str, Any], float]]:
    """Cases: arguments and the score that they must get."""
    given = {"numbers": [3, 5, 7], "answer": "22"}
    right = ["3*5+7", "7+3*5", " 7 + (5 * 3) ", "(7)+((5*3))"]
    wrong = [
        "3*5+7=22",
        "22",
        "3*5",
        "3*5+7+7-7",
        "3+5+7",
        "35-7",
        "3*5+7)",
        "(3*5+7",
        "3**5+7",
        "-3*-5+7",
        "3*5+7 3*5+7",
        "()",
        "",
        "so 3*5+7",
    ]
    return [
        *(({"completion": text, **given}, 1.0) for text in right),
        *(({"completion": text, **given}, 0.0) for text in wrong),
        ({"completion": "8/(3-8/3)", "numbers": [3, 3, 8, 8], "answer": 24}, 1.0),
        ({"completion": "8/(3-3)+8", "numbers": [3, 3, 8, 8], "answer": 24}, 0.0),
        ({"completion": "1/3*3", "numbers": [1, 3, 3], "answer": 1}, 1.0),
        ({"completion": "٣*5+7", **given}, 0.0),
    ]
