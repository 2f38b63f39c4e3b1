"""Chat messages in a dataset's rows: what they must look like, as prompts and as whole dialogues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rlpost.data.problems import RowError, describe
from rlpost.data.rendering import Message
from rlpost.data.tool_calls import ToolSchema, calls_of

ROLES = ("system", "developer", "user", "assistant", "tool")
_ANSWERED_ROLES = ("user", "tool")


def check_text(value: object, name: str, expected: str = "text") -> None:
    """Text, and not only blanks.

    Raises:
        RowError: it is something else.
    """
    if not isinstance(value, str):
        raise RowError("wrong_type", f"{name}: expected {expected}, found {describe(value)}")
    if not value.strip():
        raise RowError("empty", f"{name} is empty")


def check_messages(messages: Sequence[object], name: str) -> None:
    """Every message has a role and what that role says.

    Raises:
        RowError: names the first that has not.
    """
    if not messages:
        raise RowError("empty", f"{name} is an empty list of messages")
    for number, message in enumerate(messages, 1):
        _check_message(message, f"{name}, message {number}")


def check_tools(tools: object, name: str) -> tuple[ToolSchema, ...]:
    """Tools, each with a name.

    Raises:
        RowError: names the first that has none.
    """
    if not isinstance(tools, list):
        raise RowError("wrong_type", f"{name}: expected a list of tools, found {describe(tools)}")
    for number, tool in enumerate(tools, 1):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowError(
                "wrong_type",
                f"{name}, tool {number}: expected an object with `type` and `function`, and a name in it; "
                f"found {describe(tool)}",
            )
    return tuple(tools)


def check_answerable(messages: Sequence[Message], name: str) -> None:
    """The last message of a prompt waits for an answer.

    Raises:
        RowError: it does not.
    """
    role = messages[-1]["role"]
    if role not in _ANSWERED_ROLES:
        raise RowError("messages", f"{name}: the last message must be by user or tool, found {role!r}")


def check_demonstration(messages: Sequence[Message], name: str) -> None:
    """The assistant speaks first and last, and is answered in between.

    Raises:
        RowError: it is another kind of dialogue.
    """
    for place, message in (("first", messages[0]), ("last", messages[-1])):
        if message["role"] != "assistant":
            found = repr(message["role"])
            raise RowError("messages", f"{name}: the {place} message must be by assistant, found {found}")
    for number, (message, following) in enumerate(pairwise(messages), 1):
        if message["role"] == following["role"] == "assistant":
            found = f"messages {number} and {number + 1} are both by the assistant"
            raise RowError("messages", f"{name}: {found}; join them, or put what it answers between them")


def check_template(name: str, chat: bool, held: str = "messages") -> None:
    """Messages, and tools, only where a chat template will be applied.

    Raises:
        RowError: none will be.
    """
    if not chat:
        raise RowError(
            "messages",
            f"{name} holds {held}, but data.template is none or the tokenizer has no chat template",
        )


def has_answer(messages: object) -> bool:
    """Whether some message of a list is by the assistant; of what is no list of messages nobody can tell."""
    if not isinstance(messages, list):
        return True
    return any(isinstance(message, dict) and message.get("role") == "assistant" for message in messages)


def split_dialogue(messages: object, name: str) -> tuple[Sequence[Message], Sequence[Message]]:
    """A whole dialogue as its prompt, up to the assistant's first message, and the demonstration from there.

    Raises:
        RowError: it is no dialogue that begins with a prompt and goes on with an answer.
    """
    if not isinstance(messages, list):
        raise RowError(
            "wrong_type",
            f"{name} is prompt and demonstration in one: expected a list of messages, found "
            f"{describe(messages)}",
        )
    check_messages(messages, name)
    start = next((i for i, message in enumerate(messages) if message["role"] == "assistant"), None)
    if not start:
        found = "has no message by the assistant" if start is None else "begins with one by the assistant"
        raise RowError("messages", f"{name} is prompt and demonstration in one, and {found}")
    return messages[:start], messages[start:]


def _check_message(message: object, name: str) -> None:
    if not isinstance(message, dict):
        raise RowError(
            "messages", f"{name}: expected an object with role and content, found {describe(message)}"
        )
    calling = bool(message.get("tool_calls"))
    for key in ("role",) if calling else ("role", "content"):
        if key not in message:
            found = ", ".join(map(repr, message)) or "none"
            raise RowError("messages", f"{name}: {key!r} is missing, found {found}")
    role, content = message["role"], message.get("content")
    if role not in ROLES:
        found = describe(role)
        raise RowError("messages", f"{name}: expected a role of {', '.join(ROLES)}, found {found}")
    if calling:
        _check_calls(message, name)
    if (calling and not content) or (role == "tool" and content == ""):
        return
    check_text(content, f"{name}, content")


def _check_calls(message: Mapping[str, Any], name: str) -> None:
    if message["role"] != "assistant":
        raise RowError("messages", f"{name}: only the assistant calls tools, found role {message['role']!r}")
    if not isinstance(message["tool_calls"], list):
        found = describe(message["tool_calls"])
        raise RowError("messages", f"{name}, tool_calls: expected a list, found {found}")
    try:
        calls_of(message)
    except ValueError as error:
        raise RowError("messages", f"{name}, tool_calls: {error}") from error
