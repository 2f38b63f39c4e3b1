"""The responses that a row shows: its demonstration, and the one that this is preferred to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlpost.config.schema import DataConfig
from rlpost.data.messages import (
    check_demonstration,
    check_messages,
    check_template,
    check_text,
    has_answer,
    split_dialogue,
)
from rlpost.data.problems import RowError
from rlpost.data.rendering import Message
from rlpost.data.sources import Row

Response = str | Sequence[Message]


@dataclass(frozen=True, slots=True)
class Shown:
    """A row's prompt, not checked yet, and the responses that it shows, which are."""

    prompt: Any
    demonstration: Response | None = None
    rejected: Response | None = None


def column(row: Row, name: str) -> Any:
    """The row's value in a column.

    Raises:
        RowError: the row has no such column.
    """
    if name not in row.values:
        found = ", ".join(map(repr, row.values)) or "none"
        raise RowError("missing_column", f"column {name!r} is missing, found {found}")
    return row.values[name]


def shown_in(row: Row, config: DataConfig, chat: bool, *, optional: bool) -> Shown:
    """The prompt and the responses of a row.

    Args:
        chat: whether a chat template will be applied; messages need one.
        optional: a row may be without a demonstration: its value is null, or not there.

    Raises:
        RowError: a column is missing; or a response is empty, is neither text nor messages, or is a dialogue
            in another order; or both are the same.
    """
    prompt, name = column(row, config.prompt_column), config.demonstration_column
    if name is None:
        return Shown(prompt)
    whole = name == config.prompt_column
    if optional and (not has_answer(prompt) if whole else row.values.get(name) is None):
        return Shown(prompt)
    demonstration: Any = column(row, name)
    if whole:
        prompt, demonstration = split_dialogue(demonstration, f"column {name!r}")
    _check(demonstration, f"demonstration {name!r}", chat)
    if config.rejected_column is None:
        return Shown(prompt, demonstration)
    return Shown(prompt, demonstration, _rejected(row, prompt, demonstration, config, chat))


def _rejected(row: Row, prompt: object, demonstration: Response, config: DataConfig, chat: bool) -> Response:
    name = str(config.rejected_column)
    rejected: Any = column(row, name)
    if config.demonstration_column == config.prompt_column:
        opening, rejected = split_dialogue(rejected, f"column {name!r}")
        if list(opening) != prompt:
            raise RowError(
                "conflict",
                f"column {name!r} begins with another prompt than {config.prompt_column!r}, and a pair "
                "answers one prompt",
            )
    _check(rejected, f"rejected {name!r}", chat)
    if rejected == demonstration:
        raise RowError(
            "conflict", f"rejected {name!r} is the same as {config.demonstration_column!r}: no preference"
        )
    shown: Response = rejected
    return shown


def _check(response: object, name: str, chat: bool) -> None:
    if not isinstance(response, list):
        check_text(response, name, expected="text or a list of messages")
        return
    check_messages(response, name)
    check_demonstration(response, name)
    check_template(name, chat)
