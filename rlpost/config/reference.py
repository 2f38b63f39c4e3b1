"""docs/configuration.md, written from the schema: `python -m rlpost.config.reference`."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rlpost.config.problems import SHARED, section_of
from rlpost.config.rules import RULES
from rlpost.config.schema import RunConfig, StageConfig
from rlpost.estimator import ALGORITHMS, PARTS

_INTRODUCTION = """\
# Configuration

<!-- Generated from rlpost/config/schema.py by `make docs`. Change the docstrings there instead. -->

A recipe is a YAML file; `key=value` on the command line changes it:

```
rlpost train configs/quickstart.yaml seed=1 stages.rl.train.steps=50 rewards=my_reward.py
rlpost train configs/quickstart.yaml --dry-run      # the resolved recipe, every default written out
rlpost explain configs/quickstart.yaml              # what it will do, in words
```

The sections `data`, `environment`, `rollout`, `rewards`, `algorithm`, `critic` and `train` may stand at the
top level: they are the defaults of every stage. A stage's own keys win; an `algorithm` with its own `base`
replaces the default as a whole. Without `stages` there is one stage, named `train`. `algorithm: grpo` is
short for `{base: grpo}`, and `rewards: gsm8k` for `[{function: gsm8k}]`.

Overrides are dotted paths. Stages go by name (`stages.rl.train.steps=50`), other lists by index
(`rewards.0.weight=0.5`). Values are read as YAML: `rollout.stop=["\\n"]`, `data.limit=null`. An override
that would have no effect, because every stage sets that key itself, is an error.
"""


def render() -> str:
    """The page, in Markdown: every key with type, default and meaning, then the rules."""
    parts = [_INTRODUCTION, _table("Top level", RunConfig, "")]
    parts += [_table("stages[]", StageConfig, "")]
    for owner, names in ((StageConfig, SHARED), (RunConfig, tuple(RunConfig.model_fields))):
        for name in names:
            if name != "stages" and (section := section_of(owner.model_fields[name].annotation)):
                parts += _sections(name, section)
    parts.append(_algorithm())
    rules = "\n".join(f"- {(rule.__doc__ or '').strip()}" for rule in RULES)
    parts.append(f"## Rules over several keys\n\n{rules}\n")
    return "\n".join(parts)


def _sections(path: str, section: type[BaseModel]) -> Iterator[str]:
    """The table of a section, and those of the sections in it that are not shown elsewhere."""
    title = f"{path}[]" if path == "rewards" else path
    yield _table(title, section, (section.__doc__ or "").strip())
    for name, info in section.model_fields.items():
        inner = section_of(info.annotation)
        if inner is not None and name not in SHARED and get_origin(info.annotation) is not dict:
            yield from _sections(f"{path}.{name}", inner)


def _algorithm() -> str:
    """The rows of the table, and the parts that can be changed in them."""
    parts = [f"| `{axis}` | {', '.join(f'`{name}`' for name in known)} |" for axis, known in PARTS.items()]
    rows = [f"| `{name}` | {row.summary} |" for name, row in ALGORITHMS.items()]
    return "\n".join(
        [
            "## algorithm",
            "",
            "`base` names a row of the table; `rlpost algorithms NAME` prints its formulas and its source.",
            "",
            *("| base | what it is |", "|---|---|", *rows, ""),
            "Any part can be changed, with its options: `{base: grpo, mask: {clip: {high: 0.28}}}`.",
            "`shaping` is a list that is added to the row's own; `kl` and `entropy` are coefficients.",
            "",
            "An objective of several terms is changed term by term: "
            "`{base: hpt, terms: {demonstrations: {weight: 0.3}}}`.",
            "Beside the parts a term has `weight`, `rows` (`rollouts`, `demonstrations` or `all`) and",
            "`compared_with` (`own` or `all` rows, over which advantages are formed). A name that the row",
            "does not have adds a term, which needs `advantage`, `denominator` and `aggregation`; null takes",
            "a term away.",
            "",
            "A part may be a class of your own, a frozen dataclass with what its axis asks for: "
            "`advantage: {my_parts.py:MedianCentred: {scale: 2.0}}`.",
            "The file is looked for beside the recipe, then in the working directory. Its content is part of",
            "the run's identity: a run does not resume with a changed file.",
            "",
            *("| part | choices |", "|---|---|", *parts, ""),
        ]
    )


def _table(title: str, section: type[BaseModel], text: str) -> str:
    rows = [
        f"| `{name}` | {_type(info.annotation)}{_bounds(info)} | {_default(info)} | {_meaning(info)} |"
        for name, info in section.model_fields.items()
    ]
    head = ["| key | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {title}", "", *([text, ""] if text else []), *head, *rows, ""])


def _type(annotation: Any) -> str:
    """The type of a key in a user's words."""
    names = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}
    if annotation in names:
        return names[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is dict and section_of(arguments[1]) is not None:
        return "sections by name"
    if origin is tuple:
        return f"list of {len(arguments)} numbers"
    return "section"


def _bounds(info: FieldInfo) -> str:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [
        f"{word} {getattr(limit, name):g}"
        for limit in info.metadata
        for name, word in words.items()
        if getattr(limit, name, None) is not None
    ]
    return f", {', '.join(found)}" if found else ""


def _default(info: FieldInfo) -> str:
    if info.default is PydanticUndefined:
        return "**required**"
    if isinstance(info.default, BaseModel):
        return "see below"
    shown = list(info.default) if isinstance(info.default, tuple) else info.default
    words = {None: "null", True: "true", False: "false"}
    return f"`{words[shown] if shown is None or isinstance(shown, bool) else shown}`"


def _meaning(info: FieldInfo) -> str:
    return " ".join((info.description or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    print(render(), end="")
