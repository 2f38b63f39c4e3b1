"""Commands that the documentation shows, and what stands in for the names that it leaves to the reader."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

NEEDS_GPUS = 'title="needs GPUs"'
"""In the first line of a block: its commands are for machines with accelerators."""
PROGRAMS = (
    "rlpost",
    "make",
    "pip",
    "python",
    "python3",
    "docker",
    "kubectl",
    "sbatch",
    "scancel",
    "squeue",
    "ray",
)
_FENCE = re.compile(r"^\s*```+(.*)$")
_COMMENT = re.compile(r"(^|\s{2,})#.*$")


@dataclass(frozen=True)
class Shown:
    """One command line of a page.

    Attributes:
        words: as a shell would split it, without variables that are set in front.
        gpus: whether its block is marked as needing accelerators.
    """

    page: str
    line: int
    words: tuple[str, ...]
    gpus: bool

    @property
    def program(self) -> str:
        return Path(self.words[0]).name

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"


def pages(root: Path) -> list[Path]:
    """Everything that tells people what to type."""
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]


def shown(root: Path, page: Path) -> list[Shown]:
    """The commands in a page's code blocks, in order."""
    found, info, held = [], None, ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if fence := _FENCE.match(line):
            info, held = (fence[1].strip() if info is None else None), ""
            continue
        if info is None or info.startswith(("python", "yaml", "json")):
            continue
        text = _COMMENT.sub("", line).rstrip()
        if text.endswith("\\"):
            held += text[:-1] + " "
            continue
        words = _words(held + text)
        held = ""
        if words and Path(words[0]).name in PROGRAMS and re.fullmatch(r"((.venv|gather)/bin/)?\w+", words[0]):
            found.append(Shown(str(page.relative_to(root)), number, words, NEEDS_GPUS in info))
    return found


def _words(text: str) -> tuple[str, ...]:
    try:
        words = shlex.split(text.strip().removeprefix("$ "))
    except ValueError:  # an apostrophe of prose, in a block that shows what a program says
        return ()
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    return tuple(words)
