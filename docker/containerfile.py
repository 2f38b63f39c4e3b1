"""A Dockerfile as its stages and instructions: the part of the syntax that this folder uses."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

KEYWORDS = {
    *(
        "ADD",
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "RUN",
        "SHELL",
    ),
    *("STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
}
FLAG = re.compile(r"--([a-z]+)=(\S+)\s+")


class DockerfileError(ValueError):
    """A line that is no instruction."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: its line in the file, its flags such as `from`, and the rest as one line."""

    line: int
    keyword: str
    value: str
    flags: dict[str, str] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        """The value's words; of the JSON form, its elements."""
        return json.loads(self.value) if self.value.startswith("[") else self.value.split()

    @property
    def pairs(self) -> dict[str, str]:
        """Of ENV, LABEL and ARG: names and values, without quotes."""
        found = re.findall(r'([\w.]+)(?:=("(?:[^"\\]|\\.)*"|\S*))?', self.value)
        return {name: value.strip('"') for name, value in found}


@dataclass
class Stage:
    """FROM and what follows it; the file's first ARGs are a stage without a name or base."""

    name: str
    base: str
    line: int
    instructions: list[Instruction] = field(default_factory=list)


def read(path: Path) -> list[Stage]:
    """The stages of a file; the first holds what stands before any FROM.

    Raises:
        DockerfileError: a line is no instruction.
    """
    stages = [Stage("", "", 0)]
    for instruction in _instructions(path.read_text()):
        if instruction.keyword == "FROM":
            base, *rest = instruction.words
            name = rest[1] if len(rest) == 2 and rest[0].upper() == "AS" else f"stage {len(stages)}"
            stages.append(Stage(name, base, instruction.line))
        else:
            stages[-1].instructions.append(instruction)
    return stages


def resolved(text: str, values: dict[str, str]) -> str:
    """`${NAME}` and `$NAME` replaced by what is known; others stay."""
    return re.sub(r"\$(?:{(\w+)}|(\w+))", lambda match: values.get(match[1] or match[2], match[0]), text)


def arguments(stages: list[Stage]) -> dict[str, str]:
    """The values of the ARGs before the first FROM."""
    found: dict[str, str] = {}
    for instruction in stages[0].instructions:
        found |= instruction.pairs
    return found


def chain(stages: list[Stage], name: str, values: dict[str, str]) -> list[Stage]:
    """A stage and those that it stands on, the lowest first; the last one's base is an image."""
    by_name = {stage.name: stage for stage in stages if stage.name}
    found: list[Stage] = []
    while name in by_name:
        found.append(by_name[name])
        name = resolved(by_name[name].base, values)
    return found[::-1]


def _instructions(text: str) -> list[Instruction]:
    found: list[Instruction] = []
    pending, start = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#") or (not line.strip() and not pending):
            continue
        start = start if pending else number
        if line.endswith("\\"):
            pending += line[:-1].strip() + " "
            continue
        found.append(_instruction(start, pending + line.strip()))
        pending = ""
    return found


def _instruction(line: int, text: str) -> Instruction:
    keyword, _, value = text.partition(" ")
    if keyword.upper() not in KEYWORDS:
        raise DockerfileError(f"line {line}: {keyword!r} is no instruction")
    flags = {}
    value = value.strip()
    while match := FLAG.match(value):
        flags[match[1]] = match[2]
        value = value[match.end() :]
    return Instruction(line, keyword.upper(), value, flags)
