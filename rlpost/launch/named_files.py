"""The files that a recipe names, found where it is launched and written as they will be found elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ELSEWHERE = {("name",), ("output",), ("launch",)}
"""Keys whose words are no files that a run reads."""
WORD = re.compile(r"[^:\s]+")
"""Of `tools:path/to/file.py`, `file.py:Name`, `mcp:python server.py`."""


@dataclass
class NamedFiles:
    """What the words of a recipe mean in a working directory.

    Attributes:
        tree: the recipe, in which paths below the working directory are relative to it, all others absolute.
        packed: those below it that exist.
        outside: those elsewhere that exist; the machines of the run must see them at the same place.
    """

    tree: Any
    packed: set[str] = field(default_factory=set)
    outside: set[str] = field(default_factory=set)


def named_files(tree: Any, root: Path) -> NamedFiles:
    """Look every word of a recipe up as a file of `root`."""
    found = NamedFiles(None)

    def word(match: re.Match[str]) -> str:
        text = match[0]
        path = root / Path(text).expanduser()
        if not _exists(path):
            return text
        plain = path.resolve() if ".." in path.parts else path
        if not plain.is_relative_to(root):
            found.outside.add(str(plain))
            return str(plain)
        relative = str(plain.relative_to(root))
        if relative == ".":
            return text
        found.packed.add(relative)
        return relative if Path(text).is_absolute() or ".." in Path(text).parts else text

    found.tree = _changed(tree, (), lambda text: WORD.sub(word, text))
    return found


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a text that no file can be called
        return False


def _changed(node: Any, place: tuple[str, ...], change: Callable[[str], str]) -> Any:
    if place in ELSEWHERE:
        return node
    if isinstance(node, dict):
        # Parts of an algorithm that a file defines are named by keys too.
        names = {key: change(key) if isinstance(key, str) and "/" in key else key for key in node}
        return {names[key]: _changed(value, (*place, str(key)), change) for key, value in node.items()}
    if isinstance(node, list):
        return [_changed(value, (*place, ""), change) for value in node]
    return change(node) if isinstance(node, str) else node
