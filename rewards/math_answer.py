"""MATH: the final answer equals the gold one, as text or, by math-verify, as mathematics."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

BOX = r"\boxed{"
DECIMALS = 6  # places to which numbers must agree
LONGEST = 1000  # characters: an answer beyond that is a model repeating itself
TAIL = 2000  # characters at the end of a response in which an answer without a box is looked for

# Where the answer stands.
MARKER = re.compile(r"(?i)\banswers?\**\s*(?:is|are|:|=)[\s:*]*+(?!not\b)")
STOP = re.compile(r"\n|\.(?:\s|$)|,? I hope")
REFUSED = re.compile(r"(?i)[\s,;(]*(?:\bbut\s+)?\bnot\b")
FORMULA = re.compile(
    r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<![\\$])\$((?:[^$\\\n]|\\.)+)\$(?!\d)", re.DOTALL
)
LINK = re.compile(
    r"(?:[\s$,;.&*]|\\[()\[\],;! ]|\\q?quad(?![a-z])|\\text\{\s*(?:and|or)\s*\}|and|or"
    r"|[a-zA-Z](?:_\{?\d\}?)?\s*=)*"
)
LINK_LENGTH = 40  # characters

# One spelling for what reads the same.
WORDS = re.compile(r"\\(?:text|mbox|mathrm|mathbf|textbf|operatorname)\s*\{([^{}]*)\}")
SPACING = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])|\\[,;:! ]|\\q?quad(?![a-zA-Z])|[\s~$]|\\(?=[$%#&])"
)
UNICODE = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "±": r"\pm "}
    | {"π": r"\pi ", "θ": r"\theta ", "°": r"^\circ ", "²": "^2", "³": "^3", "½": r"\frac{1}{2}"}
    | {"∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset "}
    | {"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne "}
)
PLAIN_ROOT = re.compile(r"(?:√|(?<![\\a-zA-Z])sqrt)\s*(?:\(([^()]*)\)|(\w+))")
PLAIN_PI = re.compile(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])")
MINUS = re.compile(r"(?i)\b(?:minus|negative)\s+(\$|\\\(|)(?=[\d\\])")
GROUPED = re.compile(r"(?<=\d)(?:\{,\}|,\\!\s*)(?=\d{3})")
SHORT_SCRIPT = re.compile(r"([_^])\{(\w)\}")
FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\\pi|\w))\s*(?:\{([^{}]*)\}|(\\pi|\w))")
SHORT_ROOT = re.compile(r"\\sqrt(\w)")
THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d)")

# What math-verify does not see.
BASE = re.compile(r"(?<=\w)_\{?(\d+)\}?$")
LIST = re.compile(r"(?:\\\{|[(\[])(?=.*,)")
LETTER = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z])")
IMAGINARY = re.compile(r"\\mathrm\s*\{i\}|\\imath(?![a-zA-Z])|(?<![a-zA-Z\\])i(?![a-zA-Z])")
INDEX = re.compile(r"\\(?:sum|prod)|_\{?i|i\s*=")
AND = re.compile(r",?\s*\b(?:and|or)\b")
EMPHASIS = re.compile(r"(?<!\w)\*\*([^*\n]+)\*\*(?!\w)")
PROSE = re.compile(r"(?<![\\a-zA-Z{])[a-zA-Z]{3,}")

WARM_UP = [(r"\frac{1}{2}", "0.5"), ("(x+1)^2", "x^2+3x"), ("(1,2]", "[1,2]"), (r"\sqrt{12}", r"2\sqrt{5}")]


def reward(completion: str, answer: str | float) -> dict[str, Any]:
    """1.0 when the response's answer is the gold one, otherwise 0.0.

    The response's answer is what its last `\\boxed{}` holds; boxes joined by nothing but "and", "or" or a
    comma are one list. Without a box it is what follows the last "answer is", else the last formula, else
    what math-verify extracts. Equal normalised LaTeX is right at once; anything else is compared by
    math-verify: numbers, expressions, equations, intervals, sets, lists, tuples, matrices. Its own time
    limits are off because they use SIGALRM, which works in a main thread only: the scoring process is killed
    at its deadline instead.

    Args:
        completion: the model's response.
        answer: the gold answer in LaTeX without a box, or a number.

    >>> reward(r"Hence $\\boxed{0.5}$.", r"\\frac{1}{2}")["score"]
    1.0
    """
    gold, place = normalise(str(answer)), statement(completion)
    if BOX in completion:
        found = boxed(completion)
        if found is None:
            return {"score": 0.0, "outcome": "unparseable", "note": "the last box never ends"}
    else:
        found = place if normalise(place) == gold else formula(place)
    if found is None:
        found, parsed = place[-200:], extract(place)
    elif len(found) > LONGEST:
        return {"score": 0.0, "outcome": "unparseable", "note": f"an answer of {len(found)} characters"}
    elif normalise(found) == gold:
        return {"score": 1.0, "note": f"found {found[:200]!r}, equal as text"}
    elif different := difference(found, str(answer)):
        return {"score": 0.0, "note": f"found {found[:200]!r}, {different}"}
    else:
        parsed = parse_latex(found)
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
    """What the last box holds, as a list with the boxes linked to it; None when its brace never closes."""
    start = text.rindex(BOX)
    found = [closed(text, start)]
    while found[-1] is not None and (before := text.rfind(BOX, 0, start)) >= 0:
        content = closed(text, before)
        if content is None or not linked(text, before + len(BOX) + len(content) + 1, start):
            break
        found.append(content)
        start = before
    return None if found[0] is None else one_list(reversed(found))


def closed(text: str, start: int) -> str | None:
    """What the box at `start` holds; None when its brace never closes."""
    depth = 0
    for position in range(start + len(BOX) - 1, len(text)):
        if text[position] in "{}" and text[position - 1] != "\\":
            depth += 1 if text[position] == "{" else -1
            if depth == 0:
                return text[start + len(BOX) : position]
    return None


def linked(text: str, end: int, start: int) -> bool:
    """Whether nothing but "and", "or" and punctuation is between an answer's end and the next one's start."""
    return 0 <= start - end <= LINK_LENGTH and LINK.fullmatch(text, end, start) is not None


def one_list(answers: Iterable[str]) -> str:
    """Several answers as one, each once."""
    return ", ".join(dict.fromkeys(answer.strip() for answer in answers))


def statement(text: str) -> str:
    """What follows the last "answer is" in its sentence; without it, the end of the response."""
    if len(text) > TAIL:
        text = text[-TAIL:].partition("\n")[2] or text[-TAIL:]
    text = EMPHASIS.sub(r"\1", text)
    markers = list(MARKER.finditer(text))
    if not markers:
        return text.strip()
    text = text[markers[-1].end() :]
    first = FORMULA.match(text)
    stop = STOP.search(text, first.end() if first else 0)
    text = text[: stop.start()] if stop else text
    return MINUS.sub(r"\1-", REFUSED.split(text)[0]).strip()


def formula(text: str) -> str | None:
    """The last formula as a list with those linked to it; None when it is to be looked for in prose."""
    found = list(FORMULA.finditer(text))
    if not found:
        text = AND.sub(",", latex_of(text))
        return text if text and not prose(text) else None
    if re.search(r"\d", text[found[-1].end() :]):
        return None
    last = [found.pop()]
    while found and linked(text, found[-1].end(), last[-1].start()):
        last.append(found.pop())
    contents = [match[match.lastindex or 0] for match in reversed(last)]
    return None if any(map(prose, contents)) else one_list(contents)


def prose(text: str) -> bool:
    """Whether there are words outside of LaTeX's commands."""
    return PROSE.search(WORDS.sub("", text)) is not None


def latex_of(text: str) -> str:
    """The text in LaTeX alone: Unicode's signs, sqrt(3) and pi, fractions' sizes, grouped digits."""
    text = PLAIN_ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text).translate(UNICODE)
    text = PLAIN_PI.sub(r"\\pi ", text)
    text = FRACTION.sub(lambda m: rf"\frac{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}", text)
    text = re.sub(r"\\[dtc]frac(?![a-z])", r"\\frac", text).replace(r"\degree", r"^\circ")
    return GROUPED.sub("", text)


def normalise(latex: str) -> str:
    """One spelling for LaTeX that reads the same: spacing, sizes, fractions, words, currency, degrees."""
    text = SPACING.sub("", WORDS.sub(r"\1", latex_of(latex)))
    text = SHORT_SCRIPT.sub(r"\1\2", SHORT_ROOT.sub(r"\\sqrt{\1}", text)).replace(r"^{\circ}", r"^\circ")
    text = THOUSANDS.sub(lambda m: m[0].replace(",", ""), text.removesuffix(".").removesuffix(r"^\circ"))
    letters = re.fullmatch(r"\(?([A-Za-z]+)\)?", text)
    return letters[1].casefold() if letters and len(text) > 1 else text


def difference(found: str, gold: str) -> str | None:
    """How two answers differ that math-verify may take for equal; None when they do not in these ways.

    It ignores a base such as in 52_7, the case of variables, and whether a list is a set or a tuple. An
    answer without the base is right: the problem names it.
    """
    letters = [set(LETTER.findall(WORDS.sub("", text))) for text in (found, gold)]
    if letters[0] != letters[1] and {c.lower() for c in letters[0]} == {c.lower() for c in letters[1]}:
        return "in letters of another case"
    found, gold = normalise(found), normalise(gold)
    bases = BASE.search(found), BASE.search(gold)
    if bases[0] and (bases[1] is None or bases[0][1] != bases[1][1]):
        return "in another base"
    brackets = [LIST.match(text) for text in (found, gold)]
    if all(brackets) and (brackets[0][0] == r"\{") != (brackets[1][0] == r"\{"):
        return "a set for a tuple or the reverse"
    return None


def equal(answer: str, parsed: list[Any]) -> bool:
    """math-verify's verdict on the parsed response."""
    from math_verify import verify

    gold = parse_latex(answer)
    # Without the last option an interval as the gold answer is not equal to the same inequality.
    return bool(
        verify(
            gold, parsed, float_rounding=decimals(gold), timeout_seconds=None, allow_set_relation_comp=True
        )
    )


def decimals(gold: list[Any]) -> int:
    """Decimal places to compare: six, counted from the first that is not 0 in numbers below 1."""
    try:
        size = abs(float(gold[0]))
    except (TypeError, ValueError, IndexError, OverflowError):
        return DECIMALS
    return DECIMALS + math.floor(-math.log10(size)) if 0 < size < 1 else DECIMALS


@lru_cache(maxsize=1024)
def parse_latex(latex: str) -> list[Any]:
    """A formula as mathematics; falls back on its text alone."""
    from math_verify import LatexExtractionConfig, parse

    latex = latex_of(latex)
    if not INDEX.search(latex):
        latex = IMAGINARY.sub(" I ", latex)  # it takes i for a variable, and I for the imaginary unit
    return parse(f"{BOX}{latex}}}", [LatexExtractionConfig()], parsing_timeout=None)


def extract(text: str) -> list[Any]:
    """What math-verify takes for the answer in prose, where a dollar sign is money."""
    from math_verify import parse

    return parse(re.sub(r"\\?\$", "", text), parsing_timeout=None)


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
