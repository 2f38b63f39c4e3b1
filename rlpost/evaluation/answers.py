"""The answer of a response as a string, so that samples can vote (maj@k)."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"-?\d+(\.\d*)?|-?\.\d+")


def extract_answer(text: str) -> str | None:
    r"""The content of the last `\boxed{...}`, else what follows the last `####`; None without either.

    Whitespace, `$` and thousands separators are dropped and plain numbers are written one way
    ("27.0" is "27"), so that equal answers compare equal as strings. This decides votes only;
    verdicts always come from the reward function.
    """
    boxed = _last_boxed(text)
    if boxed is None:
        _, mark, tail = text.rpartition("####")
        boxed = tail.strip().partition("\n")[0] if mark else ""
    answer = re.sub(r"\s|\$", "", boxed).rstrip(".")
    answer = re.sub(r"(?<=\d),(?=\d{3}(\D|$))", "", answer)
    if not answer:
        return None
    return f"{float(answer):.12g}" if _NUMBER.fullmatch(answer) else answer


def _last_boxed(text: str) -> str | None:
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    begin, depth = start + len(r"\boxed{"), 1
    for i in range(begin, len(text)):
        if text[i - 1] != "\\":  # \{ and \} are printed braces
            depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[begin:i]
    return None  # cut off in the middle of the answer
