"""From what a user writes to what a run reads: short forms written out, defaults merged into stages."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from rlpost.config.problems import SHARED, Problem, describe
from rlpost.config.yaml_text import KeyPath

Tree = dict[str, Any]

_OF_THE_RUN = (
    *("model", "pivots", "guidance", "scoring", "evaluation", "checkpoint"),
    *("cluster", "learner", "weights", "monitor"),
)
"""Sections that are no defaults of stages."""


def write_out(tree: Mapping[str, Any]) -> Tree:
    """The same configuration without short forms.

    `algorithm: grpo` becomes `{base: grpo}`, `environment: lookup` `{name: lookup}`, `teacher: DIR`
    `{init: DIR}`; `rewards: gsm8k`, or a list of such names, becomes `[{function: gsm8k}]`;
    `pivots.trajectories` may be one file; without `stages:` there is one stage named `train`; a section
    without content is as if it were not there.
    """
    full = _write_out_sections(tree)
    stages = full.get("stages")
    if stages is None:
        full["stages"] = [{"name": "train"}]
    elif isinstance(stages, list):
        full["stages"] = [_write_out_sections(s) if isinstance(s, Mapping) else s for s in stages]
    return full


def _write_out_sections(tree: Mapping[str, Any]) -> Tree:
    full = {k: copy.deepcopy(v) for k, v in tree.items() if not (v is None and k in (*SHARED, *_OF_THE_RUN))}
    if isinstance(full.get("algorithm"), str):
        full["algorithm"] = {"base": full["algorithm"]}
    if isinstance(full.get("environment"), str):
        full["environment"] = {"name": full["environment"]}
    if isinstance(full.get("teacher"), str):
        full["teacher"] = {"init": full["teacher"]}
    pivots = full.get("pivots")
    if isinstance(pivots, dict) and isinstance(pivots.get("trajectories"), str):
        full["pivots"] = {**pivots, "trajectories": [pivots["trajectories"]]}
    held_out = full.get("evaluation")
    if isinstance(held_out, dict) and isinstance(held_out.get("environment"), str):
        held_out["environment"] = {"name": held_out["environment"]}
    rewards = full.get("rewards")
    if isinstance(rewards, str | Mapping):
        rewards = [rewards]
    if isinstance(rewards, list):
        full["rewards"] = [{"function": r} if isinstance(r, str) else r for r in rewards]
    return full


def misplaced(tree: Mapping[str, Any]) -> list[Problem]:
    """What would make the merge impossible: shared sections or stages of the wrong kind."""
    problems = []
    for name in SHARED:
        kind, needed = (list, "a list of reward functions") if name == "rewards" else (dict, "a section")
        if name in tree and not isinstance(tree[name], kind):
            problems.append(
                Problem((name,), f"`{name}` has a wrong type", found=describe(tree[name]), needed=needed)
            )
    stages = tree["stages"]
    if not isinstance(stages, list):
        return [
            *problems,
            Problem(("stages",), "`stages` has a wrong type", describe(stages), "a list of stages"),
        ]
    for index, stage in enumerate(stages):
        if not isinstance(stage, Mapping):
            problems.append(
                Problem(("stages", index), "a stage has a wrong type", describe(stage), "`name` and more")
            )
    return problems


def merge(tree: Mapping[str, Any]) -> Tree:
    """Shared sections merged into each stage, as RunConfig wants them.

    A stage's own keys win. `algorithm` is taken as a whole from a stage that gives its own
    `base`, since parts of one row rarely fit another.
    """
    resolved = {k: v for k, v in tree.items() if k not in SHARED}
    resolved.setdefault("model", {})
    resolved["stages"] = [_merge_stage(tree, stage) for stage in tree["stages"]]
    return resolved


def _merge_stage(tree: Mapping[str, Any], stage: Mapping[str, Any]) -> Tree:
    merged = dict(stage)
    for name in SHARED:
        if name in tree and not _takes_own_algorithm(name, stage):
            merged[name] = deep_merge(tree[name], stage[name]) if name in stage else tree[name]
    merged.setdefault("data", {})
    return merged


def _takes_own_algorithm(name: str, stage: Mapping[str, Any]) -> bool:
    own = stage.get(name)
    return name == "algorithm" and isinstance(own, Mapping) and "base" in own


def deep_merge(default: Any, own: Any) -> Any:
    """`own` over `default`: sections key by key, everything else as a whole."""
    if not (isinstance(default, Mapping) and isinstance(own, Mapping)):
        return own
    merged = dict(default)
    for key, value in own.items():
        merged[key] = deep_merge(merged[key], value) if key in merged else value
    return merged


def unseen(tree: Mapping[str, Any]) -> list[Problem]:
    """Top-level keys of shared sections that every stage sets itself, so that nobody reads them."""
    problems = []
    for name in SHARED:
        for path in _leaves(tree.get(name), (name,)) if name in tree else ():
            hidden_by = [_hiding_key(path, stage) for stage in tree["stages"]]
            if all(hidden_by):
                keys = [
                    f"stages.{stage.get('name', index)}.{key}"
                    for index, (stage, key) in enumerate(zip(tree["stages"], hidden_by, strict=True))
                ]
                problems.append(
                    Problem(
                        path,
                        f"`{dotted(path)}` has no effect: every stage sets it itself",
                        remedy=f"set {' or '.join(f'`{key}`' for key in keys)}",
                    )
                )
    return problems


def _hiding_key(path: KeyPath, stage: Mapping[str, Any]) -> str | None:
    """The stage's own key that replaces the shared one at `path`; None when the shared one is read."""
    if _takes_own_algorithm(str(path[0]), stage):
        return dotted(path)
    here: Any = stage
    for depth, part in enumerate(path, 1):
        if not isinstance(here, Mapping) or part not in here:
            return None
        here = here[part]
        if not isinstance(here, Mapping):
            return dotted(path[:depth])
    return dotted(path)


def _leaves(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _leaves(child, (*path, key))
    else:
        yield path


def origin(path: KeyPath, tree: Mapping[str, Any]) -> KeyPath:
    """Where the user wrote (or would write) the value at a path of the resolved configuration."""
    if len(path) < 3 or path[0] != "stages" or path[2] not in SHARED:
        return path
    index, inside = path[1], path[2:]
    stage = tree["stages"][index]
    if _hiding_key(inside, stage):
        return path
    beside_its_own = inside[0] in stage and not _written(inside, tree)
    return path if beside_its_own else inside


def _written(path: KeyPath, tree: Any) -> bool:
    for part in path:
        places = tree if isinstance(tree, Mapping) else range(len(tree)) if isinstance(tree, list) else ()
        if part not in places:
            return False
        tree = tree[part]
    return True


def dotted(path: KeyPath, tree: Mapping[str, Any] | None = None) -> str:
    """`stages.rl.train.steps`; stages go by name where `tree` gives one."""
    parts = [str(part) for part in path]
    if tree is not None and len(path) > 1 and path[0] == "stages" and isinstance(path[1], int):
        stage = tree["stages"][path[1]]
        if isinstance(stage, Mapping) and isinstance(stage.get("name"), str):
            parts[1] = stage["name"]
    return ".".join(parts)
