"""Guided and unguided problems as a dataset: what `load_prompts` reads as prompts, variant by variant."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlpost.config.schema import DataConfig, GuidanceConfig
from rlpost.data import PromptSet
from rlpost.errors import DataError
from rlpost.evaluation.generations import check_columns, write_text
from rlpost.evaluation.profiles import Profile
from rlpost.guidance.guided import GUIDED, Asked, Guide, Problem
from rlpost.guidance.walk import Choice, passes

VARIANT, SHARE, RECORD, PREFILL = "variant", "prefix_share", "guidance", "prefill"


def columns(settings: GuidanceConfig, data: DataConfig) -> dict[str, Any]:
    """The keys of `data` under which the files are read.

    Args:
        data: where the problems come from.
    """
    return {
        "prompt_column": "prompt",
        "answer_column": None if data.answer_column is None else "answer",
        "id_column": "id",
        "tools_column": data.tools_column,
        "variant_column": VARIANT,
        "prefill_column": PREFILL if settings.mode == "assistant" else None,
        "system_prompt": None,
        "instruction": None,
    }


def check_rows(prompts: PromptSet, settings: GuidanceConfig, data: DataConfig) -> None:
    """Make sure that nothing of the problems' own is overwritten or confused.

    Raises:
        DataError: a column has a name that the files need for something else, an id ends as those of guided
            prompts do, or a column cannot be written as JSON.
    """
    own = {"id": data.id_column, "prompt": data.prompt_column}
    ours = {VARIANT, SHARE, RECORD} | ({PREFILL} if settings.mode == "assistant" else set())
    ours |= {name for name, column in own.items() if column != name}
    present = {name for prompt in prompts for name in prompt.columns}
    if taken := sorted(present & ours):
        hints = [f"set data.{name}_column={name}" for name in taken if name in own]
        raise DataError(
            "a column of the problems has a name that guided problems need",
            where=prompts[0].place,
            found=", ".join(map(repr, taken)),
            remedy=" and ".join(hints) if len(hints) == len(taken) else "rename the column",
        )
    for prompt in prompts:
        check_columns(prompt.id, prompt.columns)
        if prompt.id.endswith(GUIDED):
            raise DataError(
                "an id ends as those of guided problems do", where=prompt.place, found=repr(prompt.id)
            )


def write_pairs(path: Path, choices: Iterable[Choice], profiles: Mapping[str, Profile], guide: Guide) -> None:
    """Every problem that has guidance twice: as it is, and with the beginning of its solution."""
    rows = ((_unguided(c.problem, profiles, guide), _guided(c, guide)) for c in choices)
    _write(path, (row for pair in rows for row in pair))


def write_problems(
    path: Path, problems: Iterable[Problem], profiles: Mapping[str, Profile], guide: Guide
) -> None:
    """Problems as they are."""
    _write(path, (_unguided(problem, profiles, guide) for problem in problems))


def write_left_out(
    path: Path, choices: Iterable[Choice], profiles: Mapping[str, Profile], guide: Guide
) -> None:
    """Hard problems that have no guidance, each with the reason."""
    _write(path, (_unguided(c.problem, profiles, guide) | {"left_out": c.left_out} for c in choices))


def _unguided(problem: Problem, profiles: Mapping[str, Profile], guide: Guide) -> dict[str, Any]:
    found = _counted(profiles[problem.id], guide.settings)
    prefill = {PREFILL: None} if guide.settings.mode == "assistant" else {}
    return (
        _row(problem, problem.id, problem.asked) | {VARIANT: "unguided", SHARE: 0.0, RECORD: found} | prefill
    )


def _guided(choice: Choice, guide: Guide) -> dict[str, Any]:
    problem, chosen = choice.problem, choice.chosen
    assert chosen is not None
    asked, prefill = guide.ask(problem, chosen.prefix.text)
    found = {"prefix_tokens": chosen.prefix.tokens, "helped": choice.helped}
    if chosen.point in choice.tried:
        found |= _counted(choice.tried[chosen.point], guide.settings)
    row = _row(problem, problem.id + GUIDED, asked)
    row |= {VARIANT: "guided", SHARE: chosen.prefix.share, RECORD: found}
    return row | ({PREFILL: prefill} if guide.settings.mode == "assistant" else {})


def _row(problem: Problem, id: str, asked: Asked) -> dict[str, Any]:
    return {**problem.prompt.columns, "id": id, "prompt": asked}


def _counted(profile: Profile, settings: GuidanceConfig) -> dict[str, Any]:
    return {
        "samples": len(profile.rewards),
        "failed": len(profile.rewards) - len(profile.scores),
        "passes": passes(profile, settings.success),
    }


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(_lines(rows)))


def _lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    return (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def check_written(written: PromptSet, choices: Sequence[Choice], guide: Guide, where: Path) -> None:
    """Make sure that training will read exactly the prompts that were tried.

    Raises:
        DataError: the stage's `data` makes other token ids of the rows.
    """
    for choice, unguided, guided in zip(choices, written.prompts[::2], written.prompts[1::2], strict=True):
        assert choice.chosen is not None
        tried = guide.prompt(choice.problem, choice.chosen.prefix.text, guided.id)
        for ours, theirs in ((choice.problem.prompt, unguided), (tried, guided)):
            if ours.token_ids != theirs.token_ids:
                raise DataError(
                    "the stage would read other prompts than those that were tried",
                    where=f"{where}, id {theirs.id!r}",
                    found=repr(theirs.text),
                    needed=repr(ours.text),
                    remedy="give guidance.data the `template` of the stage's data",
                )
