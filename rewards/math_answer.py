"""MATH: the final answer equals the gold one, as text or, by math-verify, as mathematics."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

BOX = r"\boxed{"
LONGEST = 1000  # characters: text in a box beyond that is a model repeating itself
TAIL = 2000  # characters at the end of a response in which an answer without a box is looked for
WORDS = re.compile(r"\\(?:text|mbox|mathrm|mathbf|textbf|operatorname)\s*\{([^{}]*)\}")
SPACING = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])|\\[,;:! ]|\\q?quad(?![a-zA-Z])|[\s~$]|\\(?=[$%#&])"
)
SHORT_FRACTION = re.compile(r"\\frac(?:\{(\w+)\}|(\w))(?:\{(\w+)\}|(\w))")
SHORT_ROOT = re.compile(r"\\sqrt(\w)")
WARM_UP = [(r"\frac{1}{2}", "0.5"), ("(x+1)^2", "x^2+3x"), ("(1,2]", "[1,2]"), (r"\sqrt{12}", r"2\sqrt{5}")]
BASE = re.compile(r"(?<=\w)_\{?(\d+)\}?$")
THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d)")


def reward(completion: str, answer: str | float) -> dict[str, Any]:
    """1.0 when the response's answer is the gold one, otherwise 0.0.

    The response's answer is what its last `\\boxed{}` holds; without a box, what math-verify extracts ("the
    final answer is ...", the last formula, the last number). Equal normalised LaTeX is right at once;
    anything else is compared by math-verify, whose own time limits are off because they use SIGALRM, which
    works in a main thread only: the scoring process is killed at its deadline instead.

    Args:
        completion: the model's response.
        answer: the gold answer in LaTeX without a box, or a number.

    >>> reward(r"Hence $\\boxed{0.5}$.", r"\\frac{1}{2}")["score"]
    1.0
    """
    gold = normalise(str(answer))
    if BOX in completion:
        found = boxed(completion)
        if found is None:
            return {"score": 0.0, "outcome": "unparseable", "note": "the last box never ends"}
        if len(found) > LONGEST:
            return {"score": 0.0, "outcome": "unparseable", "note": f"{len(found)} characters in the box"}
        if normalise(found) == gold:
            return {"score": 1.0, "note": f"found {found[:200]!r}, equal as text"}
        if other_base(normalise(found), gold):
            return {"score": 0.0, "note": f"found {found[:200]!r}, in another base"}
        parsed = parse_latex(found)
    else:
        found, parsed = completion[-200:], extract(completion[-TAIL:])
    if not parsed:
        return {"score": 0.0, "outcome": "unparseable", "note": f"no mathematics in {found[:200]!r}"}
    return {"score": float(equal(str(answer), parsed)), "note": f"found {found[:200]!r}"}


def warm_up() -> None:
    """Pay for imports and grammars once per process, before the first deadline runs."""
    # Its warning that its time limits are off would hide a crash's own words.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    extract("The final answer is $0.5$.")
    for answer, found in WARM_UP:
        equal(answer, parse_latex(found))


def boxed(text: str) -> str | None:
    """What the last box holds; None when its brace never closes."""
    start = text.rindex(BOX) + len(BOX)
    depth = 1
    for position in range(start, len(text)):
        character = text[position]
        if character in "{}" and text[position - 1] != "\\":
            depth += 1 if character == "{" else -1
            if depth == 0:
                return text[start:position]
    return None


def normalise(latex: str) -> str:
    """One spelling for LaTeX that reads the same: spacing, sizes, fractions, words, currency, degrees."""
    text = WORDS.sub(r"\1", latex.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac"))
    text = SPACING.sub("", text.replace("{,}", ",").replace("−", "-"))
    text = SHORT_FRACTION.sub(lambda m: rf"\frac{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}", text)
    text = SHORT_ROOT.sub(r"\\sqrt{\1}", text).replace(r"^{\circ}", r"^\circ").removesuffix(r"^\circ")
    text = THOUSANDS.sub(lambda m: m[0].replace(",", ""), text).removesuffix(".")
    letters = re.fullmatch(r"\(?([A-Za-z]+)\)?", text)
    return letters[1].casefold() if letters and len(text) > 1 else text


def other_base(found: str, gold: str) -> bool:
    """True for 52_7 against 52_8, which math-verify takes for equal: it ignores such subscripts."""
    bases = BASE.search(found), BASE.search(gold)
    return all(bases) and bases[0][1] != bases[1][1]


def equal(answer: str, parsed: list[Any]) -> bool:
    """math-verify's verdict on the parsed response."""
    from math_verify import verify

    return bool(verify(parse_latex(answer), parsed, timeout_seconds=None))


@lru_cache(maxsize=1024)
def parse_latex(latex: str) -> list[Any]:
    """A formula as mathematics; falls back on its text alone."""
    from math_verify import LatexExtractionConfig, parse

    return parse(f"{BOX}{latex}}}", [LatexExtractionConfig()], parsing_timeout=None)


def extract(completion: str) -> list[Any]:
    """What math-verify takes for the answer of a response without a box."""
    from math_verify import parse

    return parse(completion, parsing_timeout=None)


def gold_completion(answer: str) -> str:
    """A response that must score 1.0."""
    return f"{BOX}{answer}}}"


def selfcheck() -> list[tuple[dict[str, Any], float]]:
    """Cases: arguments and the score that they must get."""
    pairs = [
        (r"\boxed{\frac{1}{2}}", r"\frac12", 1.0),
        (r"\boxed{0.5}", r"\frac{1}{2}", 1.0),
        ("The final answer is $0.5$.", r"\frac{1}{2}", 1.0),
        (r"\boxed{2\sqrt{3}}", r"\sqrt{12}", 1.0),
        (r"\boxed{x^2 + 2x + 1}", "(x+1)^2", 1.0),
        (r"\boxed{(3, \pi/2)}", r"\left( 3, \frac{\pi}{2} \right)", 1.0),
        (r"\boxed{(-\infty, 2) \cup (3, \infty)}", r"(-\infty,2)\cup(3,\infty)", 1.0),
        (r"\boxed{5}", "x=5", 1.0),
        (r"\boxed{10080}", r"10,\!080", 1.0),
        (r"\boxed{18.90}", r"\$18.90", 1.0),
        (r"\boxed{90}", r"90^\circ", 1.0),
        (r"\boxed{C}", r"\text{(C)}", 1.0),
        (r"\boxed{\text{evelyn}}", r"\text{Evelyn}", 1.0),
        (r"first \boxed{3}, no: \boxed{4}", "4", 1.0),
        (r"\boxed{3}, no: \boxed{4}", "3", 0.0),
        (r"\boxed{\frac{1}{3}}", r"\frac12", 0.0),
        (r"\boxed{0.33}", r"\frac{1}{3}", 0.0),
        (r"\boxed{(2,1)}", "(1,2)", 0.0),
        (r"\boxed{[1,2]}", "(1,2]", 0.0),
        (r"\boxed{-5}", "5", 0.0),
        (r"\boxed{50}", "5", 0.0),
        (r"\boxed{52_7}", "52_8", 0.0),
        (r"\boxed{52_{8}}", "52_8", 1.0),
        (r"\boxed{52}", "52_8", 1.0),
        (r"\boxed{\text{west}}", r"\text{east}", 0.0),
        (r"\boxed{42", "42", 0.0),
        (r"\boxed{}", "42", 0.0),
        ("", "42", 0.0),
        ("I do not know", "42", 0.0),
    ]
    return [({"completion": completion, "answer": answer}, score) for completion, answer, score in pairs]
