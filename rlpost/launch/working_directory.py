"""The working directory as a job takes it along: which of its files, how large, and the archive of them."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rlpost.errors import UserError

LEFT_OUT = (
    *(".git/", ".hg/", ".svn/", ".venv*/", "venv/", "node_modules/", "__pycache__/", "*.pyc", "*.egg-info/"),
    *(".pytest_cache/", ".mypy_cache/", ".ruff_cache/", ".import_linter_cache/", ".hypothesis/", ".cache/"),
    *(".ipynb_checkpoints/", ".DS_Store", ".env"),
)
"""Patterns of what no run needs, and of files that are made to hold secrets."""
MARKS = ("pyvenv.cfg", "conda-meta", "run.json")
"""A folder that holds one of these is an environment or a run directory, whatever its name."""


@dataclass(frozen=True)
class Pattern:
    """A line as in .gitignore: `!` takes in again, `/` at the end is for folders, `**` crosses folders."""

    text: str

    def matches(self, path: str, is_folder: bool) -> bool:
        """Whether a path, relative and without `/` at its end, is meant."""
        text = self.text.removeprefix("!")
        if text.endswith("/") and not is_folder:
            return False
        text = text.rstrip("/")
        anchored = "/" in text
        return bool(re.fullmatch(("" if anchored else "(?:.*/)?") + _as_regex(text.lstrip("/")), path))


def _as_regex(glob: str) -> str:
    tokens = {"**/": "(?:.*/)?", "/**": "/.*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|/\*\*$|\*\*|\*|\?|\[!?[^\]]+\])", glob)
    return "".join(
        tokens.get(part) or (part.replace("[!", "[^") if part.startswith("[") else re.escape(part))
        for part in parts
    )


def is_left_out(path: str, is_folder: bool, patterns: Iterable[Pattern]) -> bool:
    """The last pattern that matches decides."""
    verdict = False
    for pattern in patterns:
        if pattern.matches(path, is_folder):
            verdict = not pattern.text.startswith("!")
    return verdict


@dataclass
class Packing:
    """What a job takes along.

    Attributes:
        root: the working directory.
        sizes: bytes of each file, by its path relative to `root`, in the order of names.
        left_out: folders (with `/` at the end) and files that stay here.
    """

    root: Path
    sizes: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Bytes, before they are compressed."""
        return sum(self.sizes.values())

    def biggest(self, count: int = 5) -> list[str]:
        """The largest files, largest first."""
        return sorted(self.sizes, key=lambda path: (-self.sizes[path], path))[:count]

    def write(self, archive: Path, texts: Mapping[str, str]) -> None:
        """Write a zip of all files, and of `texts` by name.

        Raises:
            UserError: a file cannot be read, or is gone.
        """
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as target:
            for name in self.sizes:
                try:
                    target.write(self.root / name, name)
                except OSError as error:
                    raise _unreadable(self.root / name, error) from None
            for name, text in texts.items():
                target.writestr(name, text)


def pack(
    root: Path, patterns: Sequence[str], named: Iterable[str] = (), folders: Iterable[Path] = ()
) -> Packing:
    """What of `root` goes along: all but what `LEFT_OUT`, `MARKS`, `patterns` and `folders` keep here.

    Args:
        patterns: further ones, as in .gitignore.
        named: paths relative to `root` that the run reads: they go along unless `patterns` say otherwise.
        folders: where runs are written.

    Raises:
        UserError: a folder cannot be read, or `patterns` leave out what the run reads.
    """
    packing = Packing(root)
    own = [Pattern(text) for text in patterns]
    walk = _Walk(packing, [*map(Pattern, LEFT_OUT), *own], {folder.resolve() for folder in folders})
    walk.folder("", (root.resolve(),))
    for name in sorted(named):
        for part in (PurePosixPath(name), *PurePosixPath(name).parents):
            if is_left_out(str(part), (root / part).is_dir(), own):
                raise UserError(
                    "the recipe names a file that is left out when the working directory is packed",
                    where=f"launch.ray.exclude: {list(patterns)}",
                    found=name,
                    remedy=f"add '!{name}' to launch.ray.exclude, or put the file where all machines see it",
                )
        _Walk(packing, own, set(), marks=()).entry(name, (root.resolve(),))
    packing.sizes = dict(sorted(packing.sizes.items()))
    return packing


@dataclass
class _Walk:
    packing: Packing
    patterns: list[Pattern]
    folders: set[Path]
    marks: tuple[str, ...] = MARKS

    def folder(self, name: str, above: tuple[Path, ...]) -> None:
        path = self.packing.root / name
        try:
            entries = sorted(entry.name for entry in os.scandir(path))
        except OSError as error:
            raise _unreadable(path, error) from None
        for entry in entries:
            self.entry(f"{name}/{entry}".lstrip("/"), above)

    def entry(self, name: str, above: tuple[Path, ...]) -> None:
        path = self.packing.root / name
        try:
            status = path.stat()
        except OSError:  # a link to nothing
            self.packing.left_out.append(name)
            return
        if stat.S_ISDIR(status.st_mode):
            real = path.resolve()
            marked = any((path / mark).exists() for mark in self.marks)
            if marked or real in above or real in self.folders or is_left_out(name, True, self.patterns):
                self.packing.left_out.append(f"{name}/")
            else:
                self.folder(name, (*above, real))
        elif stat.S_ISREG(status.st_mode) and not is_left_out(name, False, self.patterns):
            self.packing.sizes[name] = status.st_size
        else:
            self.packing.left_out.append(name)


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        "the working directory cannot be packed",
        where=path,
        found=error.strerror or str(error),
        remedy="make it readable, or leave it out with launch.ray.exclude",
    )


def as_size(count: float) -> str:
    """Bytes as people read them."""
    if count < 1024:
        return f"{count:.0f} bytes"
    if count < 1024**2:
        return f"{count / 1024:.1f} KiB"
    return f"{count / 1024**2:.1f} MiB"
