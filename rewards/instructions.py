"""Instruction following: the response keeps instructions that a program can check.

Names and arguments are those of IFEval (arXiv 2311.07911), so its rows, and data sets in its form, work as
they are. Three things are counted more exactly than in its own code: a word may hold apostrophes and hyphens
("don't" is one), a keyword is found as a whole word, "art" not in "start", and sentences end at `.`, `!` or
`?` before white space, but not after an initial or a common abbreviation. Left out is what only a language
detector could tell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

WORD = re.compile(r"\w+(?:['’\-]\w+)*")
SENTENCE_END = re.compile(r"(?<![.!?。！？])[.!?。！？]++[\"'”’)\]*_]*+(?=\s|$)")
NO_END = re.compile(r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|cf|No|Fig|approx))\.$")
BULLET = re.compile(r"^[ \t]*(?:[*+•]|-(?!-))[ \t]+\S", re.MULTILINE)
HIGHLIGHT = re.compile(r"(?<![\w*])(\*{1,2})(?![\s*])([^\n*]*[^\s*])\1(?![\w*])")
FENCE = re.compile(r"```(?:json|JSON)?(.*?)```", re.DOTALL)
RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "at least": lambda count, bound: count >= bound,
    "at most": lambda count, bound: count <= bound,
    "less than": lambda count, bound: count < bound,
    "more than": lambda count, bound: count > bound,
    "exactly": lambda count, bound: count == bound,
}


def reward(
    completion: str,
    instruction_id_list: Sequence[str],
    kwargs: Sequence[Mapping[str, Any] | None],
    partial: bool = False,
) -> dict[str, Any]:
    """1.0 when every instruction is kept, otherwise 0.0; with `partial`, the share of those that are.

    Args:
        completion: the model's response.
        instruction_id_list: names of CHECKS.
        kwargs: for each of them its arguments; those that are None count as absent.
        partial: reward the share of kept instructions.

    >>> wanted = {"num_words": 3, "relation": "at least"}
    >>> reward("Yes. It rains.", ["length_constraints:number_words"], [wanted])["score"]
    1.0
    """
    if not instruction_id_list or len(instruction_id_list) != len(kwargs):
        raise ValueError(f"{len(instruction_id_list)} instructions with {len(kwargs)} sets of arguments")
    kept = [follows(completion, *pair) for pair in zip(instruction_id_list, kwargs, strict=True)]
    broken = [name for name, ok in zip(instruction_id_list, kept, strict=True) if not ok]
    share = sum(kept) / len(kept)
    return {
        "score": share if partial else float(not broken),
        "followed": share,
        "note": f"not kept: {', '.join(broken)}" if broken else "",
    }


def follows(text: str, name: str, arguments: Mapping[str, Any] | None) -> bool:
    """Whether the response keeps one instruction; an empty response keeps none.

    Raises:
        ValueError: the instruction is unknown, or its arguments do not fit it.
    """
    if name not in CHECKS:
        raise ValueError(f"unknown instruction {name!r}; known are {', '.join(CHECKS)}")
    given = {key: value for key, value in (arguments or {}).items() if value is not None}
    try:
        return bool(text.strip()) and CHECKS[name](text.strip(), **given)
    except TypeError as error:
        raise ValueError(f"the arguments {sorted(given)} do not fit {name}: {error}") from error


def compare(count: int, relation: str, bound: int) -> bool:
    """Whether a count stands in the relation to its bound.

    Raises:
        ValueError: the relation is unknown.
    """
    if relation not in RELATIONS:
        raise ValueError(f"unknown relation {relation!r}; known are {', '.join(RELATIONS)}")
    return RELATIONS[relation](count, int(bound))


def occurrences(text: str, phrase: str) -> int:
    """How often a word or phrase occurs as a whole, whatever its case and white space."""
    words = r"\s+".join(re.escape(part) for part in phrase.split())
    return len(re.findall(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE))


def keywords_existence(text: str, keywords: Sequence[str]) -> bool:
    """All keywords occur."""
    return all(occurrences(text, keyword) for keyword in keywords)


def forbidden_words(text: str, forbidden_words: Sequence[str]) -> bool:
    """None of the words occurs."""
    return not any(occurrences(text, word) for word in forbidden_words)


def keyword_frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    """The keyword occurs so often."""
    return compare(occurrences(text, keyword), relation, frequency)


def letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    """The letter, large or small, occurs so often."""
    return compare(text.lower().count(letter.lower()), let_relation, let_frequency)


def number_words(text: str, num_words: int, relation: str) -> bool:
    """So many words."""
    return compare(len(WORD.findall(text)), relation, num_words)


def number_sentences(text: str, num_sentences: int, relation: str) -> bool:
    """So many sentences; words after the last full stop are one more."""
    ends = [
        m.end()
        for m in SENTENCE_END.finditer(text)
        if not NO_END.search(text[max(0, m.end() - 12) : m.end()])
    ]
    count = len(ends) + bool(WORD.search(text[ends[-1] if ends else 0 :]))
    return compare(count, relation, num_sentences)


def number_paragraphs(text: str, num_paragraphs: int) -> bool:
    """So many paragraphs, divided by `***` and none of them empty."""
    paragraphs = re.split(r"\s?\*\*\*\s?", text)
    inner = [p for k, p in enumerate(paragraphs) if p.strip() or 0 < k < len(paragraphs) - 1]
    return len(inner) == num_paragraphs and all(p.strip() for p in inner)


def first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """So many paragraphs, divided by blank lines, and the n-th (from 1) begins with the word."""
    paragraphs = [p for p in re.split(r"\n\s*\n", text) if p.strip()]
    if len(paragraphs) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    first = WORD.search(paragraphs[int(nth_paragraph) - 1])
    return first is not None and first[0].casefold() == first_word.strip().casefold()


def number_placeholders(text: str, num_placeholders: int) -> bool:
    """At least so many placeholders such as [address]."""
    return len(re.findall(r"\[[^\[\]\n]+\]", text)) >= num_placeholders


def postscript(text: str, postscript_marker: str) -> bool:
    """A line near the end begins with the marker, such as P.S., and something follows it."""
    marker = r"\s?".join(map(re.escape, re.sub(r"\s", "", postscript_marker)))
    return re.search(rf"^[^\w\n]*{marker}\W*\w", text, re.IGNORECASE | re.MULTILINE) is not None


def number_bullets(text: str, num_bullets: int) -> bool:
    """Exactly so many bullet points, `*`, `-`, `+` or `•`."""
    return len(BULLET.findall(text)) == num_bullets


def constrained_response(text: str) -> bool:
    """One of the three answers is there, and only one."""
    return sum(f"my answer is {word}." in text.lower() for word in ("yes", "no", "maybe")) == 1


def number_highlights(text: str, num_highlights: int) -> bool:
    """At least so many parts in *asterisks* or **double ones**."""
    return len(HIGHLIGHT.findall(text)) >= num_highlights


def multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    """At least so many sections, each begun by the word and a number, such as "Section 1"."""
    return len(re.findall(rf"(?<!\w){re.escape(section_spliter.strip())}\s+\d+", text)) >= num_sections


def json_format(text: str) -> bool:
    """Nothing but one JSON value, in a fenced block or not."""
    fenced = FENCE.fullmatch(text)
    try:
        json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return True


def title(text: str) -> bool:
    """A title in double angular brackets, <<so>>."""
    return any(found.strip() for found in re.findall(r"<<([^\n<>]+)>>", text))


def two_responses(text: str) -> bool:
    """Two different answers with ****** between them."""
    answers = [part.strip() for part in re.split(r"\*{6}", text)]
    return len(answers) == 2 and all(answers) and answers[0] != answers[1]


def repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    """The request word for word, then something more."""
    request = prompt_to_repeat.strip()
    return text.lower().startswith(request.lower()) and bool(WORD.search(text[len(request) :]))


def end_checker(text: str, end_phrase: str) -> bool:
    """The last words are the phrase."""
    return text.strip().strip('"').casefold().endswith(end_phrase.strip().casefold())


def quotation(text: str) -> bool:
    """The whole in double quotation marks."""
    return len(text) > 2 and text.startswith(('"', "“")) and text.endswith(('"', "”"))


def capital_words(text: str, capital_frequency: int, capital_relation: str) -> bool:
    """So many words all in capitals."""
    return compare(sum(word.isupper() for word in WORD.findall(text)), capital_relation, capital_frequency)


CHECKS: dict[str, Callable[..., bool]] = {
    "keywords:existence": keywords_existence,
    "keywords:frequency": keyword_frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "length_constraints:number_words": number_words,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:nth_paragraph_first_word": first_word,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_bullets,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlights,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "change_case:capital_word_frequency": capital_words,
    "change_case:english_capital": str.isupper,
    "change_case:english_lowercase": str.islower,
    "punctuation:no_comma": lambda text: "," not in text and "，" not in text,
}


def selfcheck() -> list[tuple[dict[str, Any], float]]:
    """Cases: arguments and the score that they must get."""
    at_least, less = {"relation": "at least"}, {"relation": "less than"}
    cases: list[tuple[str, dict[str, Any] | None, str, str]] = [  # name, arguments, kept by, broken by
        (
            "keywords:existence",
            {"keywords": ["art", "new town"]},
            "Art in the new\ntown",
            "We start a new town",
        ),
        ("keywords:frequency", {"keyword": "sea", "frequency": 2, **at_least}, "Sea, sea!", "sea, season"),
        ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "a category", "a Cat."),
        (
            "keywords:letter_frequency",
            {"letter": "e", "let_frequency": 2, "let_relation": "less than"},
            "tEa",
            "bee",
        ),
        ("length_constraints:number_words", {"num_words": 3, **at_least}, "I don't know", "don't know"),
        ("length_constraints:number_words", {"num_words": 3, **less}, "well-known fact", "a b c"),
        (
            "length_constraints:number_sentences",
            {"num_sentences": 2, **at_least},
            "So? Yes",
            "Dr. A. Bo paid 3.5 euros.",
        ),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "so"},
            "a\n\nSo, b",
            "so\n\nalso b",
        ),
        ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] and [b c]", "[a] and []"),
        (
            "detectable_content:postscript",
            {"postscript_marker": "P.S."},
            "Bye\nP. S. more",
            "Bye. No postscript",
        ),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n* b\n* c"),
        (
            "detectable_format:constrained_response",
            None,
            "My answer is no.",
            "My answer is yes. My answer is no.",
        ),
        (
            "detectable_format:number_highlighted_sections",
            {"num_highlights": 2},
            "*a* **b**",
            "*a* 2 * 3 * 4",
        ),
        (
            "detectable_format:multiple_sections",
            {"section_spliter": "Part", "num_sections": 2},
            "Part 1\na\nPart 2\nb",
            "Part 1\na\nPart two",
        ),
        ("detectable_format:json_format", None, '```json\n{"a": 1}\n```', "{'a': 1}"),
        ("detectable_format:title", None, "<<Rain>>\nIt rains.", "<Rain>\nIt rains."),
        ("combination:two_responses", None, "one\n******\ntwo", "one\n******\none"),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Why rain?"}, "Why rain? Clouds.", "Why rain?"),
        ("startend:end_checker", {"end_phrase": "That is all."}, "Rain. That is all.", "That is all. Rain."),
        ("startend:quotation", None, '"Rain"', '"Rain'),
        (
            "change_case:capital_word_frequency",
            {"capital_frequency": 2, "capital_relation": "at most"},
            "NATO and EU are near",
            "NATO EU USA",
        ),
        ("change_case:english_capital", None, "IT RAINS 2 DAYS", "IT RAINs"),
        ("change_case:english_lowercase", None, "it rains", "It rains"),
        ("punctuation:no_comma", None, "It rains.", "Rain, again"),
    ]
    both = {
        "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
        "kwargs": [{"keywords": None}, {}],
    }
    return [
        ({"completion": text, "instruction_id_list": [name], "kwargs": [arguments]}, score)
        for name, arguments, right, wrong in cases
        for text, score in [(right, 1.0), (wrong, 0.0), ("", 0.0)]
    ] + [
        ({"completion": '"Rain."', **both}, 1.0),
        ({"completion": "Rain.", **both}, 0.0),
        ({"completion": "Rain.", "partial": True, **both}, 0.5),
    ]
