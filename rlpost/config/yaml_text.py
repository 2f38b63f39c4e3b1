"""YAML text to plain data and back: safe, no duplicate keys, numbers as YAML 1.2 reads them.

PyYAML follows YAML 1.1, where `1e-6` is text and `yes` is a truth value. Here `1e-6` is a
number, and only `true` and `false` are truth values. The dumper knows the same rules, so what
it writes reads back equal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rlpost.errors import ConfigError

KeyPath = tuple[str | int, ...]

_PLAIN_TYPES = {
    "tag:yaml.org,2002:null": (r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": (r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    "tag:yaml.org,2002:int": (r"^[-+]?[0-9]+$", list("-+0123456789")),
    "tag:yaml.org,2002:float": (
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+0123456789."),
    ),
    "tag:yaml.org,2002:merge": (r"^(?:<<)$", ["<"]),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, yaml.Mark] = {}
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"key {name!r} is there twice, first in line {seen[name].line + 1}",
                    key.start_mark,
                )
            if name is not None and key.tag != "tag:yaml.org,2002:merge":
                seen[name] = key.start_mark
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, (_pattern, _first) in _PLAIN_TYPES.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(_pattern), _first)


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    # PyYAML's own constructors read 0123 as octal and 1:30 as sexagesimal; the patterns above leave
    # only decimal text, which Python reads as YAML 1.2 does.
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Only double quotes keep Unicode's line breaks; the emitter would fold them elsewhere.
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


@dataclass(frozen=True)
class Document:
    """A YAML file: its data, and the line (from 1) where each key or list item stands."""

    source: str
    data: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)


def read_document(path: Path) -> Document:
    """Read one YAML file.

    Raises:
        ConfigError: the file is missing, unreadable, empty or not valid YAML; the message
            names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("the configuration file does not exist", where=path, remedy=_nearby(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the configuration file cannot be read", where=path, found=error) from None
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise ConfigError("the configuration file is empty", where=path, needed="at least `model.init`")
        return Document(str(path), loader.construct_document(node), _lines(node))
    except yaml.YAMLError as error:
        raise ConfigError(
            "the file is not valid YAML", where=_place(path, error), found=_reason(error)
        ) from None
    except RecursionError:
        raise ConfigError("the file contains itself through an alias", where=path) from None
    finally:
        loader.dispose()


def parse_value(text: str) -> Any:
    """The value of a `key=value` override.

    Text that starts with a quote or a bracket is read as YAML; anything else is one plain
    scalar, in which `:` and `#` mean nothing special.

    Raises:
        yaml.YAMLError: the quoted or bracketed text is not valid YAML.
    """
    text = text.strip()
    if text[:1] in ("'", '"', "[", "{"):
        return yaml.load(text, _Loader)
    loader = _Loader("")
    try:
        tag = loader.resolve(yaml.ScalarNode, text, (True, False))
        return loader.construct_object(yaml.ScalarNode(tag, text))
    finally:
        loader.dispose()


def dump(data: Any) -> str:
    """Plain data as YAML text in its own order, which `read_document` reads back equal."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _lines(node: yaml.Node, path: KeyPath = ()) -> dict[KeyPath, int]:
    lines: dict[KeyPath, int] = {}
    if isinstance(node, yaml.MappingNode):
        children = [(key.value, key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
    elif isinstance(node, yaml.SequenceNode):
        children = [(index, item, item) for index, item in enumerate(node.value)]
    else:
        children = []
    for name, mark, value in children:
        lines[(*path, name)] = mark.start_mark.line + 1
        lines.update(_lines(value, (*path, name)))
    return lines


def _place(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)


def _reason(error: yaml.YAMLError) -> str:
    parts = (getattr(error, "context", None), getattr(error, "problem", None), getattr(error, "reason", None))
    return ": ".join(str(part) for part in parts if part) or str(error)


def _nearby(path: Path) -> str | None:
    folder = path.parent
    recipes = sorted(p.name for p in folder.glob("*.y*ml")) if folder.is_dir() else []
    return f"{folder}/ holds {', '.join(recipes[:12])}" if recipes else None
