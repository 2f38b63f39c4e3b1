"""What is wrong with a configuration, said once and clearly: where, found, needed, remedy."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from rlpost.config.schema import RunConfig, StageConfig
from rlpost.config.yaml_text import KeyPath
from rlpost.errors import ConfigError

SHARED = ("data", "environment", "rollout", "rewards", "algorithm", "critic", "teacher", "train")
"""Sections that may stand at the top level, as defaults of every stage."""

OTHER_NAMES = {
    "lr": "train.learning_rate",
    "batch_size": "train.prompts_per_step",
    "train_batch_size": "train.prompts_per_step",
    "group_size": "train.samples_per_prompt",
    "num_generations": "train.samples_per_prompt",
    "num_samples": "train.samples_per_prompt",
    "mini_batch_size": "train.updates_per_step",
    "micro_batch_size": "train.tokens_per_microbatch",
    "max_steps": "train.steps",
    "grad_clip": "train.max_grad_norm",
    "max_new_tokens": "rollout.max_response_tokens",
    "max_tokens": "rollout.max_response_tokens",
    "max_response_length": "rollout.max_response_tokens",
    "max_prompt_length": "data.max_prompt_tokens",
    "reward": "rewards",
    "model_name_or_path": "model.init",
    "world_size": "cluster.learner_ranks",
    "output_dir": "output",
}
"""What other frameworks call a key, and what it is called here."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        path: the key in the resolved configuration, such as ("stages", 0, "train", "steps").
        what: the problem in a few words.
        found: the value found there.
        needed: what would have been right.
        remedy: what the user can do.
    """

    path: KeyPath
    what: str
    found: object = None
    needed: object = None
    remedy: object = None


def to_error(problems: Sequence[Problem], where: Sequence[str], source: str) -> ConfigError:
    """One error for all problems; `where` says, for each of them, the key and its place."""
    if len(problems) == 1:
        (p,) = problems
        return ConfigError(p.what, where=where[0], found=p.found, needed=p.needed, remedy=p.remedy)
    entries = [
        ConfigError(f"{n}. {p.what}", where=place, found=p.found, needed=p.needed, remedy=p.remedy)
        for n, (p, place) in enumerate(zip(problems, where, strict=True), 1)
    ]
    return ConfigError("\n".join([f"{len(problems)} problems in {source}", *map(str, entries)]))


def from_pydantic(errors: Iterable[ErrorDetails]) -> list[Problem]:
    """Pydantic's complaints about a RunConfig in our words."""
    return [_translate(error) for error in errors]


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that a mistyped word most likely meant, if any is near."""
    found = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return found[0] if found else None


def suggest(key: str, siblings: Sequence[str]) -> str:
    """A remedy for an unknown key: the nearest name, here or elsewhere, or what there is."""
    if key in OTHER_NAMES:
        return f"that is `{OTHER_NAMES[key]}` here"
    elsewhere = [path for path in user_paths() if path.rsplit(".", 1)[-1] == key and path != key]
    if elsewhere:
        return f"did you mean `{'` or `'.join(elsewhere)}`?"
    if near := nearest(key, siblings):
        return f"did you mean `{near}`?"
    return f"keys here: {', '.join(siblings)}"


def user_paths() -> list[str]:
    """Every dotted key that may stand in a file outside `stages`."""
    stage = [p for name in SHARED for p in _paths(StageConfig.model_fields[name].annotation, name)]
    rest = [
        p
        for name, info in RunConfig.model_fields.items()
        if name != "stages"
        for p in _paths(info.annotation, name)
    ]
    return rest + stage


def section_at(path: KeyPath) -> type[BaseModel] | None:
    """The schema class of the section at a path of the resolved configuration."""
    here: Any = RunConfig
    named = False  # whether the next part is a name of the user's
    for part in path:
        if isinstance(part, int):
            continue
        if named:
            named = False
            continue
        info = here.model_fields.get(part) if here is not None else None
        here = section_of(info.annotation) if info is not None else None
        named = info is not None and get_origin(info.annotation) is dict
    return here


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section class inside `X`, `X | None`, `list[X]` or `dict[str, X]`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    if get_origin(annotation) in (Union, types.UnionType, list, dict, Annotated):
        return next((s for a in get_args(annotation) if (s := section_of(a)) is not None), None)
    return None


def describe(value: Any) -> str:
    """A value and its kind, as a user would call it."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, BaseModel | dict):
        return "a section (key: value pairs)"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    kind = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(type(value))
    shown = repr(value) if isinstance(value, str) else str(value).lower()
    return f"{shown} ({kind or type(value).__name__})"


def _paths(annotation: Any, prefix: str) -> Iterator[str]:
    yield prefix
    section = section_of(annotation)
    if section is not None and get_origin(annotation) not in (list, dict):
        for name, info in section.model_fields.items():
            yield from _paths(info.annotation, f"{prefix}.{name}")


_NEEDED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list of two numbers",
    "dict_type": "a section (key: value pairs)",
    "model_type": "a section (key: value pairs)",
    "finite_number": "a finite number",
    "literal_error": "one of {expected}",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "too_short": "at least {min_length} entry",
    "too_long": "at most {max_length} entries",
    "invalid_key": "keys that are text, in quotes if they look like numbers",
}
_OUT_OF_RANGE = (
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
    "too_short",
    "too_long",
)
_WRONG_VALUE = ("literal_error", "finite_number", "invalid_key")


def _translate(error: ErrorDetails) -> Problem:
    path, kind, value = tuple(error["loc"]), error["type"], error.get("input")
    section = section_at(path[:-1])
    key = ".".join(str(part) for part in path[-2 if isinstance(path[-1], int) else -1 :])
    if kind == "extra_forbidden":
        siblings = list(section.model_fields) if section else []
        if section is RunConfig:
            siblings += [name for name in SHARED if name not in siblings]
        return Problem(path, f"unknown key `{key}`", remedy=suggest(key, siblings))
    if kind == "missing":
        info = section.model_fields.get(key) if section else None
        needed = " ".join(info.description.split()) if info and info.description else None
        return Problem(path, f"`{key}` is missing", needed=needed)
    context = error.get("ctx", {})
    needed = _NEEDED.get(kind, error["msg"]).format(**context).replace("'", "")
    how = "is out of range" if kind in _OUT_OF_RANGE else "has a wrong type"
    if kind in _WRONG_VALUE:
        how = "has a wrong value"
    return Problem(path, f"`{key}` {how}", describe(value), needed, _remedy(kind, value, context))


def _remedy(kind: str, value: object, context: Mapping[str, Any]) -> str | None:
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f'write it in quotes: "{str(value).lower() if isinstance(value, bool) else value}"'
    if kind == "literal_error" and isinstance(value, str):
        near = nearest(value, re.findall("'([^']*)'", str(context["expected"])))
        return f"did you mean `{near}`?" if near else None
    return None
