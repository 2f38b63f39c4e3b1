"""Parts of an algorithm that a user wrote: `path/to/file.py:ClassName` in place of a part's name.

The class is a frozen dataclass with what its axis asks of every part; `rlpost.estimator` holds the shipped
ones as examples. The file is one module: it cannot import its neighbours, and its content, with the class's
name, is part of the run's identity.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from rlpost.config.stages import Tree
from rlpost.estimator import CompositionError
from rlpost.estimator.actions import Actions
from rlpost.estimator.advantage import Advantage
from rlpost.estimator.aggregation import Aggregation
from rlpost.estimator.correction import Correction
from rlpost.estimator.denominator import Denominator
from rlpost.estimator.gate import Gate
from rlpost.estimator.granularity import Granularity
from rlpost.estimator.mask import Mask
from rlpost.estimator.parts import register_part
from rlpost.estimator.selection import Selection
from rlpost.estimator.shaping import Shaping
from rlpost.estimator.transform import GradientTransform
from rlpost.user_code import file_spec

PROTOCOLS: dict[str, type] = {
    "advantage": Advantage,
    "actions": Actions,
    "denominator": Denominator,
    "granularity": Granularity,
    "mask": Mask,
    "correction": Correction,
    "gate": Gate,
    "aggregation": Aggregation,
    "shaping": Shaping,
    "selection": Selection,
    "transform": GradientTransform,
}
"""What a part of each axis must have."""

MODULE_PREFIX = "rlpost_part_"
_REFERENCE = re.compile(r"(?P<file>.+\.py)(?P<colon>:(?P<name>.*))?", re.DOTALL)


@dataclass(frozen=True)
class UserPart:
    """A class that was loaded from a file.

    Attributes:
        digest: the SHA-256 of the file.
    """

    kind: type[Any]
    digest: str


_LOADED: dict[str, UserPart] = {}
"""By reference: a run keeps the class that it started with, whatever happens to the file."""


def with_absolute_parts(algorithm: Any, folder: Path) -> Any:
    """The same `algorithm` with the files of its parts looked up beside the recipe, then in the working
    directory; those that are in neither stay as they are written.
    """

    def absolute(reference: str) -> str:
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            return reference
        file = Path(match["file"]).expanduser()
        found = next((p for p in (folder / file, file) if p.is_file()), None)
        return reference if found is None else f"{found.resolve()}{match['colon'] or ''}"

    return _renamed(algorithm, absolute)


def forget_parts() -> None:
    """Read files anew when they are next named: a recipe that is loaded means them as they are now."""
    _LOADED.clear()


def load_parts(algorithm: Mapping[str, Any]) -> None:
    """Load and register every part of `algorithm` that a file defines.

    Raises:
        CompositionError: a file or class is missing, fails to import, or is no part of its axis.
    """
    for axis, reference, options in _references(algorithm):
        if reference not in _LOADED:
            _LOADED[reference] = _load(reference)
        kind = _LOADED[reference].kind
        _check(axis, reference, kind, options)
        register_part(axis, reference, kind)


def portable_parts(algorithm: Mapping[str, Any]) -> Tree:
    """The same without folders: what a run that was moved, with its files, still shares."""
    result: Tree = _renamed(algorithm, lambda word: Path(word).name if _REFERENCE.fullmatch(word) else word)
    return result


def part_digests(algorithm: Mapping[str, Any]) -> dict[str, str]:
    """The file name and class of each loaded part, and the digest of its file."""
    return {Path(ref).name: _LOADED[ref].digest for _, ref, _ in _references(algorithm) if ref in _LOADED}


def part_modules() -> list[ModuleType]:
    """The modules of all loaded parts; other processes cannot import them, so they travel by value."""
    names = {part.kind.__module__ for part in _LOADED.values()}
    return [sys.modules[name] for name in sorted(names) if name in sys.modules]


def _references(algorithm: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(axis, reference, options) of every part that names a file, those of single terms included."""
    terms = algorithm.get("terms")
    for spec in terms.values() if isinstance(terms, Mapping) else ():
        if isinstance(spec, Mapping):
            yield from _references(spec)
    for axis in PROTOCOLS:
        words = algorithm.get(axis)
        for word in words if isinstance(words, list | tuple) else [words]:
            name, options = next(iter(word.items())) if isinstance(word, Mapping) and word else (word, None)
            if isinstance(name, str) and _REFERENCE.fullmatch(name):
                yield axis, name, options if isinstance(options, Mapping) else {}


def _renamed(algorithm: Any, rename: Any) -> Any:
    """`algorithm` with the names of its parts replaced; anything else as it is."""

    def word(value: Any) -> Any:
        if isinstance(value, str):
            return rename(value)
        if isinstance(value, Mapping):
            return {rename(k) if isinstance(k, str) else k: v for k, v in value.items()}
        return [word(item) for item in value] if isinstance(value, list | tuple) else value

    if not isinstance(algorithm, Mapping):
        return algorithm
    return {key: word(value) if key in PROTOCOLS else value for key, value in algorithm.items()}


def _load(reference: str) -> UserPart:
    """The class that `reference` names."""
    match = _REFERENCE.fullmatch(reference)
    assert match is not None
    path = Path(match["file"]).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CompositionError(
            f"the file of the part {reference!r} cannot be read ({error.strerror}); "
            "it is looked for beside the recipe and in the working directory"
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    module = _module(path.resolve(), digest)
    classes = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
    found = f"classes in it: {', '.join(classes) or 'none'}"
    if not match["name"]:
        raise CompositionError(
            f"{reference!r} does not say which class; write {path.name}:ClassName; {found}"
        )
    kind = getattr(module, match["name"], None)
    if not isinstance(kind, type):
        raise CompositionError(f"{path} has no class {match['name']!r}; {found}")
    return UserPart(kind, digest)


def _module(path: Path, digest: str) -> ModuleType:
    """The file's module, made once for each content, so that equal parts compare equal."""
    place = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"{MODULE_PREFIX}{path.stem}_{place}_{digest[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = file_spec(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise CompositionError(f"{path} cannot be imported: {_last_line(error, path)}") from error
    return module


def _last_line(error: BaseException, path: Path) -> str:
    """The error in one line, and the line of the user's file that led to it."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{where}"


def _check(axis: str, reference: str, kind: type[Any], options: Mapping[str, Any]) -> None:
    """Refuse a class that is no part of its axis, or that cannot be made with these options."""
    if not dataclasses.is_dataclass(kind) or not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise CompositionError(f"{reference} must be decorated with @dataclass(frozen=True)")
    needed = _attributes(PROTOCOLS[axis])
    fields = {field.name: field for field in dataclasses.fields(kind)}
    missing = sorted(name for name in needed if not hasattr(kind, name) and name not in fields)
    if missing:
        raise CompositionError(f"{reference} is no {axis}: it has no {', '.join(missing)}")
    try:
        get_type_hints(kind)
    except Exception as error:
        raise CompositionError(f"{reference}: its annotations cannot be read: {error}") from error
    if set(options) - set(fields):
        return  # the composition names the unknown option and those that there are
    try:
        part = kind(**options)
        part.formula, hash(part)
    except ValueError:
        return  # the composition reports what the part says of its options
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        raise CompositionError(f"{reference} cannot be made with options {dict(options)}: {text}") from error


def _attributes(protocol: type) -> set[str]:
    """The names that a protocol or base class declares."""
    own = {name for name in vars(protocol) if not name.startswith("_") or name == "__call__"}
    declared = {name for name in vars(protocol).get("__annotations__", {}) if not name.startswith("_")}
    return own | declared
