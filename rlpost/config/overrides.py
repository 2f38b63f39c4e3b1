"""`key=value` from the command line, set into the configuration that a file gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from rlpost.config.problems import describe, nearest
from rlpost.config.stages import Tree, dotted, write_out
from rlpost.config.yaml_text import KeyPath, parse_value
from rlpost.errors import ConfigError


def apply_override(tree: Mapping[str, Any], override: str) -> tuple[Tree, KeyPath]:
    """Set one `key=value` in a configuration without short forms.

    The key is a dotted path; list items go by index, stages also by name
    (`stages.rl.train.steps=3`). Sections on the way are made when they are not there.

    Returns:
        The new configuration, written out, and the path that was set.

    Raises:
        ConfigError: the override is not `key=value`, or its path leads nowhere.
    """
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key or any(not part for part in key.split(".")):
        raise ConfigError(
            "an override is not of the form key=value",
            where=f"command line: {override}",
            needed="a dotted key, `=`, and a value, such as train.steps=3",
        )
    try:
        value = parse_value(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            "the value of an override is not valid YAML",
            where=f"command line: {override}",
            found=getattr(error, "problem", None) or str(error),
            remedy="close its quotes and brackets, or put the whole value in quotes",
        ) from None
    full = write_out(tree)
    parts = key.split(".")
    here: Any = full
    path: KeyPath = ()
    for part in parts[:-1]:
        step = _step(here, part, path, override)
        child = here.get(step) if isinstance(here, dict) else here[step]
        if child is None:
            child = {}
            here[step] = child
        here, path = child, (*path, step)
    step = _step(here, parts[-1], path, override)
    here[step] = value
    return write_out(full), (*path, step)


def _step(here: Any, part: str, path: KeyPath, override: str) -> str | int:
    """The key or index that one part of a dotted path means inside `here`."""
    where = f"command line: {override}"
    if isinstance(here, dict):
        return part
    if not isinstance(here, list):
        raise ConfigError(
            f"`{dotted(path)}` has nothing below it",
            where=where,
            found=describe(here),
            needed="a section or a list",
        )
    if part.isdecimal() and int(part) < len(here):
        return int(part)
    names = [item.get("name") for item in here if isinstance(item, Mapping)] if path == ("stages",) else []
    if part in names:
        return names.index(part)
    known = [str(name) for name in names if name is not None]
    near = nearest(part, known)
    raise ConfigError(
        f"`{dotted(path)}` has no entry `{part}`",
        where=where,
        needed=f"one of {', '.join(known)}" if known else f"an index below {len(here)}",
        remedy=f"did you mean `{near}`?" if near else None,
    )
