"""The beginnings of a solution: a uniform grid over its tokens, and whether one holds the final answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rlpost.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Boundary = Literal["token", "line", "sentence"]

ENDS = {"line": re.compile(r"(?=\n)"), "sentence": re.compile(r"(?<=[.!?])(?=\s)|(?=\n)")}
"""Where a beginning may end, but for tokens."""

GROUPED = re.compile(r"(?<=\d)(?:\{,\}|,\\!|,)(?=\d{3}(?!\d))")
"""What divides the digits of a large number into groups."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """One beginning of a solution.

    Attributes:
        text: without blanks at its end, which a tokenizer would join to the next word.
        tokens: of the solution that it holds.
        share: of the solution's tokens, in (0, 1].
    """

    text: str
    tokens: int
    share: float


def prefix_lengths(tokens: int, parts: int) -> list[int]:
    """The grid over a solution: floor(k / parts x tokens) for k = 1, ..., parts, but for 0.

    >>> prefix_lengths(1000, 4)
    [250, 500, 750, 1000]
    """
    return sorted({tokens * k // parts for k in range(1, parts + 1)} - {0})


def prefixes(
    solution: str, tokenizer: PreTrainedTokenizerBase, parts: int, boundary: Boundary
) -> list[Prefix]:
    """The beginnings at the points of the grid, short ones first; points that fall together count once.

    Args:
        boundary: where one may end: at the point's token, or at the last end of a line or sentence up to the
            point; where there is none, at the first one after it.

    Raises:
        ConfigError: the tokenizer does not tell where its tokens end in a text.
    """
    ends = _token_ends(solution, tokenizer)
    stops = _stops(solution, boundary)
    found: dict[str, Prefix] = {}
    for length in prefix_lengths(len(ends), parts):
        point = ends[length - 1]
        if stops:
            point = max((s for s in stops if s <= point), default=stops[0])
        text = solution[:point].rstrip()
        tokens = sum(end <= len(text) for end in ends)
        if tokens and text not in found:
            found[text] = Prefix(text, tokens, tokens / len(ends))
    return list(found.values())


def holds_answer(text: str, answer: object, problem: str) -> bool:
    """Whether a beginning names the gold answer, as a word or number of its own, and the problem does not.

    Case, white space and the commas of large numbers make no difference. Of a list of answers any one counts,
    of a worked answer what stands behind its last `####`; of what is neither text nor a number this says
    nothing.
    """
    shown, asked = _plain(text), _plain(problem)
    return any(_stands_in(gold, shown) and not _stands_in(gold, asked) for gold in _spelled(answer))


def _token_ends(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Where each token ends in the text, in characters."""
    if not tokenizer.is_fast:
        raise ConfigError(
            "the tokenizer does not tell where its tokens stand in a text",
            where="guidance",
            found=type(tokenizer).__name__,
            needed="a fast tokenizer (the Rust implementation): one with a tokenizer.json",
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [end for _, end in encoded["offset_mapping"]]


def _stops(text: str, boundary: Boundary) -> list[int]:
    """All places at which a beginning may end, the text's end included; none where every token will do."""
    if boundary == "token":
        return []
    inner = [match.start() for match in ENDS[boundary].finditer(text) if text[: match.start()].strip()]
    return [*inner, len(text)]


def _spelled(answer: object) -> list[str]:
    found = answer if isinstance(answer, list) else [answer]
    known = [
        _plain(str(a).rpartition("####")[2])
        for a in found
        if isinstance(a, str | int | float) and not isinstance(a, bool)
    ]
    return [text for text in known if text]


def _stands_in(gold: str, text: str) -> bool:
    """As a word or number of its own: 12 does not stand in 112, 12.5 or 3.12."""
    before, after = r"(?<!\w)(?<!\d[.,])", r"(?!\w)(?![.,]\d)"
    return re.search(before + re.escape(gold) + after, text) is not None


def _plain(text: str) -> str:
    return GROUPED.sub("", " ".join(text.split())).casefold()
