"""The schema check: every row is looked at before anything starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlpost.config.schema import DataConfig
from rlpost.data.hashing import canonical_json, content_hash
from rlpost.data.messages import check_answerable, check_messages, check_template, check_text, check_tools
from rlpost.data.problems import Place, RowError, describe, nearest
from rlpost.data.rendering import Message
from rlpost.data.responses import Response, column, shown_in
from rlpost.data.sources import Row, Source
from rlpost.data.tool_calls import ToolSchema
from rlpost.errors import DataError

_ID_DIGITS = 16

# What other datasets call the same thing: only used to word a suggestion.
_USUAL_NAMES = {
    "prompt_column": ("prompt", "question", "problem", "query", "input", "messages", "text"),
    "answer_column": ("answer", "solution", "final_answer", "target", "ground_truth", "label", "output"),
    "demonstration_column": ("demonstration", "solution", "response", "completion", "chosen", "answer"),
    "rejected_column": ("rejected", "rejected_response", "loser"),
    "prefill_column": ("prefill", "prefix"),
    "variant_column": ("variant",),
    "id_column": ("id", "unique_id", "uid", "problem_id"),
    "tools_column": ("tools", "functions"),
}


@dataclass(frozen=True, slots=True)
class CheckedRow:
    """A row that passed every check.

    Attributes:
        place: where it stands in its source, for messages.
        id: unique in the dataset.
        prompt: text, or chat messages that end with one to be answered.
        demonstration: text, or the messages of a dialogue after the prompt; None when no column is
            configured, or where a prompt may be without one.
        columns: the row, and the gold answer as `answer`.
        tools: what the chat template tells the model of.
        prefill: how the response begins.
        rejected: like `demonstration`, which is preferred to it; None when no column is configured.
    """

    place: Place
    id: str
    prompt: str | Sequence[Message]
    demonstration: Response | None
    columns: dict[str, Any]
    tools: tuple[ToolSchema, ...] = ()
    prefill: str = ""
    rejected: Response | None = None


def check_rows(
    source: Source, config: DataConfig, chat: bool, optional_demonstrations: bool = False
) -> tuple[list[CheckedRow], int]:
    """Check all rows and give each its id; those that break the schema go to `source.bad`.

    Args:
        chat: whether a chat template will be applied; messages need one.
        optional_demonstrations: a row without a demonstration is a prompt.

    Returns:
        (rows, duplicates): duplicates counts rows whose prompt and answer an earlier row
        has; they are kept, and their content hash gets the suffix "-2", "-3", ...

    Raises:
        DataError: a column that no row has.
    """
    _check_columns(source, config)
    checked: list[CheckedRow] = []
    place_of_id: dict[str, Place] = {}
    copies: dict[str, int] = {}
    for row in source.rows:
        try:
            checked.append(_check_row(row, config, chat, optional_demonstrations, place_of_id, copies))
        except RowError as problem:
            source.bad.add(row.place, problem)
    return checked, sum(count - 1 for count in copies.values())


def _check_columns(source: Source, config: DataConfig) -> None:
    """Every configured column must occur in some row; a row that lacks it is a bad row, later."""
    present = sorted({name for row in source.rows for name in row.values})
    keys = [key for key in _USUAL_NAMES if getattr(config, key) is not None]
    missing = [key for key in keys if getattr(config, key) not in present]
    if not source.rows or not missing:
        return
    remedies = [f"data.{key}={guess}" for key in missing if (guess := _guess(key, config, present))]
    if "answer_column" in missing:
        remedies.append("data.answer_column=null when no reward needs a gold answer")
    names = ", ".join(f"{getattr(config, key)!r} (data.{key})" for key in missing)
    raise DataError(
        f"the data has no column {names}",
        where=source.name,
        found=f"columns {', '.join(present)}",
        remedy="; or ".join(remedies) or f"set data.{missing[0]} to one of them",
    )


def _guess(key: str, config: DataConfig, present: Sequence[str]) -> str | None:
    if key != "prompt_column":
        present = [name for name in present if name != config.prompt_column]
    close = nearest(getattr(config, key), present)
    return close or next((name for name in _USUAL_NAMES[key] if name in present), None)


def _check_row(
    row: Row,
    config: DataConfig,
    chat: bool,
    optional: bool,
    place_of_id: dict[str, Place],
    copies: dict[str, int],
) -> CheckedRow:
    for key in row.values:
        if not isinstance(key, str):
            raise RowError("wrong_type", f"column names must be text, found {describe(key)}")
    shown = shown_in(row, config, chat, optional=optional)
    _check_prompt(shown.prompt, config, chat)
    columns = dict(row.values)
    answer = None
    if config.answer_column is not None:
        answer = columns["answer"] = _answer(row, config.answer_column)
    _check_plain(columns)
    if config.id_column is not None:
        id = _own_id(row, config.id_column, place_of_id)
    else:
        id = _content_id(shown.prompt, answer, copies)
    tools: tuple[ToolSchema, ...] = ()
    if config.tools_column is not None:
        tools = check_tools(column(row, config.tools_column), f"column {config.tools_column!r}")
        check_template(f"column {config.tools_column!r}", chat, "tools")
    return CheckedRow(
        row.place,
        id,
        shown.prompt,
        shown.demonstration,
        columns,
        tools,
        _prefill(row, config),
        shown.rejected,
    )


def _check_prompt(prompt: object, config: DataConfig, chat: bool) -> None:
    name = f"prompt {config.prompt_column!r}"
    if not isinstance(prompt, list):
        check_text(prompt, name, expected="text or a list of messages")
        return
    check_messages(prompt, name)
    check_answerable(prompt, name)
    check_template(name, chat)
    if config.instruction is not None:
        raise RowError(
            "messages", f"{name} holds messages, but data.instruction can only be appended to text"
        )
    if config.system_prompt is not None and prompt[0]["role"] in ("system", "developer"):
        role = prompt[0]["role"]
        raise RowError("messages", f"{name} has a {role} message of its own, but data.system_prompt is set")


def _prefill(row: Row, config: DataConfig) -> str:
    prefill = None if config.prefill_column is None else row.values.get(config.prefill_column)
    if prefill is None:
        return ""
    if not isinstance(prefill, str):
        found = describe(prefill)
        raise RowError("wrong_type", f"prefill {config.prefill_column!r}: expected text, found {found}")
    return prefill


def _answer(row: Row, name: str) -> Any:
    answer = column(row, name)
    if answer is None or (isinstance(answer, float) and math.isnan(answer)):
        found = "null" if answer is None else "NaN"
        raise RowError("wrong_type", f"answer {name!r}: expected a value, found {found}")
    if isinstance(answer, str) and not answer.strip():
        raise RowError("empty", f"answer {name!r} is empty")
    own = row.values.get("answer", answer)
    if own != answer:
        raise RowError(
            "conflict",
            f"column 'answer' ({describe(own)}) differs from {name!r} ({describe(answer)}), which is "
            "data.answer_column; rewards receive the gold answer as 'answer', so rename or remove one",
        )
    return answer


def _check_plain(columns: Mapping[str, Any]) -> None:
    """Columns travel to reward processes and are hashed, so they must be plain data."""
    for name, value in columns.items():
        try:
            canonical_json({name: value})
        except UnicodeEncodeError as error:
            problem = f"column {name!r} holds half of a surrogate pair: not valid Unicode"
            raise RowError("wrong_type", problem) from error
        except (TypeError, ValueError) as error:
            problem = f"column {name!r}: {error}; expected text, numbers, lists or objects"
            raise RowError("wrong_type", problem) from error


def _own_id(row: Row, name: str, place_of_id: dict[str, Place]) -> str:
    value = column(row, name)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise RowError("wrong_type", f"id {name!r}: expected text or an integer, found {describe(value)}")
    id = str(value)
    if id in place_of_id:
        raise RowError("conflict", f"id {id!r} is already the id of {place_of_id[id]}")
    place_of_id[id] = row.place
    return id


def _content_id(prompt: object, answer: object, copies: dict[str, int]) -> str:
    digest = content_hash([prompt, answer])[:_ID_DIGITS]
    copies[digest] = copies.get(digest, 0) + 1
    return digest if copies[digest] == 1 else f"{digest}-{copies[digest]}"
