"""A YAML file and overrides to a RunConfig, or one error that lists all that is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlpost.config import yaml_text
from rlpost.config.overrides import apply_override
from rlpost.config.plugins import forget_parts, with_absolute_parts
from rlpost.config.problems import Problem, describe, from_pydantic, to_error
from rlpost.config.rules import check, stage_objective
from rlpost.config.rules.critic_rules import stage_critic
from rlpost.config.schema import RunConfig
from rlpost.config.stages import dotted, merge, misplaced, origin, unseen, write_out
from rlpost.config.yaml_text import Document, KeyPath
from rlpost.errors import ConfigError


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe, apply overrides, merge defaults into stages, check everything.

    Args:
        path: the YAML file.
        overrides: `key=value` each, applied in order; values are read as YAML.

    Raises:
        ConfigError: anything is wrong; the message lists every problem with its key, its
            place, what was found and what is needed.
    """
    document = yaml_text.read_document(Path(path))
    if not isinstance(document.data, Mapping):
        raise ConfigError(
            "the configuration is not a mapping",
            where=document.source,
            found=describe(document.data),
            needed="key: value pairs, such as `model: {init: tiny}`",
        )
    tree, set_by = write_out(document.data), {}
    for override in overrides:
        tree, key_path = apply_override(tree, override)
        set_by[key_path] = override
    report = _Report(document, tree, set_by)
    report.raise_for(misplaced(tree))
    merged = merge(tree)
    for stage in merged["stages"]:
        if "algorithm" in stage:
            stage["algorithm"] = with_absolute_parts(stage["algorithm"], Path(path).parent)
    forget_parts()
    try:
        config = RunConfig.model_validate(merged)
    except ValidationError as error:
        report.raise_for(from_pydantic(error.errors(include_url=False)))
        raise
    report.raise_for(unseen(tree))
    report.raise_for(check(config))
    return _with_critics(config)


def _with_critics(config: RunConfig) -> RunConfig:
    """Each stage with the critic that it will have, so that a resolved configuration shows every default."""
    stages = [
        stage.model_copy(update={"critic": stage_critic(stage, stage_objective(stage))})
        for stage in config.stages
    ]
    return config.model_copy(update={"stages": stages})


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML, every default written out; loading it gives an equal one."""
    return yaml_text.dump(config.model_dump(mode="json"))


class _Report:
    """Knows where each value came from, to say so when something is wrong with it."""

    def __init__(self, document: Document, tree: Mapping[str, Any], set_by: Mapping[KeyPath, str]) -> None:
        self.document, self.tree, self.set_by = document, tree, set_by

    def raise_for(self, problems: Sequence[Problem]) -> None:
        """Raise one ConfigError for all problems; a value that several stages share is named once."""
        named: dict[tuple[str, str, str], tuple[Problem, str]] = {}
        for problem in problems:
            place = self._place(origin(problem.path, self.tree))
            named.setdefault((place, problem.what, str(problem.found)), (problem, place))
        if named:
            found, places = zip(*named.values(), strict=True)
            raise to_error(found, places, self.document.source)

    def _place(self, path: KeyPath) -> str:
        name = dotted(path, self.tree)
        for set_path, override in reversed(list(self.set_by.items())):
            shorter = min(len(set_path), len(path))
            if set_path[:shorter] == path[:shorter]:
                return f"{name}, command line: {override}"
        for end in range(len(path), 0, -1):
            if line := self.document.lines.get(path[:end]):
                return f"{name}, {self.document.source}, line {line}"
        return f"{name}, {self.document.source}"
