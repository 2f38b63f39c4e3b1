"""Small files that a recipe names, on their way to pods in a ConfigMap."""

from __future__ import annotations

import ast
import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlpost.errors import UserError
from rlpost.launch.working_directory import as_size

LIMIT = 1_000_000
"""Bytes that a ConfigMap may hold: the API server takes a mebibyte, names and labels included."""
PLAIN = re.compile(
    r"[^\s\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff][\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe]*\n"
)
"""Text that YAML can show line by line."""


@dataclass(frozen=True)
class ConfigFiles:
    """What a ConfigMap holds, by its keys.

    Attributes:
        texts: as YAML writes them.
        binaries: in base64.
        items: keys, and the paths under which pods find them.
    """

    texts: list[tuple[str, str]]
    binaries: list[tuple[str, str]]
    items: list[tuple[str, str]]


def config_files(texts: Mapping[str, str], root: Path, named: Iterable[str]) -> ConfigFiles:
    """The files of a launch, and those of `root` that its recipe names, with the Python files beside them.

    Args:
        texts: files that are made for the run, by name.
        named: paths of files, relative to `root`.

    Raises:
        UserError: they are too large for a ConfigMap, or cannot be read.
    """
    files = ConfigFiles([], [], [])
    sizes = {name: len(text.encode()) for name, text in texts.items()}
    for name, text in texts.items():
        files.texts.append((name, as_block(text)))
        files.items.append((name, name))
    for number, path in enumerate(sorted(_with_imports(root, named)), start=1):
        key = f"{number}-{re.sub(r'[^-._a-zA-Z0-9]', '_', path)}"[:253]
        content = _read(root / path)
        sizes[path] = len(content)
        files.items.append((key, f"files/{path}"))
        try:
            files.texts.append((key, as_block(content.decode())))
        except UnicodeDecodeError:
            encoded = base64.b64encode(content).decode()
            sizes[path] = len(encoded)
            files.binaries.append((key, encoded))
        if sum(sizes.values()) > LIMIT:
            raise _too_large(sizes)
    return files


def as_block(text: str) -> str:
    """A text as YAML, in lines where that is exact."""
    if not PLAIN.fullmatch(text) or text.endswith("\n\n"):
        import json

        return json.dumps(text)
    return "|\n" + "".join(f"    {line}\n" if line else "\n" for line in text[:-1].split("\n")).rstrip("\n")


def _with_imports(root: Path, named: Iterable[str]) -> set[str]:
    """The files, and what Python files among them import from their own folders."""
    found: set[str] = set()
    waiting = [root / name for name in named]
    while waiting:
        path = waiting.pop()
        relative = path.relative_to(root).as_posix()
        if relative not in found:
            found.add(relative)
            if path.suffix == ".py":
                waiting += _neighbours(path)
    return found


def _neighbours(path: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(_read(path))
    except (SyntaxError, ValueError):  # the run says so, with the line
        return
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module]
        for module in modules:
            first = path.parent / module.split(".")[0]
            if first.with_suffix(".py").is_file():
                yield first.with_suffix(".py")
            elif (first / "__init__.py").is_file():
                yield from first.rglob("*.py")


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > LIMIT:
            raise _too_large({str(path): path.stat().st_size})
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            "a file that the recipe names cannot be read", where=path, found=error.strerror or str(error)
        ) from None


def _too_large(sizes: Mapping[str, int]) -> UserError:
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    return UserError(
        "the files that the recipe names are too large for a ConfigMap",
        found=f"{as_size(sum(sizes.values()))}; the largest: "
        + ", ".join(f"{name} ({as_size(sizes[name])})" for name in largest),
        needed=f"at most {as_size(LIMIT)}",
        remedy="put data and models on one of launch.kubernetes.volumes, and name them by their path there",
    )
